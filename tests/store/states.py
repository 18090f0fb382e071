"""Reads what a store holds, and asserts why a call on it is rejected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from capgate.errors import StoreError
from capgate.store import StoreReader


def refused(reason: str, call: Callable[..., object], *arguments: Any, **named: Any) -> StoreError:
    with pytest.raises(StoreError) as caught:
        call(*arguments, **named)
    assert caught.value.reason == reason
    return caught.value


def snapshot(path: Path) -> dict[str, bytes]:
    """Every file of a store that means something."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def versions(store: StoreReader) -> list[tuple[str, int]]:
    return [(record.action, record.version) for record in store.history("orders")]
