"""Describes what a function is going to pay, and where: found by :mod:`.blocks`, written out by :mod:`.rewrite`."""

from __future__ import annotations

from typing import Final

import msgspec

#: What a site is for. Each is at ``position`` in the source, inside ``depth`` blocks of the function.
CHARGE, HEAD, CALL, SAVE, BULK, RETURN = range(6)

#: The bulk operations, whose price depends on the length on top of the stack.
BULK_OPERATIONS: Final = frozenset({0x40, 0xFC08, 0xFC0A, 0xFC0B, 0xFC0C, 0xFC0E, 0xFC0F, 0xFC11})


class Loading(msgspec.Struct, frozen=True):
    """The ``fuel`` of the start function, and of the entries that call ``exports``."""

    fuel: int
    exports: frozenset[str] = frozenset()


class Site(msgspec.Struct, frozen=True, gc=False):
    """Something to write before ``position`` (for a call also after it, at ``argument``).

    ``argument`` is the metered block of a charge (a ``HEAD`` is that of a loop), the end of a call, the opcode of a
    bulk operation; ``table`` the index of the table that ``table.grow`` grows.
    """

    purpose: int
    position: int
    depth: int
    argument: int = 0
    table: int = 0


class Plan(msgspec.Struct):
    """The metered blocks of one function: ``costs`` by block, the first one being the entry, without the price of
    entry.

    ``height`` is how many operands are on the stack at most; ``calls`` and ``bulk`` say whether it contains such.
    """

    costs: list[int]
    sites: list[Site]
    height: int = 0
    calls: bool = False
    bulk: bool = False
