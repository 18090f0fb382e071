"""A policy behind OPA's ABI that looks at facts: roles, attributes, arguments, through golden fixtures (M12)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest

from capgate.errors import MalformedInput
from capgate.limits import Limits
from capgate.model import Allow, Deny, Entrypoint, PolicyInput, Resource, User
from capgate.testing.golden import PolicyUnderTest, read_fixtures, run_fixtures

from ..support.rego_guests import opa_artifact, opa_policy
from ..support.tools import ROOT
from .outcomes import opened

FIXTURES: Final = read_fixtures(ROOT / "tests" / "rego" / "facts")
FACTS: Final = Entrypoint("capgate/facts")
ASKED: Final = PolicyInput(
    "order.refund",
    User("ada", ("support",), ("refund",), {"tenant": "acme"}),
    Resource("order", "17", {"tenant": "acme"}),
    args={"amount": 5},
)


@pytest.mark.slow
def test_every_fixture_has_its_answer(engine_name: str) -> None:
    policy = PolicyUnderTest(opa_artifact({}), entrypoint=FACTS)
    outcomes = run_fixtures(policy, FIXTURES, engine_name)
    assert [(outcome.fixture.description, outcome.answers) for outcome in outcomes if not outcome.passed] == []
    assert {type(outcome.fixture.expected) for outcome in outcomes} == {Allow, Deny}


def filled(field: str, size: int) -> PolicyInput:
    """A question in which so many bytes count for one more text in ``field``."""
    text, asked = "x" * (size - 8), ASKED
    named = {**asked.actor.attributes, "n": text[1:]}  # type: ignore[union-attr]
    return {
        "roles": lambda: _with_actor(roles=("support", text)),
        "scopes": lambda: _with_actor(scopes=("refund", text)),
        "actor": lambda: _with_actor(attributes=named),
        "on_behalf_of": lambda: _with_actor(on_behalf_of=User(text)),
        "resource": lambda: msgspec.structs.replace(asked, resource=Resource("order", "17", named)),
        "args": lambda: msgspec.structs.replace(asked, args={"amount": 5, "n": text[1:]}),
        "list": lambda: msgspec.structs.replace(asked, args={"amount": 5, "n": ["a" * (size - 25), ""]}),
        "context": lambda: msgspec.structs.replace(asked, context={"n": text[1:]}),
    }[field]()


def _with_actor(**changes: Any) -> PolicyInput:
    return msgspec.structs.replace(ASKED, actor=msgspec.structs.replace(ASKED.actor, **changes))


@pytest.mark.slow
@pytest.mark.parametrize("field", ["roles", "scopes", "actor", "on_behalf_of", "resource", "args", "list", "context"])
def test_facts_count_against_the_limit(engine_name: str, field: str) -> None:
    """Their text, and eight bytes for each value."""
    limits = Limits(input_bytes=1_024)
    ask: Callable[[PolicyInput], object] = opened(engine_name, opa_policy({}, spare=8), FACTS, limits).call_policy_check
    texts = ("order.refund", "ada", "order", "17", "capgate", "prod")
    values = ("support", "refund", "tenantacme", "tenantacme", "amount")
    room = 1_024 - sum(map(len, texts)) - sum(len(value) + 8 for value in values)
    assert ask(filled(field, room)) == Allow()
    with pytest.raises(MalformedInput):
        ask(filled(field, room + 1))
