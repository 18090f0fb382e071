"""Linear memory as Python sees it: a view of so many bytes at an address."""

from __future__ import annotations

import ctypes
from typing import Final

_WRITABLE: Final = 0x200
#: Of Python's C API. A ctypes array at the address would do it too, at the price of a new type for each size.
_from_memory = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)(
    ("PyMemoryView_FromMemory", ctypes.pythonapi)
)


def view_of(address: int | None, size: int) -> memoryview:
    """A writable view. It keeps nothing alive: whoever uses it keeps the instance, and takes it anew after a growth."""
    if address is None or not size:
        return memoryview(bytearray())
    view: memoryview = _from_memory(address, size, _WRITABLE)
    return view
