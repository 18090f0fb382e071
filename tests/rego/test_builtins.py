"""Each builtin against what OPA documents, and what is refused."""

from __future__ import annotations

import re

import pytest

from capgate.errors import BuiltinError
from capgate.rego import BUILTINS, NOT_PROVIDED, Context, Undefined
from capgate.rego.value_text import dump, parse

from .cases import DIGESTS, ENCODINGS, NOW, NUMBERS, SPRINTF, STRINGS, UNDEFINED, Case
from .more_cases import NETWORKS, OBJECTS, TIMES

CASES = [*DIGESTS, *ENCODINGS, *NETWORKS, *NUMBERS, *OBJECTS, *SPRINTF, *STRINGS, *TIMES]
#: Whose cases are in a test of their own, because they need keys.
SIGNED = re.compile(r"io\.jwt\.(decode|decode_verify|verify_\w+)")
#: What OPA's compiler compiles in, so that it is not asked of the host.
COMPILED_IN = {"json.marshal", "json.unmarshal", "regex.match", "glob.match", "numbers.range", "concat", "walk"}


def outcome(case: Case, context: Context) -> str:
    arguments = parse(case.arguments.encode())
    assert isinstance(arguments, tuple)
    try:
        return dump(BUILTINS[case.name].call(context, *arguments)).decode()
    except Undefined:
        return UNDEFINED
    except BuiltinError as error:
        return f"deny {error.reason}" if error.builtin == case.name else f"error of {error.builtin}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name} {case.arguments[:60]}")
def test_a_builtin_gives_what_opa_documents(case: Case) -> None:
    expected = case.expected
    if expected != UNDEFINED and not expected.startswith("deny "):
        expected = dump(parse(expected.encode())).decode()
    assert outcome(case, Context(NOW)) == expected


def test_every_builtin_has_a_case_with_a_result() -> None:
    documented = {case.name for case in CASES if case.expected != UNDEFINED and not case.expected.startswith("deny ")}
    without = {name for name in BUILTINS if name not in documented and not SIGNED.fullmatch(name)}
    assert without == set()
    assert {case.name for case in CASES} <= set(BUILTINS)


@pytest.mark.parametrize(
    "name",
    [
        "http.send",
        "rand.intn",
        "uuid.rfc4122",
        "opa.runtime",
        "net.lookup_ip_addr",
        "io.jwt.encode_sign",
        "rego.parse_module",
    ],
)
def test_what_is_impure_is_refused_with_a_reason(name: str) -> None:
    assert name not in BUILTINS
    assert NOT_PROVIDED[name]


def test_provided_refused_and_compiled_in_are_apart() -> None:
    assert not set(BUILTINS) & set(NOT_PROVIDED)
    assert not COMPILED_IN & (set(BUILTINS) | set(NOT_PROVIDED))
    assert all(name == builtin.name and 0 <= builtin.arity <= 4 for name, builtin in BUILTINS.items())


def test_the_tables_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        BUILTINS["http.send"] = BUILTINS["trace"]  # type: ignore[index]


def test_a_wrong_number_of_arguments_is_a_denial() -> None:
    for name, builtin in BUILTINS.items():
        with pytest.raises(BuiltinError) as caught:
            builtin.call(Context(NOW), *[""] * (builtin.arity + 1))
        assert (caught.value.builtin, caught.value.reason) == (name, "internal")


def test_results_are_the_same_on_every_call_and_cost_the_same() -> None:
    for case in CASES:
        first, second = Context(NOW), Context(NOW)
        assert outcome(case, first) == outcome(case, second)
        assert first.spent == second.spent


def test_work_is_shared_by_all_calls_of_an_evaluation() -> None:
    context = Context(NOW, work=80)
    assert [BUILTINS["hex.encode"].call(context, "abc") for _ in range(5)] == ["616263"] * 5
    with pytest.raises(BuiltinError) as caught:
        BUILTINS["sprintf"].call(context, "%d", (1,))
    assert (caught.value.builtin, caught.value.reason) == ("sprintf", "limit")
    assert context.spent > context.work
