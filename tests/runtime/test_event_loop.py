"""What tells one task of a loop that something is there."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import trio

from capgate.runtime.event_loop import Signal


async def test_a_signal_wakes_who_waits_and_who_comes_later() -> None:
    signal, woken = Signal(), list[int]()

    async def wait(number: int) -> None:
        await signal.wait()
        woken.append(number)

    async with anyio.create_task_group() as group:
        group.start_soon(wait, 1)
        await anyio.wait_all_tasks_blocked()
        assert not signal.is_set()
        assert woken == []
        signal.set()
        signal.set()
    assert signal.is_set()
    await wait(2)
    assert woken == [1, 2]


async def test_a_signal_for_who_has_given_up() -> None:
    signal = Signal()
    with anyio.move_on_after(0) as scope:
        await signal.wait()
    assert scope.cancelled_caught
    signal.set()
    assert signal.is_set()


def test_a_signal_wakes_a_task_of_trio_that_is_a_guest_of_asyncio() -> None:
    """Asyncio's loop is the one that runs then, and a future of its is nothing that trio knows."""

    async def guest() -> bool:
        signal = Signal()
        asyncio.get_running_loop().call_soon(signal.set)
        await signal.wait()
        return signal.is_set()

    async def host() -> Any:
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        trio.lowlevel.start_guest_run(
            guest, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=ended.set_result
        )
        return (await ended).unwrap()

    assert asyncio.run(host()) is True
