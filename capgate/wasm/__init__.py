"""WebAssembly modules as bytes: decode, encode, change, restrict, meter. Nothing here runs anything."""

from __future__ import annotations

from .component import core_module
from .decode import decode
from .edit import with_custom, with_data, with_memory, with_section
from .encode import encode
from .metering.meter import Metered, meter
from .metering.plan import Loading
from .module import Module
from .restrict import restrict

__all__ = [
    "Loading",
    "Metered",
    "Module",
    "core_module",
    "decode",
    "encode",
    "meter",
    "restrict",
    "with_custom",
    "with_data",
    "with_memory",
    "with_section",
]
