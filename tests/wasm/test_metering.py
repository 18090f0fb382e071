"""How a host uses a metered module."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capgate.errors import DecodeError, RestrictedModule, WasmError
from capgate.limits import Limits
from capgate.wasm import decode, meter
from capgate.wasm.encode import vector
from capgate.wasm.metering.charges import OUT_OF_FUEL, RUNNING, TOO_DEEP
from capgate.wasm.metering.rewrite import ENTRY
from capgate.wasm.module import I32, MemoryType, TableType

from ..support.tools import examples
from .binary import EMPTY_TYPE, body, module, one_function
from .engines import Host, Trapped, WasmtimeHost, make_host
from .shapes import SHAPES
from .wat import compile_wat, is_valid

GUEST = compile_wat("""(module
  (memory (export "memory") 1)
  (func (export "add") (param i32 i64 f32 f64) (result f64)
    (f64.add (f64.add (f64.convert_i32_s (local.get 0)) (f64.convert_i64_s (local.get 1)))
             (f64.add (f64.promote_f32 (local.get 2)) (local.get 3))))
  (func (export "loop") (param i32) (result i32)
    (loop (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))) (i32.const 5))
  (func $deep (export "deep") (param i32) (result i32)
    (if (result i32) (local.get 0) (then (call $deep (i32.sub (local.get 0) (i32.const 1)))) (else (i32.const 7))))
  (func (export "trap") (unreachable)))""")
LIMITS = Limits(fuel=100_000, call_depth=100)


class Live:
    """A metered instance of :data:`GUEST`."""

    def __init__(self, engine: str, data: bytes = GUEST, limits: Limits = LIMITS, **options: Any) -> None:
        self.host: Host = make_host(engine)
        self.metered = meter(data, limits, **options)
        assert self.host.is_valid(self.metered.data)
        self.exports = self.host.instantiate(self.metered.data, {})

    def enter(self, name: str, *arguments: Any) -> list[Any]:
        return self.host.call(self.exports[self.metered.entries[name]], *arguments)

    def direct(self, name: str, *arguments: Any) -> list[Any]:
        return self.host.call(self.exports[name], *arguments)

    def reset(self, fuel: int, depth: int) -> None:
        self.host.call(self.exports[self.metered.reset], fuel, depth)

    @property
    def fuel(self) -> int:
        return int(self.host.call(self.exports[self.metered.fuel])[0])

    @property
    def status(self) -> int:
        return int(self.host.call(self.exports[self.metered.status])[0])


def test_an_entry_is_the_function_with_the_fuel_of_the_limits(engine_name: str) -> None:
    live = Live(engine_name)
    assert live.enter("add", 1, -2, 0.5, 0.25) == [-0.25]
    assert live.enter("loop", 10) == [5]
    assert 0 < live.fuel < LIMITS.call_fuel
    spent = LIMITS.call_fuel - live.fuel
    live.enter("loop", 10)
    assert LIMITS.call_fuel - live.fuel == spent
    assert live.status == RUNNING


def test_a_new_instance_has_no_fuel(engine_name: str) -> None:
    """# G2, pitfall 21"""
    live = Live(engine_name)
    with pytest.raises(Trapped):
        live.direct("loop", 1)
    assert live.status == OUT_OF_FUEL
    assert live.enter("loop", 1) == [5]


def test_a_direct_call_goes_on_with_what_was_left(engine_name: str) -> None:
    """Several calls of one question share its fuel."""
    live = Live(engine_name)
    live.enter("loop", 1)
    for _ in range(10_000):
        before = live.fuel
        try:
            live.direct("loop", 100)
        except Trapped:
            break
        assert live.fuel < before
    assert live.status == OUT_OF_FUEL
    assert live.fuel == 0


def test_exhaustion_lasts_until_a_reset(engine_name: str) -> None:
    """# G20, pitfalls 12, 24"""
    live = Live(engine_name)
    with pytest.raises(Trapped):
        live.enter("loop", 0)
    assert (live.status, live.fuel) == (OUT_OF_FUEL, 0)
    for _ in range(3):
        with pytest.raises(Trapped):
            live.direct("loop", 1)
    assert live.enter("loop", 1) == [5]
    assert live.status == RUNNING


