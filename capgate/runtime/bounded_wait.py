"""Bounds how long is waited, by the time in which the event loop could have served whoever waits.

A clock on the wall also counts the time in which the process was stopped, or got no processor, or in which a call of
somebody else blocked the loop. None of that is anybody's fault who waits. So the loop counts for itself, in short
ticks. One that comes late counts for no more than it was meant to take, or for the processor time of the loop's
thread. Whoever is due at a late tick gets one more, because what it waits for may have arrived meanwhile.

A limit is never short of the time on the wall, and the clock goes only while somebody waits.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, thread_time
from types import TracebackType
from typing import Final

import anyio

from .event_loop import call_later, current_loop

#: Seconds between two looks at who has waited long enough.
TICK: Final = 0.01
#: What makes a tick late.
LATE: Final = 2 * TICK


class BoundedWait:
    """Cancels what stands in its ``with`` block once that has waited for ``seconds``.

    ``expired`` says whether that came. It may come while the block ends by itself; whether what it gave counts is for
    the caller to say. With ``shield`` nobody further outside cancels the block.
    """

    __slots__ = ("_clock", "_scope", "_shield", "expired", "graced", "seconds", "until")

    until: float
    graced: bool

    def __init__(self, seconds: float, *, shield: bool = False) -> None:
        self.seconds = seconds
        self.expired = False
        self._shield = shield

    def __enter__(self) -> BoundedWait:
        self._scope = anyio.CancelScope(shield=self._shield)
        self._scope.__enter__()
        self._clock = _clock_here()
        self.renew()
        return self

    def __exit__(
        self, error_class: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._clock.forget(self)
        return self._scope.__exit__(error_class, error, trace)

    def renew(self) -> None:
        """Begin anew: what was waited for came, and something else is waited for."""
        if not self.expired:
            self.graced = False
            self._clock.watch(self)

    def expire(self) -> None:
        """End the wait, because its time is over."""
        self.expired = True
        self._scope.cancel()

    @property
    def left(self) -> float:
        """Seconds that are left of the time, as far as it was counted; never less than 0."""
        return max(0.0, self.until - self._clock.ran)


@contextmanager
def nobodys_time() -> Iterator[None]:
    """Leave out what this thread does in the ``with`` block, where it runs an event loop: nobody who waits is to pay
    for a compilation."""
    clock = None if current_loop() is None else _clock_here()
    before = thread_time()
    try:
        yield
    finally:
        if clock is not None:
            clock.leave_out(thread_time() - before)


class _LoopClock:
    """Counts for one event loop, which it does not keep."""

    __slots__ = ("__weakref__", "_goes", "_next", "_processor", "_since", "_waits", "loop", "ran")

    def __init__(self, loop: object) -> None:
        self.loop = weakref.ref(loop)
        self.ran = 0.0
        self._waits: set[BoundedWait] = set()
        self._next = math.inf
        self._goes = False
        self._since = self._processor = 0.0

    def watch(self, wait: BoundedWait) -> None:
        """Have ``wait`` expire after its seconds, counted from now."""
        now = monotonic()
        if not self._goes:
            self._goes, self._since = True, now
            self._again()
        # What passed since the last tick is counted with the next one, and is not this wait's.
        wait.until = self.ran + max(0.0, now - self._since) + wait.seconds
        self._waits.add(wait)
        self._next = min(self._next, wait.until)

    def forget(self, wait: BoundedWait) -> None:
        self._waits.discard(wait)

    def leave_out(self, seconds: float) -> None:
        """Count so many seconds of processor time less, of those since the last tick."""
        self._processor += seconds

    def _again(self) -> None:
        self._processor = thread_time()
        call_later(current_loop(), TICK, self._tick)

    def _tick(self) -> None:
        if not self._waits:
            self._goes, self._next = False, math.inf
            return
        now = monotonic()
        passed, self._since = max(0.0, now - self._since), now
        self.ran += min(passed, max(TICK, thread_time() - self._processor))
        try:
            if self.ran >= self._next:
                self._expire(passed > LATE)
        finally:  # a Ctrl-C may arrive here, and the loop go on all the same
            self._again()

    def _expire(self, late: bool) -> None:
        for wait in [wait for wait in self._waits if wait.until <= self.ran]:
            if late and not wait.graced:
                wait.graced, wait.until = True, self.ran + TICK
                continue
            self._waits.discard(wait)
            wait.expire()
        self._next = min((wait.until for wait in self._waits), default=math.inf)


#: The clock of the loop that a thread runs, or ran last. A loop's own variables are there for its tasks alone, and not
#: for what it calls.
_local = threading.local()


def _clock_here() -> _LoopClock:
    loop, clock = current_loop(), getattr(_local, "clock", None)
    if clock is None or clock.loop() is not loop:
        clock = _local.clock = _LoopClock(loop)
    known: _LoopClock = clock
    return known
