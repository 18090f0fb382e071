"""Decodes, encodes, changes, restricts and meters WebAssembly modules, which are bytes here: nothing is run.

Uses the words. Read ``decode.py`` first.
"""

from __future__ import annotations

from .component import core_module
from .decode import decode
from .edit import with_custom, with_data, with_memory, with_section, without_custom
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
    "without_custom",
]
