"""Proves of one metered function body that every path through it pays, and that it is otherwise the original.

This shares no code with the rewriting. It reads the metered body with patterns of its own (:mod:`.patterns`), with the
original beside it. It follows what each path has paid (:mod:`.credit`): a charge adds to the credit, an instruction
takes its price, and it may never be short. As every loop has a price, or every branch, every cycle pays. Code that
cannot be reached takes no credit and proves nothing.

A charge compares before it pays. Small ones may leave that to others, but never where a loop or a function begins, and
the way out of the function settles what they left.
"""

from __future__ import annotations

import re
from typing import Final, NoReturn

import msgspec

from ...errors import RestrictedModule
from ..module import I32, I64, Body, Module
from . import patterns as p
from .credit import Credit
from .patterns import number, signed_number
from .prices import Prices, frame_weight

_LOOP, _IF, _BR, _RETURN, _MEMORY_GROW, _SELECT, _PREFIX = 0x03, 0x04, 0x0C, 0x0F, 0x40, 0x1C, 0xFC
_TABLE_GROW: Final = 0xFC0F


class Premises(msgspec.Struct, frozen=True):
    """What a proof relies on: how many indices the guest has, what things cost, and what memory and tables may grow
    to."""

    prices: Prices
    types: int
    functions: int
    globals: int
    memory_maximum: int
    table_maxima: tuple[int, ...]


