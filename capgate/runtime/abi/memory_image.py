"""Notes what linear memory holds when an instance is ready, and sets it back to that before each further question.

What is set back is the whole of a memory, so nothing that a guest wrote stays, wherever it wrote. Long runs of zeros,
such as an unused stack, are written without being read from anywhere. That takes half the time: 12 microseconds for
each MiB. Nothing looks for what was touched, because finding out takes longer.
"""

from __future__ import annotations

import ctypes
from typing import Final

#: Zeros that are worth a call of their own: as many as are copied in the time of that call.
_RUN: Final = 16_384
_STEP: Final = 4_096

#: Holds the global interpreter lock, unlike ``ctypes.memset``: given away for some microseconds, it may take 5 ms to
#: come back.
_memset = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)(
    ("memset", ctypes.pythonapi)
)
_memcmp = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)(
    ("memcmp", ctypes.pythonapi)
)


class MemoryImage:
    """What a linear memory held, ``size`` bytes. Does not change, and may be shared by instances."""

    __slots__ = ("_data", "_pieces", "_zeros", "size")

    def __init__(self, memory: memoryview) -> None:
        data = self._data = bytes(memory)
        self.size = len(data)
        self._zeros = _long_zeros(data)
        view, pieces, at = memoryview(data), [], 0
        for start, count in (*self._zeros, (self.size, 0)):
            if start > at:
                pieces.append((at, start, view[at:start]))
            at = start + count
        self._pieces = tuple(pieces)

    def is_of(self, memory: memoryview) -> bool:
        """Say whether ``memory`` holds exactly this."""
        if len(memory) != self.size:
            return False
        return not self.size or not _memcmp(ctypes.addressof(ctypes.c_char.from_buffer(memory)), self._data, self.size)

    def restore(self, memory: memoryview) -> None:
        """Set ``memory``, of at least ``size`` bytes, to this. What has grown behind it becomes zeros."""
        if len(memory) < self.size:
            raise ValueError(f"{len(memory)} bytes of memory for an image of {self.size}")
        for start, end, piece in self._pieces:
            memory[start:end] = piece
        if self._zeros:
            address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            for start, count in self._zeros:
                _memset(address + start, 0, count)
        if len(memory) > self.size:
            memory[self.size :] = bytes(len(memory) - self.size)


def _long_zeros(data: bytes) -> tuple[tuple[int, int], ...]:
    """Return start and length of the runs of zeros that are at least :data:`_RUN` long, in whole steps."""
    runs, start = [], None
    nothing = bytes(_STEP)
    for at in range(0, len(data) + _STEP, _STEP):
        if data[at : at + _STEP] == nothing:
            start = at if start is None else start
        elif start is not None:
            if at - start >= _RUN:
                runs.append((start, at - start))
            start = None
    return tuple(runs)
