"""Reads the bytes of a module with a cursor, in the reading order and the wording of the reference interpreter.

It is bounded by the end of the data only; the sizes that a module declares are compared afterwards. What runs past the
end raises ``IndexError``, which :func:`capgate.wasm.decode` turns into its one exception.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..errors import DecodeError
from .body import Sequence, read_reference_type, read_value_type, skip_sequence
from .leb128 import read_signed, read_unsigned
from .module import FuncType, GlobalType, MemoryType, TableType

T = TypeVar("T")


class Reader:
    """``data`` and the position ``pos`` in it. Each method reads one thing and moves on."""

    __slots__ = ("data", "pos", "uses_data")

    def __init__(self, data: bytes, pos: int = 0) -> None:
        self.data = data
        self.pos = pos
        self.uses_data = False

    def byte(self) -> int:
        value = self.data[self.pos]
        self.pos += 1
        return value

    def u32(self) -> int:
        value = self.data[self.pos]
        if value < 0x80:
            self.pos += 1
            return value
        value, self.pos = read_unsigned(self.data, self.pos)
        return value

    def length(self) -> int:
        """Read a length in bytes that fits what is left."""
        start = self.pos
        value = self.u32()
        if value > len(self.data) - self.pos:
            raise DecodeError(start, "length out of bounds")
        return value

    def take(self, count: int) -> bytes:
        if count < 0 or self.pos + count > len(self.data):
            raise IndexError
        start = self.pos
        self.pos += count
        return self.data[start : self.pos]

    def name(self) -> str:
        start = self.pos
        try:
            return self.take(self.length()).decode("utf-8")
        except UnicodeDecodeError:
            raise DecodeError(start, "malformed UTF-8 encoding") from None

    def vector(self, read: Callable[[], T]) -> list[T]:
        """Read a counted sequence. Each item takes at least one byte, so that a huge count ends with the data."""
        return [read() for _ in range(self.u32())]

    def value_type(self) -> int:
        value, self.pos = read_value_type(self.data, self.pos)
        return value

    def reference_type(self) -> int:
        value, self.pos = read_reference_type(self.data, self.pos)
        return value

    def function_type(self) -> FuncType:
        start = self.pos
        if self.data[start] != 0x60:
            read_signed(self.data, start, 7)
            raise DecodeError(start, "malformed function type")
        self.pos += 1
        return FuncType(tuple(self.vector(self.value_type)), tuple(self.vector(self.value_type)))

    def limits(self) -> tuple[int, int | None]:
        flag, self.pos = read_unsigned(self.data, self.pos, 1)
        minimum = self.u32()
        return minimum, self.u32() if flag else None

    def table_type(self) -> TableType:
        return TableType(self.reference_type(), *self.limits())

    def memory_type(self) -> MemoryType:
        return MemoryType(*self.limits())

    def global_type(self) -> GlobalType:
        value_type = self.value_type()
        start = self.pos
        mutable = self.byte()
        if mutable > 1:
            raise DecodeError(start, "malformed mutability")
        return GlobalType(value_type, mutable == 1)

    def expression(self) -> bytes:
        """Read a constant expression, its ``end`` included. That it is constant is for the engine to check."""
        start = self.pos
        self.sequence()
        return self.data[start : self.pos]

    def sequence(self) -> Sequence:
        """Read any instructions up to the ``end`` that closes them."""
        seen = skip_sequence(self.data, self.pos)
        self.pos = seen.end
        self.uses_data = self.uses_data or seen.uses_data
        return seen
