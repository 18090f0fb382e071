"""Whatever a guest passes to a builtin, there are three ways out: a value, undefined, or a denial."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capgate.errors import BuiltinError
from capgate.rego import BUILTINS, WORK, Context, Undefined
from capgate.rego.terms import equal
from capgate.rego.value_text import dump, parse
from tests.support.tools import FULL, examples

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
    return found[: 4 if FULL else 1] or [["e30.e30.e30"] * BUILTINS[name].arity]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BUILTINS))
def test_hostile_arguments(name: str) -> None:  # M5, M11
    for usual in usual_arguments(name):
        for position in range(len(usual)):
            for hostile in HOSTILE:
                call(name, [*usual[:position], hostile, *usual[position + 1 :]])


@pytest.mark.slow
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


@pytest.mark.slow
@settings(max_examples=examples(150, quick=60), deadline=None)
@given(st.sampled_from(sorted(BUILTINS)), st.lists(VALUES, min_size=4, max_size=4))
def test_any_values(name: str, values: list[object]) -> None:
    call(name, values[: BUILTINS[name].arity])


@pytest.mark.slow
@settings(max_examples=examples(250, quick=100), deadline=None)
@given(st.text("%#0+- *[]123.vTdbcoOqxXUeEfFgGspté", max_size=20), st.lists(VALUES, max_size=4))
def test_any_format(format: str, values: list[object]) -> None:
    call("sprintf", [format, tuple(values)])


PROGRAMS = [
    ("regex.find_n", ["PATTERN", "", 1]),
    ("regex.split", ["PATTERN", ""]),
    ("regex.replace", ["", "PATTERN", ""]),
    ("regex.template_match", ["<PATTERN>", "a", "<", ">"]),
]


@pytest.mark.parametrize(("name", "arguments"), PROGRAMS)
def test_a_short_pattern_pays_for_the_long_program_that_it_is(name: str, arguments: list[object]) -> None:
    """A class of Unicode thirty times: a dozen characters, and tens of thousands of instructions, which take time."""
    context = Context(NOW)

    def ask(number: int) -> bool:
        pattern = rf"\pL{{30}}{number}"
        given = [item.replace("PATTERN", pattern) if isinstance(item, str) else item for item in arguments]
        try:
            BUILTINS[name].call(context, *given)  # type: ignore[arg-type]
        except BuiltinError as error:
            assert error.reason == "limit"  # noqa: PT017  # after how many is the question
            return False
        return True

    assert 0 < sum(map(ask, range(100))) < 20


def test_a_pattern_is_paid_for_once_by_each_evaluation() -> None:
    """Whether another evaluation has compiled it does not show, and what was paid for is not taken away."""
    pattern, spent = r"\pL{20}", []
    for _ in range(2):
        context = Context(NOW)
        BUILTINS["regex.find_n"].call(context, pattern, "", 1)
        first = context.spent
        for number in range(100):  # more than any cache of patterns keeps
            BUILTINS["regex.find_n"].call(context, f"a{number}", "", 1)
        before = context.spent
        BUILTINS["regex.find_n"].call(context, pattern, "", 1)
        assert context.spent - before < first // 10
        spent.append(first)
    assert spent[0] == spent[1] > 10_000


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("regex.find_n", ["a.*b|a", "TEXT", -1]),
        ("regex.split", ["a.*b|a", "TEXT"]),
        ("regex.replace", ["TEXT", "a.*b|a", ""]),
    ],
)
def test_searches_that_look_at_everything_each_time_are_paid_for(name: str, arguments: list[object]) -> None:
    """Each match is found only after all of the rest was looked at: as many steps as the square of the length."""
    for length, is_granted in ((2_000, True), (20_000, False)):
        given = ["a" * length if item == "TEXT" else item for item in arguments]
        if is_granted:
            BUILTINS[name].call(Context(NOW), *given)  # type: ignore[arg-type]
            continue
        with pytest.raises(BuiltinError) as caught:
            BUILTINS[name].call(Context(NOW), *given)  # type: ignore[arg-type]
        assert caught.value.reason == "limit"
