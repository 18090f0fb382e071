"""Writes the instructions of the metering: how a charge is made, and nothing about where or how much.

The counters are three private mutable globals: fuel (i64), depth (i32) and status (i32). Inside a function the fuel is
kept in a local, which engines hold in a register. It is loaded on entry, saved before every call and on every exit, and
loaded again after every call. A charge leaves for the end of the function when there is not enough. There the status is
set, so that a host can tell exhaustion from any other trap by asking. The fuel is set to nothing, so that the same
instance cannot go on. A small charge may be deferred: it subtracts, and the next one that compares sees it, at the
latest on the way out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from ..encode import i32_const, i64_const
from ..leb128 import unsigned
from .prices import ACCESSES_PER_WEIGHT, SHIFT, UnitPrice

RUNNING: Final = 0
OUT_OF_FUEL: Final = 1
TOO_DEEP: Final = 2

_BLOCK, _IF, _END, _BR_IF, _RETURN, _CALL = b"\x02", b"\x04", b"\x0b", b"\x0d", b"\x0f", b"\x10"
_UNREACHABLE: Final = b"\x00"
_LOCAL_GET, _LOCAL_SET, _LOCAL_TEE, _GLOBAL_GET, _GLOBAL_SET = b"\x20", b"\x21", b"\x22", b"\x23", b"\x24"
_SELECT, _EMPTY = b"\x1b", b"\x40"
_I32_LT_S, _I32_LE_U, _I32_ADD, _I32_SUB = b"\x48", b"\x4d", b"\x6a", b"\x6b"
_I32_GT_U, _I32_MUL, _I32_AND = b"\x4b", b"\x6c", b"\x71"
_I64_LT_S, _I64_SUB, _I64_MUL, _I64_SHR_U, _I64_EXTEND_I32_U = b"\x53", b"\x7d", b"\x7e", b"\x88", b"\xad"
_MEMORY_SIZE, _TABLE_SIZE = b"\x3f\0", b"\xfc\x10"
#: i64 i32 -> i64: shift so many times.
_SHIFT: Final = i32_const(SHIFT) + _I32_MUL + _I64_EXTEND_I32_U + _I64_SHR_U
_NEGATIVE: Final = i64_const(0) + _I64_LT_S


def memory_room(most: int) -> bytes:
    """Write how many pages the memory, of at most ``most``, can still grow."""
    return i32_const(most) + _MEMORY_SIZE + _I32_SUB


def table_room(most: int, table: int) -> bytes:
    """Write how many elements the table with this index, of at most ``most``, can still grow."""
    return i32_const(most) + _TABLE_SIZE + unsigned(table) + _I32_SUB


def scale(growth: tuple[int, ...]) -> bytes:
    """Write i64 -> i64: what an amount of fuel is worth with a memory of the size that it has."""
    return _times([_MEMORY_SIZE + i32_const(pages) + _I32_GT_U for pages in growth]) + _SHIFT if growth else b""


def _times(conditions: list[bytes]) -> bytes:
    """Put on the stack how many of the conditions hold."""
    return conditions[0] + b"".join(item + _I32_ADD for item in conditions[1:])


class Counters(msgspec.Struct, frozen=True):
    """The indices of what the metering appends: its globals, and the function that ends an exhausted call."""

    fuel: int
    depth: int
    status: int
    stop: int


class Writer:
    """Writes what surrounds and interrupts one function, whose ``first`` added local has that index."""

    def __init__(self, counters: Counters, first: int) -> None:
        fuel, length, depth = (unsigned(first + i) for i in range(3))
        self.get_fuel = _LOCAL_GET + fuel
        self.set_fuel = _LOCAL_SET + fuel
        self.tee_fuel = _LOCAL_TEE + fuel
        self.length = length
        self.get_depth = _LOCAL_GET + depth
        self.tee_depth = _LOCAL_TEE + depth
        self.depth = unsigned(counters.depth)
        #: Before a call: the fuel left goes to where the callee finds it. After it: what the callee left comes back.
        self.save = self.get_fuel + _GLOBAL_SET + unsigned(counters.fuel)
        self.load = _GLOBAL_GET + unsigned(counters.fuel) + _LOCAL_SET + fuel
        self.start = _GLOBAL_GET + unsigned(counters.fuel)
        self.stop = _CALL + unsigned(counters.stop) + _UNREACHABLE
        #: Charges that were written, by purpose, price and depth, and whether each is left to a later one.
        self.charges: dict[tuple[int, int, int], tuple[bytes, bool]] = {}

    def locals(self, *, bulk: bool, calls: bool) -> list[bytes]:
        """Write the declarations of the added locals, in the order of their indices: fuel, length, depth."""
        return [b"\x01\x7e", b"\x01\x7f", b"\x01\x7f"][: 3 if calls else 2 if bulk else 1]

    def charge(self, cost: int, label: int) -> bytes:
        """Leave by ``label`` if less than ``cost`` is left, else pay it."""
        too_little = self.get_fuel + i64_const(cost) + _I64_LT_S
        return too_little + _BR_IF + unsigned(label) + self.defer(cost)

    def defer(self, cost: int) -> bytes:
        """Pay ``cost``, be it there or not."""
        return self.get_fuel + i64_const(cost) + _I64_SUB + self.set_fuel

    def pay(self, cost: bytes, label: int) -> bytes:
        """Subtract what ``cost`` puts on the stack from the fuel that is there, and leave by ``label`` if it was
        not."""
        return cost + _I64_SUB + self.tee_fuel + _NEGATIVE + _BR_IF + unsigned(label)

    def bulk(self, unit: UnitPrice, room: bytes, label: int) -> bytes:
        """Pay for the length on top of the stack, which stays there. It is an unsigned i32, and the product an i64.

        Where the unit is capped, ``room`` puts on the stack by how much there is room to grow.
        """
        length = _LOCAL_GET + self.length
        cost = length
        if unit.capped:
            cost = length + i32_const(0) + length + room + _I32_LE_U + _SELECT
        cost += _I64_EXTEND_I32_U
        if unit.multiplier != 1:
            cost += i64_const(unit.multiplier) + _I64_MUL
        if unit.shift:
            cost += i64_const(unit.shift) + _I64_SHR_U
        return _LOCAL_SET + self.length + self.get_fuel + self.pay(cost, label) + length

    def grown(self, growth: tuple[int, ...], depth: int, weight: int, label: int) -> bytes:
        """Write what stands behind ``memory.grow``, whose result is the size before or -1.

        The fuel becomes worth less for each size that the memory went past. Then it pays for loads that the open frames
        have paid too little for. Their code can have no more of them than it weighs: ``depth`` is the most that there
        may be of that, ``weight`` this function's. Before it the fuel is not negative: the growth was just paid.
        """
        if not growth:
            return b""
        before, length = _LOCAL_GET + self.length, _LOCAL_SET + self.length
        conditions = [
            _MEMORY_SIZE + i32_const(pages) + _I32_GT_U + before + i32_const(pages) + _I32_LE_U + _I32_AND
            for pages in growth
        ]
        past = _LOCAL_TEE + self.length + _times(conditions) + length
        taken = i32_const(depth + weight) + _GLOBAL_GET + self.depth + _I32_SUB
        owed = before + taken + _I32_MUL + i32_const(ACCESSES_PER_WEIGHT) + _I32_MUL + _I64_EXTEND_I32_U
        return past + self.get_fuel + before + _SHIFT + self.pay(owed, label)

    def prologue(self, cost: int, weight: int, results: bytes, *, calls: bool) -> bytes:
        """Pay for the entry and the first block, take the depth, and open a block in place of the function's own."""
        # Saved right away, so that what a trap finds in the counter is never more than what was left on entry.
        take_fuel = self.start + self.pay(i64_const(cost), 0) + self.save
        left = _GLOBAL_GET + self.depth + i32_const(weight)
        too_deep = _IF + _EMPTY + i32_const(TOO_DEEP) + self.stop + _END
        if calls:
            left += _I32_SUB + self.tee_depth + i32_const(0) + _I32_LT_S + too_deep
            left += self.get_depth + _GLOBAL_SET + self.depth
        else:  # nothing is called from here, so nobody would see the depth that is left
            left += _I32_LT_S + too_deep
        return _BLOCK + _EMPTY + take_fuel + left + _BLOCK + results

    def epilogue(self, weight: int, *, calls: bool, deferred: bool) -> bytes:
        """Save the fuel and give the depth back, where every exit of the function leads; and end where exhaustion
        leads."""
        settle = self.get_fuel + _NEGATIVE + _BR_IF + b"\0" if deferred else b""
        give_back = self.get_depth + i32_const(weight) + _I32_ADD + _GLOBAL_SET + self.depth if calls else b""
        exhausted = i32_const(OUT_OF_FUEL) + self.stop
        return settle + self.save + give_back + _RETURN + _END + exhausted + _END