def test_depth_is_told_from_fuel_and_both_from_a_trap(engine_name: str) -> None:
    """# G4 G19"""
    live = Live(engine_name)
    assert live.enter("deep", 40) == [7]
    with pytest.raises(Trapped):
        live.enter("deep", 1_000)
    assert live.status == TOO_DEEP
    assert live.enter("deep", 40) == [7]
    with pytest.raises(Trapped):
        live.enter("trap")
    assert live.status == RUNNING
    assert live.enter("deep", 40) == [7]


def test_depth_is_given_back(engine_name: str) -> None:
    """# pitfalls 24, 25"""
    live = Live(engine_name)
    live.reset(10_000_000, 100)
    for _ in range(200):
        assert live.direct("deep", 40) == [7]


def test_reset_takes_large_amounts(engine_name: str) -> None:
    live = Live(engine_name)
    live.reset(2**62, 1_000)
    assert live.direct("loop", 1) == [5]
    assert 2**62 - 1_000 < live.fuel < 2**62


def test_start_runs_with_the_fuel_of_one_call(engine_name: str) -> None:
    """# G2, pitfall 20"""
    text = """(module (global $n (mut i32) (i32.const 0)) (func $s
      (loop
        (global.set $n (i32.add (global.get $n) (i32.const 1)))
        (br_if 0 (i32.lt_u (global.get $n) (i32.const {n})))))
      (start $s) (func (export "n") (result i32) (global.get $n)))"""
    live = Live(engine_name, compile_wat(text.format(n=1_000)))
    assert live.fuel == 0
    assert live.enter("n") == [1_000]
    with pytest.raises(Trapped):
        Live(engine_name, compile_wat(text.format(n=1_000_000)))


def test_entries_can_be_chosen() -> None:
    metered = meter(GUEST, LIMITS, entries=["loop"])
    assert metered.entries == {"loop": f"{ENTRY}loop"}
    names = {item.name for item in decode(metered.data).exports}
    assert names == {
        "memory",
        "add",
        "loop",
        "deep",
        "trap",
        f"{ENTRY}loop",
        metered.fuel,
        metered.status,
        metered.reset,
    }
    with pytest.raises(RestrictedModule) as caught:
        meter(GUEST, LIMITS, entries=["memory"])
    assert caught.value.rule == "entry"


def test_what_is_not_a_module() -> None:
    with pytest.raises(DecodeError):
        meter(b"(module)")
    with pytest.raises(DecodeError):
        meter(GUEST[:-1])


def test_the_output_is_the_same_each_time() -> None:
    for shape in SHAPES:
        assert meter(shape.data).data == meter(shape.data).data


def test_index_spaces_are_extended_at_their_end() -> None:
    """# G24, pitfalls 16, 17, 37"""
    text = """(module (type $t (func)) (func $a (export "a")) (global i32 (i32.const 1)) (memory 1) (data $d "x")
      (func (data.drop $d)))"""
    before = decode(compile_wat(text))
    after = decode(meter(compile_wat(text)).data)
    assert after.types[: len(before.types)] == before.types
    assert after.functions[: len(before.functions)] == before.functions
    assert after.globals[: len(before.globals)] == before.globals
    assert after.exports[: len(before.exports)] == before.exports
    assert after.custom("name") == before.custom("name") is not None
    assert after.data_count == before.data_count == 1
    assert [item.id for item in after.sections if item.id] == [1, 3, 5, 6, 7, 12, 10, 11]


def test_maxima() -> None:
    """Also of what is imported: a host cannot supply more.  # G13 G15, pitfall 30"""
    limits = Limits(memory_pages=10, table_elements=20)
    text = """(module
      (import "e" "m" (memory 1)) (import "e" "t" (table 1 30 funcref)) (import "e" "f" (func (param i32)))
      (import "e" "g" (global i32)) (table 2 5 funcref) (table 3 externref))"""
    imports = {("e", name) for name in "mtfg"}
    after = decode(meter(compile_wat(text), limits, imports=imports).data)
    assert after.all_memories() == [MemoryType(1, 10)]
    assert after.all_tables() == [TableType(0x70, 1, 20), TableType(0x70, 2, 5), TableType(0x6F, 3, 20)]
    assert after.types[after.function_types()[0]].params == (I32,)


