"""Shows each part of a condition with its answer, and which change of one fact would turn the whole."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import msgspec

from .answers import Answer, Facts, answer, function_of
from .declaration import BOOL
from .nodes import Choice, Junction, Node, Operation
from .reach import Budget, TooMany, candidates_of
from .text import text_of


class ConditionPart(msgspec.Struct, frozen=True):
    """A part of a condition as ``text``, its ``answer``, and the ``parts`` that it is put together from."""

    text: str
    answer: Answer
    parts: tuple[ConditionPart, ...] = ()


class Turn(msgspec.Struct, frozen=True):
    """A change of one fact that turns the answer: to ``value``, or, where it ``goes``, away."""

    fact: str
    value: object
    goes: bool = False


def explain(node: Node, facts: Facts) -> ConditionPart:
    """Return a condition with its answer and its parts with theirs, down to where no part is a condition."""
    parts: tuple[Node, ...] = ()
    if isinstance(node, Junction):
        parts = node.parts
    elif isinstance(node, Choice):
        parts = tuple(part for part in (node.test, node.then, node.otherwise) if part.type == BOOL)
    elif isinstance(node, Operation) and node.name == "not":
        parts = node.operands
    # A part of a loop has no answer of its own: it has one for each element.
    return ConditionPart(text_of(node), answer(function_of(node), facts), tuple(explain(part, facts) for part in parts))


def turns_of(node: Node, facts: Facts) -> tuple[Turn, ...]:
    """Return for each fact a change of it alone after which ``node`` holds where it does not, or the reverse.

    Looked at are values around the literals of the condition and those of its other facts, so some may be missed.
    """
    function, budget = function_of(node), Budget()
    holds = answer(function, facts) is True
    turns = []
    with suppress(TooMany):
        for name, candidates in candidates_of(node, facts).items():
            others = {fact: value for fact, value in facts.items() if fact != name}
            for value in candidates:
                changed: Mapping[str, object] = {**others, name: value}
                if (budget.answer(function, changed) is True) is not holds:
                    turns.append(Turn(name, value))
                    break
            else:
                if (budget.answer(function, others) is True) is not holds:
                    turns.append(Turn(name, None, goes=True))
    return tuple(turns)
