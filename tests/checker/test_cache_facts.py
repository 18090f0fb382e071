"""Facts and what is remembered: an answer serves those who differ in facts that the policy certainly does not look at.

Whether they are facts at all, and not too large, is looked at each time.
"""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capgate.checker.cached import CachedChecker, Memory
from capgate.checker.local import LocalPolicyChecker
from capgate.checker.wasm import WasmPolicyChecker
from capgate.errors import ConfigError
from capgate.limits import Limits
from capgate.model import ALLOW, ANONYMOUS, Actor, Deny, Entrypoint, Environment, PolicyInput, Resource, Service, User
from capgate.policy import RuntimePolicy
from capgate.routes.declare import Requirement
from capgate.runtime.abi.canonical_abi import PLAIN, WITH_FACTS, Interface
from capgate.runtime.pool import WasmPool

from ..runtime.abi.inputs import ACTORS, ATTRIBUTES, MALFORMED, SURROGATE, delegated, replace
from ..support.engines import EXPECTED_ENGINES
from ..support.guests import artifact, guest
from ..support.rego_guests import opa_artifact
from ..support.tools import examples
from .test_cache_keys import BY_ACTOR, KINDS, PATIENT, make
from .test_cache_keys import MALFORMED as MALFORMED_INPUT

DOCUMENT: Final[dict[str, Any]] = {**BY_ACTOR, "sql": ["good"]}
ENV: Final = Environment("orders", "dev")
GOOD: Final = Resource("sql_query", "good")
ADA: Final = User("ada", ("editor", "support"), ("read",), {"tenant": "acme"}, Service("s"))
FACTS: Final = st.fixed_dictionaries(
    {
        "action": st.sampled_from(["db.read", "db.write", "no.such"]),
        "actor": ACTORS | st.sampled_from([ADA, User("ada"), delegated(3)]),
        "resource": st.none()
        | st.builds(Resource, st.just("sql_query"), st.sampled_from(["good", "x", None]), ATTRIBUTES),
        "args": ATTRIBUTES,
        "context": ATTRIBUTES,
    }
)


@pytest.mark.sampled
@settings(max_examples=examples(200), deadline=None)
@given(data=st.data(), kind=st.sampled_from(KINDS), room=st.integers(0, 200))
def test_whoever_asks_with_whatever_facts_is_told_what_they_would_be_told(
    data: st.DataObject, kind: str, room: int
) -> None:
    """Half of the questions are malformed in some part, or too large for the limit."""
    limits = Limits(deadline=20.0, input_bytes=1_024 + room)
    plain, checker = make(kind, DOCUMENT, limits), CachedChecker(make(kind, DOCUMENT, limits), size=20)
    asked = []
    drawn: list[dict[str, Any]] = data.draw(st.lists(FACTS, min_size=1, max_size=5))
    for facts in drawn:
        input = PolicyInput(env=ENV, timestamp=1, **facts)
        if data.draw(st.booleans()):
            field = data.draw(st.sampled_from(["actor", "resource", "args", "context"]))
            input = replace(input, **{field: data.draw(MALFORMED[field])})
        if data.draw(st.booleans()):
            input = replace(input, context={"filled": "x" * data.draw(st.integers(0, 1_300))})
        asked.append(input)
    for input in asked * 2:
        assert checker.evaluate_now(input) == plain.evaluate_now(input)
    expected = [plain.evaluate_now(input) for input in asked]
    assert checker.current.answer_many_now(asked) == expected
    for input, answer in zip(asked, expected, strict=True):
        wanted = (Requirement(input.action, input.resource),)
        if input.args or input.context:
            continue
        if checker.current.allowed(wanted, {}, input.actor, ENV):
            assert answer == ALLOW


@pytest.mark.parametrize("kind", KINDS)
async def test_one_answer_serves_whoever_differs_in_facts(kind: str) -> None:
    inner = make(kind, DOCUMENT)
    async with CachedChecker(inner, size=None) as checker:
        who: list[Actor] = [User("ada"), ADA, User("ada", ("x",)), User("ada", on_behalf_of=ADA), delegated(4)]
        for actor in who:
            for facts in ({}, {"a": 1}, {"b_1": ["x"] * 100}):
                input = PolicyInput("db.read", actor, Resource("sql_query", "good", facts), None, ENV, 1, facts, facts)
                assert await checker.check(input) == ALLOW
        assert checker.remembered == 2  # of Ada, and of the service
        if kind != "local":
            assert inner.statistics().calls == 2


@pytest.mark.parametrize(
    "actor",
    [
        User("ada", ("a", "a")),
        User("ada", "ab"),  # type: ignore[arg-type]
        User("ada", attributes={"A": 1}),
        User("ada", attributes={"a": SURROGATE}),
        User("ada", attributes={"id": "eve"}),
        User("ada", on_behalf_of=delegated(4)),
        User("ada", on_behalf_of="eve"),  # type: ignore[arg-type]
        User("ada", ("x" * 65_536,)),
    ],
)
async def test_what_is_no_fact_is_malformed_whatever_is_remembered(actor: Actor) -> None:
    checker = CachedChecker(make("local", {"sql": "any"}), size=None)
    wanted = (Requirement("db.read", GOOD),)
    for who in (User("ada"), ADA):
        assert checker.evaluate_now(PolicyInput("db.read", who, GOOD, None, ENV)) == ALLOW
        assert checker.current.allowed(wanted, {}, who, ENV)
    for _ in range(2):
        assert checker.evaluate_now(PolicyInput("db.read", actor, GOOD, None, ENV)) == MALFORMED_INPUT
        assert not checker.current.allowed(wanted, {}, actor, ENV)


