"""Facts in events: those that settings list and no others, each one field whatever is in it."""

from __future__ import annotations

import json
import logging
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capgate.errors import ConfigError
from capgate.events import ITEMS_LIMIT, DecisionEvent, DecisionLog, add_sink, remove_sink
from capgate.limits import Limits
from capgate.logged_facts import is_fact_name
from capgate.model import ALLOW, Anonymous, Decision, Deny, PolicyInput, Resource, Service, User
from capgate.settings import Settings

from ..runtime.abi.inputs import MALFORMED, replace
from ..support.asgi import Call, http_scope
from ..support.gates import Ran, events, example
from .test_events import HOSTILE

ASKED: Final = PolicyInput(
    "order.refund",
    Service(
        "agent", ("bot",), ("refund",), {"tenant": "acme"}, User("ada", ("editor",), (), {"tenant": "x"}, Anonymous())
    ),
    Resource("order", "17", {"total": 250, "rate": 0.5, "vip": True, "tags": ["eu", "new"]}),
    args={"amount": 5},
    context={"ip": "10.0.0.7"},
)
TOLD: Final = {
    "actor.roles": ["bot"],
    "actor.scopes": ["refund"],
    "actor.tenant": "acme",
    "actor.on_behalf_of": ["user:ada", "anonymous"],
    "actor.on_behalf_of.kind": "user",
    "actor.on_behalf_of.id": "ada",
    "actor.on_behalf_of.roles": ["editor"],
    "actor.on_behalf_of.tenant": "x",
    "actor.on_behalf_of.on_behalf_of.kind": "anonymous",
    "actor.on_behalf_of.on_behalf_of.roles": None,
    "resource.total": 250,
    "resource.rate": 0.5,
    "resource.vip": True,
    "resource.tags": ["eu", "new"],
    "args.amount": 5,
    "context.ip": "10.0.0.7",
    "args.total": None,
    "context.on_behalf_of": None,
}


def told(input: Any, *names: str) -> Any:
    """What the line of a denial says."""
    with events() as found:
        DecisionLog(facts=names).denied(Decision(input, Deny("no")))
    (event,) = found
    return json.loads(json.dumps(event["facts"]))


def test_what_is_listed_is_told_with_its_type() -> None:
    assert told(ASKED, *TOLD) == TOLD
    for name, value in TOLD.items():
        assert told(ASKED, name) == {name: value}
        assert type(told(ASKED, name)[name]) is type(value)


def test_nothing_else_is_told() -> None:
    with events(logging.INFO) as found:
        DecisionLog().denied(Decision(ASKED, Deny("no")))
        DecisionLog(1.0, facts=["args.amount"]).allowed(Decision(ASKED, ALLOW))
        DecisionLog(facts=["args.amount"]).would_deny(Decision(ASKED, Deny("no")))
        DecisionLog(facts=["args.amount"]).denied(Decision(None, Deny("no")))
    assert [event["facts"] for event in found] == [None, {"args.amount": 5}, {"args.amount": 5}, None]
    text = json.dumps(found)
    assert not any(secret in text for secret in ("acme", "editor", "bot", "10.0.0.7", '"refund"', "ada", '"eu"'))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_stays_one_field(text: str) -> None:  # O3
    asked = PolicyInput("a", User("u", (text,), (), {"a": text}, User(text)), args={"a": [text] * 2})
    facts = told(asked, "actor.roles", "actor.a", "actor.on_behalf_of", "args.a")
    for value in (*facts["actor.roles"], facts["actor.a"], *facts["actor.on_behalf_of"], *facts["args.a"]):
        assert value.isascii()
        assert value.isprintable()
        assert len(value) < 3_000


def test_a_long_list_is_cut_and_says_how_long_it_was() -> None:
    for count in (ITEMS_LIMIT, ITEMS_LIMIT + 1, 5_000):
        facts = told(PolicyInput("a", args={"a": [str(number) for number in range(count)]}), "args.a")
        more = [] if count == ITEMS_LIMIT else [f"...({count} texts)"]
        assert facts["args.a"] == [str(number) for number in range(ITEMS_LIMIT)] + more


@given(st.data())
def test_what_is_no_question_is_told_as_well(data: st.DataObject) -> None:
    """Events are written of whatever was denied, and no fact keeps one from being written."""
    field = data.draw(st.sampled_from(sorted(MALFORMED)))
    asked = replace(ASKED, **{field: data.draw(MALFORMED[field])})
    names = ("actor.roles", "actor.a", "actor.on_behalf_of", "actor.on_behalf_of.a", "resource.a", "args.a")
    facts = told(asked, *names)
    assert list(facts) == list(names)


@pytest.mark.parametrize("odd", [5, "input", object(), PolicyInput, {"args": {"a": 1}}])
def test_what_looks_like_no_question_has_no_facts(odd: Any) -> None:
    assert told(odd, "args.a", "actor.roles", "resource.a") == {"args.a": None, "actor.roles": None, "resource.a": None}


def test_text_that_cannot_be_shown_keeps_no_event_from_being_written() -> None:
    class Raising(str):
        __slots__ = ()

        def encode(self, *arguments: object) -> bytes:
            raise RuntimeError("no")

        isascii = isprintable = encode  # type: ignore[assignment]

    asked: Any = PolicyInput("a", User("u", (Raising("r"),)), args={"a": Raising("x")})
    assert told(asked, "args.a", "actor.roles") == {"args.a": "<Raising>", "actor.roles": "<tuple>"}


def test_whoever_changes_a_record_changes_no_event_of_a_sink() -> None:
    kept: list[DecisionEvent] = []

    class Sink:
        def emit(self, event: DecisionEvent) -> None:
            kept.append(event)

    sink = Sink()
    add_sink(sink)
    try:
        with events() as found:
            DecisionLog(facts=["args.amount"]).denied(Decision(ASKED, Deny("no")))
        found[0]["facts"]["args.amount"] = "changed"
    finally:
        remove_sink(sink)
    assert kept[0].facts == {"args.amount": 5}


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("roles", "actor.roles"),
        ("user.tenant", "actor.tenant"),
        ("Args.Amount", "args.amount"),
        ("actor", None),
    ],
)
def test_a_name_that_is_none_is_told_what_it_may_have_been(name: str, nearest: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(log_facts=(name,))
    assert (caught.value.setting, caught.value.seen, caught.value.nearest) == ("log_facts", name, nearest)


@pytest.mark.parametrize("name", ["actor.id", "actor.kind", "resource.id", "resource.kind", "env.mode", "a.b.c"])
def test_what_every_event_has_need_not_be_listed(name: str) -> None:
    assert not is_fact_name(name)
    with pytest.raises(ValueError, match="fact"):
        DecisionLog(facts=[name])


async def test_a_gate_tells_what_its_settings_list() -> None:
    async def actor(connection: object) -> User:
        return User("ada", ("editor",), attributes={"tenant": "acme"})

    settings = Settings(log_facts=("actor.roles", "args.amount"), limits=Limits(deadline=20.0))
    app, call = example(Ran(), settings=settings, actor=actor), Call(http_scope("/bad"))
    with events() as found:
        await app(http_scope("/bad"), call.receive, call.send)
    assert [event["facts"] for event in found] == [{"actor.roles": ("editor",), "args.amount": None}]
