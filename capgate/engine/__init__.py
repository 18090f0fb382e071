"""WebAssembly engines behind one small interface. Only the two adapters import an engine."""

from .base import TRAP_KINDS, CompiledModule, Engine, Instance, RawFunction
from .registry import ENGINES, available_engines, load_engine

__all__ = [
    "ENGINES",
    "TRAP_KINDS",
    "CompiledModule",
    "Engine",
    "Instance",
    "RawFunction",
    "available_engines",
    "load_engine",
]
