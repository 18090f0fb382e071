"""How long is waited: by the time in which the loop could have served whoever waits."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from contextlib import nullcontext
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from capgate.runtime import bounded_wait
from capgate.runtime.bounded_wait import LATE, TICK, BoundedWait, nobodys_time
from capgate.runtime.event_loop import call_later, current_loop, on_loop

#: No test waits for this.
LONG = 60.0


class Clocks:
    """The clock on the wall and that of the processor, which a test puts forward: as if time had passed meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = self.processor = 0.0
        monkeypatch.setattr(bounded_wait, "monotonic", lambda: time.monotonic() + self.wall)
        monkeypatch.setattr(bounded_wait, "thread_time", lambda: time.thread_time() + self.processor)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


async def ticked() -> None:
    """Wait until the loop has looked at who waits, at least once."""
    await anyio.sleep(2.5 * TICK)


async def test_what_takes_too_long_is_cancelled() -> None:
    started = time.monotonic()
    with BoundedWait(0.05) as bound:
        await anyio.sleep_forever()
    assert bound.expired
    assert bound.left == 0.0
    assert time.monotonic() - started >= 0.05  # never too early


async def test_what_ends_in_time_is_left_alone() -> None:
    with BoundedWait(LONG) as bound:
        await anyio.sleep(2 * TICK)
    assert not bound.expired
    assert 0 < bound.left <= LONG


async def test_what_a_shorter_limit_ends_is_not_ended_by_the_longer() -> None:
    with BoundedWait(LONG) as outer, BoundedWait(0.02) as inner:
        await anyio.sleep_forever()
    assert (inner.expired, outer.expired) == (True, False)
    with BoundedWait(0.02) as outer, BoundedWait(LONG) as inner:
        await anyio.sleep_forever()
    assert (inner.expired, outer.expired) == (False, True)


async def test_a_wait_that_is_renewed_begins_anew() -> None:
    with BoundedWait(0.1) as bound:
        for _ in range(10):
            await anyio.sleep(0.02)
            bound.renew()
    assert not bound.expired


async def test_what_was_raised_comes_out() -> None:
    with pytest.raises(ValueError, match="mine"), BoundedWait(LONG):
        raise ValueError("mine")


async def test_a_cancellation_from_outside_passes() -> None:
    with anyio.CancelScope() as scope, BoundedWait(LONG) as bound:
        scope.cancel()
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert not bound.expired


async def test_a_shield_keeps_what_is_outside_away() -> None:
    done = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        with BoundedWait(LONG, shield=True):
            await anyio.sleep(TICK)
            done.append("inside")
        await anyio.lowlevel.checkpoint()
        done.append("outside")
    assert done == ["inside"]


async def test_time_in_which_the_process_did_not_run_is_not_counted(clocks: Clocks) -> None:
    with BoundedWait(2.0) as bound:
        for _ in range(5):
            clocks.wall += 100.0  # stopped, or a blocking call of somebody else
            await ticked()
    assert not bound.expired
    assert bound.left > 1.0


async def test_time_in_which_the_loop_computed_is_counted(clocks: Clocks) -> None:
    with BoundedWait(2.0) as bound:
        clocks.wall += 1.0
        clocks.processor += 1.0
        await ticked()
    assert bound.left < 1.0
    assert not bound.expired


async def test_a_compilation_on_the_loop_is_nobodys_time(clocks: Clocks) -> None:  # T-2
    with BoundedWait(2.0) as bound:
        for _ in range(3):
            with nobodys_time():
                clocks.wall += 1.0
                clocks.processor += 1.0
            await ticked()
    assert not bound.expired
    assert bound.left > 1.0


@pytest.mark.parametrize("raises", [False, True])
def test_where_no_loop_runs_nobody_waits(raises: bool) -> None:
    with pytest.raises(ValueError, match="mine") if raises else nullcontext(), nobodys_time():
        if raises:
            raise ValueError("mine")


