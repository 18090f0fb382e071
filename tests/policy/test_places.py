"""The line told for a key is the line of that key: texts written by something that notes where it puts what."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capgate.errors import ConfigError
from capgate.policy import RuntimePolicy
from capgate.policy.places import Key, find, json_places, place_of, toml_places
from capgate.policy.strict import parse

from ..support.documents import documents as policy_documents
from ..support.tools import examples

pytestmark = pytest.mark.slow

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

names = st.sampled_from(["a", "b", "rules", "a.b", "a b", "é", "", '"', "'", "\\", "#", "x\ny", "[0]", "1", "{"])
scalars = st.booleans() | st.integers(-9, 9) | st.text(st.sampled_from("ab\"'\\#\n[]{},=é.\t"), max_size=6)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=12
)
documents = st.dictionaries(names, values, max_size=4)


def keys_of(value: Any, key: Key = ()) -> Iterator[Key]:
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in members:
        yield (*key, name)
        yield from keys_of(inner, (*key, name))


class Writer:
    """Text, and the offset at which the first mention of each key went into it."""

    def __init__(self, data: st.DataObject) -> None:
        self.draw = data.draw
        self.text = ""
        self.places: dict[Key, int] = {}

    def put(self, text: str, key: Key | None = None) -> None:
        if key is not None:
            self.places.setdefault(key, len(self.text))
        self.text += text

    def any_of(self, *texts: str) -> str:
        return self.draw(st.sampled_from(texts))

    def space(self) -> None:
        self.put(self.any_of("", "", " ", "\n", "\r\n", "\t \n"))


class JsonWriter(Writer):
    def value(self, value: Any, key: Key = ()) -> None:
        is_list = isinstance(value, list)
        if not is_list and not isinstance(value, dict):
            self.put(self.quoted(value))
            return
        self.put("[" if is_list else "{")
        for number, (name, inner) in enumerate(enumerate(value) if is_list else value.items()):
            self.put("," if number else "")
            self.space()
            here = (*key, name)
            if is_list:
                self.put("", here)
            else:
                self.put(self.quoted(name), here)
                self.space()
                self.put(":")
                self.space()
            self.value(inner, here)
            self.space()
        self.put("]" if is_list else "}")

    def quoted(self, value: Any) -> str:
        return json.dumps(value, ensure_ascii=self.draw(st.booleans()))


class TomlWriter(Writer):
    """Tables as headers, as dotted names or inline; lists of tables as headers or inline; comments anywhere."""

    #: Whether numbers and dates stand in for ``True``, where nothing but the places counts.
    is_about_places = False

    def table(self, table: dict[str, Any], key: Key = (), header: list[tuple[str, Key]] | None = None) -> None:
        header = header or []
        later = []
        for name, value in table.items():
            here = (*key, name)
            tables = [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
            has_header = isinstance(value, dict) or (tables and len(tables) == len(value))
            if has_header and self.draw(st.booleans()):
                later.append((name, tables, value, here))
            else:
                self.member([(name, here)], value)
                self.put(self.any_of("\n", " # x = [\n", "\r\n\n"))
        for name, tables, value, here in later:
            way = [*header, (name, here)]
            if isinstance(value, dict):
                self.header(way, "[", "]")
                self.table(value, here, way)
            for number, one in enumerate(tables):
                self.put("", (*here, number))
                self.header(way, "[[", "]]")
                self.table(one, (*here, number), way)

    def header(self, way: list[tuple[str, Key]], left: str, right: str) -> None:
        self.put(left)
        self.dotted(way)
        self.put(right + self.any_of("\n", "  # [x]\n"))

    def dotted(self, way: list[tuple[str, Key]]) -> None:
        for number, (name, key) in enumerate(way):
            self.put(self.any_of(".", " . ") if number else self.any_of("", " "))
            self.put(self.name(name), key)
        self.put(self.any_of("", " "))

    def member(self, way: list[tuple[str, Key]], value: Any) -> None:
        if isinstance(value, dict) and value and self.draw(st.booleans()):
            for number, (name, inner) in enumerate(value.items()):
                self.put("\n" if number else "")
                self.member([*way, (name, (*way[-1][1], name))], inner)
            return
        self.dotted(way)
        self.put(self.any_of("=", " = "))
        self.value(value, way[-1][1])

    def value(self, value: Any, key: Key) -> None:
        if isinstance(value, list):
            self.put("[")
            for number, inner in enumerate(value):
                self.put(self.any_of("", " ", "\n", " # ], [\n\n"))
                self.put("", (*key, number))
                self.value(inner, (*key, number))
                self.put("," if number < len(value) - 1 else self.any_of("", ",", "\n", ", # ,\n"))
            self.put("]")
        elif isinstance(value, dict):
            self.put("{")
            for number, (name, inner) in enumerate(value.items()):
                self.put(", " if number else " ")
                self.dotted([(name, (*key, name))])
                self.put("=")
                self.value(inner, (*key, name))
            self.put("}")
        else:
            self.put(self.scalar(value))

    def scalar(self, value: Any) -> str:
        if not isinstance(value, str):
            if value is True and self.is_about_places:
                return self.any_of("1.5", "1979-05-27 07:32:00", "true")
            return json.dumps(value)
        written = [json.dumps(value), '"""' + json.dumps(value)[1:-1] + '"""']
        if "'" not in value and "\n" not in value:
            written.append(f"'{value}'")
        if "'''" not in value and not value.startswith("\n"):
            written += [f"'''{value}'''"] * (not value.endswith("'" * 3))
        if '"""' not in value and "\\" not in value:
            written.append(f'"""\n{value}"""')
        return self.any_of(*written)

    def name(self, name: str) -> str:
        bare = name.isascii() and name.isalnum()
        return self.any_of(
            *([name] if bare else []), json.dumps(name), *([] if set("'\n") & set(name) else [f"'{name}'"])
        )


