"""Describes what :mod:`.body_proof` and :mod:`.module_proof` expect, as patterns over bytes.

Written from the description of the metering, not from the code that writes it: instructions of the guest, and the
templates that may stand between them. A pattern alone proves nothing: what it captures is checked where it is used.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_U: Final = rb"[\x80-\xff]{0,4}[\x00-\x7f]"
_S: Final = rb"[\x80-\xff]{0,9}[\x00-\x7f]"
_BLOCK_TYPE: Final = rb"[\x40\x6f\x70\x7c-\x7f]|[\x80-\xff]{0,4}[\x00-\x3f]"


def _pattern(text: bytes) -> re.Pattern[bytes]:
    """Compile ``text``. ``<u>`` and ``<s>`` stand for a captured unsigned or signed LEB128; spaces are for reading."""
    spelled = text.replace(b"<u>", b"(" + _U + b")").replace(b"<s>", b"(" + _S + b")").replace(b" ", b"")
    return re.compile(spelled, re.DOTALL)


LEB: Final = re.compile(_U)
#: How many numbers are remembered: a module repeats a few.
_KNOWN: Final = 4_096

#: Perhaps leave if there is less than the cost; fuel := fuel - cost. Captures fuel, cost, (label, fuel, cost), fuel.
PAYMENT: Final = _pattern(rb"\x20<u> \x42<s> (?:\x53 \x0d<u> \x20<u> \x42<s>)? \x7d \x21<u>")
#: Charge for the length on the stack. Captures length, fuel, length, (length, most, (table)) where it is only charged
#: if there is room for it, (multiplier), (shift), fuel, label, length.
BULK: Final = _pattern(
    rb"\x21<u> \x20<u> \x20<u> (?:\x41\x00 \x20<u> \x41<s> (?:\x3f\x00|\xfc\x10<u>) \x6b \x4d \x1b)? \xad"
    rb"(?:\x42<s> \x7e)? (?:\x42<s> \x88)? \x7d \x22<u> \x42\x00 \x53 \x0d<u> \x20<u>"
)
#: Take the fuel, pay, and save what is left. Captures counter, cost, local, local, counter.
PROLOGUE: Final = _pattern(rb"\x02\x40 \x23<u> \x42<s> \x7d \x22<u> \x42\x00 \x53 \x0d\x00 \x20<u> \x24<u>")
#: Behind it where nothing is called: see that there is depth. Captures counter, weight, stop, block type.
LEAF: Final = _pattern(rb"\x23<u> \x41<s> \x48 \x04\x40\x41\x02 \x10<u> \x00\x0b \x02(" + _BLOCK_TYPE + rb")")
#: Elsewhere: take the depth. Captures counter, weight, local, stop, local, counter, block type.
NESTING: Final = _pattern(
    rb"\x23<u> \x41<s> \x6b \x22<u> \x41\x00 \x48 \x04\x40\x41\x02 \x10<u> \x00\x0b \x20<u> \x24<u> \x02("
    + _BLOCK_TYPE
    + rb")"
)
#: Stop if the fuel is negative: nothing was left to a later charge in vain. Captures the fuel.
SETTLE: Final = _pattern(rb"\x20<u> \x42\x00 \x53 \x0d\x00")
#: Save the fuel, give back the depth, return; or stop. Captures local, counter, (local, weight, counter), stop.
EPILOGUE: Final = _pattern(rb"\x20<u> \x24<u> (?:\x20<u> \x41<s> \x6a \x24<u>)? \x0f \x0b \x41\x01 \x10<u> \x00 \x0b")

_SIMPLE: Final = (
    rb"[\x01\x1a\x1b\x45-\xc4\xd1]|[\x20-\x26\x41]" + _U + rb"|[\x28-\x3e]" + _U * 2 + rb"|\x42" + _S + rb"|\x43.{4}"
    rb"|\x44.{8}|\x3f\x00|\xd0[\x6f\x70]"
)
#: One instruction of the guest that only has a price; of locals and globals the index counts as well.
SIMPLE: Final = _pattern(_SIMPLE)
#: As many of those as there are, then one other: the number of its one group says which.
RUN, OPEN, ELSE, END, BRANCH, TABLE, RETURN, STOP, CALL, FUNC, OTHER = range(1, 12)
STEP: Final = _pattern(
    rb"((?:" + _SIMPLE + rb")*)(?:"
    rb"[\x02-\x04](" + _BLOCK_TYPE + rb")|(\x05)|(\x0b)|[\x0c\x0d]<u>|\x0e<u>|(\x0f)|(\x00)|"
    rb"(\x10" + _U + rb"|\x11" + _U * 2 + rb")|\xd2<u>|([\x1c\x40\xfc]))"
)
#: A branch. Captures where it leads.
BRANCH_OUT: Final = _pattern(rb"\x0c<u>")
#: How the added functions that begin a call begin: the fuel is put on the stack.
BEGINS: Final = _pattern(rb"\x00 (?:\x42" + _S + rb"|\x20\x00)")
#: How many LEB128 immediates (the reserved zero bytes are such too) follow each number behind the prefix 0xFC.
PREFIXED: Final = (0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 2, 1, 2, 1, 2, 1, 1, 1)

# Whole bodies of the functions that metering adds, local declarations included.
#: Record why, leave no fuel, trap. Captures status, fuel.
STOP_BODY: Final = _pattern(rb"\x00 \x20\x00 \x24<u> \x42\x00 \x24<u> \x00 \x0b")
#: Captures the counter read.
READ_BODY: Final = _pattern(rb"\x00 \x23<u> \x0b")
#: Captures fuel, depth, status.
RESET_BODY: Final = _pattern(rb"\x00 \x20\x00 \x24<u> \x20\x01 \x24<u> \x41\x00 \x24<u> \x0b")
#: Set the counters and call. Captures amount, fuel, amount, depth, status, arguments, function.
ENTRY_BODY: Final = _pattern(
    rb"\x00 \x42<s> \x24<u> \x41<s> \x24<u> \x41\x00 \x24<u> ((?:\x20" + _U + rb")*) \x10<u> \x0b"
)
#: Move globals. Captures the moves.
MOVE_BODY: Final = _pattern(rb"\x00 ((?:\x23" + _U + rb"\x24" + _U + rb")*) \x0b")
#: Set the counters, then move globals. Captures amount, fuel, amount, depth, status, moves.
BEGIN_BODY: Final = _pattern(
    rb"\x00 \x42<s> \x24<u> \x41<s> \x24<u> \x41\x00 \x24<u> ((?:\x23" + _U + rb"\x24" + _U + rb")*) \x0b"
)
#: One move. Captures the global that is read, and the one that is set.
MOVE: Final = _pattern(rb"\x23<u> \x24<u>")
#: An entry without arguments that leaves no fuel. Captures amount, fuel, amount, depth, status, function, fuel.
START_BODY: Final = _pattern(rb"\x00 \x42<s> \x24<u> \x41<s> \x24<u> \x41\x00 \x24<u> \x10<u> \x42\x00 \x24<u> \x0b")


#: i64 i32 -> i64: shift to the right by three bits, so many times.
_SHIFTED: Final = b"\x41\x03\x6c\xad\x88"


def scaled(growth: tuple[int, ...]) -> bytes:
    """Spell out how an i64 is shifted once for each of these sizes that the memory has gone past."""
    sizes = [b"\x3f\x00\x41" + signed_leb(pages) + b"\x4b" for pages in growth]
    return _sum(sizes) + _SHIFTED if sizes else b""


def grown(growth: tuple[int, ...], fuel: int, depth: int, weight: int, counter: int, label: int) -> bytes:
    """Spell out what has to be behind ``memory.grow``.

    Its result is kept in the local behind ``fuel``, and then how many sizes the memory went past. The fuel is shifted
    so often, and pays for all loads of the frames that are open.
    """
    if not growth:
        return b""
    local, length = leb(fuel), leb(fuel + 1)
    sizes = [
        b"\x3f\x00\x41" + signed_leb(pages) + b"\x4b\x20" + length + b"\x41" + signed_leb(pages) + b"\x4d\x71"
        for pages in growth
    ]
    taken = b"\x20" + length + b"\x41" + signed_leb(depth + weight) + b"\x23" + leb(counter) + b"\x6b\x6c"
    loads = taken + b"\x41" + signed_leb(171) + b"\x6c\xad\x7d"
    stop = b"\x22" + local + b"\x42\x00\x53\x0d" + leb(label)
    return (
        b"\x22" + length + _sum(sizes) + b"\x21" + length + b"\x20" + local + b"\x20" + length + _SHIFTED + loads + stop
    )


def _sum(items: list[bytes]) -> bytes:
    return items[0] + b"".join(item + b"\x6a" for item in items[1:])


@lru_cache(_KNOWN)
def number(encoded: bytes) -> int:
    """Return the value of an unsigned LEB128, by its definition."""
    return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(encoded))


def leb(value: int) -> bytes:
    """Return the shortest unsigned LEB128 of ``value``."""
    out = []
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def signed_leb(value: int) -> bytes:
    """Return the shortest signed LEB128 of ``value``, which is not negative."""
    out = []
    while value > 0x3F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


@lru_cache(_KNOWN)
def signed_number(encoded: bytes) -> int:
    """Return the value of a signed LEB128, by its definition."""
    value = number(encoded)
    return value - (1 << 7 * len(encoded)) if encoded[-1] & 0x40 else value
