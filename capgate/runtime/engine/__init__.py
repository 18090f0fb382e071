"""WebAssembly engines behind one small interface. Only the two adapters, of one or two files each, import an engine."""

from .base import TRAP_KINDS, CompiledModule, Engine, HostFunction, HostImport, HostMemory, Instance, RawFunction
from .registry import ENGINES, available_engines, load_engine
from .trial import is_small, try_compiling

__all__ = [
    "ENGINES",
    "TRAP_KINDS",
    "CompiledModule",
    "Engine",
    "HostFunction",
    "HostImport",
    "HostMemory",
    "Instance",
    "RawFunction",
    "available_engines",
    "is_small",
    "load_engine",
    "try_compiling",
]
