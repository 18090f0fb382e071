"""Each of CEL's conformance cases gives the value that the suite says, or is refused by name when it is built."""

from __future__ import annotations

from collections import Counter

import pytest

from capgate.conditions import Declaration
from capgate.conditions.answers import STEPS_LIMIT, Unknown, UnknownError, function_of
from capgate.conditions.condition_table import read_table, write_table
from capgate.errors import ConfigError

from . import suite


def value_of(case: suite.Case) -> object:
    """What the case gives: a refusal, a value, or an :class:`Unknown`."""
    node = case.build()
    if isinstance(node, ConfigError):
        return node
    (read,) = read_table(write_table([node])).conditions
    assert read == node
    try:
        value: object = function_of(read)(case.facts, ([STEPS_LIMIT],))
    except UnknownError as error:
        return error.unknown
    return value


def test_each_case_gives_the_value_of_the_suite_or_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    counts: Counter[str] = Counter()
    otherwise = []
    for case in suite.cases():
        seen = value_of(case)
        if isinstance(seen, ConfigError):
            kind, holds = "refused", seen.line is not None and seen.column is not None and bool(seen.valid)
        elif case.expected is None:
            kind, holds = "error", isinstance(seen, Unknown)
        else:
            kind, holds = "value", suite.is_value(seen, case.expected)
        counts[kind] += 1
        if not holds:
            otherwise.append((case.name, case.text, seen))
    with capsys.disabled():
        print(f"\nCEL conformance in Python: {dict(counts)}")
    assert otherwise == []
    assert counts == {"value": 316, "error": 14, "refused": 806}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("1u == 1u", "a uint"),
        ("b'a' == b'a'", "bytes"),
        ("null == null", "null"),
        ("{'a': 1} == {}", "a map, {...}"),
        ("Thing{} == Thing{}", "a message, Name{...}"),
        ("[1][0] == 1", "an index, [...]"),
        ("4 / 2 == 2", "a division, /"),
        ("4 % 2 == 0", "a remainder, %"),
        (".a", "a name with a dot before it"),
        ("'a'.matches('a')", "matches()"),
        ("['a'].map(a, a) == []", "map()"),
        ("['a'].exists_one(a, true)", "exists_one()"),
        ("int('1') == 1", "int()"),
        ("dyn(1) == 1", "dyn()"),
        ("1.5 + 1.5 == 3.0", "+ of float and float"),
        ("'a' + 'b' == 'ab'", "+ of string and string"),
    ],
)
def test_what_is_outside_of_the_subset_is_refused_by_its_name(text: str, named: str) -> None:
    case = suite.Case("", text, Declaration(), {}, None)
    refusal = case.build()
    assert isinstance(refusal, ConfigError)
    assert refusal.seen == named
