"""Lists what executing an instruction costs, in fuel: about one nanosecond each on the slower of the two engines.

The figures are worst cases (denormal operands, cache misses), measured by ``python -m benchmarks.metering``, which
compares them again. Ordinary code takes a tenth of that or less: an instruction pays for the case in which it waits for
the one before. Locals have a price because a loop may move a thousand of them in a circle. Without it ordinary code
would take twice as much of what it pays, and no more. What an instruction costs is kept apart from where a charge
stands (:mod:`.blocks`) and how it is made (:mod:`.charges`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from ..opcodes import OPCODES

_LOOP, _BR, _BR_IF, _BR_TABLE = 0x03, 0x0C, 0x0D, 0x0E

#: A charge of at most this much need not stop the call itself, if it is not that of a loop: the comparison is what
#: costs. A path through a function passes each of its charges once before it comes to one that stops, so that a call
#: may overdraw its fuel by this much times the number of its blocks (5,000 at most, see :mod:`.rewrite`): less than a
#: tenth of a millisecond.
DEFERRED: Final = 16


class UnitPrice(msgspec.Struct, frozen=True, gc=False):
    """What each byte, page or element of a bulk operation costs: ``length * multiplier >> shift``.

    ``capped``: growing by more than there is room for costs nothing, because it then only fails.
    """

    multiplier: int
    shift: int = 0
    capped: bool = False


class Prices(msgspec.Struct, frozen=True):
    """A cost table. ``instructions`` maps opcodes to their prices, ``units`` the bulk ones to a price per unit of
    length.

    ``entry`` is paid by each call of a function, with one more for every ``locals_per_fuel`` declared locals (0: none);
    ``charge`` is what a charge itself costs, added to each. Either a loop or every branch has to cost something, and so
    does a call: nothing that goes round may be free. ``growth`` has sizes in pages: once the memory is larger, fuel is
    worth less, by :data:`SHIFT` bits for each.
    """

    instructions: dict[int, int]
    units: dict[int, UnitPrice]
    entry: int
    locals_per_fuel: int
    charge: int
    growth: tuple[int, ...] = ()

    def of(self, opcode: int) -> int:
        """Return the price of one opcode, without its length."""
        return self.instructions[opcode]

    def prices_cycles(self) -> bool:
        """Say whether nothing that goes round is free."""
        branches = all(self.instructions.get(code, 0) > 0 for code in (_BR, _BR_IF, _BR_TABLE))
        return self.entry > 0 and (branches or self.instructions.get(_LOOP, 0) > 0)

    def may_defer(self, cost: int) -> bool:
        """Say whether a charge may leave it to the next one that stops: a small one, where loops have a price of their
        own."""
        return cost <= DEFERRED and self.instructions.get(_LOOP, 0) > 0

    def of_entry(self, local_count: int) -> int:
        """Return what calling a function with that many declared locals costs, before its first instruction."""
        return self.entry + (local_count // self.locals_per_fuel if self.locals_per_fuel else 0)


#: A frame weighs one, and one more for each so many operands and locals, and for each so many bytes of code. Engines
#: keep about eight bytes on the native stack for each value that lives across a call.
SLOTS_PER_WEIGHT: Final = 4
CODE_PER_WEIGHT: Final = 512
#: How many loads there can be in the code of a frame, for each that it weighs: each takes three bytes.
ACCESSES_PER_WEIGHT: Final = -(-CODE_PER_WEIGHT // 3)


def frame_weight(slots: int, code_bytes: int) -> int:
    """Return what a call of a function with that many parameters, locals and operands takes from the depth."""
    return 1 + slots // SLOTS_PER_WEIGHT + code_bytes // CODE_PER_WEIGHT


#: Instructions that generate no machine code of their own. A loop is not among them: each iteration pays for it.
_FREE: Final = "nop block else end drop"

_PRICED: Final[dict[int, str]] = {
    2: "br_table memory.size i32.load8_s i32.load16_s i64.load8_s i64.load16_s select select_t",
    4: "call f32.convert_i64_u f64.convert_i64_u i32.clz i32.ctz i32.popcnt i64.clz i64.ctz i64.popcnt",
    8: (
        "call_indirect i32.trunc_f32_s i32.trunc_f32_u i32.trunc_f64_s i32.trunc_f64_u i64.trunc_f32_s i64.trunc_f32_u "
        "i64.trunc_f64_s i64.trunc_f64_u "
        "i32.trunc_sat_f32_s i32.trunc_sat_f32_u i32.trunc_sat_f64_s i32.trunc_sat_f64_u "
        "i64.trunc_sat_f32_s i64.trunc_sat_f32_u i64.trunc_sat_f64_s i64.trunc_sat_f64_u "
        "f32.min f32.max f64.min f64.max f32.add f32.sub f64.add f64.sub"
    ),
    16: (
        "i32.div_s i32.div_u i32.rem_s i32.rem_u f32.ceil f32.floor f32.trunc f32.nearest f64.ceil f64.floor f64.trunc "
        "f64.nearest table.get table.set table.size ref.func"
    ),
    32: "i64.div_s i64.div_u i64.rem_s i64.rem_u f32.mul f64.mul f32.demote_f64 f64.promote_f32",
    64: "f32.div f64.div f32.sqrt f64.sqrt",
    128: "memory.fill memory.copy memory.init table.fill table.copy table.init data.drop elem.drop",
    4096: "memory.grow table.grow",
}

_MEMORY_ACCESS: Final = frozenset(range(0x28, 0x3F))

#: (largest memory in pages, price of a load or store): what a cache miss costs in a memory of that size. Each price is
#: the one before, shifted by :data:`SHIFT`.
_ACCESS: Final = ((32, 1), (128, 8), (65_536, 64))
SHIFT: Final = 3

_UNITS: Final = {
    "memory.fill": UnitPrice(1, 2),
    "memory.copy": UnitPrice(1, 2),
    "memory.init": UnitPrice(1, 2),
    "memory.grow": UnitPrice(32_768, 0, capped=True),
    "table.fill": UnitPrice(12),
    "table.copy": UnitPrice(24),
    "table.init": UnitPrice(16),
    "table.grow": UnitPrice(8, 0, capped=True),
}

_BY_NAME: Final = {row.name: row.code for row in OPCODES.values()}


def prices_for(pages: int, most: int = 0) -> Prices:
    """Return the cost table for a memory of ``pages`` pages of 64 KiB, that may grow to ``most``.

    What a load costs depends on how large a memory is, and not on how large it may become: most never grow. So one that
    grows past what the table is for makes whatever is left of the fuel worth less.
    """
    access = next(price for most, price in _ACCESS if pages <= most)
    instructions = {row.code: 1 for row in OPCODES.values() if row.allowed}
    instructions.update((_BY_NAME[name], 0) for name in _FREE.split())
    for price, names in _PRICED.items():
        instructions.update((_BY_NAME[name], price) for name in names.split())
    instructions.update((code, max(access, instructions[code])) for code in _MEMORY_ACCESS)
    units = {_BY_NAME[name]: unit for name, unit in _UNITS.items()}
    growth = tuple(limit for limit, _ in _ACCESS if pages <= limit < most)
    return Prices(instructions, units, entry=4, locals_per_fuel=4, charge=1, growth=growth)
