"""The proof: it accepts what the metering writes, and nothing that differs from it in a way that matters."""

from __future__ import annotations

import random

import pytest

from capgate.errors import RestrictedModule
from capgate.limits import Limits
from capgate.wasm import decode, encode, meter, with_section
from capgate.wasm.edit import extended
from capgate.wasm.encode import export_entry, vector
from capgate.wasm.metering.module_proof import verify
from capgate.wasm.metering.rewrite import prices_of
from capgate.wasm.module import Export, Module

from ..support.tools import examples
from .binary import body
from .detectors import run
from .engines import Trapped, WasmtimeHost
from .shapes import SHAPES
from .wat import compile_wat

LIMITS = Limits(fuel=10_000_000)
FLIPS = examples(2_000)
BY_NAME = {shape.name: shape for shape in SHAPES}


def proved(original: bytes, metered: bytes, limits: Limits = LIMITS) -> bool:
    module = decode(original)
    try:
        verify(module, metered, limits, prices_of(module, limits))
    except RestrictedModule as error:
        return error.rule != "unproven"
    return True


def metered(original: bytes, limits: Limits = LIMITS) -> bytes:
    return meter(original, limits).data


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_what_the_metering_writes_is_proved(shape: object) -> None:
    data = BY_NAME[shape.name].data  # type: ignore[attr-defined]
    assert proved(data, metered(data))


def test_the_original_is_not() -> None:
    """A module that pays nothing.  # pitfall 1"""
    for shape in SHAPES:
        assert not proved(shape.data, shape.data)


def test_another_module_is_not() -> None:
    """Metered, and something else than what was asked about."""
    outputs = {shape.name: metered(shape.data) for shape in SHAPES}
    for shape in SHAPES:
        assert [name for name, output in outputs.items() if proved(shape.data, output)] == [shape.name]


@pytest.mark.slow
def test_any_changed_byte() -> None:
    """What is proved in spite of a changed byte does the same, and pays as much at least."""
    source = random.Random(7)
    accepted = 0
    for _ in range(FLIPS):
        shape = source.choice(SHAPES)
        data = bytearray(metered(shape.data))
        at = source.randrange(8, len(data))
        data[at] ^= 1 << source.randrange(8)
        if not proved(shape.data, bytes(data)):
            continue
        accepted += 1
        host = WasmtimeHost()
        before = run(host, shape, metered(shape.data))
        try:
            after = run(host, shape, bytes(data))
        except Trapped:
            continue  # an engine refuses it
        assert [item[:2] for item in after] == [item[:2] for item in before], (shape.name, at)
        assert all(new[2] >= old[2] for new, old in zip(after, before, strict=True)), (shape.name, at)
    print(f"{FLIPS} changed bytes, {accepted} of them proved, as charging more, or weighing more")
    assert accepted < FLIPS / 10


GUEST = compile_wat("""(module (memory (export "memory") 1) (table 1 funcref) (global $g (mut i32) (i32.const 7))
  (func $f (export "f") (param i32) (result i32) (local.get 0)) (elem (i32.const 0) $f) (data (i32.const 0) "x"))""")


def tampered(change: object) -> bytes:
    return encode(change(decode(metered(GUEST))))  # type: ignore[operator]


def with_export(name: str, kind: str, index: int) -> object:
    def change(module: Module) -> Module:
        entry = export_entry(Export(name, kind, index))
        return Module(b"", extended(module, 7, len(module.exports), [entry]))

    return change


def with_function(code: bytes) -> object:
    def change(module: Module) -> Module:
        sections = extended(module, 3, len(module.functions), [b"\0"])
        return Module(b"", extended(Module(b"", sections), 10, len(module.code), [body(code)]))

    return change


@pytest.mark.parametrize(
    "change",
    [
        with_export("capgate-meter:counter", "global", 1),
        with_export("counter", "global", 1),
        with_export("capgate-meter:stop", "function", 1),
        with_export("capgate-meter:call:g", "function", 5),
        with_export("again", "function", 5),
        with_function(b"\x20\0"),
        with_function(b"\x42\xff\xff\x7f\x24\1\x20\0"),
        lambda module: with_section(module, 5, vector([b"\0\1"])),
        lambda module: with_section(module, 5, vector([b"\1\1\x80\x10"])),
        lambda module: with_section(module, 4, vector([b"\x70\0\1"])),
        lambda module: with_section(module, 9, vector([b"\0\x41\0\x0b\1\1"])),
        lambda module: with_section(module, 11, vector([b"\0\x41\0\x0b\1y"])),
        lambda module: with_section(module, 8, b"\4"),
        lambda module: with_section(
            module, 6, vector([b"\x7f\1\x41\7\x0b", b"\x7e\1\x42\1\x0b", *[b"\x7f\1\x41\0\x0b"] * 2])
        ),
    ],
)
def test_other_sections(change: object) -> None:
    """Exports, functions, maxima, segments, start and counters.  # G23 G24, pitfalls 13 to 17, 30"""
    assert proved(GUEST, metered(GUEST))
    assert not proved(GUEST, tampered(change))


def test_other_limits() -> None:
    """An entry sets the fuel and depth of these limits and no others."""
    assert not proved(GUEST, metered(GUEST), Limits(fuel=9_999_999))
    assert not proved(GUEST, metered(GUEST), Limits(fuel=LIMITS.call_fuel, call_depth=1_999))
    assert not proved(GUEST, metered(GUEST), Limits(fuel=LIMITS.call_fuel, memory_pages=1_023))


#: Three functions of one type, and one function among three types, so that either number is the larger one. Each calls
#: what has the last index that there is.
FUNCTIONS = compile_wat("""(module (table 1 funcref) (type $t (func))
  (func (export "f") (type $t) (call 2) (call_indirect (type $t) (i32.const 0))) (func) (func))""")
TYPES = compile_wat("""(module (table 1 funcref) (type (func)) (type (func (param i32))) (type (func (param i64)))
  (func (export "f") (type 0) (call 0) (call_indirect (type 2) (i64.const 0) (i32.const 0))))""")


@pytest.mark.parametrize("data", [FUNCTIONS, TYPES], ids=["functions", "types"])
def test_a_call_of_the_last_function_and_of_the_last_type(data: bytes) -> None:
    assert proved(data, metered(data))


@pytest.mark.parametrize(
    ("data", "offset", "end"),
    [(FUNCTIONS, 0, b""), (FUNCTIONS, 4, b"\0"), (TYPES, 0, b""), (TYPES, 6, b"\0")],
    ids=["a function", "a type", "the only function", "a type of three"],
)
def test_a_call_of_what_was_added(data: bytes, offset: int, end: bytes) -> None:
    """The first function, or type, that metering adds has the index behind the last one of the guest's."""
    module = decode(data)
    at = module.code[0].start + offset
    before = data[at : at + 2]
    after = before[:1] + bytes([len(module.types if end else module.functions)])
    original = data[:at] + after + data[at + 2 :]
    output = metered(data)
    reload = end + b"\x23"  # behind every call the fuel is loaded again
    assert output.count(before + reload) == 1
    assert not proved(original, output.replace(before + reload, after + reload))


def test_a_call_that_cannot_be_reached_pays_nothing() -> None:
    data = compile_wat('(module (func (export "f") (unreachable) (call 0)))')
    assert proved(data, metered(data))
