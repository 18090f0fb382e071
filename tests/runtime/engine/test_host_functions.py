"""A memory and functions of the host: what they get and give, what they raise, and what they keep."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from capgate.errors import PolicyTrap
from capgate.runtime.engine import HostFunction, HostImport, HostMemory, Instance, _wasmtime_host, load_engine

from ...support.guests import wat

MODULE = """(module
  (import "env" "first" (func $first (param i32) (result i32))) (import "env" "memory" (memory 2 10))
  (import "other" "second" (func $second (param i32 i32)))
  (func (export "call") (param i32) (result i32) (i32.add (call $first (local.get 0)) (i32.const 1)))
  (func (export "tell") (param i32 i32) (call $second (local.get 0) (local.get 1)))
  (func (export "twice") (param i32) (result i32) (i32.mul (local.get 0) (i32.const 2)))
  (func (export "trap") (param i32) (result i32) unreachable)
  (func (export "load") (param i32) (result i32) (i32.load8_u (local.get 0)))
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"""
TOLD = (0, 1, 2**31 - 1, 2**31, 2**32 - 1)


class Boom(Exception):
    """What a host function raises here."""


@pytest.fixture(params=["as it is", "by the public call"], autouse=True)
def _call(request: pytest.FixtureRequest, engine_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "by the public call":
        if engine_name != "wasmtime":
            pytest.skip("this engine has one way of calling")
        monkeypatch.setattr(load_engine("wasmtime"), "unchecked", False)


def imports(first: Callable[[int], int | None], second: Callable[[int, int], None]) -> list[HostImport]:
    return [
        HostFunction("env", "first", 1, 1, first),
        HostMemory("env", "memory", 2, 10),
        HostFunction("other", "second", 2, 0, second),
    ]


def nothing(first: int, second: int) -> None:
    """A host function."""


def opened(
    engine_name: str, first: Callable[[int], int | None], second: Callable[[int, int], None] = nothing
) -> Instance:
    return load_engine(engine_name).compile(wat(MODULE)).instantiate(imports(first, second))


def test_numbers_are_unsigned_both_ways(engine_name: str) -> None:
    told: list[tuple[int, int]] = []
    instance = opened(engine_name, lambda given: given, lambda *given: told.append(given))
    call, tell = instance.function("call", 1, 1), instance.function("tell", 2, 0)
    for value in TOLD:
        assert call(value) & 0xFFFFFFFF == (value + 1) & 0xFFFFFFFF  # M16
        tell(value, 2**32 - 1 - value)
    assert told == [(value, 2**32 - 1 - value) for value in TOLD]


@pytest.mark.parametrize(("given", "expected"), [(None, 1), (True, 2), (-1, 0), (2**32 + 5, 6), (2**31, 2**31 + 1)])
def test_what_a_function_gives_is_cut_to_32_bits(engine_name: str, given: int | None, expected: int) -> None:
    assert opened(engine_name, lambda _: given).function("call", 1, 1)(0) & 0xFFFFFFFF == expected


def test_the_memory_is_the_hosts_though_it_is_not_exported(engine_name: str) -> None:
    instance = opened(engine_name, lambda given: given)
    assert instance.memory_size() == 2 * 65_536
    instance.memory_view()[65_536] = 7
    assert instance.function("load", 1, 1)(65_536) == 7
    grow = instance.function("grow", 1, 1)
    assert grow(8) == 2
    assert grow(1) & 0xFFFFFFFF == 0xFFFFFFFF
    assert instance.memory_size() == len(instance.memory_view()) == 10 * 65_536
    instance.memory_view()[-1] = 9
    assert instance.function("load", 1, 1)(10 * 65_536 - 1) == 9


@pytest.mark.parametrize(
    "raised",
    [Boom("x"), KeyboardInterrupt(), SystemExit(3), RecursionError(), MemoryError(), RuntimeError("unreachable")],
)
def test_what_it_raises_comes_out_as_it_is(engine_name: str, raised: BaseException) -> None:
    """P3: also what is no Exception."""

    def first(given: int) -> int:
        if given:
            raise raised
        return 0

    instance = opened(engine_name, first)
    call = instance.function("call", 1, 1)
    for _ in range(3):
        with pytest.raises(type(raised)) as caught:
            call(1)
        assert caught.value is raised
        assert call(0) == 1  # and nothing of it stays


def test_a_function_without_a_result_raises_too(engine_name: str) -> None:
    def second(first: int, second: int) -> None:
        raise Boom(first, second)

    tell = opened(engine_name, lambda given: given, second).function("tell", 2, 0)
    with pytest.raises(Boom) as caught:
        tell(1, 2)
    assert caught.value.args == (1, 2)


def test_it_calls_the_guest_that_calls_it(engine_name: str) -> None:
    held: list[Instance] = []

    def first(given: int) -> int:
        return held[0].function("twice", 1, 1)(given) & 0xFFFFFFFF

    held.append(opened(engine_name, first))
    call = held[0].function("call", 1, 1)
    assert [call(value) & 0xFFFFFFFF for value in TOLD] == [(2 * value + 1) & 0xFFFFFFFF for value in TOLD]


def test_a_trap_within_is_a_trap_outside(engine_name: str) -> None:
    held: list[Instance] = []
    held.append(opened(engine_name, lambda given: held[0].function("trap", 1, 1)(given)))
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - each engine has exceptions of its own
        held[0].function("call", 1, 1)(1)
    explained = load_engine(engine_name).explain(caught.value)
    assert isinstance(explained, PolicyTrap)
    assert explained.kind == "unreachable"


def test_what_is_raised_after_a_trap_within_is_what_comes_out(engine_name: str) -> None:
    held: list[Instance] = []

    def first(given: int) -> int:
        try:
            return held[0].function("trap", 1, 1)(given)
        except Exception as error:
            raise Boom from error

    held.append(opened(engine_name, first))
    with pytest.raises(Boom):
        held[0].function("call", 1, 1)(1)


def test_an_instance_goes_when_nobody_has_it(engine_name: str) -> None:
    """P17: neither the engine nor what was raised keeps it, nor the functions."""
    module = load_engine(engine_name).compile(wat(MODULE))
    kept: list[weakref.ref[Any]] = []
    gc.disable()
    try:
        for _ in range(10):

            def first(given: int) -> int:
                raise Boom

            instance = module.instantiate(imports(first, nothing))
            with pytest.raises(Boom):
                instance.function("call", 1, 1)(0)
            kept += [weakref.ref(first), weakref.ref(instance)]
            del first, instance
        if engine_name == "wasmtime" and not load_engine("wasmtime").unchecked:  # type: ignore[attr-defined]
            gc.collect()  # the package's own call leaves a cycle behind
        assert [reference() for reference in kept] == [None] * 20
    finally:
        gc.enable()


def test_a_function_that_cannot_even_begin_ends_the_call(engine_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """P3: as where there is no room for its frame, or a signal's handler raises there. Nobody sees what was raised."""
    if engine_name != "wasmtime":
        pytest.skip("this engine calls Python itself, and hands on what that raises")
    lost: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda seen: lost.append(seen.exc_type))
    told: list[int] = []
    instance = opened(engine_name, lambda given: given, lambda *given: told.extend(given))
    call, tell = instance.function("call", 1, 1), instance.function("tell", 2, 0)
    functions = dict(_wasmtime_host._FUNCTIONS)
    _wasmtime_host._FUNCTIONS.clear()
    for _ in range(3):
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - each way of calling has exceptions of its own
            call(1)
        assert isinstance(load_engine(engine_name).explain(caught.value), PolicyTrap)
        with pytest.raises(BaseException):  # noqa: B017, PT011 - the same
            tell(1, 2)
    _wasmtime_host._FUNCTIONS.update(functions)
    assert lost == [KeyError] * 6
    assert told == []
    assert call(1) == 2


FIRST, MEMORY, SECOND = imports(lambda given: given, nothing)


@pytest.mark.parametrize(
    "given",
    [
        [],
        [FIRST, MEMORY],
        [HostFunction("env", "first", 2, 1, lambda given, more: given), MEMORY, SECOND],
        [HostFunction("env", "first", 1, 0, print), MEMORY, SECOND],
        [FIRST, HostMemory("env", "memory", 1, 10), SECOND],
        [FIRST, HostMemory("env", "memory", 2, 11), SECOND],
    ],
    ids=["none", "one less", "parameters", "results", "memory too small", "memory too large"],
)
def test_imports_that_do_not_fit(engine_name: str, given: list[HostImport]) -> None:
    module = load_engine(engine_name).compile(wat(MODULE))
    with pytest.raises(PolicyTrap) as caught:
        module.instantiate(given)
    assert caught.value.kind in ("engine_fault", "other")