def stop_body(counters: Counters) -> bytes:
    """Write (i32) -> (): record why, leave nothing to go on with, and trap."""
    status = _LOCAL_GET + b"\0" + _GLOBAL_SET + unsigned(counters.status)
    return status + i64_const(0) + _GLOBAL_SET + unsigned(counters.fuel) + _UNREACHABLE + _END


def read_body(index: int) -> bytes:
    """Write () -> the value of a global."""
    return _GLOBAL_GET + unsigned(index) + _END


def reset_body(counters: Counters, growth: tuple[int, ...]) -> bytes:
    """Write (i64, i32) -> (): set fuel and depth, and clear the status."""
    return _set(counters, _LOCAL_GET + b"\0" + scale(growth), _LOCAL_GET + b"\1") + _END


def _set(counters: Counters, fuel: bytes, depth: bytes) -> bytes:
    """Set fuel and depth to what these expressions give, and clear the status."""
    set_fuel = fuel + _GLOBAL_SET + unsigned(counters.fuel)
    set_depth = depth + _GLOBAL_SET + unsigned(counters.depth)
    return set_fuel + set_depth + i32_const(RUNNING) + _GLOBAL_SET + unsigned(counters.status)


def entry_body(
    counters: Counters, target: int, parameters: int, fuel: int, depth: int, growth: tuple[int, ...] = ()
) -> bytes:
    """Write a function of the type of ``target``: begin a call of it with this fuel and depth."""
    arguments = b"".join(_LOCAL_GET + unsigned(index) for index in range(parameters))
    return (
        _set(counters, i64_const(fuel) + scale(growth), i32_const(depth)) + arguments + _CALL + unsigned(target) + _END
    )


def move_body(moves: Mapping[int, int]) -> bytes:
    """Write () -> (): set each global of ``moves`` to what its key has."""
    return _moves(moves) + _END


def begin_body(counters: Counters, moves: Mapping[int, int], fuel: int, depth: int, growth: tuple[int, ...]) -> bytes:
    """Write () -> (): begin a call with this fuel and depth, and move globals as :func:`move_body` does."""
    return _set(counters, i64_const(fuel) + scale(growth), i32_const(depth)) + _moves(moves) + _END


def _moves(moves: Mapping[int, int]) -> bytes:
    return b"".join(_GLOBAL_GET + unsigned(source) + _GLOBAL_SET + unsigned(target) for source, target in moves.items())


def start_body(counters: Counters, target: int, fuel: int, depth: int) -> bytes:
    """Write () -> (): run the start function with this fuel, of which nothing remains for whoever calls without a
    reset."""
    spend_rest = i64_const(0) + _GLOBAL_SET + unsigned(counters.fuel)
    return _set(counters, i64_const(fuel), i32_const(depth)) + _CALL + unsigned(target) + spend_rest + _END