def first_places(places: Iterator[tuple[Key, int]]) -> dict[Key, int]:
    found: dict[Key, int] = {}
    for key, at in places:
        found.setdefault(key, at)
    return found


@settings(max_examples=100)
@given(data=st.data(), document=values)
def test_in_json_each_key_is_where_it_was_written(data: st.DataObject, document: Any) -> None:
    writer = JsonWriter(data)
    writer.value(document)
    assert json.loads(writer.text) == document
    assert first_places(json_places(writer.text)) == writer.places
    assert set(writer.places) == set(keys_of(document))
    for key, at in writer.places.items():
        assert find(writer.text, False, key) == place_of(writer.text, at)


@settings(max_examples=examples(100))
@given(data=st.data(), document=documents)
def test_in_toml_each_key_is_where_it_was_written(data: st.DataObject, document: dict[str, Any]) -> None:
    writer = TomlWriter(data)
    writer.is_about_places = True
    writer.table(document)
    assert first_places(toml_places(writer.text)) == writer.places
    assert set(writer.places) == set(keys_of(tomllib.loads(writer.text))) == set(keys_of(document))
    for key, at in writer.places.items():
        assert find(writer.text, True, key) == place_of(writer.text, at)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data(), document=policy_documents())
def test_a_document_means_the_same_in_toml(data: st.DataObject, document: dict[str, Any]) -> None:
    writer = TomlWriter(data)
    writer.table(document)
    found = RuntimePolicy.from_document(writer.text, format="toml")
    expected = RuntimePolicy.from_document(document)
    assert (found.rules, found.actions) == (expected.rules, expected.actions)
    assert found.sha256 == hashlib.sha256(writer.text.encode()).hexdigest()
    assert RuntimePolicy.from_document(writer.text.encode(), format="toml").sha256 == found.sha256


