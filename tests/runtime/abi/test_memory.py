"""Linear memory that grows and moves while it is in use."""

from __future__ import annotations

import ctypes
from typing import Final

import pytest
import wasmtime

from capgate.errors import AbiError
from capgate.limits import Limits
from capgate.model import Allow, Deny, Environment, PolicyInput, Resource, User
from capgate.runtime.abi.canonical_abi import CanonicalCall
from capgate.runtime.engine import _wasmtime
from capgate.runtime.interpreter import PreparedPolicy, WasmInterpreter

from ...support.guests import ALLOW, PAGE, REASON, RESULT, artifact, data, guest
from .inputs import read_input

SEEN: Final = 512
GROW: Final = "(drop (memory.grow (i32.const 1)))"
INPUT: Final = PolicyInput("db.write", User("alice"), Resource("sql_query", "upsert"), "ab", Environment("s", "m"), 7)
#: Every allocation grows the memory first, and so may move what the one before gave.
GROWING: Final = f"""(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    {GROW} (call $bump (local.get 2) (local.get 3)))"""
RECORDED: Final = f"(i32.store (i32.const {SEEN}) (local.get $input)) {ALLOW}"
#: The record is put where there was no memory when the strings were allocated.
AT_THE_END: Final = f"""(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (if (i32.eq (local.get 2) (i32.const 8)) (then
      {GROW} (return (i32.sub (i32.mul (memory.size) (i32.const {PAGE})) (i32.const 80)))))
    (call $bump (local.get 2) (local.get 3)))"""


class Moving:
    """A guest in a wasmtime whose memory has no room to grow where it is: every growth moves it."""

    def __init__(self, module: bytes, *, unchecked: bool, has_post: bool = False) -> None:
        config = _wasmtime._config()
        config.memory_may_move = True
        config.memory_reservation = 0
        config.memory_reservation_for_growth = 0
        prepared = PreparedPolicy(artifact(module), Limits())
        engine = wasmtime.Engine(config)
        store = wasmtime.Store(engine)
        instance = wasmtime.Instance(store, wasmtime.Module(engine, prepared.metered.data), [])
        self.instance = _wasmtime.WasmtimeInstance(store, instance, unchecked)
        self.ask = CanonicalCall(self.instance, Limits(), prepared.metered, has_post=has_post).ask

    def address(self) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(self.instance.memory_view()))

    def seen(self) -> PolicyInput:
        memory = self.instance.memory_view()
        return read_input(memory, int.from_bytes(memory[SEEN : SEEN + 4], "little"))


@pytest.mark.parametrize("unchecked", [True, False])
@pytest.mark.parametrize("realloc", [GROWING, AT_THE_END], ids=["each", "record"])
def test_an_allocation_that_moves_the_memory(realloc: str, unchecked: bool) -> None:
    moving = Moving(guest(RECORDED, realloc=realloc), unchecked=unchecked)
    addresses = {moving.address()}
    for _ in range(3):
        assert isinstance(moving.ask(INPUT), Allow)
        assert moving.seen() == INPUT  # M3
        addresses.add(moving.address())
    assert len(addresses) > 1, "the memory did not move, so this shows nothing"


@pytest.mark.parametrize("unchecked", [True, False])
def test_a_check_that_moves_the_memory_before_it_answers(unchecked: bool) -> None:
    record = (
        f"(i32.store (i32.const {RESULT}) (i32.const 1)) (i32.store offset=4 (i32.const {RESULT}) (i32.const {REASON}))"
    )
    body = f"{GROW} {record} (i32.store offset=8 (i32.const {RESULT}) (i32.const 5)) {ALLOW}"
    moving = Moving(guest(body, extra=data(REASON, b"moved")), unchecked=unchecked)
    before = moving.address()
    assert moving.ask(INPUT) == Deny("moved")  # M3
    assert moving.address() != before


@pytest.mark.parametrize("unchecked", [True, False])
def test_what_is_done_afterwards_cannot_change_the_answer(unchecked: bool) -> None:
    """``cabi_post`` moves the memory and writes an allow where the deny was; the answer was taken before."""
    moving = Moving(
        guest(
            post=f"{GROW} (memory.fill (i32.const 0) (i32.const 0) (i32.const 4096))",
            extra=data(RESULT, b"\1\0\0\0" + REASON.to_bytes(4, "little") + b"\5\0\0\0") + data(REASON, b"moved"),
        ),
        unchecked=unchecked,
        has_post=True,
    )
    assert moving.ask(INPUT) == Deny("moved")  # M3, M8
    assert bytes(moving.instance.memory_view()[RESULT : RESULT + 12]) == bytes(12)


def test_growth_up_to_the_limit_and_not_beyond(engine_name: str) -> None:
    body = f"""(loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
        (i32.store8 (i32.const {RESULT}) (i32.ne (memory.size) (i32.const 8))) {ALLOW}"""
    interpreter = WasmInterpreter(artifact(guest(body)), engine=engine_name, limits=Limits(memory_pages=8))
    assert isinstance(interpreter.call_policy_check(INPUT), Allow)  # G15
    assert interpreter._instance is not None
    assert interpreter._instance.memory_size() == 8 * PAGE


def test_an_allocator_that_asks_for_more_than_there_may_be(engine_name: str) -> None:
    realloc = f"""(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (if (i32.eq (memory.grow (i32.const 100)) (i32.const -1)) (then (return (i32.const 0))))
        (i32.const {PAGE}))"""
    interpreter = WasmInterpreter(artifact(guest(realloc=realloc)), engine=engine_name, limits=Limits(memory_pages=50))
    with pytest.raises(AbiError) as caught:
        interpreter.call_policy_check(INPUT)
    assert caught.value.rule == "allocation_failed"  # M2
