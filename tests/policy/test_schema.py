"""The JSON Schema of documents: with a validator that shares no code, it says of each what reading it says, but for
what no schema can say."""

from __future__ import annotations

import copy
from ipaddress import ip_network
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from capgate.actions import BUILTIN_ACTIONS, OPERATIONS
from capgate.conditions import ATTRIBUTES_LIMIT, Declaration, reach_of, read_condition, unusable_names
from capgate.errors import ConfigError
from capgate.policy.document import KEYS, read_document
from capgate.policy.rules import MAX_REASON, MAX_RULES, RULE_KEYS
from capgate.policy.schema import DIALECT, document_schema
from capgate.policy.strict import is_unicode
from capgate.spelling import normal_id

from ..support.documents import OWN, rule_lists
from ..support.policy_fixtures import Fixture, load_fixtures
from ..support.tools import examples

pytestmark = pytest.mark.slow

VALIDATOR = jsonschema.Draft202012Validator(document_schema())


def is_read(document: Any) -> bool:
    try:
        read_document(document)
    except ConfigError:
        return False
    return True


def test_the_schema_is_one_and_names_every_key() -> None:
    schema = document_schema()
    assert schema["$schema"] == DIALECT == jsonschema.Draft202012Validator.META_SCHEMA["$id"]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert set(schema["properties"]) == set(KEYS)
    assert set(schema["properties"]["rules"]["items"]["properties"]) == set(RULE_KEYS)
    assert all("description" in value for value in schema["properties"].values())
    query = schema["properties"]["sql"]["anyOf"][1]["items"]["anyOf"][1]["properties"]
    rule = schema["properties"]["rules"]["items"]["properties"]
    assert query["operation"]["enum"] == list(OPERATIONS)
    assert rule["effect"]["enum"] == ["allow", "deny"]
    assert {action.name for action in BUILTIN_ACTIONS} <= set(rule["actions"]["items"]["anyOf"][0]["enum"])


@pytest.mark.parametrize("fixture", load_fixtures(), ids=lambda fixture: fixture.name)
def test_the_policy_of_each_fixture_is_valid(fixture: Fixture) -> None:
    VALIDATOR.validate(fixture.policy)


def test_a_document_may_name_its_schema() -> None:
    document = {"$schema": "./policy.schema.json", "env": ["TZ"]}
    VALIDATOR.validate(document)
    assert read_document(document) == read_document({"env": ["TZ"]})
    for bad in (3, None, "\ud800"):
        with pytest.raises(ConfigError) as caught:
            read_document({"$schema": bad})
        assert caught.value.setting == "$schema"


# Made up documents, and others that differ from them in a place or two.

pieces = st.sampled_from(
    [*"*:/.aB\n\u00e9 ", "user", "anonymous", "service", "compiler_tool", "host", "sql_query", "db", ".read", "tool."]
)
texts = (
    st.lists(pieces, max_size=4).map("".join)
    | st.sampled_from([action.name for action in BUILTIN_ACTIONS])
    | st.sampled_from(
        ["any", "db.*", "\ud800", "a" * 64, "a" * 65, "x." + "y" * 126, "x." + "y" * 127, "\x80", "\u202e"]
    )
    | st.sampled_from(["x" * MAX_REASON, "x" * (MAX_REASON + 1), "allow", "deny", *OPERATIONS, *OWN])
)
junk: st.SearchStrategy[Any] = st.recursive(
    texts | st.none() | st.booleans() | st.integers(0, 2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*KEYS, *RULE_KEYS, "name", "operation"]) | texts, inner, max_size=3)
    ),
    max_leaves=6,
)
ids = st.lists(
    st.sampled_from(["*.a", "10.0.0.0/8", "10.*", "a/*", "*", "a*", "a/b", "A", "é", "x\ny"]) | texts, max_size=3
)
queries = st.lists(st.sampled_from(["a", "b"]) | st.fixed_dictionaries({"name": texts}, optional={"operation": texts}))
attributes = st.dictionaries(
    st.sampled_from(["actor", "resource", "args", "context"]),
    st.dictionaries(
        st.sampled_from(["amount", "owner", "a" * 64, "a" * 65, "A", "a.b", "id", "kind", "roles", "in", "x\n"])
        | texts,
        st.sampled_from(["int", "string", "list", "float", "bool", "number"]),
        max_size=2,
    ),
    max_size=2,
)
WHEN = ("args.amount < 3", "resource.owner == actor.id", "actor.id", "true", "actor.id == 'a", "", " ", "x" * 8_193)
labels = st.sampled_from(["shop", "1.0", "a" * 64]) | texts


