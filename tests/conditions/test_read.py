"""What is no condition is refused with its place and the nearest name, however hostile, and in bounded time."""

from __future__ import annotations

import subprocess
import sys

import pytest

from capgate.conditions import ATTRIBUTES_LIMIT, Declaration, compile_conditions
from capgate.errors import ConfigError

from ..support.tools import ROOT
from .generated import DECLARATION


def refusal(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as raised:
        compile_conditions([text], DECLARATION)
    return raised.value


@pytest.mark.parametrize(
    ("text", "seen", "nearest", "line", "column"),
    [
        ("resource.ownr == 'a'", "resource.ownr", "resource.owner", 1, 1),
        ("context.mfa &&\n  resource.totl > 1", "resource.totl", "resource.total", 2, 3),
        ("rsource.owner == 'a'", "rsource.owner", "resource.owner", 1, 1),
        ("actr.id == 'a'", "actr.id", "actor.id", 1, 1),
        ("actor.on_behalf_of.tenat == 'a'", "actor.on_behalf_of.tenat", "actor.on_behalf_of.tenant", 1, 1),
        ("has(resource.ownr)", "resource.ownr", "resource.owner", 1, 1),
        ("actor.roles.exist(r, true)", "exist()", "exists", 1, 1),
        ("args.note.startWith('a')", "startWith()", "startsWith", 1, 1),
        ("hs(args.note)", "hs()", "has", 1, 1),
        ("actor.roles.exists(role, rol == 'a')", "rol", "role", 1, 26),
        ("'a' in actor.roles && ndw > now", "ndw", "now", 1, 23),
    ],
)
def test_a_name_that_nothing_has_is_an_error_with_the_nearest(
    text: str, seen: str, nearest: str, line: int, column: int
) -> None:
    error = refusal(text)
    assert (error.seen, error.nearest, error.line, error.column) == (seen, nearest, line, column)


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("args.amount", 1),
        ("args.amount == 'a'", 1),
        ("true && args.amount", 9),
        ("context.mfa ? 1 : 'a'", 1),
        ("args.amount ? true : false", 1),
        ("!args.note", 1),
        ("1 in ['a']", 1),
        ("'a' in args.note", 1),
        ("now > '2027-01-01T00:00:00Z'", 1),
        ("resource.tags < resource.tags", 1),
        ("resource.tags.exists(t, size(t))", 25),
        ("args.note.exists(t, true)", 1),
        ("actor == actor", 1),
        ("actor.on_behalf_of == 'a'", 1),
        ("actor.on_behalf_of.on_behalf_of.on_behalf_of.on_behalf_of.on_behalf_of.id == 'a'", 1),
        ("args.note.size.x == 1", 1),
        ("'a'.b == 1", 1),
        ("has(args)", 1),
        ("has('a')", 1),
        ("has(args.note, args.note)", 1),
        ("resource.tags.exists(actor, true)", 22),
        ("resource.tags.exists(if, true)", 22),
        ("resource.tags.exists(t, t.x == 'a')", 25),
        ("resource.tags.exists(t, resource.tags.exists(t, true))", 46),
        ("['a'].all(a, ['a'].all(b, ['a'].all(c, true)))", 27),
        ("['a', args.note] == []", 1),
        ("[[]] == []", 1),
        ("['a', 1] == []", 1),
        ("duration(args.note) > duration('1s')", 1),
        ("duration('1 hour') > duration('1s')", 1),
        ("duration('0.1ns') > duration('0s')", 1),
        ("timestamp('2027-02-29T00:00:00Z') > now", 1),
        ("9223372036854775808 > 1", 1),
        ("-9223372036854775809 < 1", 1),
        ("1e400 > 1.0", 1),
        ("1. > 0.5", 1),
        ("'\\ud800' == ''", 1),
        ("'\\U00110000' == ''", 1),
        ("'\\q' == ''", 1),
        ("r'\\' == ''", 1),
        ("'a' inresource.tags", 7),
        ("'a", 1),
        ("'a\n' == ''", 1),
        ("'a' == 'b", 8),
        ("true &&", 6),
        ("(1 == 1", 7),
        ("true)", 5),
        ("context.mfa; true", 12),
        ("\u00e9", 1),
        ("true \x00", 6),
        ("", 1),
        ("   // nothing", 1),
    ],
)
def test_what_does_not_fit_is_an_error_with_its_place(text: str, column: int) -> None:
    error = refusal(text)
    assert (error.setting, error.line, error.column) == ("when", 1, column)
    assert error.valid


