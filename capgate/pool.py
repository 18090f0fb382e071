"""A pool of live policy instances: made at start-up, taken in a microsecond, replaced off the request path.

Engine objects belong to the thread that made them, so each thread has a shard of its own: the event loop's thread one
of ``size`` instances, a worker thread one with a single instance. A call into the guest is synchronous and never
awaits, so taking an idle instance, asking it and giving it back cannot be interrupted by cancellation, and costs no
lock, no semaphore and no cancel scope. Only a caller that finds nothing idle waits, and that is under the deadline of
whoever asks.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, NoReturn

import anyio
import msgspec

from ._scheduling import call_soon, in_event_loop
from .engine import Engine, load_engine
from .errors import CapgateError, PolicyTrap, PolicyUnavailable, PoolExhausted
from .interpreter import CompiledPolicy, PreparedPolicy, WasmInterpreter
from .limits import Limits, check_number
from .model import PolicyInfo, PolicyInput, PolicyResult
from .store.loader import WasmArtifact

_log = logging.getLogger("capgate.pool")

#: Replacements of failed instances: how many at once, and per second. Beyond that, checks are denied without building
#: any.
REPLACEMENT_BURST = 64
REPLACEMENTS_PER_SECOND = 4_000.0
#: Seconds without another attempt after instantiation failed, doubling from the first to the second.
BACKOFF = (0.05, 5.0)


class PoolStatistics(msgspec.Struct, frozen=True):
    """A snapshot over all threads. ``made`` = ``idle`` + ``in_use`` + ``retired`` + ``spent`` + those of ended
    threads."""

    size: int
    idle: int
    in_use: int
    waiting: int
    made: int
    retired: int
    spent: int
    denied_fast: int
    calls: int


class _Counters:
    __slots__ = ("calls", "denied_fast", "made", "retired", "spent")

    def __init__(self) -> None:
        self.calls = self.made = self.retired = self.spent = self.denied_fast = 0

    def add(self, other: _Counters) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class _Ended:
    """The sum over threads that have ended. Apart from the pool, so that waiting for a thread's end keeps no pool
    alive."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.counters = _Counters()

    def fold(self, counters: _Counters) -> None:
        with self.lock:
            self.counters.add(counters)


class _Shard:
    """The instances of one thread. Touched by that thread only, but for statistics."""

    def __init__(self, size: int, compiled: CompiledPolicy, ended: _Ended) -> None:
        self.size = size
        self.idle: list[WasmInterpreter] = []
        self.in_use = 0
        self.waiters: deque[anyio.Event] = deque()
        self.counters = _Counters()
        self._compiled = compiled
        self._failed = 0  # instances that trapped and were not replaced yet
        self._refill_is_due = False
        self._tokens, self._tokens_at = float(REPLACEMENT_BURST), time.monotonic()
        self._backoff, self._not_before = BACKOFF[0], 0.0
        weakref.finalize(self, ended.fold, self.counters).atexit = False

    def make(self) -> WasmInterpreter:
        """One more instance. Raises :class:`CapgateError`; the next attempt is then refused for a while."""
        now = time.monotonic()
        if now < self._not_before:
            self.counters.denied_fast += 1
            raise PolicyUnavailable("instances cannot be made; the next attempt is due shortly")
        try:
            interpreter = self._compiled.instantiate()
        except CapgateError:
            self._not_before = now + self._backoff
            self._backoff = min(self._backoff * 2, BACKOFF[1])
            raise
        self._backoff = BACKOFF[0]
        self.counters.made += 1
        return interpreter

    def replace_failed(self) -> WasmInterpreter:
        """An instance in place of one that failed. Raises :class:`PolicyUnavailable` where failures come too fast, so
        that a policy which fails at every call does not cost an instantiation at every call."""
        now = time.monotonic()
        earned = (now - self._tokens_at) * REPLACEMENTS_PER_SECOND
        self._tokens, self._tokens_at = min(self._tokens + earned, float(REPLACEMENT_BURST)), now
        if self._tokens < 1.0:
            self.counters.denied_fast += 1
            raise PolicyUnavailable(
                f"the policy keeps failing; {REPLACEMENTS_PER_SECOND:g} instances a second are replaced"
            )
        self._tokens -= 1.0
        self._failed -= 1
        return self.make()

    def refill(self) -> None:
        """Make what is missing, and wake whoever waits for it. Raises :class:`CapgateError` if it cannot."""
        self._refill_is_due = False
        try:
            while len(self.idle) + self.in_use < self.size:
                self.idle.append(self.replace_failed() if self._failed else self.make())
        finally:
            self.wake()

    def refill_soon(self) -> None:
        """Off the request path where the thread runs an event loop; where it runs none, there is no other place than
        here."""
        if not self._refill_is_due:
            self._refill_is_due = call_soon(self._refill_quietly)
            if not self._refill_is_due:
                self._refill_quietly()

    def _refill_quietly(self) -> None:
        try:
            self.refill()
        except PolicyUnavailable:
            pass  # too fast or too soon; whoever finds nothing idle tries again, and is told
        except CapgateError as error:
            _log.error("a policy instance could not be made: %s", error)

    def give_back(self, interpreter: WasmInterpreter, reuse: bool) -> None:
        """After whatever happened: an instance that is fit for use becomes idle, any other is replaced."""
        if not interpreter.broken and (reuse or not interpreter.uses):
            self.idle.append(interpreter)
            self.wake()
            return
        self.counters.calls += interpreter.uses
        if interpreter.broken:
            self.counters.retired += 1
            self._failed += 1
        else:
            self.counters.spent += 1
        self.refill_soon()

    def wake(self) -> None:
        if self.waiters and self.idle:
            self.waiters.popleft().set()