@st.composite
def documents(draw: st.DrawFn) -> Any:
    """What is mostly a document, but for up to two changes."""
    optional = {"sql": st.just("any") | queries, "egress": ids, "env": ids, "name": labels, "$schema": texts}
    some: Any = draw(st.fixed_dictionaries({}, optional=optional))
    if draw(st.booleans()):
        some["rules"] = draw(rule_lists(OWN))
        for one_rule in some["rules"] if draw(st.booleans()) else ():
            one_rule["when"] = draw(st.sampled_from(WHEN) | texts)
    if draw(st.booleans()):
        some["attributes"] = draw(attributes)
    if draw(st.booleans()):
        some["actions"] = draw(st.dictionaries(st.sampled_from(OWN) | texts, st.just("any") | ids, max_size=2))
    for _ in range(draw(st.integers(0, 2))):
        some = _changed(draw, some)
    return some


def _changed(draw: st.DrawFn, value: Any) -> Any:
    """``value`` with something else somewhere in it, or something less."""
    value = copy.copy(value)
    if not isinstance(value, (dict, list)) or not value or draw(st.integers(0, 5)) == 0:
        return draw(junk)
    key = draw(st.sampled_from(list(value) if isinstance(value, dict) else range(len(value))))
    if draw(st.integers(0, 5)) == 0:
        del value[key]
    else:
        value[key] = _changed(draw, value[key])
    return value


def is_beyond(document: dict[str, Any]) -> bool:
    """Whether a document that the schema takes has one of the mistakes that the schema's module lists."""
    if not all(map(is_unicode, _texts(document))):
        return True
    for section, kind in {action.section: action.kind or "" for action in BUILTIN_ACTIONS}.items():
        entries = document.get(section, [])
        asked = [(q, None) if isinstance(q, str) else (q["name"], q.get("operation")) for q in entries]
        spelled = [(_spelled(kind, id), operation) for id, operation in asked]
        if entries != "any" and (len(set(spelled)) < len(spelled) or any(id is None for id, _ in spelled)):
            return True
    rules = document.get("rules", [])
    kinds: dict[str, str | None] = {action.name: action.kind for action in BUILTIN_ACTIONS}
    for name in document.get("actions", {}):
        kinds.setdefault(name, None)
    modes = {"dev", "test", "prod", *document.get("modes", [])}
    declared = Declaration(document.get("attributes"))
    if not all(_is_condition(rule["when"], declared) for rule in rules if "when" in rule):
        return True
    return any(_is_beyond(rule, kinds) or not modes.issuperset(rule.get("modes", [])) for rule in rules)


def _is_condition(text: str, declared: Declaration) -> bool:
    try:
        reach = reach_of(read_condition(text, declared))
    except ConfigError:
        return False
    return False not in (reach.can_hold, reach.can_fail)


def _is_beyond(rule: dict[str, Any], kinds: dict[str, str | None]) -> bool:
    covered = [[n for n in kinds if n == a or (a[-1] == "*" and n.startswith(a[:-1]))] for a in rule["actions"]]
    acted_on = {kinds[name] for names in covered for name in names}
    resources = rule.get("resources", [])
    spelled = []
    for text in resources:
        kind, _, id = text.partition(":")
        spelled.append((kind, _spelled(kind, id) if id else ""))
        if spelled[-1][1] is None:
            return True
    return (
        not all(covered)
        or not rule.get("reason", "").isprintable()
        or len(set(spelled)) < len(spelled)
        or (None not in acted_on and not {text.partition(":")[0] for text in resources} <= acted_on)
    )


def _spelled(kind: str, id: str) -> str | None:
    """How an entry is spelled; ``None`` where it covers nothing that is asked about."""
    if kind == "host" and (id.startswith("*.") or "/" in id):
        try:
            return str(ip_network(id)) if "/" in id else f"*.{normal_id(kind, id[2:])}"
        except ValueError:
            return None
    normal = normal_id(kind, id.replace("*", "x"))
    return None if normal is None or (id.endswith("*") and not normal.endswith("x")) else f"{normal}{id[-1:] == '*'}"


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for member in members for text in _texts(member)]


