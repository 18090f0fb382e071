"""Walks over instruction sequences: function bodies and constant expressions (core specification 5.4).

One loop over the bytes, no recursion. It stops at the ``end`` that closes the sequence, and not where the surrounding
size says that it should end, because that is how the test suite words its failures.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ..errors import DecodeError
from .leb128 import read_signed, read_unsigned
from .module import VALUE_TYPES
from .opcodes import OPCODES

END_EXPECTED: Final = "END opcode expected"
ZERO_EXPECTED: Final = "zero byte expected"
ILLEGAL: Final = "illegal opcode"

_BLOCK, _LOOP, _IF, _ELSE, _END = 0x02, 0x03, 0x04, 0x05, 0x0B

# One small code per opcode, so that the common ones cost one or two comparisons.
_PLAIN, _INDEX, _S32, _MEMARG, _OPEN, _CLOSE, _OTHER, _ILLEGAL = range(8)
_CLASS_OF: Final = {
    "-": _PLAIN,
    "label": _INDEX,
    "func": _INDEX,
    "local": _INDEX,
    "global": _INDEX,
    "i32": _S32,
    "memarg": _MEMARG,
    "block": _OPEN,
}


def _classes() -> bytes:
    table = bytearray([_ILLEGAL] * 256)
    for code, row in OPCODES.items():
        if code < 0x100 and row.allowed:
            table[code] = _CLASS_OF.get(row.immediates, _OTHER)
    table[0xFC] = _OTHER
    table[_ELSE] = table[_END] = _CLOSE
    return bytes(table)


_CLASSES: Final = _classes()
_USES_DATA: Final = frozenset({0xFC08, 0xFC09})
#: table.set, data.drop, table.init, elem.drop, table.copy, table.grow, table.fill: they leave something behind that is
#: neither in linear memory nor in a global.
_LEAVES_STATE: Final = frozenset({0x26, 0xFC09, 0xFC0C, 0xFC0D, 0xFC0E, 0xFC0F, 0xFC11})


class Sequence(msgspec.Struct, gc=False):
    """What :func:`skip_sequence` saw: the position after the ``end``, and what bounds and section order depend on."""

    end: int = 0
    uses_data: bool = False
    nesting: int = 0
    branch_targets: int = 0
    leaves_state: bool = False


def skip_sequence(data: bytes, pos: int) -> Sequence:
    """Walk from the first instruction to behind the closing ``end``.

    Raises ``DecodeError``, or ``IndexError`` where the data stops short.
    """
    classes = _CLASSES
    seen = Sequence()
    else_allowed = [False]
    while True:
        opcode = data[pos]
        pos += 1
        opcode_class = classes[opcode]
        if opcode_class == _PLAIN:
            continue
        if opcode_class == _INDEX:
            if data[pos] < 0x80:
                pos += 1
            else:
                pos = read_unsigned(data, pos)[1]
        elif opcode_class == _S32:
            if data[pos] < 0x80:
                pos += 1
            else:
                pos = read_signed(data, pos, 32)[1]
        elif opcode_class == _MEMARG:
            pos = _skip_memarg(data, pos)
        elif opcode_class == _OPEN:
            pos = skip_block_type(data, pos)
            else_allowed.append(opcode == _IF)
            if len(else_allowed) > seen.nesting + 1:
                seen.nesting = len(else_allowed) - 1
        elif opcode_class == _CLOSE:
            if opcode == _END:
                else_allowed.pop()
                if not else_allowed:
                    seen.end = pos
                    return seen
            elif else_allowed[-1]:
                else_allowed[-1] = False
            else:
                raise DecodeError(pos - 1, END_EXPECTED)
        elif opcode_class == _OTHER:
            pos = _skip_rarer(data, pos, opcode, seen)
        else:
            raise DecodeError(pos - 1, ILLEGAL)


def _skip_rarer(data: bytes, pos: int, opcode: int, seen: Sequence) -> int:
    """Return the position after the immediates of the opcode before ``pos``."""
    at = pos - 1
    code = opcode
    if opcode == 0xFC:
        number, pos = read_unsigned(data, pos)
        code = 0xFC00 | number if number < 0x100 else -1
        seen.uses_data = seen.uses_data or code in _USES_DATA
    if code in _LEAVES_STATE:
        seen.leaves_state = True
    row = OPCODES.get(code)
    if row is None or not row.allowed:
        raise DecodeError(at, ILLEGAL)
    if row.immediates == "labels":
        count = read_unsigned(data, pos)[0]
        seen.branch_targets = max(seen.branch_targets, count)
    return _skip_immediates(data, pos, row.immediates)


def skip_block_type(data: bytes, pos: int) -> int:
    """Return the position after a block type."""
    byte = data[pos]
    if byte == 0x40 or byte in VALUE_TYPES:
        return pos + 1
    if byte & 0xC0 == 0x40:
        raise DecodeError(pos, "malformed value type")
    index, after = read_signed(data, pos, 33)
    if index < 0:
        raise DecodeError(pos, "malformed block type")
    return after


def read_value_type(data: bytes, pos: int) -> tuple[int, int]:
    """Read a value type, which is a signed LEB128 of seven bits: ``(type, position after it)``."""
    byte = data[pos]
    if byte in VALUE_TYPES:
        return byte, pos + 1
    read_signed(data, pos, 7)
    raise DecodeError(pos, "malformed value type")


def read_reference_type(data: bytes, pos: int) -> tuple[int, int]:
    """Read a reference type: ``(type, position after it)``."""
    byte = data[pos]
    if byte in (0x70, 0x6F):
        return byte, pos + 1
    read_signed(data, pos, 7)
    raise DecodeError(pos, "malformed reference type")


def _skip_memarg(data: bytes, pos: int) -> int:
    align, after = read_unsigned(data, pos)
    if align > 32:
        raise DecodeError(pos, "malformed memop flags")
    return after + 1 if data[after] < 0x80 else read_unsigned(data, after)[1]


def _skip_zeros(data: bytes, pos: int, count: int) -> int:
    for _ in range(count):
        if data[pos]:
            raise DecodeError(pos, ZERO_EXPECTED)
        pos += 1
    return pos


def _skip_immediates(data: bytes, pos: int, immediates: str) -> int:
    """Return the position after rarer ``immediates``, which are keys of :data:`~capgate.wasm.opcodes.IMMEDIATES`."""
    if immediates in ("-", "elem", "data", "table", "func"):
        return pos if immediates == "-" else read_unsigned(data, pos)[1]
    if immediates in ("indirect", "eleminit", "tables"):
        return read_unsigned(data, read_unsigned(data, pos)[1])[1]
    if immediates == "i64":
        return read_signed(data, pos, 64)[1]
    if immediates in ("f32", "f64"):
        return _skip_bytes(data, pos, 4 if immediates == "f32" else 8)
    if immediates == "labels":
        count, pos = read_unsigned(data, pos)
        for _ in range(count + 1):
            pos = pos + 1 if data[pos] < 0x80 else read_unsigned(data, pos)[1]
        return pos
    if immediates == "types":
        count, pos = read_unsigned(data, pos)
        for _ in range(count):
            pos = read_value_type(data, pos)[1]
        return pos
    if immediates == "ref":
        return read_reference_type(data, pos)[1]
    if immediates == "init":
        return _skip_zeros(data, read_unsigned(data, pos)[1], 1)
    return _skip_zeros(data, pos, 2 if immediates == "zeros" else 1)


def _skip_bytes(data: bytes, pos: int, count: int) -> int:
    data[pos + count - 1]  # IndexError past the end
    return pos + count