@settings(max_examples=examples(60), suppress_health_check=list(HealthCheck))
@given(data=st.data(), document=policy_documents(), is_toml=st.booleans())
def test_a_mistake_anywhere_is_told_where_it_is(data: st.DataObject, document: dict[str, Any], is_toml: bool) -> None:
    """A text of a document is made a number, or a key is added that is none."""
    ways = [key for key in keys_of(document) if key]
    if not ways:
        return
    way = data.draw(st.sampled_from(ways))
    parent: Any = document
    for step in way[:-1]:
        parent = parent[step]
    if isinstance(parent, dict) and way[0] != "actions" and data.draw(st.booleans()):
        parent["nosuch"] = 1
        way = (*way[:-1], "nosuch")
    elif isinstance(parent[way[-1]], str):
        parent[way[-1]] = 3
    else:
        return
    writer = TomlWriter(data) if is_toml else JsonWriter(data)
    if isinstance(writer, TomlWriter):
        writer.table(document)
    else:
        writer.value(document)
    with pytest.raises(ConfigError) as caught:
        RuntimePolicy.from_document(writer.text, format="toml" if is_toml else "json", path="p")
    error = caught.value
    assert error.key is not None
    assert error.key == way[: len(error.key)]
    assert len(way) - len(error.key) <= 1  # of a query, its entry is named
    assert (error.line, error.column) == place_of(writer.text, writer.places[error.key])


@settings(max_examples=examples(100))
@given(text=st.text(st.sampled_from("ab.=,[]{}\"'\\#\n\r é1"), max_size=40))
def test_text_that_is_neither_ends_too(text: str) -> None:
    for places in (json_places, toml_places):
        for key, at in places(text):
            assert key
            assert 0 <= at < len(text)


def test_a_key_that_is_missing_is_where_it_would_be() -> None:
    text = '[[rules]]\nactions = ["*"]\n\n[[rules]]\neffect = "deny"\n'
    assert find(text, True, ("rules", 1, "actions")) == (4, 1)
    assert find(text, True, ("rules", 1, "effect")) == (5, 1)
    assert find(text, True, ("sql", 3)) == (None, None)
    assert find('{"sql": [\n {"operation": "read"}]}', False, ("sql", 0, "name")) == (2, 2)


# What a person gets to see of it.

JSON = [
    ('{"name": "x",\n "egres": []}', "egres", (2, 2), ("egres",)),
    ('{\n "sql": [\n  "a",\n  {"name": "b", "operation": "red"}\n ]\n}', "sql[1].operation", (4, 17), None),
    (
        '{"rules": [\n{"effect": "deny",\n"actions": ["db.*", "db.read",\n "nosuch.*"]}]}',
        *("rules[0].actions[2]", (4, 2)),
    ),
    ('{"sql": ["a"], "sql[0]": []}', "sql[0]", (1, 16), ("sql[0]",)),  # not the first entry of sql
    ('{"sql": ["", 1], "\\u0000": 1}', "'\\x00'", (1, 18), ("\0",)),
    ('{"env": [],\n "env": "any"}', "env", (2, 2), ("env",)),
    ('{"sql": [{"name": 1,\n  "name": 2}]}', "name", (2, 3), ("sql", 0, "name")),
    ('{"sql": [NaN]}', "document", (1, 10), ("sql", 0)),
    ('{"env":\n -Infinity}', "document", (2, 2), ("env",)),
    ('{"env": [1 2]}', "document", (1, 12), None),
    ('{"env": [\n', "document", (2, 1), None),
    (b'{"env":\n["\xc3\xa9", "\xff"]}', "document", (2, 8), None),
]
TOML = [
    ('name = "x"\negres = []\n', "egres", (2, 1), ("egres",)),
    ("[[rules]]\neffect = 'deny'\nactions = [\n  'db.*', # all\n  'db',\n]", "rules[0].actions[1]", (5, 3), None),
    ("[actions]\ninvoice.send = ['a']\n", "actions.invoice", (2, 1), ("actions", "invoice")),
    ("sql = ['a', {name = 'b', operation = 1979-05-27}]", "sql[1].operation", (1, 26), None),
    ("env = []\nenv = 'any'\n", "document", (2, 12), None),
    ("env = [\n", "document", (2, 1), None),
    ("env = ['a'\n  'b']", "document", (2, 3), None),
    ("\ufeffenv = []", "document", (1, 1), None),
]


