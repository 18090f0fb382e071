"""Reads and writes LEB128, the variable-length integers of WebAssembly (core specification 5.2.2).

Readers take the data and a position and return the value and the position after it. They accept what the specification
accepts, non-minimal forms included. Otherwise they raise :class:`~capgate.errors.DecodeError` in the words of the test
suite. Past the last byte they raise ``IndexError``, which :func:`capgate.wasm.decode` turns into "unexpected end".
"""

from __future__ import annotations

from ..errors import DecodeError

#: Each single byte: most numbers are one.
_BYTES = tuple(bytes([byte]) for byte in range(0x80))

TOO_LONG = "integer representation too long"
TOO_LARGE = "integer too large"


def read_unsigned(data: bytes, pos: int, bits: int = 32) -> tuple[int, int]:
    """Read an unsigned integer of at most ``bits`` bits: ``(value, position after it)``."""
    value = shift = 0
    while True:
        if shift >= bits:
            raise DecodeError(pos, TOO_LONG)
        byte = data[pos]
        if bits - shift < 7 and (byte & 0x7F) >> (bits - shift):
            raise DecodeError(pos, TOO_LARGE)
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, pos
        shift += 7


def read_signed(data: bytes, pos: int, bits: int) -> tuple[int, int]:
    """Read a two's complement integer of at most ``bits`` bits: ``(value, position after it)``."""
    value = shift = 0
    while True:
        if shift >= bits:
            raise DecodeError(pos, TOO_LONG)
        byte = data[pos]
        if bits - shift < 7:
            # The unused bits of the last byte must all equal the sign bit.
            mask = (-1 << (bits - shift - 1)) & 0x7F
            if byte & mask not in (0, mask):
                raise DecodeError(pos, TOO_LARGE)
        pos += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (value - (1 << shift) if byte & 0x40 else value), pos


def unsigned(value: int) -> bytes:
    """Write ``value`` (0 or more, any size) in the fewest bytes. Raises ``ValueError`` below zero."""
    if 0 <= value < 0x80:
        return _BYTES[value]
    if value < 0:
        raise ValueError(f"unsigned LEB128 of {value!r}")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def signed(value: int) -> bytes:
    """Write ``value`` (any size) in the fewest bytes of two's complement."""
    if -0x40 <= value < 0x40:
        return _BYTES[value & 0x7F]
    out = bytearray()
    while not -0x40 <= value < 0x40:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value & 0x7F)
    return bytes(out)
