"""The two functions by which a host takes globals back, and how it is found out that there is more than that."""

from __future__ import annotations

import pytest

from capgate.errors import RestrictedModule
from capgate.runtime.engine import load_engine
from capgate.wasm import decode
from capgate.wasm.state import RESTORE, SAVE, leaves_state, with_state

from ..support.guests import wat

GLOBALS = """(module
  (global $a (mut i32) (i32.const 1)) (global $b i32 (i32.const 5)) (global $c (mut i64) (i64.const 2))
  (global $d (export "d") (mut f32) (f32.const 3)) (global $e (mut f64) (f64.const 4))
  (global $f (mut funcref) (ref.null func)) (global $g (mut externref) (ref.null extern))
  (func $one) (elem declare func $one)
  (func (export "add") (result i32)
    (global.set $a (i32.add (global.get $a) (i32.const 1))) (global.set $c (i64.add (global.get $c) (i64.const 1)))
    (global.set $d (f32.add (global.get $d) (f32.const 1))) (global.set $e (f64.add (global.get $e) (f64.const 1)))
    (global.set $f (ref.func $one))
    (i32.const 0))
  (func (export "sum") (result i32)
    (i32.add (i32.add (global.get $a) (i32.wrap_i64 (global.get $c)))
      (i32.add (i32.add (i32.trunc_f32_s (global.get $d)) (i32.trunc_f64_s (global.get $e)))
        (i32.add (global.get $b) (i32.mul (i32.const 1000) (i32.eqz (ref.is_null (global.get $f)))))))))"""


def test_globals_of_every_type_are_noted_and_set_back(engine_name: str) -> None:
    instance = load_engine(engine_name).compile(with_state(decode(wat(GLOBALS)))).instantiate()
    add, total = instance.function("add", 0, 1), instance.function("sum", 0, 1)
    save, restore = instance.function(SAVE, 0, 0), instance.function(RESTORE, 0, 0)
    assert total() == 15
    add()
    assert total() == 1019
    restore()  # nothing was noted yet: what they were at first
    assert total() == 15
    add()
    save()
    for _ in range(3):
        add()
        assert total() == 1023
        restore()
        assert total() == 1019


def test_what_was_there_stays_as_it_was() -> None:
    original = wat(GLOBALS)
    before, after = decode(original), decode(with_state(decode(original)))
    for name in ("types", "functions", "globals", "exports", "code"):
        kept, found = getattr(before, name), getattr(after, name)
        if name == "code":
            kept, found = ([m.source[b.entry : b.end] for b in m.code] for m in (before, after))
        assert found[: len(kept)] == kept
        assert len(found) > len(kept)
    empty = decode(with_state(decode(b"\0asm\1\0\0\0")))
    assert [export.name for export in empty.exports] == [SAVE, RESTORE]


def test_a_module_without_globals(engine_name: str) -> None:
    instance = load_engine(engine_name).compile(with_state(decode(wat("(module)")))).instantiate()
    instance.function(SAVE, 0, 0)()
    instance.function(RESTORE, 0, 0)()


@pytest.mark.parametrize("name", [SAVE, RESTORE, "capgate-state:", "capgate-state:other"])
def test_its_names_are_its_own(name: str) -> None:
    with pytest.raises(RestrictedModule) as caught:
        with_state(decode(wat(f'(module (func (export "{name}")))')))
    assert caught.value.rule == "reserved_name"  # G23


TABLE = '(table $t 1 2 funcref) (table $u 1 2 funcref) (func $f) (elem $e func $f) (memory 1) (data $d "x")'


@pytest.mark.parametrize(
    ("code", "leaves"),
    [
        ("(table.set $t (i32.const 0) (ref.null func))", True),
        ("(drop (table.grow $t (ref.null func) (i32.const 1)))", True),
        ("(table.fill $t (i32.const 0) (ref.null func) (i32.const 1))", True),
        ("(table.copy $t $u (i32.const 0) (i32.const 0) (i32.const 1))", True),
        ("(table.init $t $e (i32.const 0) (i32.const 0) (i32.const 1))", True),
        ("(elem.drop $e)", True),
        ("(data.drop $d)", True),
        ("(if (i32.const 0) (then (block (loop (data.drop $d)))))", True),
        ("(memory.init $d (i32.const 0) (i32.const 0) (i32.const 1))", False),
        ("(drop (table.get $t (i32.const 0)))", False),
        ("(drop (table.size $t))", False),
        ("(drop (memory.grow (i32.const 1)))", False),
        ("(call_indirect $t (i32.const 0))", False),
        ("(drop (i32.const 0x26)) (drop (i64.const 0xfc09))", False),
    ],
)
def test_what_leaves_more_than_memory_and_globals(code: str, leaves: bool) -> None:
    assert leaves_state(decode(wat(f"(module {TABLE} (func) (func {code}) (func))"))) is leaves
