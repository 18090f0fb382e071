"""Small modules, one for each shape of control flow and each way to pay, with the calls to make."""

from __future__ import annotations

from typing import NamedTuple

from .wat import compile_wat


class Shape(NamedTuple):
    """A module, and calls of its exports: (name, arguments). Each call is made on the same instance, in turn."""

    name: str
    data: bytes
    calls: tuple[tuple[str, tuple[int, ...]], ...]


def _shape(name: str, text: str, *calls: tuple[object, ...]) -> Shape:
    made = tuple((str(call[0]), tuple(int(str(value)) for value in call[1:])) for call in calls)
    return Shape(name, compile_wat(f"(module {text})"), made)


SHAPES = (
    _shape("straight", '(func (export "f") (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))', ("f", 1)),
    _shape("empty", '(func (export "f"))', ("f",)),
    _shape(
        "counting loop",
        """(func (export "f") (param i32) (result i32) (local i32)
          (loop $l
            (local.set 1 (i32.add (local.get 1) (local.get 0)))
            (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
          (local.get 1))""",
        ("f", 1),
        ("f", 10),
    ),
    _shape(
        "outer loop only",
        """(func (export "f") (param i32) (result i32)
          (loop $outer
            (loop $inner
              (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
              (br_if $outer (i32.gt_s (local.get 0) (i32.const 0)))))
          (local.get 0))""",
        ("f", 9),
    ),
    _shape(
        "if else",
        """(func (export "f") (param i32) (result i32)
          (drop (i32.mul (local.get 0) (i32.const 3)))
          (if (result i32) (local.get 0)
            (then (i32.add (i32.const 1) (i32.add (i32.const 1) (i32.const 1))))
            (else (i32.const 2))))""",
        ("f", 0),
        ("f", 1),
    ),
    _shape(
        "if without else",
        """(func (export "f") (param i32) (result i32)
          (if (local.get 0) (then (local.set 0 (i32.mul (local.get 0) (i32.const 5)))))
          (i32.add (local.get 0) (i32.const 1)))""",
        ("f", 0),
        ("f", 1),
    ),
    _shape(
        "escape from a block",
        """(func (export "f") (param i32) (result i32)
          (block $out
            (block $in
              (br_if $out (i32.eq (local.get 0) (i32.const 1)))
              (br_if $in (i32.eq (local.get 0) (i32.const 2)))
              (local.set 0 (i32.add (local.get 0) (i32.const 10))))
            (local.set 0 (i32.add (local.get 0) (i32.const 100))))
          (i32.add (local.get 0) (i32.const 1000)))""",
        ("f", 1),
        ("f", 2),
        ("f", 3),
    ),
    _shape(
        "escape from an if inside a loop",
        """(func (export "f") (param i32) (result i32) (local i32)
          (block $done
            (loop $l
              (if (i32.eqz (local.get 0)) (then (br $done)) (else (local.set 1 (i32.add (local.get 1) (i32.const 2)))))
              (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
              (br $l)))
          (local.get 1))""",
        ("f", 0),
        ("f", 7),
    ),
    _shape(
        "branch table",
        """(func (export "f") (param i32) (result i32)
          (block $c (block $b (block $a
            (br_table $a $b $c (local.get 0)))
            (return (i32.const 10)))
            (local.set 0 (i32.const 20)))
          (i32.add (local.get 0) (i32.const 1)))""",
        ("f", 0),
        ("f", 1),
        ("f", 2),
        ("f", -1),
    ),
    _shape(
        "values through branches",
        """(func (export "f") (param i32) (result i32)
          (block (result i32)
            (br_if 0 (i32.const 7) (local.get 0))
            (drop) (i32.const 8)
            (br 0 (i32.add (i32.const 1)))))
        (func (export "g") (param i32) (result i32)
          (br_if 0 (i32.const 3) (local.get 0))
          (drop) (br_table 0 0 (i32.const 4) (i32.const 0)))""",
        ("f", 0),
        ("f", 1),
        ("g", 0),
        ("g", 1),
    ),
    _shape(
        "several values",
        """(type $two (func (param i32) (result i32 i64)))
        (func (export "f") (param i32) (result i32 i64)
          (if (local.get 0) (then (return (i32.const 1) (i64.const 2))))
          (local.get 0) (loop (param i32) (result i32 i64) (i64.const 5)))
        (func (export "g") (param i32) (result i32 i64)
          (local.get 0) (block (type $two) (i64.const 1) (br 0)))""",
        ("f", 0),
        ("f", 1),
        ("g", 3),
    ),
    _shape(
        "return from everywhere, often",
        """(func $g (param i32) (result i32)
          (block (loop (if (i32.and (local.get 0) (i32.const 1)) (then (return (i32.const 1)))) (br 1)))
          (if (result i32) (i32.and (local.get 0) (i32.const 2)) (then (br 1 (i32.const 2))) (else (i32.const 3))))
        (func (export "f") (param i32) (result i32) (local i32)
          (loop $l
            (local.set 1 (i32.add (local.get 1) (call $g (local.get 0))))
            (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
          (local.get 1))""",
        ("f", 9_000),
    ),
    _shape(
        "calls of functions that call, often",
        """(func $h (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
        (func $g (param i32) (result i32)
          (if (i32.and (local.get 0) (i32.const 4)) (then (return (call $h (local.get 0)))))
          (call $h (i32.const 1)))
        (func (export "f") (param i32) (result i32) (local i32)
          (loop $l
            (local.set 1 (i32.add (local.get 1) (call $g (local.get 0))))
            (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
          (local.get 1))""",
        ("f", 9_000),
    ),
    _shape(
        "recursion",
        """(func $f (export "f") (param i32) (result i32)
          (if (result i32) (i32.lt_u (local.get 0) (i32.const 2))
            (then (local.get 0))
            (else (i32.add (call $f (i32.sub (local.get 0) (i32.const 1)))
                           (call $f (i32.sub (local.get 0) (i32.const 2)))))))""",
        ("f", 12),
    ),
    _shape(
        "indirect calls",
        """(type $t (func (param i32) (result i32))) (table funcref (elem $a $b))
        (func $a (type $t) (i32.mul (local.get 0) (local.get 0)))
        (func $b (type $t) (if (local.get 0) (then (return (i32.const 9)))) (i32.const 4))
        (func (export "f") (param i32) (result i32)
          (call_indirect (type $t) (local.get 0) (i32.and (local.get 0) (i32.const 1))))
        (func (export "null") (result i32) (call_indirect (type $t) (i32.const 0) (i32.const 2)))""",
        ("f", 3),
        ("f", 4),
        ("null",),
    ),
    _shape(
        "calls that trap inside loops",
        """(func $g (param i32) (if (i32.eqz (local.get 0)) (then (unreachable))))
        (func (export "f") (param i32)
          (loop $l (call $g (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))) (br $l)))
        (func (export "div") (param i32) (result i32) (i32.div_s (i32.const 10) (local.get 0)))""",
        ("f", 5),
        ("div", 5),
        ("div", 0),
    ),
    _shape(
        "lengths",
        """(memory (export "m") 1 3) (data $d "some bytes")
        (func (export "fill") (param i32) (result i32)
          (memory.fill (i32.const 9) (i32.const 5) (local.get 0)) (i32.load (i32.const 9)))
        (func (export "copy") (param i32) (result i32)
          (memory.copy (i32.const 4) (i32.const 0) (local.get 0)) (i32.load (i32.const 4)))
        (func (export "init") (param i32) (result i32)
          (memory.init $d (i32.const 0) (i32.const 0) (local.get 0)) (i32.load (i32.const 0)))
        (func (export "drop") (data.drop $d))
        (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
        (func (export "size") (result i32) (memory.size))""",
        ("init", 4),
        ("init", 11),
        ("fill", 0),
        ("fill", 60_000),
        ("fill", -1),
        ("copy", 6),
        ("copy", 65_530),
        ("grow", 1),
        ("grow", 2),
        ("grow", -1),
        ("size",),
        ("drop",),
        ("init", 1),
    ),
    _shape(
        "lengths of tables",
        """(table $t 10 20 funcref) (table $u 10 funcref) (elem $e func $f $f) (func $f)
        (func (export "fill") (param i32) (table.fill $u (i32.const 0) (ref.func $f) (local.get 0)))
        (func (export "copy") (param i32) (table.copy $t $u (i32.const 0) (i32.const 0) (local.get 0)))
        (func (export "init") (param i32) (table.init $t $e (i32.const 0) (i32.const 0) (local.get 0)))
        (func (export "grow") (param i32) (result i32) (table.grow $t (ref.null func) (local.get 0)))
        (func (export "full") (result i32) (ref.is_null (table.get $t (i32.const 1))))""",
        ("fill", 7),
        ("fill", 11),
        ("init", 2),
        ("init", 3),
        ("copy", 9),
        ("copy", -1),
        ("grow", 10),
        ("grow", 1),
        ("full",),
    ),
    _shape(
        "start",
        """(global $g (mut i32) (i32.const 1))
        (func $start (loop (global.set $g (i32.add (global.get $g) (i32.const 1)))
          (br_if 0 (i32.lt_u (global.get $g) (i32.const 50)))))
        (func (export "f") (result i32) (global.get $g))
        (start $start)""",
        ("f",),
    ),
    _shape(
        "locals and constants",
        """(func (export "f") (param i32) (result i64) (local f32 f64 i64 i32 i32 f64)
          (local.set 1 (f32.const nan:0x2468ac)) (local.set 2 (f64.const -nan:0x123456789abcd))
          (local.set 5 (i32.const 3)) (local.set 4 (local.get 0))
          (i64.xor (i64.reinterpret_f64 (local.get 2))
            (i64.extend_i32_u (i32.add (i32.reinterpret_f32 (local.get 1)) (i32.add (local.get 4) (local.get 5))))))""",
        ("f", 1),
    ),
    _shape(
        "code that is not reached",
        """(func $n (result i32) (i32.const 1))
        (func (export "f") (param i32) (result i32)
          (block $b
            (br_if $b (local.get 0))
            (return (i32.const 5))
            (loop (br 0)) (drop (call $n)) (if (i32.const 1) (then (return (i32.const 6))) (else (br $b))))
          (block (result i32) (br 0 (i32.const 4)) (drop (i32.div_u (i32.const 1))) (unreachable)))""",
        ("f", 0),
        ("f", 1),
    ),
    _shape(
        "typed select",
        """(func (export "f") (param i32) (result i32)
          (ref.is_null (select (result funcref) (ref.null func) (ref.func 0) (local.get 0))))
        (func (export "g") (param i32) (result i32) (select (i32.const 1) (i32.const 2) (local.get 0)))
        (elem declare func 0)""",
        ("f", 0),
        ("f", 1),
        ("g", 1),
    ),
)
