"""Generated conditions are answered as ``cel-python`` does, and a fact taken away turns no denial into an allow."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from functools import cache
from typing import Any

import pytest
from celpy import Environment, Runner, celtypes
from celpy.adapter import json_to_cel
from celpy.evaluation import CELEvalError
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from capgate.conditions import Unknown, compile_conditions

from ..support.tools import examples
from .generated import DECLARATION, conditions, facts

pytestmark = pytest.mark.sampled


@pytest.fixture(autouse=True)
def _recursion_limit() -> Iterator[None]:
    """Have the limit that the oracle sets from the start: hypothesis warns where it changes within a test."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(2_500)
    yield
    sys.setrecursionlimit(before)


@pytest.fixture(autouse=True)
def _errors_that_can_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both sides of ``&&`` are errors, the oracle writes them into its own, and some cannot be written."""
    monkeypatch.setattr(CELEvalError, "__repr__", Exception.__repr__)


@cache
def oracle(text: str) -> Runner:
    environment = Environment()
    return environment.program(environment.compile(text))


def activation(facts: dict[str, object]) -> dict[str, Any]:
    tree: dict[str, Any] = {"actor": {}, "resource": {}, "args": {}, "context": {}}
    for name, value in facts.items():
        *holders, field = name.split(".")
        place = tree
        for holder in holders:
            place = place.setdefault(holder, {})
        place[field] = value
    converted = {name: json_to_cel(value) for name, value in tree.items()}
    now = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=int(str(facts["now"])) // 1000)
    return {**converted, "now": celtypes.TimestampType(now)}


def by_oracle(text: str, facts: dict[str, object]) -> bool | None:
    """``None`` where it is an error."""
    try:
        value = oracle(text).evaluate(activation(facts))
    except CELEvalError:
        return None
    return bool(value)


def test_generated_conditions_are_answered_as_cel_python_answers_them() -> None:
    outcomes: Counter[str] = Counter()

    @settings(max_examples=examples(200, quick=50))
    @given(conditions(2, mixed=False), facts(hostile=False))
    def check(text: str, facts: dict[str, object]) -> None:
        text = text.replace("1ns", "1us").replace("59.999999999Z", "59.999999Z")  # the oracle has microseconds
        facts["now"] = int(str(facts["now"])) // 1000 * 1000
        answer = compile_conditions([text], DECLARATION).answer(0, facts)
        seen = None if isinstance(answer, Unknown) else answer
        outcomes[str(seen)] += 1
        assert seen == by_oracle(text, facts)

    check()
    assert set(outcomes) == {"True", "False", "None"}


def test_a_fact_taken_away_leaves_an_answer_as_it_is_or_unknown() -> None:
    """Thus no allow appears, which needs true, and no denial goes, which needs false."""
    outcomes: Counter[str] = Counter()

    @settings(max_examples=examples(300, quick=200))
    @given(conditions(3), facts(), st.data())
    def check(text: str, facts: dict[str, object], data: st.DataObject) -> None:
        without_has = re.sub(r"has\([a-z_.]*\)", "context.mfa", text)
        compiled = compile_conditions([without_has], DECLARATION)
        spoken = [name for name, _ in compiled.facts if name in facts]
        assume(spoken)
        before = compiled.answer(0, facts)
        taken = data.draw(st.sampled_from(spoken))
        after = compiled.answer(0, {name: value for name, value in facts.items() if name != taken})
        assert isinstance(after, Unknown) or after is before
        outcomes[f"{type(before).__name__} {type(after).__name__}"] += 1

    check()
    assert {"bool bool", "bool Unknown", "Unknown Unknown"} == set(outcomes)