class WasmPool:
    """Instances of one policy, for every thread and event loop of this process.

    ``size`` instances (1 to 1024) are made on the thread that starts the pool. ``reuse`` lets an operator say that a
    module which capgate did not build is pure; without it, such an instance answers one question and is replaced
    afterwards. An async context manager; without one it starts at the first call. Raises what
    :class:`WasmInterpreter` raises.
    """

    def __init__(
        self,
        artifact: WasmArtifact,
        size: int = 8,
        engine: str = "auto",
        limits: Limits | None = None,
        *,
        reuse: bool = False,
    ) -> None:
        check_number("pool_size", size, 1, 1024, whole=True)
        self.size = size
        self.limits = limits or Limits()
        self.artifact = artifact
        self._engine: Engine = load_engine(engine)
        self._prepared = PreparedPolicy(artifact, self.limits)
        self._reuse = reuse or self._prepared.pure
        self._closed = False
        self._reset()
        _POOLS.add(self)

    @property
    def info(self) -> PolicyInfo:
        """Which policy this is, and on which engine."""
        return self._prepared.info(self._engine.name)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._ended = _Ended()
        self._shards: weakref.WeakSet[_Shard] = weakref.WeakSet()
        self._local = threading.local()
        self._compiled: CompiledPolicy | None = None

    # -- starting and ending

    async def start(self) -> None:
        """Compile, and make ``size`` instances for this thread. Does nothing where that has happened. Raises why it
        cannot."""
        self._shard()

    async def aclose(self) -> None:
        """Drop the instances of this thread; every later call is refused. Other threads drop theirs when they end."""
        self._closed = True
        shard = self._local.__dict__.pop("shard", None)
        if shard is not None:
            shard.idle.clear()
            while shard.waiters:
                shard.waiters.popleft().set()

    async def __aenter__(self) -> WasmPool:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _shard(self) -> _Shard:
        """This thread's shard, made at the first call of a thread: ``size`` instances for an event loop, else one."""
        if self._closed:
            raise PolicyUnavailable("the pool is closed")
        shard: _Shard | None = getattr(self._local, "shard", None)
        if shard is None:
            shard = _Shard(self.size if in_event_loop() else 1, self._compile(), self._ended)
            shard.refill()
            self._local.shard = shard
            with self._lock:
                self._shards.add(shard)
        return shard

    def _compile(self) -> CompiledPolicy:
        if self._engine.thread_bound:
            return CompiledPolicy(self._prepared, self._engine)
        with self._lock:
            if self._compiled is None:
                self._compiled = CompiledPolicy(self._prepared, self._engine)
            return self._compiled

    # -- asking

    def call(self, input: PolicyInput) -> PolicyResult:
        """Ask an idle instance of this thread, now; never awaits. From a coroutine and from a worker thread alike.

        Raises :class:`~capgate.errors.PolicyError`, of which :class:`PoolExhausted` says that waiting may help.
        """
        try:
            shard: _Shard = self._local.shard
            interpreter = shard.idle.pop()
        except (AttributeError, IndexError):
            shard, interpreter = self._take_slowly()
        if self._closed:
            raise PolicyUnavailable("the pool is closed")
        # Nothing below awaits, so nobody else in this thread sees the instance missing: `in_use` need not count it.
        try:
            result = interpreter.call_policy_check(input)
        except PolicyTrap:
            shard.give_back(interpreter, self._reuse)
            if interpreter.uses == 1:
                raise
            return self._retry(shard, input)
        except BaseException:
            shard.give_back(interpreter, self._reuse)
            raise
        if self._reuse:
            shard.idle.append(interpreter)
            if shard.waiters:
                shard.wake()
        else:
            shard.give_back(interpreter, False)
        return result

    def _take_slowly(self) -> tuple[_Shard, WasmInterpreter]:
        """The first call of a thread, or nothing idle."""
        shard = self._shard()
        if not shard.idle and not in_event_loop():
            shard.refill()  # nobody else in this thread can
        if not shard.idle:
            raise PoolExhausted(f"all {shard.size} instances of this thread are in use or being replaced")
        return shard, shard.idle.pop()

    def _retry(self, shard: _Shard, input: PolicyInput) -> PolicyResult:
        """A reused instance trapped: was it the question, or something left behind? Ask once more, on a fresh one."""
        fresh = shard.replace_failed()
        try:
            return fresh.call_policy_check(input)
        finally:
            shard.give_back(fresh, self._reuse)

    async def wait_and_call(self, input: PolicyInput) -> PolicyResult:
        """:meth:`call`, waiting for an instance. Without bound of its own: callers hold a cancel scope around it.

        Raises :class:`PoolExhausted` at once if ``limits.waiters`` callers wait already.
        """
        while True:
            await self._wait_for_idle()
            try:
                return self.call(input)
            except PoolExhausted:
                continue  # somebody was quicker

    async def _wait_for_idle(self) -> None:
        shard = self._shard()
        if shard.idle:
            return
        if len(shard.waiters) >= self.limits.waiters:
            raise PoolExhausted(f"{len(shard.waiters)} callers wait already")
        if not shard.in_use:
            # A refill may have been scheduled on a loop that has closed since. This also says so when none can be made.
            shard.refill()
            return
        event = anyio.Event()
        shard.waiters.append(event)
        try:
            await event.wait()
        except BaseException:
            if event.is_set():
                shard.wake()  # cancelled after being woken: pass it on
            else:
                shard.waiters.remove(event)
            raise

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[WasmInterpreter]:
        """Hold one instance of this thread for a while. Waits as long as ``limits.deadline``, then
        :class:`PoolExhausted`."""
        shard = self._shard()
        if not shard.idle:
            try:
                with anyio.fail_after(self.limits.deadline):
                    while not shard.idle:
                        await self._wait_for_idle()
            except TimeoutError:
                raise PoolExhausted(f"no instance within {self.limits.deadline} s") from None
        interpreter = shard.idle.pop()
        shard.in_use += 1
        try:
            yield interpreter
        finally:
            shard.in_use -= 1
            shard.give_back(interpreter, self._reuse)

    # -- looking

    def statistics(self) -> PoolStatistics:
        """A frozen snapshot, over all threads."""
        total = _Counters()
        with self._lock:
            shards = list(self._shards)
        with self._ended.lock:
            total.add(self._ended.counters)
        for shard in shards:
            total.add(shard.counters)
            total.calls += sum(interpreter.uses for interpreter in tuple(shard.idle))
        return PoolStatistics(
            size=self.size,
            idle=sum(len(shard.idle) for shard in shards),
            in_use=sum(shard.in_use for shard in shards),
            waiting=sum(len(shard.waiters) for shard in shards),
            **{name: getattr(total, name) for name in _Counters.__slots__},
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError("a WasmPool holds engine objects of this process; build one in the process that uses it")

    def __deepcopy__(self, memo: Any) -> NoReturn:
        self.__reduce__()


#: Instances from before a fork. Their engine's threads and locks did not come along, so nothing of them runs again,
#: not even a destructor; their memory is shared with the parent until it is written to.
_BEFORE_FORK: list[object] = []
_POOLS: weakref.WeakSet[WasmPool] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for pool in list(_POOLS):
        _BEFORE_FORK.extend((pool._local, *pool._shards, pool._compiled))
        pool._reset()


os.register_at_fork(after_in_child=_after_fork_in_child)
