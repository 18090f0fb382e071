"""Each of CEL's conformance cases gives the value that the suite says, or is refused by name when it is built."""

from __future__ import annotations

from collections import Counter

import pytest

from capgate.conditions.answers import Unknown, UnknownError, function_of
from capgate.conditions.condition_table import read_table, write_table
from capgate.errors import ConfigError

from . import suite


def test_each_case_gives_the_value_of_the_suite_or_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    counts: Counter[str] = Counter()
    otherwise = []
    for case in suite.cases():
        try:
            (node,) = read_table(write_table([case.read()])).conditions
        except ConfigError as error:
            assert error.setting == "when"
            assert error.valid
            assert error.line is not None and error.column is not None, case.name  # noqa: PT018
            counts["refused"] += 1
            continue
        seen: object
        try:
            seen = function_of(node)(case.facts, ())
        except UnknownError as error:
            seen = error.unknown
        if case.expected is None:
            holds = isinstance(seen, Unknown)
            counts["error"] += 1
        else:
            holds = suite.is_value(seen, case.expected)
            counts["value"] += 1
        if not holds:
            otherwise.append((case.name, case.text, seen))
    with capsys.disabled():
        print(f"\nCEL conformance in Python: {dict(counts)}")
    assert otherwise == []
    assert sum(counts.values()) == suite.COUNT
    assert counts["value"] > 300
