"""Instances that are set back before each question: as safe as new ones, whatever a hostile guest does (T-5)."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from capgate.errors import AbiError
from capgate.limits import Limits
from capgate.model import Allow, Deny, PolicyInput, PolicyResult, Resource, User
from capgate.runtime.abi.memory_image import MemoryImage
from capgate.runtime.engine import load_engine
from capgate.runtime.interpreter import RESTORED_PAGES, CompiledPolicy, PreparedPolicy
from capgate.runtime.pool import WasmPool

from ...support.guests import ALLOW, HEAP, PAGE, REASON, RESULT, artifact, data, guest
from ...support.tools import examples
from .inputs import INPUTS
from .test_record import DIGESTER

PAGES: Final = 4
TOLD: Final = Deny("told")
QUESTION: Final = PolicyInput("db.write", User("alice"), Resource("sql_query", "upsert"), "ab" * 32)
#: Behind what a question takes, so that it is the guest's alone.
FREE: Final = HEAP + 4_096

#: Where a guest may keep a bit: fields of the module, an expression that is not 0 where the bit is there, what sets it.
GLOBALS: Final = {
    "i32": ("(global $g{n} (mut i32) (i32.const 0))", "(global.get $g{n})", "(global.set $g{n} (i32.const 1))"),
    "i64": (
        "(global $g{n} (mut i64) (i64.const 5))",
        "(i64.ne (global.get $g{n}) (i64.const 5))",
        "(global.set $g{n} (i64.const -1))",
    ),
    "f32": (
        "(global $g{n} (mut f32) (f32.const 0))",
        "(f32.ne (global.get $g{n}) (f32.const 0))",
        "(global.set $g{n} (f32.const 1))",
    ),
    "f64": (
        '(global $g{n} (export "g{n}") (mut f64) (f64.const 0))',
        "(f64.ne (global.get $g{n}) (f64.const 0))",
        "(global.set $g{n} (f64.const nan))",
    ),
    "funcref": (
        "(global $g{n} (mut funcref) (ref.null func))",
        "(i32.eqz (ref.is_null (global.get $g{n})))",
        "(global.set $g{n} (ref.func $bump))",
    ),
    "started": (  # set by the start function, so that what it was at first is not what it is set back to
        "(global $g{n} (mut i32) (i32.const 9)) (func $s{n} (global.set $g{n} (i32.const 0))) (start $s{n})",
        "(global.get $g{n})",
        "(global.set $g{n} (i32.const 9))",
    ),
}
GROWN: Final = (
    "",
    f"(i32.ne (memory.size) (i32.const {PAGES}))",
    "(drop (memory.grow (i32.const 1)))"
    "(i32.store8 (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 1)) (i32.const 1))",
)
TRAPS: Final = "(i32.const 0) (i32.const 0) (i32.const 1))"
#: What cannot be set back; a trap at the second question is a bit as well.
UNRESTORABLE: Final = {
    "table.set": (
        "(table $t{n} 1 funcref)",
        "(i32.eqz (ref.is_null (table.get $t{n} (i32.const 0))))",
        "(table.set $t{n} (i32.const 0) (ref.func $bump))",
    ),
    "table.grow": (
        "(table $t{n} 0 5 funcref)",
        "(table.size $t{n})",
        "(drop (table.grow $t{n} (ref.null func) (i32.const 1)))",
    ),
    "table.fill": (
        "(table $t{n} 1 funcref)",
        "(i32.eqz (ref.is_null (table.get $t{n} (i32.const 0))))",
        "(table.fill $t{n} (i32.const 0) (ref.func $bump) (i32.const 1))",
    ),
    "table.copy": (
        "(table $t{n} 1 funcref) (table $u{n} 1 funcref) (elem (table $u{n}) (i32.const 0) func $bump)",
        "(i32.eqz (ref.is_null (table.get $t{n} (i32.const 0))))",
        "(table.copy $t{n} $u{n} (i32.const 0) (i32.const 0) (i32.const 1))",
    ),
    "table.init": (
        "(table $t{n} 1 funcref) (elem $e{n} func $bump)",
        "(i32.eqz (ref.is_null (table.get $t{n} (i32.const 0))))",
        "(table.init $t{n} $e{n} (i32.const 0) (i32.const 0) (i32.const 1))",
    ),
    "data.drop": (
        '(data $d{n} "x")',
        f"(memory.init $d{{n}} {TRAPS}",
        "(data.drop $d{n})",
    ),
    "elem.drop": (
        "(table $t{n} 1 funcref) (elem $e{n} func $bump)",
        f"(table.init $t{{n}} $e{{n}} {TRAPS}",
        "(elem.drop $e{n})",
    ),
}
Channel = tuple[str, str, str]


def memory_at(address: int) -> Channel:
    return "", f"(i32.load8_u (i32.const {address}))", f"(i32.store8 (i32.const {address}) (i32.const 1))"


def spy(channels: list[Channel]) -> bytes:
    """A guest that denies where any of the channels has its bit, and sets it in all of them."""
    fields, looks, sets = [], [], []
    for number, channel in enumerate(channels):
        field, look, set_ = (text.replace("{n}", str(number)) for text in channel)
        fields.append(field)
        looks.append(look if look.endswith(TRAPS) else f"(if {look} (then (local.set $seen (i32.const 1))))")
        sets.append(set_)
    record = b"\1\0\0\0" + REASON.to_bytes(4, "little") + len(TOLD.reason).to_bytes(4, "little")
    body = f"""(local $seen i32) {" ".join(looks)} {" ".join(sets)}
        (if (result i32) (local.get $seen) (then (i32.const {RESULT + 16})) (else {ALLOW}))"""
    extra = "".join(fields) + data(RESULT + 16, record) + data(REASON, TOLD.reason.encode())
    return guest(body, extra="(elem declare func $bump)" + extra, pages=PAGES)


def told(engine_name: str, module: bytes, *, reuse: bool = False) -> tuple[list[PolicyResult], int]:
    """What three questions are answered, and how many instances that took."""
    pool = WasmPool(artifact(module), 1, engine_name, reuse=reuse)
    try:
        return [pool.call(QUESTION) for _ in range(3)], pool.statistics().spent
    finally:
        pool.close()


ADDRESSES: Final = st.one_of(
    st.sampled_from([0, 1, FREE, PAGE - 1, PAGE, PAGES * PAGE - 1]), st.integers(FREE, PAGES * PAGE - 1)
)
RESTORABLE: Final = st.one_of(st.builds(memory_at, ADDRESSES), st.sampled_from(list(GLOBALS.values())[:-1]))


@pytest.mark.sampled
@settings(max_examples=examples(60), deadline=None)
@given(channels=st.lists(RESTORABLE, min_size=1, max_size=6))
@example([memory_at(PAGES * PAGE - 1), *GLOBALS.values()])
def test_no_bit_gets_from_one_question_to_the_next(engine_name: str, channels: list[Channel]) -> None:
    module = spy(channels)
    assert told(engine_name, module) == ([Allow()] * 3, 0)  # M14, G21
    assert told(engine_name, module, reuse=True) == ([Allow(), TOLD, TOLD], 0), "no bit is kept, so this shows nothing"


def test_a_memory_that_grew_is_replaced(engine_name: str) -> None:
    assert told(engine_name, spy([GROWN])) == ([Allow()] * 3, 3)  # M17
    assert told(engine_name, spy([GROWN, memory_at(FREE)])) == ([Allow()] * 3, 3)
    assert told(engine_name, spy([GROWN]), reuse=True) == ([Allow(), TOLD, TOLD], 0)


@pytest.mark.parametrize("name", UNRESTORABLE)
def test_what_cannot_be_set_back_is_used_once(engine_name: str, name: str) -> None:
    module = spy([UNRESTORABLE[name], memory_at(FREE)])
    assert told(engine_name, module) == ([Allow()] * 3, 3)
    assert not PreparedPolicy(artifact(module), Limits()).pure


def test_a_memory_that_takes_long_to_set_back_is_used_once() -> None:
    for pages, restores in ((RESTORED_PAGES, True), (RESTORED_PAGES + 1, False)):
        prepared = PreparedPolicy(artifact(guest(pages=pages)), Limits())
        assert (prepared.restores, prepared.pure) == (restores, restores)


@pytest.mark.sampled
@settings(max_examples=examples(40), deadline=None)
@given(inputs=st.lists(INPUTS, min_size=2, max_size=6))
def test_a_used_instance_answers_as_a_new_one_does(engine_name: str, inputs: list[PolicyInput]) -> None:
    """This guest's reason is a digest of all that it finds in its memory."""
    limits = Limits(fuel=10_000_000)
    compiled = CompiledPolicy(PreparedPolicy(artifact(DIGESTER), limits), load_engine(engine_name))
    used = compiled.instantiate()
    for input in inputs:
        assert used.call_policy_check(input) == compiled.instantiate().call_policy_check(input)
    assert not used.spent