@pytest.mark.parametrize(("format", "case"), [("json", c) for c in JSON] + [("toml", c) for c in TOML])
def test_a_mistake_has_file_line_and_column(format: str, case: tuple[Any, ...]) -> None:
    text, setting, place, *key = case
    with pytest.raises(ConfigError) as caught:
        RuntimePolicy.from_document(text, format=format, path="some/policy")
    error = caught.value
    assert (error.setting, (error.line, error.column), error.path) == (setting, place, "some/policy")
    assert str(error).startswith(f"some/policy:{place[0]}:{place[1]}: ")
    assert key in ([], [None]) or error.key == key[0]


RULE = '{"rules": [{"effect": "deny", "actions": ["*"], "when": %s}]}'
HEADER = "[[rules]]\neffect = 'deny'\nactions = ['*']\n"
#: How the condition of a document is written, each with a misspelled ``now``.
INSIDE = [
    ("json", RULE % '"nwo"'),
    ("json", RULE % '"action == action || nwo"'),
    ("json", RULE % r'"\"\ud83d\ude00\u0041\\\\\" == action && nwo"'),
    ("json", RULE % r'"true\n && nwo"'),
    ("json", '{"rules": [{"effect": "deny", "actions": ["*"], "when"\n:\n"nwo"}]}'),
    ("toml", HEADER + "when = 'true && nwo'"),
    ("toml", HEADER + r'"when" = "\"a\" == action && nwo"'),
    ("toml", HEADER + "when = 'nwo' # 'nwo'"),
    ("toml", HEADER + r'when="\u0061\U00000063tion == action && nwo"'),
    ("toml", HEADER + 'when = """nwo"""'),
    ("toml", HEADER + 'when = """\n  true\n  && nwo"""'),
    ("toml", HEADER + 'when = """\\\n  true \\  \n \n  && nwo"""'),
    ("toml", HEADER + 'when = """\r\n \'"\' == action\\u0020&& nwo"""'),
    ("toml", HEADER + "when = '''true\r\n && nwo'''"),
    ("toml", HEADER + "when = '''\r\ntrue\r\n && nwo'''"),
    ("toml", "rules = [{effect = 'deny', actions = ['*'], when = 'nwo'}]"),
]


@pytest.mark.parametrize(("format", "text"), INSIDE)
def test_a_mistake_in_a_string_has_its_own_place(format: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RuntimePolicy.from_document(text, format=format)
    assert (caught.value.setting, caught.value.nearest) == ("rules[0].when", "now")
    assert (caught.value.line, caught.value.column) == place_of(text, text.index("nwo"))


@pytest.mark.parametrize("written", ["when = 7", "when = ['nwo']", "when.x = 'nwo'", "[rules.when]\nx = 'nwo'"])
def test_what_is_no_string_has_the_place_of_its_key(written: str) -> None:
    text = HEADER + written
    with pytest.raises(ConfigError) as caught:
        RuntimePolicy.from_document(text, format="toml")
    assert (caught.value.line, caught.value.column) == place_of(text, text.index("when"))


@pytest.mark.parametrize(("format", "text"), [("json", "[" * 100_000), ("toml", "a = " + "[" * 100_000)])
def test_nesting_is_no_recursion(format: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RuntimePolicy.from_document(text, format=format)
    assert (caught.value.setting, caught.value.line) == ("document", None)


def test_without_a_file_the_line_is_told() -> None:
    with pytest.raises(ConfigError) as caught:
        RuntimePolicy.from_document('{"sqll": 1}')
    assert (caught.value.path, caught.value.line, caught.value.column) == (None, 1, 2)
    assert str(caught.value).startswith("line 1, column 2: sqll: ")
    with pytest.raises(ConfigError) as caught:
        RuntimePolicy.from_document({"sqll": 1})
    assert (caught.value.path, caught.value.line, caught.value.key) == (None, None, ("sqll",))
    assert str(caught.value).startswith("sqll: ")


def test_there_are_two_formats() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("", "yaml")
    assert (caught.value.setting, caught.value.seen) == ("format", "yaml")
