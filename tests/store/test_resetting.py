"""A reset mends whatever became of the records of a policy: afterwards everything works again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from capgate.errors import StoreError
from capgate.store import Active, PolicyStore
from capgate.store.manifest import HIGHEST_VERSION

from ..support.keys import Made, filled, store_at
from .states import refused

FOLDER = "policies/orders"


def archived(path: Path, number: int) -> Path:
    return path / FOLDER / "history" / f"{number:016}.json"


def renumber(path: Path, number: int) -> None:
    file = path / FOLDER / "active.json"
    record = Active.from_bytes(file.read_bytes(), "orders")
    file.write_bytes(msgspec.structs.replace(record, sequence=number, highest=HIGHEST_VERSION).to_bytes())


def swap(path: Path) -> None:
    first, second = archived(path, 1), archived(path, 2)
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)


STATES: dict[str, Callable[[Path], object]] = {
    "as it should be": lambda path: None,
    "lost": lambda path: (path / FOLDER / "active.json").unlink(),
    "empty": lambda path: (path / FOLDER / "active.json").write_bytes(b""),
    "without a history": lambda path: shutil.rmtree(path / FOLDER / "history"),
    "the first record lost": lambda path: archived(path, 1).unlink(),
    "a record in the middle lost": lambda path: archived(path, 2).unlink(),
    "the newest archived record damaged": lambda path: archived(path, 3).write_bytes(b"{}"),
    "two records exchanged": swap,
    "the highest number": lambda path: renumber(path, HIGHEST_VERSION),
    "the number below": lambda path: renumber(path, HIGHEST_VERSION - 1),
    "a number that is too low": lambda path: renumber(path, 1),
    "an archived record from the future": lambda path: shutil.copy(archived(path, 3), archived(path, HIGHEST_VERSION)),
    "all damaged": lambda path: [file.write_bytes(b"?") for file in (path / FOLDER).rglob("*.json")],
    "lost, after a number that is too high": lambda path: (path / FOLDER / "active.json").rename(
        archived(path, HIGHEST_VERSION)
    ),
}


def works(store: PolicyStore, version: int) -> None:
    """Everything that changes and reads the records does, from a reset to ``version`` on."""
    assert store.load_active("orders").manifest.version == version
    history = store.history("orders")
    assert (history[0].version, history[0].action) == (version, "reset")
    assert store.activate("orders", 9).version == 9
    assert store.rollback("orders").version == version
    numbers = [record.sequence for record in store.history("orders")]
    assert numbers[:2] == [numbers[2] + 2, numbers[2] + 1]
    assert len(numbers) == len(history) + 2
    store.prune()
    assert store.status("orders").problem is None


@pytest.mark.parametrize("state", STATES)
def test_everything_works_after_a_reset(state: str, path: Path) -> None:  # S-3, A9, A16
    store = filled(path, 1, 2, 3, 4)
    store.publish(*Made(9).files)
    before = {file.read_bytes() for file in (path / FOLDER / "history").iterdir()}
    STATES[state](path)
    store.reset("orders", 2)
    works(store_at(path), 2)
    if state == "as it should be":
        assert len(store.history("orders")) == 7
    # Nothing that can be read is thrown away.
    kept = {file.read_bytes() for file in (path / FOLDER).rglob("*.json")}
    if state in ("two records exchanged", "the highest number", "the number below", "a number that is too low"):
        assert before <= kept


def test_twice_in_a_row(path: Path) -> None:
    store = filled(path, 1, 2, 3)
    store.publish(*Made(9).files)
    for _ in range(2):
        archived(path, 1).unlink(missing_ok=True)
        store.reset("orders", 2)
    works(store, 2)


def test_a_reset_that_is_killed_in_between_is_no_fresh_start(path: Path) -> None:  # A16
    store = filled(path, 1, 2)
    (path / FOLDER / "history").rename(path / FOLDER / "history-before-0000000000000004")
    (path / FOLDER / "active.json").unlink()
    refused("corrupt", store.activate, "orders", 2)
    assert store.reset("orders", 2).version == 2


def test_a_number_that_leaves_no_room_is_said(path: Path) -> None:  # S-3
    store = filled(path, 1, 2)
    renumber(path, HIGHEST_VERSION)
    with pytest.raises(StoreError):
        store.activate("orders", 1)
    with pytest.raises(StoreError):
        store.rollback("orders")
    assert store.read_active("orders").sequence == HIGHEST_VERSION