def test_a_question_in_the_middle_of_another(engine_name: str) -> None:
    """A signal's handler may ask the instance that it interrupted: its question is denied, and answers no other."""
    reads = f"(if (i32.load8_u (local.get $input)) (then (return (i32.const {RESULT + 16})))) {ALLOW}"
    module = guest(reads, extra=data(RESULT + 16, b"\1\0\0\0" + REASON.to_bytes(4, "little") + b"\0\0\0\0"))
    interpreter = CompiledPolicy(PreparedPolicy(artifact(module), Limits()), load_engine(engine_name)).instantiate()
    nobody = PolicyInput("db.write")
    assert interpreter.call_policy_check(QUESTION) == Deny("")
    call = interpreter._call
    assert call is not None
    check = call._check

    def interrupted(at: int) -> int:
        with pytest.raises(AbiError) as caught:
            call.ask(nobody)
        assert caught.value.rule == "nested"
        return check(at)

    call._check = interrupted
    assert call.ask(QUESTION) == Deny("")
    call._check = check
    assert call.ask(nobody) == Allow()


PIECES: Final = st.lists(st.tuples(st.integers(0, 2 * PAGE - 1), st.sampled_from([1, 100, 5_000])), max_size=6)


@pytest.mark.sampled
@settings(max_examples=examples(100), deadline=None)
@given(before=PIECES, after=PIECES, grown=st.sampled_from([0, 1, PAGE]))
def test_an_image_is_set_back_whole(before: list[tuple[int, int]], after: list[tuple[int, int]], grown: int) -> None:
    memory = bytearray(2 * PAGE)
    for at, count in before:
        memory[at : at + count] = bytes([7]) * len(memory[at : at + count])
    image, kept = MemoryImage(memoryview(memory)), bytes(memory)
    assert image.is_of(memoryview(memory))
    memory += bytes([1]) * grown
    for at, count in after:
        memory[at : at + count] = bytes([9]) * len(memory[at : at + count])
    assert image.is_of(memoryview(memory)) is (bytes(memory) == kept)
    image.restore(memoryview(memory))
    assert bytes(memory) == kept + bytes(grown)


def test_an_image_of_another_size() -> None:
    image = MemoryImage(memoryview(bytearray(8)))
    with pytest.raises(ValueError, match="7"):
        image.restore(memoryview(bytearray(7)))
    assert MemoryImage(memoryview(bytearray())).is_of(memoryview(bytearray()))
