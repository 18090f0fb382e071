"""The schemas of questions and fixtures: they take what is read, and reject what no policy may be asked."""

from __future__ import annotations

import json
from typing import Any, Final

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capgate.errors import MalformedInput
from capgate.model import PolicyInput, canonical
from capgate.policy.schema import DIALECT
from capgate.runtime.abi.lowering import lower
from capgate.store.release_fixtures import Fixture
from capgate.testing.golden.fixture_schema import fixtures_schema, question_schema

from ...runtime.abi.inputs import INPUTS, MALFORMED, replace
from ...support.policy_fixtures import FOLDER
from ...support.tools import ROOT, examples

QUESTION: Final = jsonschema.Draft202012Validator(question_schema())
FIXTURES: Final = jsonschema.Draft202012Validator(fixtures_schema())
ALLOW: Final = {"kind": "allow"}


@pytest.mark.parametrize("schema", [question_schema(), fixtures_schema()])
def test_they_are_schemas(schema: dict[str, Any]) -> None:
    assert schema["$schema"] == DIALECT
    jsonschema.Draft202012Validator.check_schema(schema)


def test_they_name_every_key() -> None:
    definitions = fixtures_schema()["$defs"]
    assert set(definitions["question"]["properties"]) == set(PolicyInput.__struct_fields__)
    assert set(definitions["fixture"]["properties"]) == set(Fixture.__struct_fields__) - {"name", "path", "line"}
    for name in ("question", "resource", "fixture"):
        assert definitions[name]["additionalProperties"] is False


@pytest.mark.sampled
@settings(max_examples=examples(200), deadline=None)
@given(input=INPUTS)
def test_every_question_is_one(input: PolicyInput) -> None:
    written = json.loads(canonical(input))
    assert QUESTION.is_valid(written)
    assert FIXTURES.is_valid([{"input": written, "expected": ALLOW, "description": "x"}])


@pytest.mark.sampled
@settings(max_examples=examples(300), deadline=None)
@given(data=st.data())
def test_what_it_rejects_is_no_question(data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(["args", "context", "actor", "resource", "action", "timestamp", "env"]))
    input = replace(data.draw(INPUTS), **{field: data.draw(MALFORMED[field])})
    try:
        written = json.loads(json.dumps(msgspec.to_builtins(input), allow_nan=False))
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError, RecursionError):
        return  # JSON has no such thing
    if QUESTION.is_valid(written):
        return
    try:
        read = msgspec.convert(written, PolicyInput)
    except msgspec.ValidationError:
        return
    with pytest.raises(MalformedInput):
        lower(read, 65_536)
    expected = {"kind": "deny", "reason": "malformed_input"}
    assert FIXTURES.is_valid({"input": written, "expected": expected})
    assert not FIXTURES.is_valid({"input": written, "expected": {**expected, "reason": "other"}})


@pytest.mark.parametrize(
    "change",
    [
        {"args": {"A": 1}},
        {"args": {"a": None}},
        {"args": {"a": [1]}},
        {"args": {"a": {}}},
        {"args": {"a\n": 1}},
        {"args": {"a" * 65: 1}},
        {"args": {f"a{n}": 1 for n in range(129)}},
        {"args": []},
        {"actor": {"kind": "user"}},
        {"actor": {"kind": "anonymous", "id": "x"}},
        {"actor": {"kind": "user", "id": "u", "roles": ["a", "a"]}},
        {"actor": {"kind": "user", "id": "u", "roles": "a"}},
        {"actor": {"kind": "user", "id": "u", "attributes": {"roles": "a"}}},
        {"actor": {"kind": "user", "id": "u", "on_behalf_of": {"kind": "robot", "id": "r"}}},
        {"resource": {"id": "x"}},
        {"resource": {"kind": "k", "attributes": {"id": "x"}}},
        {"timestamp": -1},
        {"user": "ada"},
    ],
)
def test_mistakes_are_underlined(change: dict[str, Any]) -> None:
    assert QUESTION.is_valid({"action": "db.read"})
    assert not QUESTION.is_valid({"action": "db.read", **change})


def test_the_fixtures_of_this_project_are_such() -> None:
    paths = [
        *FOLDER.glob("*.json"),
        *(ROOT / "examples").rglob("fixtures/*.json"),
        ROOT / "tests/rego/facts/fixtures.json",
    ]
    assert len(paths) > 10
    for path in paths:
        FIXTURES.validate(json.loads(path.read_text(encoding="utf-8")))
