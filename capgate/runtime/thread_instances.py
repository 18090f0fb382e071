"""The instances of one thread, and who waits for them: what a pool consists of.

An instance is idle, held (by ``WasmPool.acquire``, or by a caller who waited and has not resumed yet), retired, spent,
or closed with its thread, its event loop or its pool. Nothing here awaits between taking an instance and saying whose
it is, so cancellation loses none.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import anyio

from ..errors import CapgateError, PolicyUnavailable
from .event_loop import call_soon, current_loop
from .instantiation import Counters, Maker
from .interpreter import CompiledPolicy, WasmInterpreter

_log = logging.getLogger("capgate.runtime.pool")

#: Instances made at once on an event loop, before other tasks have their turn.
BATCH = 16


class _Waiter:
    """A caller that found nothing idle. Woken with an instance of its own, or without one, to look again."""

    __slots__ = ("event", "interpreter")

    def __init__(self) -> None:
        self.event = anyio.Event()
        self.interpreter: WasmInterpreter | None = None


class Shard:
    """The instances of one thread: one, or ``loop_size`` once the thread runs an event loop. Touched by that thread
    only, but for statistics."""

    def __init__(self, loop_size: int, compiler: Callable[[], CompiledPolicy]) -> None:
        self.idle: list[WasmInterpreter] = []
        self.held: set[WasmInterpreter] = set()
        self.waiters: deque[_Waiter] = deque()
        self.counters = Counters()
        self._maker = Maker(compiler, self.counters)
        self._size = 1
        self._loop_size = loop_size
        self._loop: object | None = None
        self._refill_due_on: object | None = None

    # -- making

    def fill_some(self) -> bool:
        """Make one of what is missing, now, however shortly before an attempt failed. Raises why it cannot; false where
        nothing is missing any more."""
        self._maker.forget_backoff()
        self._refill(1)
        return self.missing() > 0

    def refill_now(self) -> None:
        """One instance for a caller that cannot go on without. :class:`PolicyUnavailable` if it cannot be made."""
        with self._explained():
            self._refill(1)
        if self.missing() > 0:
            self.refill_soon()

    def replace_now(self, broken: WasmInterpreter) -> WasmInterpreter:
        """An instance in place of ``broken``, for the same caller. :class:`PolicyUnavailable` if it cannot be made."""
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
        """Off the request path where the thread runs an event loop; where it runs none, there is no other place than
        here."""
        loop = current_loop()
        if loop is None:
            self._refill_quietly(1)
        elif self._refill_due_on is not loop:
            self._refill_due_on = loop
            call_soon(loop, self._refill_on_loop)

    def refill_is_due(self) -> bool:
        """Whether the current loop will refill. What was due on another loop may never come."""
        return self._refill_due_on is not None and self._refill_due_on is current_loop()

    def missing(self) -> int:
        """How many instances there are to be made."""
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
        """After whatever happened: an instance that is fit for use becomes idle, any other is replaced."""
        if not interpreter.broken and ((reuse and not interpreter.spent) or not interpreter.uses):
            self.idle.append(interpreter)
            self.hand_over()
            return
        if interpreter.broken:
            self._retire(interpreter)
        else:
            self.counters.calls += interpreter.uses
            self.counters.spent += 1
        self.refill_soon()

    def release(self, interpreter: WasmInterpreter, reuse: bool) -> None:
        """Give a held instance back, unless it was closed in the meantime."""
        if interpreter in self.held:
            self.held.remove(interpreter)
            self.give_back(interpreter, reuse)

    def _retire(self, interpreter: WasmInterpreter) -> None:
        self.counters.calls += interpreter.uses
        self.counters.retired += 1
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
        """Idle instances go to those who wait, first come first served, so that nobody who comes later is served
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
        """Whether an event loop runs here. If it is another than before, nobody of that one can be woken, and nothing
        is given back: its waiters are left to their deadlines, and what it holds is closed."""
        loop = current_loop()
        if loop is None or loop is self._loop:
            return loop is not None
        self.waiters = deque()
        held, self.held = self.held, set()
        self._count_closed(held)
        self._loop, self._size = loop, self._loop_size
        return True

    def close(self) -> None:
        """Close every instance, and have those who wait find out."""
        if self.follow_loop():
            self._dismiss_waiters()
        self._size = 0
        idle, held, self.idle, self.held = self.idle, self.held, [], set()
        self._count_closed((*idle, *held))

    def _count_closed(self, interpreters: Iterable[WasmInterpreter]) -> None:
        for interpreter in interpreters:
            self.counters.calls += interpreter.uses
            self.counters.closed += 1


def _report(error: Exception) -> None:
    unexpected = None if isinstance(error, CapgateError) else error
    _log.error("a policy instance could not be made: %s", error, exc_info=unexpected)
