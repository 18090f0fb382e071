"""Holds the instances of one thread, whoever waits for them, and what ties them to their thread.

An instance is idle, held, retired, spent, or closed with its thread, its event loop or its pool. It is held by
``WasmPool.acquire``, or by a caller who waited and has not resumed yet. Nothing here awaits between taking an instance
and saying whose it is, so cancellation loses none.

Engine objects are to be dropped on the thread that made them. The last reference to a pool may go anywhere: that of a
pool that was replaced goes on the thread that watches the store. So the instances of a thread end with it, or when it
next asks a pool after theirs is gone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import anyio

from ..errors import CapgateError, PolicyUnavailable
from ..log_writer import BackgroundLogger
from .event_loop import call_soon, current_loop
from .instantiation import InstanceCounts, Maker
from .interpreter import CompiledPolicy, WasmInterpreter
from .turns import Turns

_log = BackgroundLogger("capgate.pool")

#: Instances made at once on an event loop, before other tasks have their turn.
BATCH = 16


class _Waiter:
    """A caller that found nothing idle. Woken with an instance of its own, or without one, to look again."""

    __slots__ = ("event", "interpreter")

    def __init__(self) -> None:
        self.event = anyio.Event()
        self.interpreter: WasmInterpreter | None = None


class ThreadInstances:
    """The instances of one thread: one, or ``loop_size`` once the thread runs an event loop. Touched by that thread
    only, but for statistics."""

    def __init__(self, loop_size: int, compiler: Callable[[], CompiledPolicy]) -> None:
        self.idle: list[WasmInterpreter] = []
        self.held: set[WasmInterpreter] = set()
        self.waiters: deque[_Waiter] = deque()
        self.turns = Turns()
        self.counts = InstanceCounts()
        self._maker = Maker(compiler, self.counts)
        self._size = 1
        self._loop_size = loop_size
        self._loop: object | None = None
        self._gone: object | None = None
        self._refill_due_on: object | None = None

    @property
    def loop(self) -> object | None:
        """The event loop that the thread ran last, if any, unless that is known to be gone."""
        return None if self._loop is self._gone else self._loop

    def forget_loop(self, loop: object) -> None:
        """Note that ``loop`` is gone. Any thread may find that out."""
        self._gone = loop

    @property
    def has_compiled(self) -> bool:
        """Whether this thread has the policy compiled, so that instances can be made at once."""
        return self._maker.has_compiled

    # -- making

    def fill_some(self) -> bool:
        """Make one of what is missing, now, however shortly before an attempt failed. Raises why it cannot; false where
        nothing is missing any more."""
        self._maker.forget_backoff()
        self._refill(1)
        return self.missing() > 0

    def refill_now(self) -> None:
        """Make an instance for a caller that cannot go on without. :class:`PolicyUnavailable` if it cannot be made."""
        with self._explained():
            self._refill(1)
        if self.missing() > 0:
            self.refill_soon()

    def replace_now(self, broken: WasmInterpreter) -> WasmInterpreter:
        """Make an instance in place of ``broken``, for the same caller. :class:`PolicyUnavailable` if it cannot be
        made."""
        self._retire(broken)
        with self._explained():
            return self._maker.make()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except PolicyUnavailable:
            raise
        except Exception as error:
            _report(error)
            raise PolicyUnavailable(f"no instance can be made: {self._maker.failure}") from error

    def refill_soon(self) -> None:
        """Refill off the request path where the thread runs an event loop. Where it runs none, there is no other place
        than here."""
        loop = current_loop()
        if loop is None:
            self._refill_quietly(1)
        elif self._refill_due_on is not loop:
            self._refill_due_on = loop
            call_soon(loop, self._refill_on_loop)

    def refill_is_due(self) -> bool:
        """Say whether the current loop will refill. What was due on another loop may never come."""
        return self._refill_due_on is not None and self._refill_due_on is current_loop()

    def missing(self) -> int:
        """Return how many instances there are to be made."""
        return self._size - len(self.idle) - len(self.held)

    def _refill_on_loop(self) -> None:
        self._refill_due_on = None
        if self._refill_quietly(BATCH):
            if self.missing() > 0:
                self.refill_soon()
        elif not self.held:
            self._dismiss_waiters()  # nobody would wake them; each tries itself, and is told

    def _refill_quietly(self, most: int) -> bool:
        try:
            self._refill(most)
        except PolicyUnavailable:
            return False  # too fast or too soon; whoever finds nothing idle tries again, and is told
        except Exception as error:  # raised into trio's loop, it would end that
            _report(error)
            return False
        return True

    def _refill(self, most: int) -> None:
        try:
            for _ in range(min(most, self.missing())):
                self.idle.append(self._maker.make())
        finally:
            self.hand_over()

    # -- giving back

    def give_back(self, interpreter: WasmInterpreter, reuse: bool) -> None:
        """Make an instance idle that is fit for use, whatever happened before, and replace any other."""
        if not interpreter.broken and ((reuse and not interpreter.spent) or not interpreter.uses):
            self.idle.append(interpreter)
            self.hand_over()
            return
        if interpreter.broken:
            self._retire(interpreter)
        else:
            self.counts.calls += interpreter.uses
            self.counts.spent += 1
        self.refill_soon()

    def release(self, interpreter: WasmInterpreter, reuse: bool) -> None:
        """Give a held instance back, unless it was closed in the meantime."""
        if interpreter in self.held:
            self.held.remove(interpreter)
            self.give_back(interpreter, reuse)

    def _retire(self, interpreter: WasmInterpreter) -> None:
        self.counts.calls += interpreter.uses
        self.counts.retired += 1
        self._maker.retired()

    # -- waiting

    async def wait(self) -> None:
        """Wait to be woken. An instance that came with it is idle afterwards, for the caller to take before it awaits
        anything else."""
        waiter = _Waiter()
        self.waiters.append(waiter)
        try:
            await waiter.event.wait()
        except BaseException:
            if waiter in self.waiters:
                self.waiters.remove(waiter)
            self._put_down(waiter)
            self.hand_over()  # woken and cancelled at once: the next in line gets it
            raise
        self._put_down(waiter)

    def _put_down(self, waiter: _Waiter) -> None:
        if waiter.interpreter is not None and waiter.interpreter in self.held:
            self.held.remove(waiter.interpreter)
            self.idle.append(waiter.interpreter)

    def hand_over(self) -> None:
        """Give idle instances to those who wait, first come first served, so that nobody who comes later is served
        before."""
        if self.waiters and self.follow_loop():
            while self.waiters and self.idle:
                waiter = self.waiters.popleft()
                waiter.interpreter = self.idle.pop()
                self.held.add(waiter.interpreter)
                waiter.event.set()

    def _dismiss_waiters(self) -> None:
        while self.waiters:
            self.waiters.popleft().event.set()

    # -- ending

    def follow_loop(self) -> bool:
        """Say whether an event loop runs here, and change over to it if it is another than before.

        Nobody of the former loop can be woken, and nothing is given back there. So its waiters are left to their
        deadlines, and what it holds is closed.
        """
        loop = current_loop()
        if loop is None or loop is self._loop:
            return loop is not None
        self.waiters, self.turns = deque(), Turns()
        held, self.held = self.held, set()
        self._count_closed(held)
        self._loop, self._size = loop, self._loop_size
        return True

    def close(self) -> None:
        """Close every instance, and have those who wait see it."""
        if self.follow_loop():
            self._dismiss_waiters()
            self.turns.dismiss()
        self._size = 0
        idle, held, self.idle, self.held = self.idle, self.held, [], set()
        self._count_closed((*idle, *held))

    def _count_closed(self, interpreters: Iterable[WasmInterpreter]) -> None:
        for interpreter in interpreters:
            self.counts.calls += interpreter.uses
            self.counts.closed += 1


def _report(error: Exception) -> None:
    unexpected = None if isinstance(error, CapgateError) else error
    _log.error("a policy instance could not be made: %s", error, exc_info=unexpected)


class Ownership:
    """Ties ``instances`` to their thread: a ``threading.local`` keeps this, so that it ends with the thread.

    Then they leave ``of_threads``, and are dropped, on this thread as engines demand. No lock is taken: this may run
    in the middle of anything.
    """

    def __init__(
        self, instances: ThreadInstances, of_threads: set[ThreadInstances], ended: deque[InstanceCounts]
    ) -> None:
        self._instances, self._of_threads, self._ended = instances, of_threads, ended
        self._thread = threading.get_ident()
        self._orphans = _orphans_here().of_pools
        of_threads.add(instances)

    def __del__(self) -> None:
        if threading.get_ident() == self._thread:
            self._instances.close()
            # In this order, somebody who adds up at the same time may miss these, but does not count them twice.
            self._of_threads.discard(self._instances)
            self._ended.append(self._instances.counts)
        else:
            # Another thread let go of the last reference to the pool, while this one goes on. Its instances wait until
            # it asks a pool. In a forked child the thread is gone, so nobody asks, and `of_threads` keeps them.
            self._orphans.append(self._instances)


class _Orphans:
    """Instances of one thread whose pools are gone: dropped when the thread asks another pool, or ends."""

    def __init__(self) -> None:
        self.of_pools: deque[ThreadInstances] = deque()
        self._thread = threading.get_ident()

    def __del__(self) -> None:
        if threading.get_ident() == self._thread:
            self.drop()

    def drop(self) -> None:
        """Drop them, on the thread that they belong to."""
        while self.of_pools:
            self.of_pools.popleft().close()


_local = threading.local()


def _orphans_here() -> _Orphans:
    orphans: _Orphans | None = getattr(_local, "orphans", None)
    if orphans is None:
        orphans = _local.orphans = _Orphans()
    return orphans


def drop_orphans() -> None:
    """Drop what this thread has of pools that are gone."""
    _orphans_here().drop()


def leave_orphans_behind() -> object:
    """Start anew in the child of a fork. Returns, for the caller to keep, what no destructor may run for."""
    global _local
    before, _local = _local, threading.local()
    return before