def test_operands_of_tables_keep_their_order(engine_name: str) -> None:
    """References stand below, or between, the numbers of which the last is charged by.  # G13, pitfall 28"""
    text = """(module (table $t 2 20 funcref) (type $f (func (result i32)))
      (func $one (result i32) (i32.const 1)) (func $two (result i32) (i32.const 2)) (elem declare func $one $two)
      (func (export "grow") (param i32) (result i32) (table.grow $t (ref.func $one) (local.get 0)))
      (func (export "fill") (param i32 i32) (table.fill $t (local.get 0) (ref.func $two) (local.get 1)))
      (func (export "at") (param i32) (result i32) (call_indirect $t (type $f) (local.get 0)))
      (func (export "null") (param i32) (result i32) (ref.is_null (table.get $t (local.get 0)))))"""
    host = make_host(engine_name)
    metered = meter(compile_wat(text), Limits(table_elements=20))
    exports = host.instantiate(metered.data, {})

    def call(name: str, *arguments: int) -> list[int]:
        return host.call(exports[metered.entries[name]], *arguments)

    assert call("grow", 5) == [2]
    assert call("grow", 14) == [-1]
    call("fill", 3, 2)
    assert [call("null", at) for at in range(7)] == [[1], [1], [0], [0], [0], [0], [0]]
    assert [call("at", at) for at in range(2, 7)] == [[1], [2], [2], [1], [1]]


def test_a_host_function_that_calls_back() -> None:
    """What the guest spends while the host runs is not forgotten when the host returns.  # pitfall 27"""
    text = """(module (import "env" "ask" (func $ask (param i32)))
      (func (export "inner") (param i32) (loop (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))))
      (func (export "outer") (param i32) (call $ask (local.get 0))))"""
    metered = meter(compile_wat(text), LIMITS, imports={("env", "ask")})
    host = WasmtimeHost()
    exports: dict[str, Any] = {}

    def call_back(count: int) -> None:
        if count:
            host.call(exports["inner"], count)

    ask = host.logger("i32", call_back)
    exports.update(host.instantiate(metered.data, {"env": {"ask": ask}}))
    spent = []
    for count in (0, 10, 20):
        host.call(exports[metered.entries["outer"]], count)
        spent.append(LIMITS.call_fuel - host.call(exports[metered.fuel])[0])
    assert spent[2] - spent[1] >= 10
    assert spent[1] - spent[0] >= 10
    with pytest.raises(Trapped):
        host.call(exports[metered.entries["outer"]], 1_000_000)


def test_time_grows_with_size_and_not_faster() -> None:
    """Lines of Python executed for one function, a long one, and for many."""
    step = b"\x20\0\x04\x40\x20\0\x41\1\x6a\x21\0\x0b"
    small, large = (lines_executed(one_function(step * count + b"\x41\0")) for count in (100, 400))
    assert large < 4.2 * small
    few, many = (lines_executed(functions(count)) for count in (50, 200))
    assert many < 4.2 * few


def functions(count: int) -> bytes:
    return module((1, vector([EMPTY_TYPE])), (3, vector([b"\0"] * count)), (10, vector([body(b"\x10\0")] * count)))


def lines_executed(data: bytes) -> int:
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any]:
        nonlocal count
        count += event == "line" and "capgate" in frame.f_code.co_filename
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        meter(data)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.sampled
@given(st.data())
@settings(max_examples=examples(1_000, quick=200))
def test_any_mutation_of_a_module(draw: st.DataObject) -> None:
    """Refused, or metered; and what an engine finds valid afterwards, it found valid before.  # G26 G27"""
    data = bytearray(draw.draw(st.sampled_from(SHAPES)).data)
    for _ in range(draw.draw(st.integers(1, 3))):
        at = draw.draw(st.integers(8, len(data) - 1))
        data[at] = draw.draw(st.integers(0, 255))
    try:
        metered = meter(bytes(data))
    except WasmError:
        return
    assert is_valid(bytes(data)) or not is_valid(metered.data)
