"""Questions with facts that come back from the log, and what replay makes of those that do not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from capgate.artifact.load import PolicyFile
from capgate.cli.policy.questions import CUT, UNTOLD, asked_question, needed_facts, question_of
from capgate.cli.policy.replay import replay
from capgate.errors import ConfigError
from capgate.events import DecisionLog
from capgate.limits import Limits
from capgate.logged_facts import is_fact_name
from capgate.model import Actor, Allow, Anonymous, Decision, Deny, PolicyInput, Resource, Service, User, canonical
from capgate.policy import RuntimePolicy
from capgate.runtime.abi.canonical_abi import WITH_FACTS

from ..runtime.abi.inputs import INPUTS
from ..support.gates import events
from ..support.guests import ALLOW, artifact, denies, guest
from ..support.tools import examples

ASKED: Final = PolicyInput(
    "order.refund",
    Service("agent", ("bot",), (), {"tenant": "acme"}, User("ada", ("editor",))),
    Resource("order", "17", {"total": 250}),
    args={"amount": 5},
)
ALL: Final = (
    *("actor.roles", "actor.tenant", "actor.on_behalf_of", "actor.on_behalf_of.roles", "resource.total", "args.amount"),
    "context.mfa",
)


def event_of(input: PolicyInput, *names: str) -> dict[str, Any]:
    """The event of ``input`` as a reader of the log has it."""
    with events() as found:
        DecisionLog(facts=names).denied(Decision(input, Deny("no")))
    return dict(json.loads(json.dumps(found[0])))


def names_of(input: PolicyInput) -> Iterator[str]:
    """All facts of ``input``, and for whom its actor acts."""
    somebody: Any = input.actor
    holder = "actor"
    if getattr(somebody, "on_behalf_of", None) is not None:
        yield "actor.on_behalf_of"
    while somebody is not None and not isinstance(somebody, Anonymous):
        yield from (f"{holder}.{name}" for name in ("roles", "scopes", *somebody.attributes))
        somebody, holder = somebody.on_behalf_of, f"{holder}.on_behalf_of"
    facts = {} if input.resource is None else input.resource.attributes
    yield from (f"resource.{name}" for name in facts)
    yield from (f"args.{name}" for name in input.args)
    yield from (f"context.{name}" for name in input.context)


@pytest.mark.sampled
@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(input=INPUTS)
def test_a_question_whose_facts_are_listed_comes_back(input: PolicyInput) -> None:
    question = question_of(event_of(input, *names_of(input)))
    if question == CUT:
        assert max(map(len, (text for text in _texts(input)))) > 256
        return
    assert isinstance(question, PolicyInput)
    expected = msgspec.structs.replace(input, args_hash=None, timestamp=question.timestamp)
    assert canonical(question) == canonical(expected)


def _texts(input: PolicyInput) -> Iterator[str]:
    actor: Actor | None = input.actor
    while actor is not None and not isinstance(actor, Anonymous):
        yield f"compiler_tool:{actor.id}"
        actor = actor.on_behalf_of
    yield from (input.action, input.env.service, input.env.mode)
    if input.resource is not None:
        yield from (input.resource.kind, input.resource.id or "")


def test_what_was_too_long_for_the_log_is_no_question() -> None:
    for amount in ("x" * 257, ["x"] * 17, ["x" * 257]):
        event = event_of(msgspec.structs.replace(ASKED, args={"amount": amount}), "args.amount")
        assert question_of(event) == CUT
    for amount in ("x" * 256, ["x"] * 16, ["...(40 texts)"]):
        asked = msgspec.structs.replace(ASKED, args={"amount": amount})
        question = question_of(event_of(asked, "args.amount"))
        assert isinstance(question, PolicyInput)
        assert question.args == {"amount": amount}


@pytest.mark.parametrize(
    ("listed", "needed", "is_told"),
    [
        ((), (), True),
        ((), ("args.amount",), False),
        (("args.amount",), ("args.amount",), True),
        (("args.amount",), ("args.amount", "args.other"), False),
        (("args.other",), ("args.other",), True),  # it is known to be absent
        (("actor.on_behalf_of",), ("actor.on_behalf_of.id", "actor.on_behalf_of.kind", "actor.on_behalf_of"), True),
        (("actor.on_behalf_of",), ("actor.on_behalf_of.roles",), False),
        (("actor.on_behalf_of.roles",), (), False),  # of whom is not known
        (("actor.on_behalf_of.roles", "actor.on_behalf_of.kind", "actor.on_behalf_of.id"), (), True),
    ],
)
def test_what_a_policy_looks_at_has_to_be_in_the_record(
    listed: tuple[str, ...], needed: tuple[str, ...], is_told: bool
) -> None:
    question = question_of(event_of(ASKED, *listed), None, needed)
    assert (question == UNTOLD) is not is_told


def test_whom_nobody_acts_for_has_no_roles_that_could_be_missing() -> None:
    event = event_of(PolicyInput("a", User("ada")), "actor.on_behalf_of")
    assert isinstance(question_of(event, None, ("actor.on_behalf_of.roles", "actor.on_behalf_of.tenant")), PolicyInput)


def test_what_a_document_speaks_of_is_what_it_needs() -> None:
    rule = {
        "effect": "allow",
        "actions": ["db.read"],
        "when": '"a" in actor.roles && actor.on_behalf_of.id == resource.owner && env.mode == "x" && action != "y"',
    }
    document = {"attributes": {"resource": {"owner": "string"}}, "rules": [rule]}
    needed = needed_facts(RuntimePolicy.from_document(document))
    assert needed == {"actor.roles", "actor.on_behalf_of.id", "resource.owner"}
    assert all(map(is_fact_name, needed))
    assert needed_facts(RuntimePolicy.from_document({"sql": "any"})) == frozenset()


def test_an_event_without_the_facts_is_not_explained() -> None:
    event, whole = event_of(ASKED), event_of(ASKED, *ALL)
    needed = ("actor.roles", "args.amount")
    with pytest.raises(ConfigError) as caught:
        asked_question(json.dumps(event), needed)
    assert caught.value.setting == "event"
    assert all(name in caught.value.valid for name in needed)
    assert asked_question(json.dumps(whole), needed).args == {"amount": 5}
    assert asked_question(json.dumps(event)).args == {}


def test_what_only_a_rule_that_monitors_speaks_of_is_not_needed() -> None:
    rule = {"effect": "deny", "actions": ["db.read"], "when": '"a" in actor.roles', "reason": "x", "monitor": True}
    assert needed_facts(RuntimePolicy.from_document({"sql": "any", "rules": [rule]})) == frozenset()


#: Denies where there are arguments: their number is at 124 of the record.
BY_ARGS: Final = guest(
    f"(if (i32.eqz (i32.load offset=124 (local.get $input))) (then (return (i32.const 512)))) {ALLOW}",
    extra=denies("no arguments please"),
    interface=WITH_FACTS,
)


def test_facts_of_the_record_are_asked_about(tmp_path: Path, engine_name: str) -> None:
    bare = msgspec.structs.replace(ASKED, args={})
    lines = [json.dumps(event_of(input, *ALL)) for input in (ASKED, bare, bare)]
    path = tmp_path / "decisions.jsonl"
    path.write_text("\n".join(lines))
    old, new = (PolicyFile(name, artifact(module)) for name, module in (("old", guest()), ("new", BY_ARGS)))
    found = replay(old, new, [path], engine=engine_name, limits=Limits())
    assert (found.questions, found.changed, found.left_out) == (3, 1, {})
    (change,) = found.changes
    assert (change.before, change.after) == (Allow(), Deny("no arguments please"))
    assert canonical(msgspec.structs.replace(change.input, timestamp=0)) == canonical(ASKED)


def test_questions_are_counted_by_what_policies_look_at(tmp_path: Path) -> None:
    """Of documents without conditions the time and the facts are none of it."""
    path = tmp_path / "asked.jsonl"
    asked = [PolicyInput("db.read", resource=Resource("sql_query", "x"), timestamp=n, args={"n": n}) for n in range(3)]
    path.write_bytes(b"\n".join(canonical({"input": input}) for input in asked))
    old, new = (
        PolicyFile(name, RuntimePolicy.from_document(raw)) for name, raw in (("a", {"sql": "any"}), ("b", {"sql": []}))
    )
    found = replay(old, new, [path], engine="auto", limits=Limits())
    assert [change.count for change in found.changes] == [3]
    allows, denies_ = artifact(guest()), artifact(guest(extra=denies("no")))
    found = replay(PolicyFile("a", allows), PolicyFile("b", denies_), [path], engine="auto", limits=Limits())
    assert [change.count for change in found.changes] == [1, 1, 1]


def test_numbers_that_no_policy_can_be_asked_about_are_questions_too(tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    path.write_text("\n".join(f'{{"input": {{"action": "a.b", "args": {{"n": {n}}}}}}}' for n in (2**64, 2**64, 1)))
    allows, denies_ = artifact(guest()), artifact(guest(extra=denies("no")))
    found = replay(PolicyFile("a", allows), PolicyFile("b", denies_), [path], engine="auto", limits=Limits())
    assert (found.questions, found.changed) == (3, 1)
