"""The two functions by which a host takes globals back, and how it is found out that there is more than that."""

from __future__ import annotations

import pytest

from capgate.errors import RestrictedModule
from capgate.limits import Limits
from capgate.runtime.engine import load_engine
from capgate.wasm import Metered, decode, meter
from capgate.wasm.metering.module_proof import verify
from capgate.wasm.metering.rewrite import RESTORE_STATE, SAVE_STATE, prices_of
from capgate.wasm.state import leaves_state

from ..support.guests import wat

LIMITS = Limits()

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


def kept(text: str) -> Metered:
    return meter(wat(text), LIMITS, keeps_state=True)


class Live:
    """An instance of a metered module whose state is kept; ``call`` begins with all the fuel."""

    def __init__(self, engine_name: str, text: str) -> None:
        self.metered = kept(text)
        self.instance = load_engine(engine_name).compile(self.metered.data).instantiate()
        self.save = self.instance.function(self.metered.save, 0, 0)
        self.restore = self.instance.function(self.metered.restore, 0, 0)

    def call(self, name: str) -> int:
        return self.instance.function(self.metered.entries[name], 0, 1)()


def test_globals_of_every_type_are_noted_and_set_back(engine_name: str) -> None:
    live = Live(engine_name, GLOBALS)
    assert live.call("sum") == 15
    live.call("add")
    assert live.call("sum") == 1019
    live.restore()  # nothing was noted yet: what they were at first
    assert live.call("sum") == 15
    live.call("add")
    live.save()
    for _ in range(3):
        live.call("add")
        assert live.call("sum") == 1023
        live.restore()
        assert live.call("sum") == 1019


def test_setting_back_begins_a_call(engine_name: str) -> None:
    """With all the fuel, whatever was left: that of the function itself is called, and not the entry."""
    live = Live(engine_name, GLOBALS)
    plain = live.instance.function("sum", 0, 1)
    with pytest.raises(Exception):  # noqa: B017, PT011 - each engine has its own
        plain()  # no fuel yet  # pitfall 21
    live = Live(engine_name, GLOBALS)
    live.restore()
    assert live.instance.function("sum", 0, 1)() == 15


def test_what_was_there_stays_as_it_was() -> None:
    before, after = decode(wat(GLOBALS)), decode(kept(GLOBALS).data)
    assert after.globals[: len(before.globals)] == before.globals
    assert len(after.globals) == len(before.globals) + 3 + 6
    assert [export.name for export in after.exports[: len(before.exports)]] == ["d", "add", "sum"]
    assert {SAVE_STATE, RESTORE_STATE}.isdisjoint(e.name for e in decode(meter(wat(GLOBALS), LIMITS).data).exports)


def test_a_module_without_globals(engine_name: str) -> None:
    live = Live(engine_name, "(module)")
    live.save()
    live.restore()


@pytest.mark.parametrize("name", [SAVE_STATE, RESTORE_STATE])
def test_its_names_are_its_own(name: str) -> None:
    with pytest.raises(RestrictedModule) as caught:
        kept(f'(module (func (export "{name}")))')
    assert caught.value.rule == "reserved_name"  # G23


def proved(text: str, metered: bytes, *, keeps_state: bool = True) -> bool:
    module = decode(wat(text))
    try:
        verify(module, metered, LIMITS, prices_of(module, LIMITS), keeps_state=keeps_state)
    except RestrictedModule as error:
        return error.rule != "unproven"
    return True


#: Two mutable globals, of which each move is told apart from any other; the counters are 2, 3, 4, the copies 5, 6.
TWO = "(module (global (mut i32) (i32.const 7)) (global (mut i32) (i32.const 8)))"


def test_the_proof_knows_what_is_noted_and_set_back() -> None:
    data = kept(TWO).data
    assert proved(TWO, data)
    assert not proved(TWO, data, keeps_state=False)
    assert not proved(TWO, meter(wat(TWO), LIMITS).data)
    save, restore = b"\x23\0\x24\5\x23\1\x24\6\x0b", b"\x23\5\x24\0\x23\6\x24\1\x0b"
    assert data.count(save) == data.count(restore) == 1
    for right, wrong in (
        (save, b"\x23\0\x24\6\x23\1\x24\5\x0b"),  # each to the other's copy
        (save, b"\x23\0\x24\5\x23\0\x24\6\x0b"),  # one of them twice
        (save, b"\x23\0\x24\5\x23\1\x24\2\x0b"),  # the fuel is set by the guest
        (restore, b"\x23\6\x24\0\x23\5\x24\1\x0b"),
        (restore, b"\x23\5\x24\0\x23\6\x24\0\x0b"),  # one of them not at all
        (restore, b"\x23\0\x24\0\x23\1\x24\1\x0b"),
        (restore, save),
    ):
        assert not proved(TWO, data.replace(right, wrong)), wrong
    for other in (b"\x7f\1\x41\x09\x0b", b"\x7f\0\x41\x08\x0b", b"\x7e\1\x42\x08\x0b"):  # value, constant, type
        end = b"\x7f\1\x41\7\x0b\x7f\1\x41\x08\x0b"
        at = data.rindex(end) + 5
        assert not proved(TWO, data[:at] + other + data[at + 5 :]), other


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
