"""What asks whether an input can be lowered, without lowering it, agrees with what lowers it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capgate.errors import MalformedInput
from capgate.model import Anonymous, Environment, PolicyInput
from capgate.runtime.abi.lowering import check_lowerable, lower

from ...support.tools import examples
from .inputs import INPUTS, MALFORMED, LyingText, replace


def refuses(ask: Callable[[PolicyInput, int], object], input: Any, limit: int) -> bool:
    try:
        ask(input, limit)
    except MalformedInput:
        return True
    return False


@pytest.mark.sampled
@settings(max_examples=examples(400), deadline=None)
@given(input=INPUTS, data=st.data(), limit=st.one_of(st.integers(0, 60), st.sampled_from([1_024, 65_536])))
def test_both_refuse_the_same(input: PolicyInput, data: st.DataObject, limit: int) -> None:  # M11
    field = data.draw(st.sampled_from([None, *sorted(MALFORMED)]))
    if field is not None:
        input = replace(input, **{field: data.draw(MALFORMED[field])})
        assert refuses(check_lowerable, input, limit)
    assert refuses(check_lowerable, input, limit) == refuses(lower, input, limit)


def test_the_limit_is_one_of_bytes() -> None:
    env = Environment("", "")
    for text, size in (("a" * 10, 10), ("\u00e9" * 5, 10), (LyingText("a" * 10), 10), ("a\0", 2), ("", 0)):
        input = PolicyInput(text, Anonymous(), None, None, env, 0)
        assert not refuses(check_lowerable, input, size)
        if size:
            assert refuses(check_lowerable, input, size - 1)
        for other in (replace(input, action="", args_hash=text), replace(input, timestamp=True)):
            assert [refuses(check_lowerable, other, n) for n in (size, size - 1)] == [
                refuses(lower, other, n) for n in (size, size - 1)
            ]


def test_what_is_no_input_is_malformed() -> None:
    for odd in (None, 1, "input", object(), PolicyInput, {"action": "env.read"}):
        assert refuses(check_lowerable, odd, 65_536)
