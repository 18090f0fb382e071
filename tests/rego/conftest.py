"""Modules of these tests are compiled by a child once for each engine: most differ in nothing but their data."""

from __future__ import annotations

import pytest

from capgate.limits import Limits
from capgate.runtime import interpreter
from capgate.runtime.engine import Engine, try_compiling
from capgate.wasm import decode

_DATA = 11
_TRIED: set[tuple[str, bytes]] = set()


@pytest.fixture(autouse=True)
def _tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt(engine: Engine, original: bytes, metered: bytes, limits: Limits) -> None:
        sections = decode(metered, bodies=False).sections
        key = engine.name, b"".join(section.payload for section in sections if section.id != _DATA)
        if key not in _TRIED:
            try_compiling(engine, original, metered, limits)
            _TRIED.add(key)

    monkeypatch.setattr(interpreter, "try_compiling", attempt)
