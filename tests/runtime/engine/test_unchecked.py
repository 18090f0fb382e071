"""wasmtime's unchecked call: used with the versions it was tested with, and never noticed but for its speed."""

from __future__ import annotations

from typing import Any

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from capgate.errors import PolicyTrap
from capgate.runtime.engine import _wasmtime

from ...support.guests import wat
from .test_traps import MODULE as TRAPPING
from .test_traps import TRAPS

MASK = 0xFFFFFFFF
VALUES = st.one_of(st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1]), st.integers(0, MASK))
MODULE = """(module
  (memory (export "memory") 1)
  (global $calls (mut i32) (i32.const 0))
  (func (export "f0") (result i32)
    (global.set $calls (i32.add (global.get $calls) (i32.const 1))) (global.get $calls))
  (func (export "f1") (param i32) (result i32) (i32.rotl (local.get 0) (i32.const 7)))
  (func (export "f2") (param i32 i32) (result i32) (i32.sub (local.get 0) (local.get 1)))
  (func (export "f3") (param i32 i32 i32) (result i32)
    (select (local.get 0) (local.get 1) (local.get 2)))
  (func (export "f4") (param i32 i32 i32 i32) (result i32)
    (i32.div_u (i32.xor (local.get 0) (local.get 1)) (i32.and (local.get 2) (local.get 3))))
  (func (export "g1") (param i32) (i32.store8 (i32.const 0) (i32.div_u (i32.const 9) (local.get 0)))))"""


def two_instances(text: str) -> list[_wasmtime.WasmtimeInstance]:
    """One that is called unchecked, and one through the package's own call."""
    data = wat(text)
    engine = wasmtime.Engine(_wasmtime._config())
    module = wasmtime.Module(engine, data)
    instances = []
    for unchecked in (True, False):
        store = wasmtime.Store(engine)
        instances.append(_wasmtime.WasmtimeInstance(store, wasmtime.Instance(store, module, []), unchecked))
    return instances


def outcome(instance: _wasmtime.WasmtimeInstance, name: str, arguments: tuple[Any, ...], results: int = 1) -> object:
    """The result, or why there is none."""
    try:
        value = instance.function(name, len(arguments), results)(*arguments) & MASK
    except (wasmtime.Trap, wasmtime.WasmtimeError, PolicyTrap) as error:
        explained = _wasmtime.ENGINE.explain(error)
        assert type(explained) is PolicyTrap
        return explained.kind, str(explained)
    except (TypeError, ValueError):
        return "refused"
    return value if results else "done"


def test_the_installed_version_is_one_that_was_tested() -> None:
    assert _wasmtime.unchecked_call_supported(_wasmtime.ENGINE.version)
    assert _wasmtime.ENGINE.unchecked


@pytest.mark.parametrize(
    ("version", "supported"),
    [
        *((f"{major}.0.1", True) for major in _wasmtime.UNCHECKED_VERSIONS),
        ("45.0.0", False),
        (f"{_wasmtime.UNCHECKED_VERSIONS[-1] + 1}.0.0", False),
        ("5.0.0", False),
        ("460.0.0", False),
        ("dev", False),
        ("", False),
        ("-46.0", False),
    ],
)
def test_which_versions_are_supported(version: str, supported: bool) -> None:
    assert _wasmtime.unchecked_call_supported(version) is supported


def test_another_version_is_called_the_slow_way_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_wasmtime.WasmtimeEngine, "version", "999.0.0")
    engine = _wasmtime.WasmtimeEngine()
    assert not engine.unchecked
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "999.0.0" in caplog.text
    assert engine.compile(wat(MODULE)).instantiate().function("f2", 2, 1)(1, 2) & MASK == MASK


@settings(max_examples=40, deadline=None)
@given(calls=st.lists(st.tuples(st.sampled_from(["f0", "f1", "f2", "f3", "f4", "g1"]), VALUES, VALUES, VALUES, VALUES)))
def test_both_calls_give_the_same_results_and_the_same_errors(calls: list[tuple[str, int, int, int, int]]) -> None:
    unchecked, checked = two_instances(MODULE)
    for name, *values in calls:
        arguments = tuple(values[: int(name[1])])
        results = 0 if name.startswith("g") else 1
        assert outcome(unchecked, name, arguments, results) == outcome(checked, name, arguments, results)
        assert unchecked.memory_view() == checked.memory_view()


@pytest.mark.parametrize(("export", "argument", "kind"), TRAPS)
def test_both_calls_trap_alike(export: str, argument: int, kind: str) -> None:
    unchecked, checked = two_instances(TRAPPING)
    for _ in range(3):
        found = outcome(unchecked, export, (argument,))
        assert found == outcome(checked, export, (argument,))
        assert isinstance(found, tuple)
        assert found[0] == kind
        assert outcome(unchecked, "fine", (7,)) == outcome(checked, "fine", (7,)) == 7


@pytest.mark.parametrize("argument", [-1, 2**32, 2**64, -(2**31), 1.0, "1", None, b"1"])
@pytest.mark.parametrize("name", ["f1", "f2", "f4"])
def test_both_calls_refuse_what_is_no_i32(name: str, argument: object) -> None:
    unchecked, checked = two_instances(MODULE)
    arguments = (argument, *(1,) * (int(name[1]) - 1))
    assert outcome(unchecked, name, arguments) == outcome(checked, name, arguments) == "refused"


@pytest.mark.parametrize(("name", "count"), [("f0", 1), ("f1", 0), ("f1", 2), ("f4", 3), ("f4", 5)])
def test_both_calls_refuse_another_number_of_arguments(name: str, count: int) -> None:
    for instance in two_instances(MODULE):
        function = instance.function(name, int(name[1]), 1)
        with pytest.raises((TypeError, wasmtime.WasmtimeError)):
            function(*(1,) * count)


def test_both_calls_give_the_same_number() -> None:
    text = '(module (func (export "n") (result i64) (i64.const -9_000_000_000)))'
    assert [instance.number("n")() for instance in two_instances(text)] == [-9_000_000_000] * 2


def test_a_trap_without_a_known_code_is_still_a_trap(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _wasmtime._trapped(wasmtime.Trap("made here")).kind == "other"
    unchecked, checked = two_instances(TRAPPING)

    def unknown(self: wasmtime.Trap) -> None:
        raise ValueError("99 is not a valid TrapCode")

    monkeypatch.setattr(wasmtime.Trap, "trap_code", property(unknown))
    for instance in (unchecked, checked):
        found = outcome(instance, "unreachable", (0,))
        assert isinstance(found, tuple)
        assert found[0] == "other"
