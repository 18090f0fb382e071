"""Modules of these tests are compiled by a child once for each engine: most differ in nothing but their data."""

from __future__ import annotations

import pytest

from capgate.limits import Limits
from capgate.runtime import interpreter
from capgate.runtime.engine import Engine, compile_in_child
from capgate.wasm import decode

_DATA = 11
_COMPILED: set[tuple[str, bytes]] = set()


@pytest.fixture(autouse=True)
def _compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt(engine: Engine, original: bytes, metered: bytes, limits: Limits) -> None:
        sections = decode(metered, bodies=False).sections
        key = engine.name, b"".join(section.payload for section in sections if section.id != _DATA)
        if key not in _COMPILED:
            compile_in_child(engine, original, metered, limits)
            _COMPILED.add(key)

    monkeypatch.setattr(interpreter, "compile_in_child", attempt)
