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
from .patterns import leb, number, signed_number
from .prices import Prices, frame_weight

#: What is checked alone: before it something may stand, its immediates are counted, or it was changed.
_ALONE: Final = frozenset({p.TABLE, p.RETURN, p.STOP, p.CALL, p.OTHER})
_LOOP, _IF, _BR, _RETURN, _MEMORY_GROW, _SELECT, _PREFIX = 0x03, 0x04, 0x0C, 0x0F, 0x40, 0x1C, 0xFC
_TABLE_GROW: Final = 0xFC0F


class Premises(msgspec.Struct, frozen=True):
    """What a proof relies on: how many indices the guest has, what things cost, and what memory and tables may grow
    to."""

    prices: Prices
    types: int
    functions: int
    globals: int
    call_depth: int
    memory_maximum: int
    table_maxima: tuple[int, ...]


class _Foreign(Exception):
    """An instruction of the guest's uses a local or a global that the guest does not have."""


class _PriceOf(dict[bytes, int]):
    """The price of each simple instruction, by its bytes. Raises :class:`_Foreign` for an index past the guest's."""

    def __init__(self, by_byte: list[int], locals_: int, globals_: int) -> None:
        super().__init__()
        self._by_byte, self._locals, self._globals = by_byte, locals_, globals_

    def __missing__(self, instruction: bytes) -> int:
        opcode = instruction[0]
        if 0x20 <= opcode <= 0x24:
            limit = self._locals if opcode <= 0x22 else self._globals
            if number(instruction[1:]) >= limit:
                raise _Foreign
        price = self[instruction] = self._by_byte[opcode]
        return price


