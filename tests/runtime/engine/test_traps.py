"""Why a guest trapped, in the same words on every engine; and that nothing but the call ends."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Final

import pytest

from capgate.errors import PolicyTrap
from capgate.runtime.engine import TRAP_KINDS, Instance, load_engine

from ...support.guests import wat
from ...support.tools import ROOT

MODULE: Final = """(module
  (memory (export "memory") 1)
  (table 4 funcref)
  (elem (i32.const 0) $one $wide)
  (elem $passive func $one)
  (data $bytes "abc")
  (type $unary (func (param i32) (result i32)))
  (func $one (type $unary) (i32.const 1))
  (func $wide (param i64) (result i32) (i32.const 2))
  (func $deep (type $unary) (i32.add (call $deep (local.get 0)) (i32.const 1)))
  (func $left (type $unary) (i32.add (call $right (local.get 0)) (i32.const 1)))
  (func $right (type $unary) (i32.add (call $left (local.get 0)) (i32.const 1)))
  (func (export "fine") (type $unary) (local.get 0))
  (func (export "indirect") (type $unary) (call_indirect (type $unary) (i32.const 0) (local.get 0)))
  (func (export "unreachable") (type $unary) unreachable)
  (func (export "load") (type $unary) (i32.load (local.get 0)))
  (func (export "store") (type $unary) (i64.store (local.get 0) (i64.const 1)) (i32.const 0))
  (func (export "load_offset") (type $unary) (i32.load offset=0xffffffff (local.get 0)))
  (func (export "fill") (type $unary)
    (memory.fill (local.get 0) (i32.const 0) (i32.const 65536)) (i32.const 0))
  (func (export "copy") (type $unary)
    (memory.copy (i32.const 0) (local.get 0) (i32.const 65536)) (i32.const 0))
  (func (export "init") (type $unary)
    (memory.init $bytes (i32.const 0) (local.get 0) (i32.const 3)) (i32.const 0))
  (func (export "table_init") (type $unary)
    (table.init $passive (local.get 0) (i32.const 0) (i32.const 1)) (i32.const 0))
  (func (export "table_copy") (type $unary)
    (table.copy (local.get 0) (i32.const 0) (i32.const 4)) (i32.const 0))
  (func (export "divide") (type $unary) (i32.div_s (i32.const 0x80000000) (local.get 0)))
  (func (export "remainder") (type $unary) (i32.rem_u (i32.const 1) (local.get 0)))
  (func (export "from_nan") (type $unary) (i32.trunc_f32_s (f32.const nan)))
  (func (export "from_large") (type $unary) (i32.trunc_f64_u (f64.const 1e300)))
  (func (export "deep") (type $unary) (call $deep (local.get 0)))
  (func (export "mutual") (type $unary) (call $left (local.get 0))))"""

#: export, argument, kind. Together they are every kind that a guest can bring about.
TRAPS: Final = [
    ("unreachable", 0, "unreachable"),
    ("load", 65_533, "memory_out_of_bounds"),
    ("load", 0x80000000, "memory_out_of_bounds"),
    ("load", 0xFFFFFFFF, "memory_out_of_bounds"),
    ("store", 65_529, "memory_out_of_bounds"),
    ("load_offset", 0xFFFFFFFF, "memory_out_of_bounds"),
    ("fill", 1, "memory_out_of_bounds"),
    ("copy", 0xFFFFFFFF, "memory_out_of_bounds"),
    ("init", 1, "memory_out_of_bounds"),
    ("indirect", 4, "table_out_of_bounds"),
    ("indirect", 0x80000000, "table_out_of_bounds"),
    ("table_init", 4, "table_out_of_bounds"),
    ("table_copy", 1, "table_out_of_bounds"),
    ("indirect", 3, "indirect_call_to_null"),
    ("indirect", 1, "signature_mismatch"),
    ("divide", 0xFFFFFFFF, "integer_overflow"),
    ("divide", 0, "integer_divide_by_zero"),
    ("remainder", 0, "integer_divide_by_zero"),
    ("from_nan", 0, "bad_conversion"),
    ("from_large", 0, "integer_overflow"),
    ("deep", 0, "stack_overflow"),
    ("mutual", 0, "stack_overflow"),
]


def open_instance(engine_name: str) -> Instance:
    return load_engine(engine_name).compile(wat(MODULE)).instantiate()


def kind_of(engine_name: str, instance: Instance, export: str, argument: int) -> str:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - each engine has exceptions of its own
        instance.function(export, 1, 1)(argument)
    explained = load_engine(engine_name).explain(caught.value)
    assert type(explained) is PolicyTrap
    return explained.kind


def test_every_kind_that_a_guest_can_bring_about_is_listed() -> None:
    not_by_code = {"abort", "engine_fault", "other"}  # a function of the host, the engine, what is not known
    assert {kind for _, _, kind in TRAPS} == set(TRAP_KINDS) - not_by_code


@pytest.mark.slow
@pytest.mark.parametrize(("export", "argument", "kind"), TRAPS)
def test_a_trap_has_its_kind(engine_name: str, export: str, argument: int, kind: str) -> None:
    instance = open_instance(engine_name)
    assert kind_of(engine_name, instance, export, argument) == kind  # G19
    assert instance.function("fine", 1, 1)(3) == 3
    if kind != "stack_overflow":  # of which wasmer makes a second's work
        assert kind_of(engine_name, instance, export, argument) == kind


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ("(func $s unreachable) (start $s)", "unreachable"),
        ("(func $s (drop (i32.load (i32.const -1)))) (start $s)", "memory_out_of_bounds"),
        pytest.param("(func $s (call $s)) (start $s)", "stack_overflow", marks=pytest.mark.slow),
        ('(data (i32.const 65535) "ab")', "memory_out_of_bounds"),
        ('(data (i32.const -1) "a")', "memory_out_of_bounds"),
        ("(table 1 funcref) (func $f) (elem (i32.const 1) $f)", "table_out_of_bounds"),
    ],
)
def test_a_trap_while_instantiating_has_its_kind(engine_name: str, fields: str, kind: str) -> None:
    module = load_engine(engine_name).compile(wat(f"(module (memory 1) {fields})"))
    with pytest.raises(PolicyTrap) as caught:
        module.instantiate()
    assert caught.value.kind == kind  # G2, G19


def test_a_module_that_wants_an_import_is_not_instantiated(engine_name: str) -> None:
    module = load_engine(engine_name).compile(wat('(module (import "env" "memory" (memory 1)))'))
    with pytest.raises(PolicyTrap) as caught:
        module.instantiate()
    assert caught.value.kind in ("engine_fault", "other")  # G22


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), MemoryError(), BaseException("x")])
def test_what_is_no_trap_is_a_fault_of_the_engine(engine_name: str, error: BaseException) -> None:
    explained = load_engine(engine_name).explain(error)
    assert type(explained) is PolicyTrap
    assert explained.kind == "engine_fault"  # P3


def test_an_error_of_ours_explains_itself(engine_name: str) -> None:
    error = PolicyTrap("unreachable")
    assert load_engine(engine_name).explain(error) is error


SMALL_STACK: Final = """
import sys, threading
from capgate.runtime.engine import load_engine
from tests.runtime.engine.test_traps import MODULE, wat
engine, kinds = load_engine(sys.argv[1]), []
def run():
    instance = engine.compile(wat(MODULE)).instantiate()
    for export in ("deep", "mutual"):
        try:
            instance.function(export, 1, 1)(0)
        except BaseException as error:
            kinds.append(engine.explain(error).kind)
