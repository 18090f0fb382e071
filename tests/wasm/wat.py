"""Text to binary modules, with the engine's own assembler."""

from __future__ import annotations

import functools

import wasmtime


@functools.lru_cache(maxsize=512)
def compile_wat(text: str) -> bytes:
    """The binary of a module in the text format."""
    return bytes(wasmtime.wat2wasm(text))


@functools.lru_cache(maxsize=1)
def _engine() -> wasmtime.Engine:
    return wasmtime.Engine()


def is_valid(data: bytes) -> bool:
    """Whether an engine finds the module valid."""
    try:
        wasmtime.Module.validate(_engine(), data)
    except wasmtime.WasmtimeError:
        return False
    return True
