"""Runs WebAssembly on either engine, behind one small interface.

Uses the decoder of ``wasm`` and the words. Read ``base.py`` first. Only the two adapters import an engine.
"""

from .base import TRAP_KINDS, CompiledModule, Engine, HostFunction, HostImport, HostMemory, Instance, RawFunction
from .child_compilation import compile_in_child, is_small
from .registry import ENGINES, available_engines, load_engine

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
    "compile_in_child",
    "is_small",
    "load_engine",
]
