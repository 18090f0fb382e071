"""Conditions at the edges, in Python: what they answer, and that an unknown one is neither true nor false."""

from __future__ import annotations

import pytest

from capgate.conditions import Conditions, Unknown, compile_conditions

from .edges import EDGES, STEPS, Edge
from .generated import DECLARATION


@pytest.mark.parametrize("edge", [*EDGES, *STEPS], ids=lambda edge: edge.text[:60])
def test_edges_are_answered_as_cel_says(edge: Edge) -> None:
    compiled = compile_conditions([edge.text], DECLARATION)
    assert compiled.answer(0, edge.facts) == edge.answer


def test_an_unknown_condition_has_no_truth_value() -> None:
    answer = compile_conditions(["context.mfa"], DECLARATION).answer(0, {})
    assert isinstance(answer, Unknown)
    with pytest.raises(TypeError):
        bool(answer)


def test_conditions_are_the_same_from_their_bytes() -> None:
    texts = [edge.text for edge in EDGES]
    compiled = compile_conditions(texts, DECLARATION)
    assert compiled.data == compile_conditions(texts, DECLARATION).data
    again = Conditions(compiled.data)
    assert len(again) == len(EDGES)
    assert (again.data, again.facts, again.nodes) == (compiled.data, compiled.facts, compiled.nodes)
    assert [again.answer(number, edge.facts) for number, edge in enumerate(EDGES)] == [edge.answer for edge in EDGES]
