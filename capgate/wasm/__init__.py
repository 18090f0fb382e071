"""WebAssembly modules as bytes: decode, encode, change. Nothing here runs anything."""

from __future__ import annotations

from .component import core_module
from .decode import decode
from .edit import with_custom, with_data, with_memory, with_section
from .encode import encode
from .module import Module

__all__ = ["Module", "core_module", "decode", "encode", "with_custom", "with_data", "with_memory", "with_section"]