class BodyProof:
    """The proof of the bodies of one module, one after another. Raises ``RestrictedModule`` with the rule ``unproven``
    where it fails."""

    def __init__(self, facts: Premises) -> None:
        self.facts = facts
        self.where = ""
        self.by_byte = [facts.prices.instructions.get(code, 0) for code in range(256)]
        self.by_byte[_LOOP] = 0  # it is paid inside of it
        #: By how many locals there are: the prices of instructions, and of runs of them; and what charges pay.
        self.prices: dict[int, tuple[_PriceOf, dict[bytes, int], dict[bytes, tuple[int, int | None]]]] = {}
        self.counter = leb(facts.globals)

    def check(self, original: Module, body: Body, metered: Module, new: Body, parameters: int, where: str) -> None:
        """Prove that ``new``, of the module ``metered``, is ``body`` of ``original``, and pays."""
        self.where = where
        self.original, self.at = original.source, body.start
        self.data, self.pos = metered.source, new.start
        locals_ = body.local_count
        self.count = parameters + locals_
        self.fuel = leb(self.count)
        self.get_fuel, self.set_length = b"\x20" + self.fuel, b"\x21" + leb(self.count + 1)
        #: Around a call: the counter gets what the local has, and the local what the counter has.
        self.save = self.get_fuel + b"\x24" + self.counter
        self.load = b"\x23" + self.counter + b"\x21" + self.fuel
        known = self.prices.get(self.count)
        if known is None:
            known = self.prices[self.count] = _PriceOf(self.by_byte, self.count, self.facts.globals), {}, {}
        self.price_of, self.runs, self.payments = known
        self.credit = Credit()
        self.saved = self.bulk_at = -1
        self.bulk_unit: tuple[int, int, int | None, int | None] = (0, 0, None, None)
        self.has_calls = self.deferred = False
        self.check_locals(body, new)
        weight, nests = self.prologue(body, locals_)
        self.weight = weight
        self.walk()
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

    def prologue(self, body: Body, locals_: int) -> tuple[int, bool]:
        """Check how the function begins: the weight of its frame, and whether the depth is taken."""
        counter, cost, local, *saved = self.match(p.PROLOGUE, "payment on entry").groups()
        self.require(number(counter) == self.facts.globals and number(local) == self.count, "the fuel is another")
        self.require(saved == [local, counter], "the fuel is saved elsewhere")
        self.pay(signed_number(cost))
        self.take(self.facts.prices.of_entry(locals_))
        nesting = p.NESTING.match(self.data, self.pos)
        depth_check = nesting or self.match(p.LEAF, "check of the depth")
        self.pos = depth_check.end()
        weight = signed_number(depth_check[2])
        stop = depth_check[3] if nesting is None else nesting[4]
        self.require(number(stop) == self.facts.functions, "too deep, and not stopped")
        least = frame_weight(self.count, body.end - body.start)
        self.require(number(depth_check[1]) == self.facts.globals + 1 and weight >= least, "the depth is another")
        if nesting is not None:
            kept = number(nesting[3]) == number(nesting[5]) == self.count + 2 and self.added == 3
            self.require(kept and nesting[6] == nesting[1], "the depth is kept elsewhere")
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

    def walk(self) -> None:
        """Check runs of simple instructions, and the one behind each, up to the end of the function. They must be the
        next ones of the original. Templates may stand around them."""
        original, data, credit = self.original, self.data, self.credit
        match, runs, by_byte, get_fuel = p.STEP.match, self.runs, self.by_byte, self.get_fuel
        going = True
        while going:
            step = match(original, self.at)
            if step is None:
                self.fail("the original has no instruction there")
            while data.startswith(get_fuel, self.pos):
                self.fuel_template()
            group, run = step.lastindex, step[p.RUN]
            if group in _ALONE:
                if run:
                    self.same(run)
                    self.take(self.run_price(run))
                self.templates()
                self.alone(step, group)
                continue
            text, last = step[0], original[step.end(p.RUN)]
            if not data.startswith(text, self.pos):
                self.fail("an instruction is not the original's")
            self.pos += len(text)
            self.at += len(text)
            if credit.now is not None or run:  # an index counts wherever it stands
                price = runs.get(run)
                if price is None:
                    price = self.run_price(run)
                if not credit.take(price + by_byte[last]):
                    self.fail("an instruction is not paid for")
            going = credit.end() if group == p.END else self.control(step, group, last)

    def same(self, text: bytes) -> None:
        """Check that ``text``, which is next in the original, is here as well."""
        if not self.data.startswith(text, self.pos):
            self.fail("an instruction is not the original's")
        self.pos += len(text)
        self.at += len(text)

    def run_price(self, run: bytes) -> int:
        """Return what a run of simple instructions costs."""
        price = self.runs.get(run)
        if price is None:
            try:
                price = self.runs[run] = sum(map(self.price_of.__getitem__, p.SIMPLE.findall(run)))
            except _Foreign:
                self.fail("the guest's code uses a counter")
        return price

    def templates(self) -> None:
        """Check what the metering has put here: each of its templates begins with a local that the guest does not
        have."""
        data = self.data
        while True:
            if data.startswith(self.get_fuel, self.pos):
                self.fuel_template()
            elif data.startswith(self.set_length, self.pos):
                self.bulk_template()
            else:
                return

    def fuel_template(self) -> None:
        """Check one of the templates that start with the local of the fuel."""
        start = self.pos
        if self.data.startswith(self.save, start):
            self.pos = self.saved = start + len(self.save)
            return
        payment = p.PAYMENT.match(self.data, start)
        if payment is None:
            self.fail("no payment, and no saving of the fuel")
        text = payment[0]
        known = self.payments.get(text)
        if known is None:
            known = self.payments[text] = self.payment(*payment.groups())
        amount, label = known
        if label is None:
            self.deferred = True
        elif label != self.credit.depth + 1:
            self.fail("a charge that does not stop")
        self.pos = start + len(text)
        self.credit.pay(amount)

    def payment(
        self, fuel: bytes, cost: bytes, label: bytes | None, again: bytes | None, same_cost: bytes | None, stored: bytes
    ) -> tuple[int, int | None]:
        """Return what a charge pays beside its own price, and where it leaves; ``None`` where it is deferred."""
        if fuel != stored or fuel != self.fuel:
            self.fail("a charge to something else")
        amount = signed_number(cost)
        self.require(amount > 0, "a charge of nothing")
        left = amount - self.facts.prices.charge
        if label is None:
            self.require(self.facts.prices.may_defer(amount), "too large a charge is deferred")
            return left, None
        if again != fuel or same_cost != cost:
            self.fail("a charge to something else")
        return left, number(label)

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

    def control(self, step: re.Match[bytes], group: int | None, opcode: int) -> bool:
        """Follow the control flow behind an instruction that was paid. Says that the function goes on."""
        if group == p.BRANCH:
            self.branch(number(step[p.BRANCH]))
            if opcode == _BR:
                self.credit.leave()
        elif group == p.OPEN:
            self.open(opcode, step[p.OPEN])
        elif group == p.ELSE:
            self.require(self.credit.otherwise(), "an else without if")
        else:
            self.require(group == p.FUNC, "an instruction that is not known")
            self.require(number(step[p.FUNC]) < self.facts.functions, "the guest refers to an added function")
        return True

    def alone(self, step: re.Match[bytes], group: int | None) -> None:
        """Check one instruction before which the metering may have put something, or which it may have changed."""
        if group == p.RETURN:
            self.returned()
            return
        start, opcode, end = self.pos, self.original[self.at], step.end()
        if group == p.TABLE:
            end = self.skip_lebs(end, number(step[p.TABLE]) + 1)
        elif group == p.OTHER:
            end = self.skip_other(opcode, end)
        self.same(self.original[self.at : end])
        if group == p.OTHER:
            self.other(opcode, start)
            return
        self.take(self.by_byte[opcode])
        if group == p.CALL:
            self.call(opcode, start)
        elif group == p.TABLE:
            self.branch_table(start)
        else:
            self.credit.leave()

    def skip_lebs(self, position: int, count: int) -> int:
        """Return the position in the original behind so many immediates."""
        for _ in range(count):
            immediate = p.LEB.match(self.original, position)
            if immediate is None:
                self.fail("no immediate")
            position = immediate.end()
        return position

    def skip_other(self, opcode: int, position: int) -> int:
        """Return the position behind the immediates of a typed select, of ``memory.grow``, of a prefixed opcode."""
        if opcode == _MEMORY_GROW:
            return position + 1
        after = self.skip_lebs(position, 1)
        value = number(self.original[position:after])
        if opcode == _SELECT:
            return after + value
        self.require(value < len(p.PREFIXED), f"prefixed opcode {value}")
        return self.skip_lebs(after, p.PREFIXED[value])

    def open(self, opcode: int, block_type: bytes) -> None:
        if len(block_type) > 1 or block_type[0] < 0x40:
            self.require(number(block_type) < self.facts.types, "the guest uses an added type")
        self.credit.open(is_loop=opcode == _LOOP, is_if=opcode == _IF)
        if opcode == _LOOP and self.credit.now is not None:
            self.loop_head()

    def loop_head(self) -> None:
        """Take the price of a loop inside of it, where its own charge must already have been made."""
        price = self.facts.prices.instructions.get(_LOOP, 0)
        if price:
            before = self.deferred
            self.deferred = False
            if not self.data.startswith(self.get_fuel, self.pos) or self.data.startswith(self.save, self.pos):
                self.fail("a loop does not pay")
            self.fuel_template()
            self.require(not self.deferred, "a loop does not pay at once")
            self.deferred = before
            self.take(price)

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

    def returned(self) -> None:
        """Check that a return of the original has become a branch to the way out."""
        branch = self.match(p.BRANCH_OUT, "branch to the way out")
        self.require(number(branch[1]) == self.credit.depth, "a return that leads elsewhere")
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
        self.require(self.data.startswith(self.load, self.pos), "a call behind which the fuel is not taken back")
        self.pos += len(self.load)

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
        if code == _MEMORY_GROW:
            growth, depth = self.facts.prices.growth, self.facts.call_depth
            label = self.credit.depth + 1
            grown = p.grown(growth, self.count, depth, self.weight, self.facts.globals + 1, label)
            self.require(self.data.startswith(grown, self.pos), "a growth that leaves fuel worth as much as before")
            self.pos += len(grown)

    def table_index(self, position: int) -> int:
        """Return the table named behind the number at ``position``."""
        index = number(self.leb_at(position + len(self.leb_at(position))))
        self.require(index < len(self.facts.table_maxima), "a table that does not exist")
        return index
