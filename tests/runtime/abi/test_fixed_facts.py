"""What the host writes of the facts of a question: those of now, all of them, and nothing that is none."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from capgate.artifact.build import build_policy
from capgate.artifact.load import WasmArtifact
from capgate.conditions.fact_table import OTHER
from capgate.conditions.questions import facts_of
from capgate.errors import MalformedInput
from capgate.limits import Limits
from capgate.model import (
    ALLOW,
    Anonymous,
    CompilerTool,
    Deny,
    Environment,
    PolicyInput,
    Reason,
    Resource,
    Service,
    User,
)
from capgate.runtime.abi.lowering import check_lowerable
from capgate.runtime.interpreter import WasmInterpreter

ATTRIBUTES = {
    "actor": {"tenant": "string", "level": "int"},
    "resource": {"owner": "string", "tags": "list"},
    "args": {"amount": "int"},
    "context": {"mfa": "bool"},
}
DEPTHS = ["actor", *(f"actor{'.on_behalf_of' * depth}" for depth in range(1, 5))]
NAMES = sorted(
    {
        *("action", "now", "env.mode", "env.service", "resource.id", "resource.kind"),
        *(f"{holder}.{name}" for holder, names in ATTRIBUTES.items() for name in names),
        *(f"{actor}.{name}" for actor in DEPTHS for name in ("id", "kind", "roles", "scopes", "tenant")),
    }
)


class Text(str):
    """Text whose own methods nobody may call."""

    __slots__ = ()

    def __str__(self) -> str:
        raise AssertionError


def values(input: PolicyInput) -> dict[str, Any]:
    """Every fact by its name, without those that are absent."""
    listed = facts_of(NAMES)(input)
    assert len(listed) == len(NAMES)
    return {name: value for name, value in zip(NAMES, listed, strict=True) if value is not None}


def test_every_fact_is_found_under_its_name() -> None:
    behind = Service("s-1", ("agent",), on_behalf_of=CompilerTool("c-1", attributes={"tenant": "t2"}))
    actor = User("u-1", ("editor",), ("read", "write"), {"tenant": "acme", "level": 7, "unspoken": 1}, behind)
    resource = Resource("order", "17", {"owner": "u-1", "tags": ["eu"]})
    environment = Environment("shop", "dev")
    asked = PolicyInput("a.b", actor, resource, "00", environment, 77, {"amount": 250}, {"mfa": False})
    assert values(asked) == {
        **{"action": "a.b", "now": 77, "env.service": "shop", "env.mode": "dev"},
        **{"actor.id": "u-1", "actor.kind": "user", "actor.tenant": "acme", "actor.level": 7},
        **{"actor.roles": ("editor",), "actor.scopes": ("read", "write")},
        **{"actor.on_behalf_of.id": "s-1", "actor.on_behalf_of.kind": "service"},
        **{"actor.on_behalf_of.roles": ("agent",), "actor.on_behalf_of.scopes": ()},
        **{"actor.on_behalf_of.on_behalf_of.id": "c-1", "actor.on_behalf_of.on_behalf_of.kind": "compiler_tool"},
        **{"actor.on_behalf_of.on_behalf_of.roles": (), "actor.on_behalf_of.on_behalf_of.scopes": ()},
        "actor.on_behalf_of.on_behalf_of.tenant": "t2",
        **{"resource.kind": "order", "resource.id": "17", "resource.owner": "u-1", "resource.tags": ["eu"]},
        **{"args.amount": 250, "context.mfa": False},
    }


def test_what_is_not_there_is_absent() -> None:
    always = {"action": "a.b", "now": 0, "env.service": "capgate", "env.mode": "prod"}
    nobody = {"actor.kind": "anonymous", "actor.roles": (), "actor.scopes": ()}
    assert values(PolicyInput("a.b")) == {**always, **nobody}
    behind = {f"actor.on_behalf_of.{name.partition('.')[2]}": value for name, value in nobody.items()}
    service = {"actor.kind": "service", "actor.id": "s", "actor.roles": (), "actor.scopes": ()}
    asked = PolicyInput("a.b", Service("s", on_behalf_of=Anonymous()), Resource("order"))
    assert values(asked) == {**always, **service, **behind, "resource.kind": "order"}


def test_what_is_of_another_type_is_no_fact() -> None:
    """What is empty is not looked at before, whatever its type."""
    odd: Any = PolicyInput
    odd_user: Any = User
    asked = odd("a.b", odd_user("u", None, 0, None), None, None, Environment(), True, None, ())
    seen = values(asked)
    assert seen["actor.roles"] == seen["actor.scopes"] == seen["now"] == OTHER
    assert not {"actor.tenant", "args.amount", "context.mfa"} & set(seen)


def test_text_of_another_class_is_its_characters() -> None:
    asked = PolicyInput(Text("a.b"), User(Text("u")), Resource(Text("order"), Text("1")), env=Environment(Text("s")))
    for name, value in values(asked).items():
        assert type(value) is not Text, name
    assert values(asked)["actor.id"] == "u"


def opened(engine: str, *conditions: tuple[str, str]) -> WasmInterpreter:
    rules = [{"effect": effect, "actions": ["a.b"], "when": when} for effect, when in conditions]
    document = {"attributes": ATTRIBUTES, "actions": {"a.b": "by_rule"}, "rules": rules}
    return WasmInterpreter(WasmArtifact(build_policy(document)), engine=engine)


NOT_ALLOWED = Deny(Reason.NOT_IN_ALLOWLIST)


def test_facts_that_change_in_the_same_objects_are_seen(engine_name: str) -> None:
    ask = opened(engine_name, ("allow", "args.amount <= 7 && resource.owner == actor.tenant")).ask
    of_actor, of_resource, args = dict[str, Any](tenant="acme"), dict[str, Any](owner="acme"), dict[str, Any](amount=7)
    asked = PolicyInput("a.b", User("u-1", attributes=of_actor), Resource("order", "1", of_resource), args=args)
    assert ask(asked) is ALLOW
    args["amount"] = 8
    assert ask(asked) == NOT_ALLOWED
    args["amount"] = 6
    of_resource["owner"] = "other"
    assert ask(asked) == NOT_ALLOWED
    of_actor["tenant"] = "other"
    assert ask(asked) is ALLOW
    del args["amount"]
    assert ask(asked) == NOT_ALLOWED


@pytest.mark.parametrize("bad", [{"x": {"a": 1}}, {"x": float("nan")}, {"x": None}, {"x": b"a"}, {"X": 1}, {"id": "u"}])
def test_facts_that_become_none_are_malformed(engine_name: str, bad: dict[str, Any]) -> None:
    ask = opened(engine_name, ("allow", "actor.id == 'u-1'")).ask
    attributes: dict[str, Any] = {}
    asked = PolicyInput("a.b", User("u-1", attributes=attributes))
    assert ask(asked) is ALLOW
    attributes.update(bad)
    with pytest.raises(MalformedInput):
        ask(asked)
    attributes.clear()
    assert ask(asked) is ALLOW


def test_long_texts_leave_nothing_behind(engine_name: str) -> None:
    """Parts that no slot holds are written elsewhere, and the facts where they always are."""
    ask = opened(engine_name, ("allow", "actor.id == resource.owner && size(actor.id) > 3")).ask
    for length in (5, 300, 4, 9_000, 3, 255, 256, 257):
        id = "é" * length
        asked = PolicyInput("a.b", User(id), Resource("order", id, {"owner": id}))
        assert ask(asked) == (ALLOW if length > 3 else NOT_ALLOWED)
        assert ask(PolicyInput("a.b", User(id), Resource("order", id, {"owner": id + "x"}))) == NOT_ALLOWED


def test_each_question_that_is_not_too_long_has_room(engine_name: str) -> None:
    """Of small facts the packed ones take most beside their text."""
    limits = Limits(input_bytes=1_024)
    whole = " || ".join(
        f"size({name}) == 77" for name in NAMES if name.endswith(("id", "kind", "roles", "scopes", "tenant", "mode"))
    )
    document = {
        "attributes": ATTRIBUTES,
        "actions": {"a.b": "by_rule"},
        "rules": [{"effect": "allow", "actions": ["a.b"], "when": f"({whole}) || args.amount == 2"}],
    }
    module = WasmArtifact(build_policy(document, input_bytes=1_024))
    interpreter = WasmInterpreter(module, engine=engine_name, limits=limits)
    actor: Any = CompilerTool("", attributes={"tenant": ""})
    for _ in range(4):
        actor = CompilerTool("", tuple(map(str, range(9))), attributes={"tenant": ""}, on_behalf_of=actor)
    asked = PolicyInput("a.b", actor, Resource("order", "1", {"owner": "", "tags": [""] * 9}), args={"amount": 2})
    assert interpreter.call_policy_check(asked) is ALLOW


ODD: dict[str, Any] = {
    "nothing": {},
    "no mapping": None,
    "a list": [],
    "a list of something": ["a"],
    "text": {"a": "x" * 9},
    "text in two bytes": {"a": "é" * 9},
    "a surrogate": {"a": "\ud800"},
    "numbers": {"a": 1, "b": -(2**63), "c": 2**63 - 1, "d": 0.5, "e": True},
    "a number of 65 bits": {"a": 2**63},
    "a small number of 65 bits": {"a": -(2**63) - 1},
    "no number": {"a": float("nan")},
    "an infinity": {"a": float("inf")},
    "lists": {"a": ["x", "yy"], "b": ("z",)},
    "a list of numbers": {"a": [1]},
    "nil": {"a": None},
    "a mapping": {"a": {"b": 1}},
    "a name in upper case": {"A": 1},
    "a name that is none": {1: 1},
    "a name of another class": {Text("a"): 1},
    "text of another class": {"a": Text("x")},
    "what each has": {"id": "x"},
    "kind": {"kind": "x"},
    "roles": {"roles": "x"},
    "as many as may be": {f"a{number}": "x" * number for number in range(128)},
    "too many": {f"a{number}": 1 for number in range(129)},
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_what_is_malformed_to_one_way_of_asking_is_to_each(engine_name: str, odd: Any) -> None:
    """Whether or not the policy looks at facts, and whatever else there is in the question."""
    asks = [opened(engine_name, ("allow", when)).ask for when in ("args.amount == 1", "resource.owner == 'x'")]
    asks.append(WasmInterpreter(WasmArtifact(build_policy({"actions": {"a.b": "any"}})), engine=engine_name).ask)
    make: Any = PolicyInput
    users: list[Any] = [User("u", attributes=odd), User("u", odd), User("u", on_behalf_of=odd)]
    for actor, resource, args in itertools.product(users, (None, Resource("order", "1", odd)), ({"a": 1}, odd)):
        asked = make("a.b", actor, resource, args=args)
        malformed = is_malformed(lambda asked: check_lowerable(asked, Limits().input_bytes), asked)
        assert [is_malformed(ask, asked) for ask in asks] == [malformed] * 3


def is_malformed(ask: Callable[[PolicyInput], object], input: PolicyInput) -> bool:
    try:
        ask(input)
    except MalformedInput:
        return True
    return False