threading.stack_size(256 * 1024)
thread = threading.Thread(target=run)
thread.start()
thread.join()
print(*kinds)
"""
TAKEN_SIGNALS: Final = """
import faulthandler, sys
from capgate.runtime.engine import load_engine
from tests.runtime.engine.test_traps import MODULE, TRAPS, wat
engine = load_engine(sys.argv[1])
instance = engine.compile(wat(MODULE)).instantiate()
faulthandler.enable()
for export, argument, _ in TRAPS:
    try:
        instance.function(export, 1, 1)(argument)
    except BaseException as error:
        print(engine.explain(error).kind)
"""


def run_python(program: str, engine_name: str) -> list[str]:
    """What ``program`` prints, in a process of its own: a fault here would end the test run."""
    done = subprocess.run(
        [sys.executable, "-c", program, engine_name], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    return done.stdout.split()


@pytest.mark.slow
def test_a_recursion_on_a_thread_with_a_small_stack_ends_the_call_and_not_the_process(engine_name: str) -> None:
    assert run_python(SMALL_STACK, engine_name) == ["stack_overflow"] * 2  # G4


@pytest.mark.slow
def test_a_trap_ends_the_call_and_not_the_process_where_faulthandler_came_later(engine_name: str) -> None:
    assert run_python(TAKEN_SIGNALS, engine_name) == [kind for _, _, kind in TRAPS]  # G19


def test_traps_on_a_worker_thread(engine_name: str) -> None:
    kinds: list[str] = []

    def run() -> None:
        instance = open_instance(engine_name)
        kinds.extend(kind_of(engine_name, instance, export, argument) for export, argument, _ in TRAPS)

    before = threading.stack_size(1 << 19)
    try:
        thread = threading.Thread(target=run)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert kinds == [kind for _, _, kind in TRAPS]
