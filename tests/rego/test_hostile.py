"""Whatever a guest passes to a builtin, there are three ways out: a value, undefined, or a denial."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capgate.errors import BuiltinError
from capgate.rego import BUILTINS, WORK, Context, Undefined
from capgate.rego.values import dump, equal, parse
from tests.tools import IN_CI

from .cases import NOW
from .strategies import HOSTILE, VALUES
from .test_builtins import CASES


def call(name: str, arguments: list[object], work: int = WORK) -> None:
    """Fails where something else than the three comes out, or a value that is none."""
    context = Context(NOW, work)
    denied: tuple[str, str] | None = None
    try:
        result = BUILTINS[name].call(context, *arguments)  # type: ignore[arg-type]
    except Undefined:
        return
    except BuiltinError as error:
        denied = (error.builtin, error.reason)
    if denied is not None:
        assert denied in {(name, reason) for reason in ("limit", "text", "ambiguous")}  # internal is a mistake of ours
        return
    assert context.spent <= work
    assert equal(parse(dump(result)), result)


def usual_arguments(name: str) -> list[list[object]]:
    """Arguments that get far: those of the cases with a result, or texts where there are none."""
    found: list[list[object]] = []
    for case in CASES:
        if case.name == name:
            arguments = parse(case.arguments.encode())
            assert isinstance(arguments, tuple)
            found.append(list(arguments))
    return found[: len(found) if IN_CI else 1] or [["e30.e30.e30"] * BUILTINS[name].arity]


@pytest.mark.parametrize("name", sorted(BUILTINS))
def test_hostile_arguments(name: str) -> None:  # M5, M11
    for usual in usual_arguments(name):
        for position in range(len(usual)):
            for hostile in HOSTILE:
                call(name, [*usual[:position], hostile, *usual[position + 1 :]])


@pytest.mark.parametrize("name", sorted(BUILTINS))
def test_the_same_hostile_value_for_every_argument(name: str) -> None:
    for hostile in HOSTILE:
        call(name, [hostile] * BUILTINS[name].arity)


@pytest.mark.parametrize("name", sorted(BUILTINS))
def test_no_work_is_granted(name: str) -> None:
    builtin = BUILTINS[name]
    with pytest.raises(BuiltinError) as caught:
        builtin.call(Context(NOW, work=0), *[""] * builtin.arity)
    assert (caught.value.builtin, caught.value.reason) == (name, "limit")


@settings(max_examples=2_000 if IN_CI else 100, deadline=None)
@given(st.sampled_from(sorted(BUILTINS)), st.lists(VALUES, min_size=4, max_size=4))
def test_any_values(name: str, values: list[object]) -> None:
    call(name, values[: BUILTINS[name].arity])


@settings(max_examples=2_000 if IN_CI else 100, deadline=None)
@given(st.text("%#0+- *[]123.vTdbcoOqxXUeEfFgGspté", max_size=20), st.lists(VALUES, max_size=4))
def test_any_format(format: str, values: list[object]) -> None:
    call("sprintf", [format, tuple(values)])
