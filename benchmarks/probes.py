"""Loops of one instruction each, to see what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import wasmtime

from capgate.wasm.opcodes import OPCODES, Opcode


class Probe(NamedTuple):
    """A loop over ``code``, ``unrolled`` times in a row; ``extra`` goes into the module, ``pages`` is its memory.

    ``calls`` is how often it goes round, 0 for often enough.
    """

    name: str
    code: str
    extra: str = ""
    pages: int = 1
    unrolled: int = 8
    locals: str = ""
    calls: int = 0


def program(probe: Probe) -> bytes:
    body = "\n".join([probe.code] * probe.unrolled)
    return bytes(
        wasmtime.wat2wasm(f"""(module (memory {probe.pages} {probe.pages}) {probe.extra}
        (func (export "run") (param $n i32) (result i32) (local $i i32) (local $at i32) {probe.locals}
          (loop $next
            (local.set $at (i32.and (i32.shl (local.get $i) (i32.const 3)) (i32.const 0x7f8)))
            {body}
            (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
          (local.get $at)))""")
    )


#: What numeric instructions are fed: bytes that make integers large, floats denormal, and floats ordinary.
VALUES = {
    "large": "\\ff\\fe\\fd\\fc\\fb\\fa\\f9\\7f",
    "denormal": "\\01\\00\\80\\00\\05\\00\\00\\00",
    "one": "\\00\\00\\80?\\00\\00\\f0?",
}
#: Rounds after which more of the memory was touched than caches hold.
MANY = 1_500_000
RANDOM = "(global $r (mut i32) (i32.const 1))"
TYPES = {"i": "i32", "I": "i64", "f": "f32", "F": "f64"}


def numeric_probes() -> Iterator[Probe]:
    """A probe for each instruction from numbers to a number, with each kind of values."""
    for row in OPCODES.values():
        if not row.allowed or row.immediates != "-" or not row.operands or "r" in row.operands:
            continue
        if "trunc" in row.name and "sat" not in row.name and row.results == "i":
            continue  # traps on what it is fed; its saturating form costs as much
        for label, value in VALUES.items():
            if label == "large" and set(row.operands) & {"f", "F"}:
                continue
            yield Probe(f"{row.name} {label}", *numeric(row, value))


def numeric(row: Opcode, value: str) -> tuple[str, str]:
    loads = " ".join(
        f"({TYPES[letter]}.load offset={2048 * n} (local.get $at))" for n, letter in enumerate(row.operands or "")
    )
    code = f"({TYPES[(row.results or 'i')[0]]}.store offset=8192 (local.get $at) ({row.name} {loads}))"
    return code, f'(data (i32.const 0) "{value * 1024}")'


def other_probes() -> Iterator[Probe]:
    """Everything with immediates or an effect of its own."""
    for operation in ("fill", "copy", "init"):
        which = "$d " if operation == "init" else ""
        for length in (0, 100, 60_000):
            size = f"(i32.const 0) (i32.const 0) (i32.const {length})"
            yield Probe(
                f"memory.{operation} of {length}", f"(memory.{operation} {which}{size})", f'(data $d "{"x" * 60_000}")'
            )
    for operation in ("fill", "copy", "init"):
        for length in (0, 10, 1_000):
            size = f"(i32.const {length})"
            middle = {"fill": "(ref.null func)", "copy": "(i32.const 0)", "init": "(i32.const 0)"}[operation]
            which = {"fill": "$t", "copy": "$t $t", "init": "$t $e"}[operation]
            extra = f"(table $t 1000 funcref) (elem $e func {'$f ' * 1000}) (func $f)"
            yield Probe(
                f"table.{operation} of {length}", f"(table.{operation} {which} (i32.const 0) {middle} {size})", extra
            )
    table = "(table $t 10 20 funcref) (elem declare func $f) (func $f)"
    yield Probe("table.get", "(drop (table.get $t (i32.const 1)))", table)
    yield Probe("table.set", "(table.set $t (i32.const 1) (ref.null func))", table)
    yield Probe("table.size", "(drop (table.size $t))", table)
    yield Probe("table.grow by 0", "(drop (table.grow $t (ref.null func) (i32.const 0)))", table)
    yield Probe("table.grow too far", "(drop (table.grow $t (ref.null func) (i32.const 99)))", table)
    yield Probe("ref.func", "(table.set $t (i32.const 1) (ref.func $f))", table)
    yield Probe("data.drop", "(data.drop $d)", '(data $d "x")')
    yield Probe("elem.drop", "(elem.drop $e)", "(elem $e func)")
    yield Probe("memory.size", "(local.set $at (memory.size))")
    yield Probe("memory.grow by 0", "(drop (memory.grow (i32.const 0)))")
    yield Probe("memory.grow too far", "(drop (memory.grow (i32.const 9)))")
    yield Probe(
        "global", "(global.set $g (i32.add (global.get $g) (i32.const 1)))", "(global $g (mut i32) (i32.const 0))"
    )
    yield Probe("call", "(local.set $at (call $f (local.get $at)))", "(func $f (param i32) (result i32) (local.get 0))")
    indirect = "(type $t (func (param i32) (result i32))) (table funcref (elem $f)) (func $f (type $t) (local.get 0))"
    yield Probe("call_indirect", "(local.set $at (call_indirect (type $t) (local.get $at) (i32.const 0)))", indirect)
    yield Probe("br_table", "(block (block (block (br_table 0 1 2 (i32.and (local.get $i) (i32.const 3))))))")
    yield Probe("br_if, not foreseen", branch("br_if $out", ""), RANDOM)
    yield Probe("if, not foreseen", branch("if", "(then (local.set $at (i32.const 1)))"), RANDOM)
    yield Probe("entry of large frames", "(call $f)", "(func $f (local " + "i64 " * 900 + "))")
    for pages in (4, 16, 64, 256, 1024):
        # Written to before: all reads of what never was come from one and the same page.
        written = f"(func $write (memory.fill (i32.const 0) (i32.const 1) (i32.const {pages * 65_536}))) (start $write)"
        yield Probe(
            f"reads that depend on each other, {pages} pages", chase(pages), written, pages, 1, "(local $p i32)", MANY
        )
        yield Probe(f"writes all over {pages} pages", scatter(pages), written, pages, 1, "", MANY)


def branch(operation: str, then: str) -> str:
    """A branch by one bit of numbers that look random."""
    step = "(global.set $r (i32.add (i32.mul (global.get $r) (i32.const 1664525)) (i32.const 1013904223)))"
    condition = "(i32.and (i32.shr_u (global.get $r) (i32.const 20)) (i32.const 1))"
    return f"{step} (block $out ({operation} {condition} {then}))"


def chase(pages: int) -> str:
    """Reads whose addresses look random, and depend on what was read before."""
    addend = "(i32.add (i32.const 1013904223) (i32.load (local.get $p)))"
    step = f"(i32.add (i32.mul (local.get $p) (i32.const 1664525)) {addend})"
    return f"(local.set $p (i32.and {step} (i32.const {pages * 65_536 - 8})))"


def scatter(pages: int) -> str:
    step = "(i32.add (i32.mul (local.get $i) (i32.const 1664525)) (i32.const 1013904223))"
    return f"(i32.store (i32.and {step} (i32.const {pages * 65_536 - 8})) (local.get $i))"


#: Pages of the memory below, once it grew.
TOUCHED = 201
#: Growing by 200 pages, and writing to each four kilobytes of them for the first time.
FIRST_TOUCH = bytes(
    wasmtime.wat2wasm("""(module (memory 1) (func (export "run") (param i32) (result i32) (local $at i32)
      (drop (memory.grow (i32.const 200)))
      (local.set $at (i32.const 65536))
      (loop $next
        (i32.store (local.get $at) (i32.const 1))
        (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 4096))) (i32.const 13172736))))
      (local.get $at)))""")
)
