"""Finds the event loop of this thread, whichever library runs it, and has it run functions.

anyio has no neutral form of this. A task group would need an owner that lives as long as the pool, and a pool that
starts at its first request has none.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from typing import Final

import anyio

#: Seconds after which whoever waits for a loop of another thread looks whether that still runs.
LOOK: Final = 0.1
#: Trio's loop that was running when this process was forked, and is still reported in the child, where nothing runs it.
_left_behind: object = None


def current_loop() -> object | None:
    """Return what stands for the event loop that runs the calling code, the same object as long as it runs. Else
    ``None``."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return _trio_token()


def call_soon(loop: object, function: Callable[[], None]) -> None:
    """Have ``loop``, the current one, call ``function`` once the current task gives way."""
    schedule: Callable[[Callable[[], None]], object] = getattr(loop, "run_sync_soon", None) or loop.call_soon  # type: ignore[attr-defined]
    schedule(function)


def call_later(loop: object, seconds: float, function: Callable[[], None]) -> None:
    """Have ``loop``, the current one, call ``function`` in ``seconds``. It must not raise: that would end trio's."""
    schedule: Callable[[float, Callable[[], None]], object] | None = getattr(loop, "call_later", None)
    if schedule is None:
        sys.modules["trio"].lowlevel.spawn_system_task(_sleep_and_call, seconds, function)
    else:
        schedule(seconds, function)


async def _sleep_and_call(seconds: float, function: Callable[[], None]) -> None:
    await anyio.sleep(seconds)
    function()


class Signal:
    """Wakes the one task that waits for it, once. For the task that makes it, and the thread of its loop only.

    An ``anyio.Event`` for less: on asyncio a future is all that one waiter needs. A task of trio's, which may be a
    guest of asyncio's loop, cannot wait for one.
    """

    __slots__ = ("_event", "_future")

    def __init__(self) -> None:
        loop = current_loop()
        self._future: asyncio.Future[None] | None = None
        self._event: anyio.Event | None = None
        if isinstance(loop, asyncio.AbstractEventLoop) and asyncio.current_task(loop) is not None:
            self._future = loop.create_future()
        else:
            self._event = anyio.Event()

    async def wait(self) -> None:
        """Return once :meth:`set` was called."""
        if self._future is not None:
            await self._future
        elif self._event is not None:
            await self._event.wait()

    def set(self) -> None:
        """Wake who waits. After that it does nothing."""
        if self._event is not None:
            self._event.set()
        elif self._future is not None and not self._future.done():
            self._future.set_result(None)

    def is_set(self) -> bool:
        """Say whether :meth:`set` was called, or nobody waits any more."""
        return self._event.is_set() if self._event is not None else self._future is None or self._future.done()


def is_running(loop: object) -> bool:
    """Say whether ``loop``, of any thread, runs. Of trio's that cannot be seen: it refuses what it is given later."""
    return not isinstance(loop, asyncio.AbstractEventLoop) or loop.is_running()


def on_loop(loop: object, function: Callable[[], object], seconds: float, pause: float = 0.0) -> bool:
    """Have ``loop``, of any thread, call ``function`` until it returns something false, other tasks having their turns
    in between, and ``pause`` seconds passing; and wait for that.

    Returns False where the loop is gone. Raises ``TimeoutError`` after ``seconds``, and what ``function`` raises.
    """
    if current_loop() is loop:
        while function():
            pass
        return True
    steps = _Steps(loop, function, pause)
    try:
        if not is_running(loop):
            return False  # stopped, and perhaps never closed: it would take what it is given, and do nothing
        steps.schedule(steps)
    except RuntimeError:  # closed; trio's RunFinishedError is one too
        return False
    left = seconds  # less one look at a time, so that a process which was stopped meanwhile has lost but one
    while not steps.done.wait(min(LOOK, left)):
        left -= LOOK
        if not is_running(loop):
            steps.done.set()
            return False
        if left <= 0:
            steps.done.set()
            raise TimeoutError(f"the event loop did not do it within {seconds:g} s")
    if steps.failure is not None:
        raise steps.failure
    return True


class _Steps:
    """Calls ``function`` again and again. No closure: one that schedules itself would be a cycle, which keeps what it
    is about, a pool, until a garbage collection."""

    def __init__(self, loop: object, function: Callable[[], object], pause: float) -> None:
        self.done = threading.Event()
        self.failure: BaseException | None = None
        self.schedule: Callable[[Callable[[], None]], object] = (
            getattr(loop, "run_sync_soon", None) or loop.call_soon_threadsafe  # type: ignore[attr-defined]
        )
        self._loop, self._function, self._pause = loop, function, pause

    def __call__(self) -> None:
        if self.done.is_set():
            return  # nobody waits any more
        try:
            if self._function():
                if self._pause:
                    call_later(self._loop, self._pause, self)
                else:
                    self.schedule(self)
                return
        except (KeyboardInterrupt, SystemExit):
            self.done.set()
            raise
        except BaseException as error:  # an engine's panic is no Exception; raised here, it would end trio's loop
            self.failure = error
        self.done.set()


def _trio_token() -> object | None:
    trio = sys.modules.get("trio")
    if trio is None:
        return None
    try:
        token: object = trio.lowlevel.current_trio_token()
    except (RuntimeError, AttributeError):  # no loop here, or trio is being imported by another thread
        return None
    return None if token is _left_behind else token


def _after_fork_in_child() -> None:
    global _left_behind
    _left_behind = _trio_token() or _left_behind


os.register_at_fork(after_in_child=_after_fork_in_child)