async def test_what_arrives_while_the_loop_stands_still_is_in_time(clocks: Clocks) -> None:
    """Who is due at a late tick gets one more, once."""
    arrived = anyio.Event()

    async def arrive() -> None:
        await anyio.sleep(3 * TICK)
        clocks.wall += 100.0
        clocks.processor += 100.0
        time.sleep(2 * TICK)  # noqa: ASYNC251
        for _ in range(4):  # in which the loop sees that the time is over
            await anyio.lowlevel.checkpoint()
        arrived.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(arrive)
        with BoundedWait(50.0) as bound:
            await arrived.wait()
    assert arrived.is_set()
    assert not bound.expired


async def test_a_loop_that_is_always_late_ends_a_wait_all_the_same(clocks: Clocks) -> None:
    with BoundedWait(0.1) as bound:
        while not bound.expired:
            clocks.wall += 10 * LATE
            clocks.processor += 10 * LATE
            await anyio.sleep(TICK)
    assert bound.expired


async def test_a_clock_that_goes_back_ends_nothing_too_early(clocks: Clocks) -> None:
    clocks.wall += 1_000.0
    with BoundedWait(LONG) as bound:
        clocks.wall -= 500.0
        await ticked()
    assert not bound.expired


async def test_the_clock_goes_only_while_somebody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []

    def counted(loop: object, seconds: float, function: Any) -> None:
        calls.append(seconds)
        call_later(loop, seconds, function)

    monkeypatch.setattr("capgate.runtime.bounded_wait.call_later", counted)
    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(_wait_a_little)
    await ticked()
    before = len(calls)
    assert before < 20  # one clock for all
    await ticked()
    assert len(calls) == before


async def _wait_a_little() -> None:
    with BoundedWait(LONG):
        await anyio.sleep(2 * TICK)


def test_each_loop_has_a_clock_of_its_own() -> None:
    """One that ended while somebody waited is not there for the next one of its thread."""
    loops: list[Any] = []
    clocks: list[Any] = []

    async def wait() -> None:
        with BoundedWait(0.02) as bound:
            await anyio.sleep_forever()
        assert bound.expired
        loops.append(bound._clock.loop)
        clocks.append(weakref.ref(bound._clock))
        leave_waiting()

    def leave_waiting() -> None:
        bound = BoundedWait(LONG)
        bound._clock = bounded_wait._clock_here()
        bound.renew()

    for backend in ("asyncio", "trio", "asyncio", "trio"):
        anyio.run(wait, backend=backend)
    gc.collect()
    assert [loop() for loop in loops] == [None] * 4
    assert [clock() for clock in clocks[:-1]] == [None] * 3


async def test_what_a_loop_calls_is_nobodys_time_too(clocks: Clocks) -> None:  # T-2
    """No task runs there: a new release has its instances made in that way."""

    def compile_something() -> None:
        with nobodys_time():
            clocks.wall += 10.0
            clocks.processor += 10.0

    loop = current_loop()
    assert loop is not None
    with BoundedWait(2.0) as bound:
        await anyio.to_thread.run_sync(on_loop, loop, compile_something, LONG)
        await ticked()
    assert not bound.expired


def test_a_ctrl_c_at_a_tick_leaves_the_clock_going() -> None:
    """As where an application catches it, and goes on with the same loop."""

    class Interrupted(BoundedWait):
        __slots__ = ()

        def expire(self) -> None:
            raise KeyboardInterrupt

    async def wait(kind: type[BoundedWait]) -> bool:
        with kind(TICK) as bound, anyio.move_on_after(20):
            await anyio.sleep_forever()
        return bound.expired

    loop = asyncio.new_event_loop()
    try:
        first = loop.create_task(wait(Interrupted))
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(first)
        assert loop.run_until_complete(wait(BoundedWait))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(first)
    finally:
        loop.close()