class BodyProof:
    """The proof of one body. Raises ``RestrictedModule`` with the rule ``unproven`` where it fails."""

    def __init__(self, facts: Premises, where: str) -> None:
        self.facts = facts
        self.where = where
        self.by_byte = [facts.prices.instructions.get(code, 0) for code in range(256)]

    def check(self, original: Module, body: Body, metered: Module, new: Body, parameters: int) -> None:
        """Prove that ``new``, of the module ``metered``, is ``body`` of ``original``, and pays."""
        self.original, self.at = original.source, body.start
        self.data, self.pos = metered.source, new.start
        self.count = parameters + body.local_count
        self.credit = Credit()
        self.saved = self.bulk_at = -1
        self.bulk_unit: tuple[int, int, int | None, int | None] = (0, 0, None, None)
        self.has_calls = self.deferred = False
        self.check_locals(body, new)
        weight, nests = self.prologue(body)
        while self.step():
            pass
        self.require(self.at == body.end, "the code is not the original's")
        self.require(nests or not self.has_calls, "a call does not take depth")
        self.epilogue(new, weight, nests)

    def require(self, holds: bool, what: str) -> None:
        if not holds:
            self.fail(what)

    def fail(self, what: str) -> NoReturn:
        raise RestrictedModule("unproven", f"{self.where}, byte {self.pos}", what)

    def match(self, pattern: re.Pattern[bytes], what: str) -> re.Match[bytes]:
        piece = pattern.match(self.data, self.pos)
        if piece is None:
            self.fail(f"no {what}")
        self.pos = piece.end()
        return piece

    # Around the code of the guest

    def check_locals(self, body: Body, new: Body) -> None:
        before = len(body.locals)
        added = new.locals[before:]
        known = ((1, I64), (1, I32), (1, I32))
        self.require(new.locals[:before] == body.locals, "the locals are not the original's")
        self.require(0 < len(added) <= 3 and added == known[: len(added)], "other locals were added")
        self.added = len(added)

    def prologue(self, body: Body) -> tuple[int, bool]:
        """Check how the function begins: the weight of its frame, and whether the depth is taken."""
        counter, cost, local, *saved = self.match(p.PROLOGUE, "payment on entry").groups()
        self.require(number(counter) == self.facts.globals and number(local) == self.count, "the fuel is another")
        self.require(saved == [local, counter], "the fuel is saved elsewhere")
        self.pay(signed_number(cost))
        self.take(self.facts.prices.of_entry(body.local_count))
        nesting = p.NESTING.match(self.data, self.pos)
        depth_check = nesting or self.match(p.LEAF, "check of the depth")
        self.pos = depth_check.end()
        weight = signed_number(depth_check[2])
        stop = depth_check[3] if nesting is None else nesting[4]
        self.require(number(stop) == self.facts.functions, "too deep, and not stopped")
        least = frame_weight(self.count, body.end - body.start)
        self.require(number(depth_check[1]) == self.facts.globals + 1 and weight >= least, "the depth is another")
        if nesting is not None:
            locals_ = number(nesting[3]) == number(nesting[5]) == self.count + 2 and self.added == 3
            self.require(locals_ and nesting[6] == nesting[1], "the depth is kept elsewhere")
        return weight, nesting is not None

    def epilogue(self, new: Body, weight: int, nests: bool) -> None:
        if self.deferred:
            settled = self.match(p.SETTLE, "settling of what was deferred")
            self.require(number(settled[1]) == self.count, "something else is settled")
        way_out = self.match(p.EPILOGUE, "way out")
        local, counter, depth, given_back, depth_counter, stop = way_out.groups()
        self.require(self.pos == new.end, "something follows the way out")
        self.require(number(local) == self.count, "another fuel is saved")
        self.require(number(counter) == self.facts.globals and number(stop) == self.facts.functions, "saved elsewhere")
        self.require(nests == (depth is not None), "depth is taken and not given back, or the reverse")
        if depth is not None:
            same = number(depth) == self.count + 2 and number(depth_counter) == self.facts.globals + 1
            self.require(same and signed_number(given_back) == weight, "the depth given back is another")

    # Credit

    def pay(self, amount: int) -> None:
        self.require(amount > 0, "a charge of nothing")
        self.credit.pay(amount - self.facts.prices.charge)

    def take(self, price: int) -> None:
        if not self.credit.take(price):
            self.fail("an instruction is not paid for")

    # The code of the guest

    def step(self) -> bool:
        """Check one template or one instruction. Says whether the function goes on."""
        opcode = self.data[self.pos]
        instruction = p.INSTRUCTION.match(self.data, self.pos)
        if instruction is None:
            self.fail(f"no instruction ({opcode:#04x})")
        group = instruction.lastindex
        if group == p.LOCAL and number(instruction[group]) >= self.count:
            self.local_template(opcode)
            return True
        if group == p.GLOBAL and number(instruction[group]) >= self.facts.globals:
            self.fail("the guest's code uses a counter")
        if group == p.BRANCH and self.original[self.at] == _RETURN:
            self.returned(opcode, number(instruction[group]))
            return True
        return self.instruction(opcode, instruction)

    def local_template(self, opcode: int) -> None:
        """Check one of the templates that start with a local which the guest does not have."""
        start = self.pos
        charge, defer = p.CHARGE.match(self.data, start), p.DEFER.match(self.data, start)
        if charge is not None:
            fuel, cost, label, again, same_cost, stored = charge.groups()
            fuels = number(fuel) == number(again) == number(stored) == self.count
            self.require(fuels and cost == same_cost, "a charge to something else")
            self.require(number(label) == self.credit.depth + 1, "a charge that does not stop")
            self.pos = charge.end()
            self.pay(signed_number(cost))
        elif defer is not None:
            fuel, cost, stored = defer.groups()
            self.require(number(fuel) == number(stored) == self.count, "a charge to something else")
            self.require(self.facts.prices.may_defer(signed_number(cost)), "too large a charge is deferred")
            self.pos = defer.end()
            self.deferred = True
            self.pay(signed_number(cost))
        elif opcode == 0x20:
            local, counter = self.match(p.SAVE, "saving of the fuel").groups()
            self.require(number(local) == self.count and number(counter) == self.facts.globals, "saved elsewhere")
            self.saved = self.pos
        else:
            self.bulk_template()

    def bulk_template(self) -> None:
        template = self.match(p.BULK, "charge for a length")
        length, fuel, again, capped, most, table, multiplier, shift, fuel_again, label, last = template.groups()
        lengths = {number(item) for item in (length, again, last, capped or length)}
        self.require(lengths == {self.count + 1} and self.added > 1, "another length is charged for")
        self.require(number(fuel) == number(fuel_again) == self.count, "a charge to something else")
        self.require(number(label) == self.credit.depth + 1, "a charge that does not stop")
        self.bulk_at = self.pos
        self.bulk_unit = (
            1 if multiplier is None else signed_number(multiplier),
            0 if shift is None else signed_number(shift),
            None if most is None else signed_number(most),
            None if table is None else number(table),
        )

    def instruction(self, opcode: int, match: re.Match[bytes]) -> bool:
        """Check one instruction of the guest, which must be the next one of the original."""
        start, group = self.pos, match.lastindex
        self.pos = match.end()
        if group == p.TABLE:
            self.skip_lebs(number(match[p.TABLE]) + 1)
        elif group == p.OTHER:
            self.skip_other(opcode)
        size = self.pos - start
        if self.original[self.at : self.at + size] != self.data[start : self.pos]:
            self.fail("an instruction is not the original's")
        self.at += size
        if group is None or group <= p.SIMPLE:
            self.take(self.by_byte[opcode])
            return True
        return self.control(opcode, group, start, match)

    def skip_lebs(self, count: int) -> None:
        for _ in range(count):
            self.match(p.LEB, "immediate")

    def skip_other(self, opcode: int) -> None:
        """Skip the immediates of a typed select, of ``memory.grow``, of a prefixed opcode."""
        if opcode == _MEMORY_GROW:
            self.pos += 1
            return
        value = number(self.match(p.LEB, "immediate")[0])
        if opcode == _SELECT:
            self.pos += value
        else:
            self.require(value < len(p.PREFIXED), f"prefixed opcode {value}")
            self.skip_lebs(p.PREFIXED[value])

    def control(self, opcode: int, group: int, start: int, match: re.Match[bytes]) -> bool:
        if group == p.END:
            self.take(self.by_byte[opcode])
            return self.credit.end()
        if group == p.OPEN:
            self.open(opcode, match[group])
        elif group == p.ELSE:
            self.take(self.by_byte[opcode])
            self.require(self.credit.otherwise(), "an else without if")
        elif group == p.BRANCH:
            self.take(self.by_byte[opcode])
            self.branch(number(match[group]))
            if opcode == _BR:
                self.credit.leave()
        elif group == p.TABLE:
            self.take(self.by_byte[opcode])
            self.branch_table(start)
        elif group == p.CALL:
            self.take(self.by_byte[opcode])
            self.call(opcode, start)
        elif group == p.FUNC:
            self.take(self.by_byte[opcode])
            self.require(number(match[group]) < self.facts.functions, "the guest refers to an added function")
        elif group == p.OTHER:
            self.other(opcode, start)
        else:
            self.require(group == p.STOP, "a return that bypasses the way out")
            self.take(self.by_byte[opcode])
            self.credit.leave()
        return True

    def open(self, opcode: int, block_type: bytes) -> None:
        if len(block_type) > 1 or block_type[0] < 0x40:
            self.require(number(block_type) < self.facts.types, "the guest uses an added type")
        if opcode != _LOOP:
            self.take(self.by_byte[opcode])
        self.credit.open(is_loop=opcode == _LOOP, is_if=opcode == _IF)
        if opcode == _LOOP and self.credit.now is not None:
            self.loop_head()

    def loop_head(self) -> None:
        """Take the price of a loop inside of it, where its own charge must already have been made."""
        if self.by_byte[_LOOP]:
            self.require(p.CHARGE.match(self.data, self.pos) is not None, "a loop does not pay")
            self.step()
            self.take(self.by_byte[_LOOP])

    def branch(self, depth: int) -> None:
        self.require(self.credit.branch(depth), "a branch to nowhere")

    def branch_table(self, start: int) -> None:
        end = self.pos
        self.pos = start + 1
        count = number(self.match(p.LEB, "immediate")[0])
        for depth in {number(self.match(p.LEB, "immediate")[0]) for _ in range(count + 1)}:
            self.branch(depth)
        self.require(self.pos == end, "a branch table of another length")
        self.credit.leave()

    def returned(self, opcode: int, depth: int) -> None:
        """Check that a return of the original has become a branch to the way out."""
        self.require(opcode == _BR and depth == self.credit.depth, "a return that leads elsewhere")
        self.pos = self.match(p.INSTRUCTION, "branch").end()
        self.at += 1
        self.take(self.by_byte[_RETURN])
        self.credit.leave()

    def call(self, opcode: int, start: int) -> None:
        index = number(self.leb_at(start + 1))
        limit = self.facts.functions if opcode == 0x10 else self.facts.types
        self.require(index < limit, "the guest calls an added function")
        if self.credit.now is None:
            return
        self.has_calls = True
        self.require(self.saved == start, "a call without the fuel saved")
        counter, local = self.match(p.LOAD, "taking back of the fuel").groups()
        self.require(number(counter) == self.facts.globals and number(local) == self.count, "the fuel is another")

    def leb_at(self, position: int) -> bytes:
        leb = p.LEB.match(self.data, position)
        return leb[0] if leb else b"\xff\xff\xff\xff\x7f"

    def other(self, opcode: int, start: int) -> None:
        code = opcode if opcode != _PREFIX else 0xFC00 | number(self.leb_at(start + 1))
        self.take(self.facts.prices.of(code))
        unit = self.facts.prices.units.get(code)
        if unit is None or self.credit.now is None:
            return
        most = table = None
        if unit.capped:
            most = self.facts.memory_maximum
            if code == _TABLE_GROW:
                table = self.table_index(start + 1)
                most = self.facts.table_maxima[table]
        self.require(self.bulk_at == start, "a length is not charged for")
        self.require(
            self.bulk_unit == (unit.multiplier, unit.shift, most, table), "a length is charged at another price"
        )

    def table_index(self, position: int) -> int:
        """Return the table named behind the number at ``position``."""
        index = number(self.leb_at(position + len(self.leb_at(position))))
        self.require(index < len(self.facts.table_maxima), "a table that does not exist")
        return index
