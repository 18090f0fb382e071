"""Loads the engines that are here by importing them: metadata cannot tell, as wasmer's stub installs anywhere."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Final

from ...errors import ConfigError, EngineUnavailable
from .base import Engine

#: In order of preference: ``auto`` takes the first that imports.
ENGINES: Final = ("wasmer", "wasmtime")

_HINTS: Final = {
    "wasmer": "pip install 'wasmer==1.1.0' 'wasmer-compiler-cranelift==1.1.0', on CPython 3.10 (no later one has it)",
    "wasmtime": "pip install 'wasmtime>=46', on CPython 3.10 to 3.13",
}


def load_engine(name: str = "auto") -> Engine:
    """Load the engine ``name``: ``"wasmer"``, ``"wasmtime"``, or ``"auto"`` for the first of them that imports.

    Raises :class:`~capgate.errors.ConfigError` for another name, :class:`~capgate.errors.EngineUnavailable` if it does
    not import; its ``hint`` says what to install on which Python.
    """
    if name not in ("auto", *ENGINES):
        raise ConfigError("engine", name, "'auto', 'wasmer' or 'wasmtime'")
    failures: list[str] = []
    for candidate in ENGINES if name == "auto" else (name,):
        engine = _import(candidate, failures)
        if engine is not None:
            return engine
    raise EngineUnavailable(name, "; or ".join(failures))


def available_engines() -> tuple[str, ...]:
    """Return the names of the engines that import here, in order of preference."""
    return tuple(name for name in ENGINES if _import(name, []) is not None)


def _has_global_lock() -> bool:
    """Say whether there is a global interpreter lock. Free-threaded builds of CPython 3.13 and later can do without it
    (PEP 703). Nothing here was tried on those."""
    enabled: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
    return enabled


def _import(name: str, failures: list[str]) -> Engine | None:
    if not _has_global_lock():
        failures.append("a CPython with its global interpreter lock (PYTHON_GIL=1), which calls into guests rely on")
        return None
    try:
        engine: Engine = import_module(f"{__package__}._{name}").ENGINE
    except Exception as error:  # not only ImportError: a native library that does not load raises others
        failures.append(f"{_HINTS[name]} (this is Python {sys.version.split()[0]}; import says: {error})")
        return None
    return engine
