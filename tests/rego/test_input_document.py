"""The input as JSON: all that it says and nothing else, so that none is ever undefined for a policy (M11, M12)."""

from __future__ import annotations

import enum
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capgate.errors import MalformedInput
from capgate.limits import Limits
from capgate.model import (
    Actor,
    Anonymous,
    Attribute,
    CompilerTool,
    Deny,
    Entrypoint,
    Environment,
    PolicyInput,
    Resource,
    Service,
    User,
    canonical,
)
from capgate.runtime.abi.opa.input_document import document

from ..support.policy_fixtures import load_fixtures
from ..support.rego_guests import opa_policy
from .outcomes import opened

LIMIT = 65_536
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
    st.lists(texts, max_size=3),
)
attributes = st.dictionaries(st.from_regex(r"a[a-z0-9_]{0,5}", fullmatch=True), values, max_size=3)
roles = st.lists(texts, max_size=3, unique=True).map(tuple)
named = [st.builds(kind, texts, roles, roles, attributes) for kind in (User, Service, CompilerTool)]
delegated = [
    st.builds(kind, texts, roles, on_behalf_of=st.one_of(st.just(Anonymous()), *named))
    for kind in (User, Service, CompilerTool)
]
actors: st.SearchStrategy[Actor] = st.one_of(st.just(Anonymous()), *named, *delegated)
inputs = st.builds(
    PolicyInput,
    texts,
    actor=actors,
    resource=st.none() | st.builds(Resource, texts, st.none() | texts, attributes),
    args_hash=st.none() | texts,
    env=st.builds(Environment, texts, texts),
    timestamp=st.integers(0, 2**64 - 1),
    args=attributes,
    context=attributes,
)


class Word(str):
    """A text that shows itself as another one."""

    def encode(self, *arguments: object) -> bytes:
        return b"another"

    def __str__(self) -> str:
        return "another"


class Always(str):
    """Equal to nothing, so that a dictionary may have two of it."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class Numbered(enum.IntEnum):
    one = 1


class Named(str, enum.Enum):
    write = "db.write"


@given(inputs)
def test_nothing_is_lost_and_nothing_is_added(input: PolicyInput) -> None:
    found = document(input, LIMIT)
    assert msgspec.json.decode(found, type=PolicyInput) == input
    assert found == canonical(input)
    whole = json.loads(found)
    assert list(whole) == ["action", "actor", "resource", "args_hash", "env", "timestamp", "args", "context"]
    if not isinstance(input.actor, Anonymous):
        assert list(whole["actor"]) == ["kind", "id", "roles", "scopes", "attributes", "on_behalf_of"]
    if input.resource is not None:
        assert list(whole["resource"]) == ["kind", "id", "attributes"]


def test_it_has_the_shape_of_the_inputs_in_fixtures() -> None:
    for fixture in load_fixtures():
        assert msgspec.json.decode(document(fixture.input, LIMIT), type=PolicyInput) == fixture.input


@pytest.mark.slow
@pytest.mark.parametrize(
    "id", ["", "\0", "\x7f", '"\\/\b\f\n\r\t', "\u2028\ufeff\uffff", "\U0010ffff", '","id":"x', "}" * 50]
)
def test_the_guest_reads_what_was_asked(engine_name: str, id: str) -> None:
    """The guest has a parser of its own, and gives back what it read."""
    interpreter = opened(engine_name, opa_policy({}, spare=8), Entrypoint("capgate/input"), Limits())
    actor = User(id, (id,), (id,), {"a": [id]}, Service(id))
    input = PolicyInput(
        "db.write", actor, Resource(id, id, {"a": id}), id, Environment(id, id), 2**64 - 1, {"a": 1}, {"a": 0.5}
    )
    result = interpreter.call_policy_check(input)
    assert isinstance(result, Deny)
    assert msgspec.json.decode(result.reason, type=PolicyInput) == input


@pytest.mark.parametrize(
    "input",
    [
        PolicyInput(Word("db.write")),
        PolicyInput("db.write", User(Word("alice"))),
        PolicyInput("db.write", resource=Resource(Word("sql_query"), Word("q"), {"a": "b"})),
        PolicyInput("db.write", args_hash=Word("ab")),
        PolicyInput("db.write", env=Environment(Word("s"), Word("m"))),
        PolicyInput("db.write", timestamp=True),
        PolicyInput("db.write", timestamp=Numbered.one),
        PolicyInput(Named.write),
    ],
)
def test_text_of_another_class_is_the_text_that_it_is(input: PolicyInput) -> None:
    found = document(input, LIMIT)
    assert b"another" not in found
    again = msgspec.json.decode(found, type=PolicyInput)
    assert again.action == "db.write"
    assert again.timestamp == int(input.timestamp)
    assert document(again, LIMIT) == found


def test_no_key_is_there_twice() -> None:
    attributes: dict[str, Attribute] = {Always("a"): "1", Always("a"): "2"}
    assert len(attributes) == 2
    with pytest.raises(MalformedInput):
        document(PolicyInput("db.write", resource=Resource("k", "i", attributes)), LIMIT)


@pytest.mark.parametrize(
    "resource",
    [
        Resource("k", "i", {"a": "\ud800"}),
        Resource("k", "i", {"\udfff": "a"}),
        Resource("k", "\ud800"),
        Resource("k", "i", {"a": b"1"}),  # type: ignore[dict-item]
        Resource("k", "i", {"a": Word("b")}),
        Resource("k", "i", {Word("a"): "b"}),
        Resource("k", "i", {"a": {"b": "c"}}),  # type: ignore[dict-item]
        Resource("k", "i", {1: "a"}),  # type: ignore[dict-item]
        Resource("k", "i", [("a", "b")]),  # type: ignore[arg-type]
        Resource("k", 1.0),  # type: ignore[arg-type]
        Resource("k", float("nan")),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_text_is_malformed(resource: Resource) -> None:
    with pytest.raises(MalformedInput):
        document(PolicyInput("db.write", resource=resource), LIMIT)


@pytest.mark.parametrize("timestamp", [-1, 2**64, 1.5, None])
def test_a_timestamp_that_is_none(timestamp: object) -> None:
    with pytest.raises(MalformedInput):
        document(PolicyInput("db.write", timestamp=timestamp), LIMIT)  # type: ignore[arg-type]


def test_all_text_is_within_the_limit() -> None:
    text = "capgate" + "prod"  # the environment's
    room = 1_024 - len("db.write" + "kk" + text)
    for key, value in (("a", "b" * (room - 9)), ("a" * 50, "\u00e9" * 100 + "b" * (room - 258))):
        document(PolicyInput("db.write", resource=Resource("k", "k", {key: value})), 1_024)
        with pytest.raises(MalformedInput):
            document(PolicyInput("db.write", resource=Resource("k", "k", {key: value + "b"})), 1_024)


@pytest.mark.slow
def test_malformed_input_leaves_the_instance_fit_for_use(engine_name: str) -> None:
    interpreter = opened(engine_name, opa_policy({}, spare=8), Entrypoint("capgate/allow"), Limits())
    with pytest.raises(MalformedInput):
        interpreter.call_policy_check(PolicyInput("db.write", resource=Resource("k", "\ud800")))
    assert not interpreter.broken
    assert isinstance(interpreter.call_policy_check(PolicyInput("db.write")), Deny)
