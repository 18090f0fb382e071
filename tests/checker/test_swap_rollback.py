"""Hot swap: when a policy that fails is left, by whom, and for which one."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from capgate.errors import StoreError
from capgate.model import ALLOW

from ..support.stores import Shelf, ask, trapping
from .swaps import (
    ENGINES,
    fail,
    follow,
)


@ENGINES
async def test_nothing_goes_back_to_what_an_operator_left(shelf: Shelf, engine: str) -> None:  # A23
    async with follow(shelf, engine=engine) as checker:
        shelf.release(2, trapping(2))
        shelf.release(3)
        await checker.refresh()
        shelf.store.rollback("orders", note="3 admits too much")
        await checker.refresh()
        await fail(checker, 40)
        await checker.refresh()
        assert (checker.status().version, checker.status().rolled_back) == (2, None)
        assert shelf.store.read_active("orders").sequence == 4


@ENGINES
async def test_a_version_that_nobody_here_saw_is_what_it_goes_back_to(shelf: Shelf, engine: str) -> None:  # A23
    async with follow(shelf, engine=engine) as checker:
        shelf.release(2)
        shelf.release(3, trapping(3))
        await checker.refresh()  # from 1 to 3
        await fail(checker)
        await checker.refresh()
        assert await checker.evaluate(ask(2)) == ALLOW
        assert (checker.status().version, checker.status().rolled_back) == (2, 3)
        assert shelf.store.read_active("orders").action == "rollback"


@ENGINES
@pytest.mark.parametrize(("ago", "goes_back"), [(0, True), (1_000, False)])
async def test_a_process_that_was_started_with_it_goes_back_where_it_is_new(
    tmp_path: Path, engine: str, ago: int, goes_back: bool
) -> None:  # A23
    shelf = Shelf(tmp_path / "store", ago=ago)
    shelf.release(1)
    shelf.release(2, trapping(2))
    shelf.ago = 0
    async with follow(shelf, engine=engine) as checker:
        await fail(checker)
        await checker.refresh()
        assert checker.status().version == (1 if goes_back else 2)
        assert shelf.store.read_active("orders").sequence == (3 if goes_back else 2)


async def test_an_operator_may_be_first(shelf: Shelf) -> None:  # A23
    async with follow(shelf) as checker:
        shelf.release(2, trapping(2))
        await checker.refresh()
        checker._watcher.now._alarm = None  # or somebody looks before the operator has done it
        await fail(checker)
        shelf.release(3)
        await checker.refresh()
        assert await checker.evaluate(ask(3)) == ALLOW
        assert [record.action for record in shelf.store.history("orders")] == ["activate"] * 3
        assert checker.status().problem is None


async def test_several_threads_and_processes_go_back_once(shelf: Shelf) -> None:  # A23
    checkers = [follow(shelf) for _ in range(4)]
    shelf.release(2, trapping(2))
    for checker in checkers:
        checker._watcher.look()
        await fail(checker)
    async with anyio.create_task_group() as tasks:
        for checker in checkers:
            for _ in range(2):
                tasks.start_soon(checker.refresh)
    assert [record.action for record in shelf.store.history("orders")] == ["rollback", "activate", "activate"]
    for checker in checkers:
        await checker.refresh()
        assert (checker.status().sequence, checker.status().problem) == (3, None)
        await checker.aclose()


async def test_the_store_is_told_until_it_knows(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:  # A23
    async with follow(shelf) as checker:
        watcher = checker._watcher
        rollback = watcher._rollback
        assert rollback is not None
        tried: list[int] = []

        def busy(sequence: int) -> None:
            tried.append(sequence)
            raise StoreError("another process is writing", reason="locked", path="x")

        watcher._rollback = busy
        shelf.release(2, trapping(2))
        await checker.refresh()
        await fail(checker)
        for _ in range(3):
            await checker.refresh()
        assert tried == [2]  # less and less often
        assert (checker.status().version, checker.status().rolled_back) == (1, 2)
        assert checker.status().problem is not None
        watcher._telling._not_before = 0.0
        await checker.refresh()
        assert tried == [2, 2]
        watcher._rollback, watcher._telling._not_before = rollback, 0.0
        await checker.refresh()
        await checker.refresh()
        assert shelf.store.read_active("orders").sequence == 3
        assert (checker.status().sequence, checker.status().problem) == (3, None)
        assert sum(record.levelname == "CRITICAL" for record in caplog.records) == 1


async def test_nobody_looks_again_and_again_where_there_is_nothing_to_go_back_to(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "store")
    shelf.release(1, trapping(1))
    async with follow(shelf) as checker:
        rung: list[int] = []
        alarm = checker._watcher.alarm
        ring = alarm.event.set

        def count() -> None:
            rung.append(1)
            ring()

        alarm.event.set = count  # type: ignore[method-assign]
        await fail(checker, 100)
        del alarm.event.set
        assert rung == [1]
