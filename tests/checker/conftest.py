"""A store with one release, and the events of a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from capgate.events import DecisionEvent, add_sink, remove_sink

from ..support.stores import Shelf


class Events:
    def __init__(self) -> None:
        self.seen: list[DecisionEvent] = []

    def emit(self, event: DecisionEvent) -> None:
        self.seen.append(event)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "store")
    shelf.release(1)
    return shelf


@pytest.fixture
def events() -> Iterator[list[DecisionEvent]]:
    sink = Events()
    add_sink(sink)
    yield sink.seen
    remove_sink(sink)