#: Each is refused for its size or depth, or is as long as it may be.
HOSTILE = {
    "a megabyte": "x" * 1_000_000,
    "a megabyte of strings": "'a' == " * 150_000 + "'a'",
    "brackets": "(" * 4_000 + "true" + ")" * 4_000,
    "brackets that never close": "[(" * 4_000,
    "negations": "!" * 8_000 + "true",
    "minus": "-" * 8_000 + "1",
    "a sum": "1" + "+1" * 4_000 + " == 1",
    "choices": "true?true:" * 800 + "true",
    "fields": "actor" + ".on_behalf_of" * 600 + ".id == ''",
    "calls": "size(" * 60 + "'a'" + ")" * 60 + " == 1",
    "escapes without an end": '"' + "\\n" * 4_000,
    "quotes": '"' * 8_001,
    "raw quotes": "r'" * 4_000,
    "an int": "9" * 8_000 + " == 1",
    "a float": "1" + "0" * 8_000 + ".0 == 1.0",
    "a duration": "duration('" + "1h" * 4_000 + "') > duration('1s')",
    "surrogates": "'" + "\ud800" * 100 + "' == ''",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
def test_hostile_text_is_refused(text: str) -> None:
    assert refusal(text).setting == "when"


def test_long_conditions_are_taken_up_to_the_limit() -> None:
    compile_conditions(
        ["true" + "&&true" * 1_360, "[" + "1," * 4_000 + "1] == []", "(" * 63 + "true" + ")" * 63], DECLARATION
    )
    assert "8192" in refusal("true" + "&&true" * 1_370).valid


def test_what_is_no_text_is_refused() -> None:
    for value in (None, 1, b"true", ["true"]):
        with pytest.raises(ConfigError):
            compile_conditions([value], DECLARATION)  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("attributes", "nearest"),
    [
        ({"actr": {}}, "actor"),
        ({"env": {"a": "string"}}, None),
        ({"actor": {"tenant": "strng"}}, "string"),
        ({"actor": {"tenant": "timestamp"}}, None),
        ({"actor": {"Tenant": "string"}}, None),
        ({"actor": {"": "string"}}, None),
        ({"actor": {"a.b": "string"}}, None),
        ({"actor": {"ten\u00e4nt": "string"}}, None),
        ({"actor": {"in": "string"}}, None),
        ({"actor": {"a" * 65: "string"}}, None),
        ({"actor": {"roles": "list"}}, None),
        ({"actor": {"on_behalf_of": "string"}}, None),
        ({"resource": {"id": "string"}}, None),
        ({"actor": ["tenant"]}, None),
        ({"actor": {"tenant": ["string"]}}, "string"),
        ([], None),
        ({1: {}}, None),
        ({"actor": {1: "string"}}, None),
        ({"args": {f"a{number}": "int" for number in range(10_000)}}, None),
    ],
)
def test_a_declaration_that_is_not_usable_is_an_error(attributes: object, nearest: str | None) -> None:
    with pytest.raises(ConfigError) as raised:
        Declaration(attributes)  # type: ignore[arg-type]
    assert raised.value.key is not None
    assert raised.value.key[0] == "attributes"
    assert raised.value.nearest == nearest


def test_as_many_attributes_as_may_be_are_declared() -> None:
    declared = Declaration({"args": {f"a{number}": "int" for number in range(ATTRIBUTES_LIMIT)}})
    assert compile_conditions([f"args.a{ATTRIBUTES_LIMIT - 1} == 1"], declared).answer(0, {"args.a999": 1}) is True


def test_the_parser_is_imported_by_those_who_build_alone() -> None:
    script = (
        "import sys; from capgate.conditions import *; import capgate.conditions.fact_table;"
        "raise SystemExit('celpy' in sys.modules or 'lark' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False, timeout=60).returncode == 0