@settings(max_examples=examples(150), suppress_health_check=[HealthCheck.too_slow])
@given(document=documents() | junk)
@example({"rules": [{"effect": "deny", "actions": ["db.read"], "actors": ["user:*\n"]}]})
@example({"rules": [{"effect": "deny", "actions": ["db.read\n"], "actors": ["anonymous\n"]}]})
@example({"rules": [{"effect": "deny", "actions": ["x.y"], "resources": ["a\n:", "a\n", ":a", "a:", "a:\n"]}]})
@example({"name": "shop\n"})
@example({"rules": [{"effect": "allow", "actions": ["*"], "reason": "no"}]})
@example({"sql": ["a", "a"]})
@example({"sql": ["a", {"name": "a"}]})
@example({"actions": {"db.read": []}})
@example({"attributes": {"actor": {"on_behalf_of": "string"}}})
@example({"attributes": {"args": {"id": "string", "in": "string"}}})
@example({"attributes": {"env": {}}})
def test_the_schema_says_what_reading_says(document: Any) -> None:
    is_valid = VALIDATOR.is_valid(document)
    if is_read(document):
        assert is_valid
    elif is_valid:
        assert is_beyond(document)


def rule(**more: Any) -> dict[str, Any]:
    return {"actions": {"x.y": "by_rule"}, "rules": [{"effect": "deny", "actions": ["x.y"], **more}]}


@pytest.mark.parametrize(
    "document",
    [
        *(rule(actors=[text]) for text in ("user:*", "user:a/*", "user:a\nb", "user:a:*", "compiler_tool")),
        *(rule(resources=[text]) for text in ("a", "a:*", "a/b:c.*", "a:b\nc", "a\n", "a b:c")),
        *(rule(resources=[f"host:{text}"]) for text in ("*", "*.a", "*.a.b", "10.0.0.0/8", "fd00::/8", "::1")),
        *(rule(resources=[f"path:{text}"]) for text in ("*", "a/*", "a/b/*", "file:///*", "a.b")),
        {"egress": ["*", "*.a", "10.0.0.0/8", "::1"], "fs": ["*", "a/*", "a"], "sql": ["*", "a.*", {"name": "b/*"}]},
        *(rule(actions=[text]) for text in ("*", "db.*", "x.y", "runtime.config.*")),
        {"actions": {"x." + "y" * 126: []}},
        *({**rule(modes=[text]), "modes": [text]} for text in ("dev", "a\nb", ":")),
        rule(reason="x" * MAX_REASON),
        {**rule(), "rules": rule()["rules"] * MAX_RULES},
    ],
    ids=lambda document: str(document)[:80],
)
def test_what_both_take(document: Any) -> None:
    assert is_read(document)
    assert VALIDATOR.is_valid(document)


@pytest.mark.parametrize(
    "document",
    [
        *(
            rule(actors=[text])
            for text in ("user:", "user:a*", "users", "anonymous:x", "user:**", "user:*\n", "user\n")
        ),
        *(rule(resources=[text]) for text in ("*", "a*", "a:b*c", ":x", "a:", "a/*", "", "a:b-*")),
        *(rule(resources=[f"host:{text}"]) for text in ("a*", "a.*", "*a", "*.*.a", "**", "10.*")),
        *(rule(resources=[f"path:{text}"]) for text in ("a*", "a.*", "*.a", "a/*/b", "a:*", "a/**")),
        *({"egress": [text]} for text in ("a*", "a.*", "*a", "*.*.a", "10.*")),
        *({"fs": [text]} for text in ("a*", "a.*", "*/a", "a/*/b")),
        *({"sql": [text]} for text in ("a*", "*a", {"name": "a*"})),
        *({"actions": {"x.y": [text]}} for text in ("*", "a/*", "a*b")),
        *(rule(actions=[text]) for text in ("db*", "DB.read", "read", "x.y\n", "*.x", "x." + "y" * 127, ".*")),
        *(rule(modes=[text]) for text in ("*", "a/*", "")),
        *(rule(reason=text) for text in ("", "a\nb", "x" * (MAX_REASON + 1))),
        *(rule(**{key: []}) for key in ("actions", "actors", "modes", "resources")),
        {**rule(), "rules": rule()["rules"] * (MAX_RULES + 1)},
        {"version": "1\n"},
        {"egres": []},
        {"sql": [{"name": "a", "operation": "red"}]},
    ],
    ids=lambda document: str(document)[:80],
)
def test_what_neither_takes(document: Any) -> None:
    assert not is_read(document)
    assert not VALIDATOR.is_valid(document)


def test_names_that_are_taken_are_listed_and_how_many_there_are_is_not() -> None:
    for holder in ("actor", "resource", "args", "context"):
        for name in unusable_names(holder):
            document = {"attributes": {holder: {name: "string"}}}
            assert (VALIDATOR.is_valid(document), is_read(document)) == (False, False)
    many = {"attributes": {"args": {f"a{number}": "int" for number in range(ATTRIBUTES_LIMIT + 1)}}}
    assert (VALIDATOR.is_valid(many), is_read(many)) == (True, False)