def test_facts_that_become_none_later_are_malformed_then() -> None:
    attributes: dict[str, Any] = {"tenant": "acme"}
    checker, who = CachedChecker(make("local", {"sql": "any"}), size=None), User("ada", attributes=attributes)
    wanted = (Requirement("db.read", GOOD),)
    for value, is_fact in (("acme", True), (None, False), (1, True), (2**64, False), ([SURROGATE], False)):
        attributes["tenant"] = value
        for _ in range(2):
            answer = checker.evaluate_now(PolicyInput("db.read", who, GOOD, None, ENV))
            assert answer == (ALLOW if is_fact else MALFORMED_INPUT)
            assert checker.current.allowed(wanted, {}, who, ENV) is is_fact


@pytest.mark.parametrize("size", [1_024, 1_032, 1_040, 2_000])
def test_facts_are_within_the_limit_whatever_else_is_asked(size: int) -> None:
    limits = Limits(input_bytes=size)
    plain, checker = make("local", {"sql": "any"}, limits), CachedChecker(make("local", {"sql": "any"}, limits), size=9)
    for count in (0, 1, 8, 9, 100, 968, 969, 1_100):
        input = PolicyInput("db.read", User("x" * 256, ("r" * count,) if count else ()), GOOD, "d" * 128, ENV)
        for _ in range(2):
            assert checker.evaluate_now(input) == plain.evaluate_now(input)


# -- policies that may look at facts


def test_a_document_that_looks_at_facts_is_never_remembered() -> None:
    rule = {"effect": "allow", "actions": ["db.read"], "when": '"editor" in actor.roles'}
    inner = LocalPolicyChecker(RuntimePolicy.from_document({"rules": [rule]}))
    assert inner.inputs is not None
    assert "facts" in inner.inputs
    assert inner.facts_room == 0
    with pytest.raises(ConfigError):
        CachedChecker(inner, size=10)
    checker = CachedChecker(inner, size=None)
    for roles, answer in ((("editor",), ALLOW), ((), Deny("not_in_allowlist"))) * 2:
        input = PolicyInput("db.read", User("ada", roles), GOOD, None, ENV)
        assert checker.evaluate_now(input) == answer
        assert not checker.current.allowed((Requirement("db.read", GOOD),), {}, input.actor, ENV)
    assert checker.remembered == 0


@pytest.mark.parametrize(("interface", "is_told"), [(PLAIN, False), (WITH_FACTS, True)])
async def test_a_module_of_ones_own_is_asked_about_facts_that_it_is_told(
    engine_name: str, interface: Interface, is_told: bool
) -> None:
    """Whoever signs that it looks at the actor may mean the roles as well."""
    pool = WasmPool(artifact(guest(interface=interface)), 1, engine_name, PATIENT)
    inner = WasmPolicyChecker(pool, inputs=frozenset({"action", "actor", "resource"}))
    assert (inner.facts_room == 0) is is_told
    async with CachedChecker(inner, size=None) as checker:
        for actor in (User("ada"), ADA, User("ada", ("x",))) * 2:
            assert await checker.check(PolicyInput("db.read", actor, GOOD, None, ENV)) == ALLOW
        assert inner.statistics().calls == (5 if is_told else 1)
        assert checker.remembered == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPECTED_ENGINES)
async def test_a_rego_policy_is_asked_about_roles(kind: str) -> None:
    pool = WasmPool(opa_artifact(DOCUMENT), 1, kind, PATIENT, entrypoint=Entrypoint("capgate/decision"))
    inner = WasmPolicyChecker(pool, inputs=frozenset({"action", "actor", "mode", "resource"}))
    async with CachedChecker(inner, size=None) as checker:
        for actor in (User("ada"), ADA) * 2:
            assert await checker.check(PolicyInput("db.write", actor, Resource("sql_query", "x"), None, ENV)) == ALLOW
        assert (inner.statistics().calls, checker.remembered) == (3, 1)


def test_an_odd_actor_is_not_looked_into() -> None:
    class SlyType(type):
        def __eq__(cls, other: object) -> bool:
            return True

        def __hash__(cls) -> int:
            return hash(User)

    class Sly(metaclass=SlyType):
        id = "ada"

    memory = CachedChecker(make("local", {"sql": "any"}), size=None).current
    assert isinstance(memory, Memory)
    memory.answer_now(PolicyInput("db.read", ANONYMOUS, GOOD, None, ENV))
    odd: Any = Sly()
    assert not memory.allowed((Requirement("db.read", GOOD),), {}, odd, ENV)
