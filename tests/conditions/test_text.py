"""What is said of a condition is read as that condition."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from capgate.conditions.read import read_expression
from capgate.conditions.text import text_of

from ..support.tools import examples
from .edges import EDGES
from .generated import DECLARATION, conditions


@pytest.mark.sampled
@settings(max_examples=examples(200))
@given(conditions(3))
def test_the_text_of_a_condition_is_read_as_it(text: str) -> None:
    node = read_expression(text, DECLARATION)
    assert read_expression(text_of(node), DECLARATION) == node


@pytest.mark.parametrize("text", [*(edge.text for edge in EDGES), "-(5) < -(-5)", "1.5e300 > 1e-7"])
def test_the_text_of_an_edge_is_read_as_it(text: str) -> None:
    node = read_expression(text, DECLARATION)
    again = read_expression(text_of(node), DECLARATION)
    assert repr(again) == repr(node)  # which tells 0.0 from -0.0


def test_there_are_no_parentheses_but_those_that_matter() -> None:
    text = (
        "(context.mfa || resource.open) && !(context.mfa && args.amount + 2 * -args.amount <= 1000) && has(args.note)"
    )
    assert text_of(read_expression(text, DECLARATION)) == text
