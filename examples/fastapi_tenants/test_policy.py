"""The document and the Rego answer every fixture alike, and so do they where facts are taken away.

The document is judged in Python and, built, on each engine. The Rego is run by an interpreter, so that no compiler is
needed. Nothing that is taken away turns a denial into an allow.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from capgate import Anonymous, Deny, PolicyInput, PolicyResult, Resource, Service, User
from capgate.model import ALLOW, Actor, Attribute
from capgate.policy import RuntimePolicy
from capgate.testing.golden import Fixture, coverage_of, read_fixtures, run_fixtures

HERE = Path(__file__).parent
DOCUMENT = HERE / "policy.toml"
FIXTURES = read_fixtures(HERE / "fixtures")
TENANT, OWED = "an invoice of another tenant", "more than is owed"
MISSING, UNLISTED = "missing_fact", "not_in_allowlist"


@functools.cache
def document() -> RuntimePolicy:
    return RuntimePolicy.from_document(DOCUMENT.read_bytes(), format="toml")


#: An interpreter may be let go of by no other thread than its own, and a collection of garbage runs in any.
_kept: list[object] = []


class Rego:
    """The policy in Rego, without OPA."""

    def __init__(self) -> None:
        regorus = pytest.importorskip("regorus", reason="no wheel of an interpreter of Rego for this platform")
        self._engine = regorus.Engine()
        _kept.append(self._engine)
        self._engine.add_policy("policy.rego", (HERE / "policy.rego").read_text())

    def ask(self, input: PolicyInput) -> PolicyResult:
        self._engine.set_input(msgspec.to_builtins(input))
        decision: dict[str, Any] = self._engine.eval_rule("data.invoices.decision")
        assert set(decision) == ({"allow"} if decision["allow"] else {"allow", "reason"})
        return ALLOW if decision["allow"] is True else Deny(decision["reason"])


@pytest.fixture(scope="module")
def rego() -> Rego:
    return Rego()


def test_fixtures_are_answered_in_python_and_on_each_engine() -> None:
    outcomes = run_fixtures(DOCUMENT, FIXTURES)
    assert [outcome for outcome in outcomes if not outcome.passed] == []
    assert len(outcomes) == len(FIXTURES) == 36
    assert coverage_of(document(), [fixture.input for fixture in FIXTURES]).missing == ()


def test_the_rego_answers_them_alike(rego: Rego) -> None:
    for fixture in FIXTURES:
        assert rego.ask(fixture.input) == fixture.expected, fixture


# -- facts taken away


def without_each(input: PolicyInput) -> Iterator[tuple[str, PolicyInput]]:
    """Each fact of a question by its name, and the question without it."""
    replace, actor, resource = msgspec.structs.replace, input.actor, input.resource
    if not isinstance(actor, Anonymous):
        yield "actor", replace(input, actor=Anonymous())
        for role in actor.roles:
            yield f"role {role}", replace(input, actor=replace(actor, roles=(*{*actor.roles} - {role},)))
        for name in actor.attributes:
            fewer = replace(actor, attributes=but(actor.attributes, name))
            yield f"actor.{name}", replace(input, actor=fewer)
    if resource is not None:
        yield "resource", replace(input, resource=None)
        for name in resource.attributes:
            known = replace(resource, attributes=but(resource.attributes, name))
            yield f"resource.{name}", replace(input, resource=known)
    for name in input.args:
        yield f"args.{name}", replace(input, args=but(input.args, name))


def but(facts: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {other: value for other, value in facts.items() if other != name}


OF_AN_INVOICE = {"actor": MISSING, "actor.tenant": MISSING, "resource": MISSING, "resource.tenant": MISSING}
OF_A_PAYMENT = {**OF_AN_INVOICE, "args.amount": MISSING, "resource.total": MISSING}
#: Of each question that is allowed: why it is denied without that fact. Without any other it is allowed.
NEEDED = {
    "an owner reads her invoice": {**OF_AN_INVOICE, "resource.owner": UNLISTED},
    "an accountant reads every invoice of the tenant": {**OF_AN_INVOICE, "role accountant": UNLISTED},
    "an accountant pays what is owed": {**OF_A_PAYMENT, "role accountant": UNLISTED},
    "an accountant pays as much as accountants may": {**OF_A_PAYMENT, "role accountant": UNLISTED},
    "a manager pays more": {**OF_A_PAYMENT, "role manager": UNLISTED},
    "the last payment before the books are closed": {**OF_A_PAYMENT, "role manager": UNLISTED},
    "an owner deletes her invoice": {**OF_AN_INVOICE, "resource.owner": UNLISTED, "resource.paid": UNLISTED},
    "one lists the invoices of one's tenant": dict.fromkeys(("actor", "actor.tenant", "resource"), UNLISTED),
    "reading goes on where the books are closed": dict.fromkeys(("actor", "actor.tenant", "resource"), UNLISTED),
    "one drafts for one's tenant": dict.fromkeys(("actor", "actor.tenant", "resource"), UNLISTED),
    "a statement underneath reads": {"actor": UNLISTED, "actor.tenant": UNLISTED, "resource": "missing_resource"},
    "a statement underneath writes": {"actor": UNLISTED, "actor.tenant": UNLISTED, "resource": "missing_resource"},
}
ALLOWED = {fixture.description: fixture.input for fixture in FIXTURES if fixture.expected == ALLOW}
DENIED = {fixture.description: fixture.input for fixture in FIXTURES if fixture.expected != ALLOW}


def test_every_question_that_is_allowed_is_tried() -> None:
    assert set(NEEDED) == set(ALLOWED)


def after_each(description: str) -> dict[str, PolicyResult]:
    """What has to be answered to an allowed question without a fact, by its name."""
    needed, fewer = NEEDED[description], dict(without_each(ALLOWED[description]))
    assert set(needed) <= set(fewer)
    return {name: Deny(needed[name]) if name in needed else ALLOW for name in fewer}


@pytest.mark.parametrize("description", NEEDED)
def test_a_fact_that_is_needed_and_taken_away_denies(description: str, rego: Rego) -> None:
    fewer, expected = dict(without_each(ALLOWED[description])), after_each(description)
    assert {name: document().evaluate(input) for name, input in fewer.items()} == expected
    assert {name: rego.ask(input) for name, input in fewer.items()} == expected


def without_two(input: PolicyInput) -> list[PolicyInput]:
    """The question without each fact, and without each two."""
    fewer = [known for _, known in without_each(input)]
    return fewer + [known for less in fewer for _, known in without_each(less)]


@pytest.mark.parametrize("description", DENIED)
def test_nothing_that_is_taken_away_turns_a_denial_into_an_allow(description: str, rego: Rego) -> None:
    fewer = without_two(DENIED[description])
    answers = [document().evaluate(input) for input in fewer]
    assert ALLOW not in answers
    assert [rego.ask(input) for input in fewer] == answers


def test_engines_answer_what_facts_were_taken_from_alike() -> None:
    fewer = [input for fixture in FIXTURES for input in without_two(fixture.input)]
    outcomes = run_fixtures(DOCUMENT, [Fixture(input, document().evaluate(input)) for input in fewer])
    assert len(outcomes) == len(fewer) > 500
    assert [outcome for outcome in outcomes if not outcome.passed] == []


def test_both_answer_every_question_alike(rego: Rego) -> None:
    """Not only what somebody thought of: facts that are absent, and facts of other types than declared."""
    actors: tuple[Actor, ...] = (
        Anonymous(),
        User("ada", attributes={"tenant": "acme"}),
        User("ben", ("accountant",), attributes={"tenant": "acme"}),
        Service("job", ("manager",), attributes={"tenant": ["acme"]}),
        User("eve", ("manager", "accountant"), attributes={"tenant": "evil"}),
    )
    known: dict[str, Attribute] = {"tenant": "acme", "owner": "ada", "total": 5000, "paid": False}
    resources = (
        None,
        Resource("invoice", "1", known),
        Resource("invoice", "1", {**known, "total": True}),
        Resource("invoice", "1", {**known, "owner": 1, "paid": "no"}),
        Resource("invoice", "1", {"tenant": True}),
        Resource("tenant", "acme"),
        Resource("sql_query", "invoices"),
    )
    amounts: tuple[dict[str, Attribute], ...] = ({}, {"amount": 1}, {"amount": 5001}, {"amount": "1"}, {"amount": True})
    actions = [f"invoice.{name}" for name in ("delete", "draft", "list", "pay", "read")]
    answers = set()
    for action, actor, resource, args in itertools.product(
        (*actions, "invoice.send", "db.read", "db.migrate"), actors, resources, amounts
    ):
        input = PolicyInput(action, actor, resource, timestamp=1_798_761_600_000_000_000, args=args)
        answers.add(document().evaluate(input))
        assert rego.ask(input) == document().evaluate(input), input
    assert answers == {ALLOW, *map(Deny, (TENANT, OWED, MISSING, UNLISTED, "unknown_action", "missing_resource"))}
