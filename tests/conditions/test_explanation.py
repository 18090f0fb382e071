"""What is said of the parts of a condition, and of what would turn it, is what the condition answers."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings

from capgate.conditions import MISSING_FACT, Unknown, compile_conditions
from capgate.conditions.explanation import ConditionPart, Turn, explain, turns_of
from capgate.conditions.read import read_condition

from ..support.tools import examples
from .generated import DECLARATION, conditions, facts


def test_each_part_has_its_answer() -> None:
    node = read_condition("'support' in actor.roles && !(args.amount > 1000 || context.mfa)", DECLARATION)
    seen = explain(node, {"actor.roles": ["support"], "args.amount": 250})
    missing = Unknown(MISSING_FACT, "context.mfa")
    inner = (ConditionPart("args.amount > 1000", False), ConditionPart("context.mfa", missing))
    junction = ConditionPart("args.amount > 1000 || context.mfa", missing, inner)
    negation = ConditionPart("!(args.amount > 1000 || context.mfa)", missing, (junction,))
    assert seen == ConditionPart(
        "'support' in actor.roles && !(args.amount > 1000 || context.mfa)",
        missing,
        (ConditionPart("'support' in actor.roles", True), negation),
    )


@pytest.mark.parametrize(
    ("text", "facts", "turns"),
    [
        ("args.amount <= 1000", {"args.amount": 1001}, {("args.amount", 0)}),
        ("args.amount <= 1000", {"args.amount": 7}, {("args.amount", 1001)}),
        ("args.note == actor.id", {"args.note": "a", "actor.id": "b"}, {("args.note", "b"), ("actor.id", "a")}),
        ("'a' in actor.roles", {}, {("actor.roles", ("a",))}),
        ("has(args.note)", {"args.note": "a"}, {("args.note", None)}),
        ("context.mfa && resource.open", {}, set()),
        ("context.mfa && resource.open", {"context.mfa": True}, {("resource.open", True)}),
    ],
)
def test_the_change_of_one_fact_that_turns_the_answer_is_named(
    text: str, facts: dict[str, object], turns: set[tuple[str, object]]
) -> None:
    seen = turns_of(read_condition(text, DECLARATION), facts)
    assert {(turn.fact, tuple(turn.value) if isinstance(turn.value, list) else turn.value) for turn in seen} == turns


@pytest.mark.sampled
def test_what_is_said_to_turn_an_answer_does() -> None:
    outcomes: Counter[bool] = Counter()

    @settings(max_examples=examples(120))
    @given(conditions(2), facts())
    def check(text: str, facts: dict[str, object]) -> None:
        compiled = compile_conditions([text], DECLARATION)
        holds = compiled.answer(0, facts) is True
        turns: tuple[Turn, ...] = turns_of(compiled.nodes[0], facts)
        for turn in turns:
            others = {name: value for name, value in facts.items() if name != turn.fact}
            changed = others if turn.goes else {**others, turn.fact: turn.value}
            assert (compiled.answer(0, changed) is True) is not holds
        outcomes[bool(turns)] += 1
        assert explain(compiled.nodes[0], facts).answer == compiled.answer(0, facts)

    check()
    assert outcomes[True] > 0
