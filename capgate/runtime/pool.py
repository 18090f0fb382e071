"""A pool of live policy instances: made at start-up, taken in a microsecond, replaced off the request path.

Engine objects belong to the thread that made them, so each thread has a shard of its own: the event loop's thread one
of ``size`` instances, a worker thread one with a single instance. A call into the guest is synchronous and never
awaits, so taking an idle instance, asking it and giving it back cannot be interrupted by cancellation, and costs no
lock, no semaphore and no cancel scope. Only a caller that finds nothing idle waits, and that is under the deadline of
whoever asks.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, NoReturn

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec

from ..artifact.load import WasmArtifact
from ..errors import PolicyTrap, PolicyUnavailable, PoolExhausted
from ..limits import Limits, check_number
from ..model import ONLY_ENTRYPOINT, Entrypoint, PolicyInfo, PolicyInput, PolicyResult
from .engine import Engine, load_engine
from .instantiation import Compiler, Counters
from .interpreter import PreparedPolicy, WasmInterpreter
from .ownership import Leash, drop_orphans, leave_behind
from .thread_instances import Shard


class PoolStatistics(msgspec.Struct, frozen=True):
    """A snapshot over all threads. ``made`` = ``idle`` + ``in_use`` + ``retired`` + ``spent`` + ``closed``, but for
    threads that are in the middle of a call, or ending.

    ``retired`` trapped, timed out or broke the ABI; ``spent`` answered and are not to be reused; ``closed`` were
    dropped with their thread, their event loop or the pool. ``denied_fast`` counts attempts to make an instance that
    were refused because earlier ones failed.
    """

    size: int
    idle: int
    in_use: int
    waiting: int
    made: int
    retired: int
    spent: int
    closed: int
    denied_fast: int
    calls: int


class WasmPool:
    """Instances of one policy, for every thread and event loop of this process.

    ``size`` instances (1 to 1024) are made on the thread that starts the pool. ``reuse`` lets an operator say that a
    module is pure of which that is not known; without it, such an instance answers one question and is replaced
    afterwards. ``entrypoint`` is for modules that OPA compiled. An async context manager; without one it starts, and
    compiles, at the first call. Raises what :class:`WasmInterpreter` raises.

    Making one decodes and rewrites the module, and has a child process compile it first unless it is small: seconds for
    a large one, so an application that serves already makes it in a worker thread (``anyio.to_thread.run_sync``).
    """

    def __init__(
        self,
        artifact: WasmArtifact,
        size: int = 8,
        engine: str = "auto",
        limits: Limits | None = None,
        *,
        reuse: bool = False,
        entrypoint: Entrypoint = ONLY_ENTRYPOINT,
    ) -> None:
        check_number("pool_size", size, 1, 1024, whole=True)
        self.size = size
        self.limits = limits or Limits()
        self.artifact = artifact
        self._engine: Engine = load_engine(engine)
        self._prepared = PreparedPolicy(artifact, self.limits, entrypoint)
        self._prepared.try_compiling(self._engine)
        self._reuse = reuse or self._prepared.pure
        # An instance of OPA's ABI has to be looked at after each answer.
        self._keeps = self._reuse and self._prepared.facts is None
        # What was restored is as good as new, so that asking a new one would bring nothing else.
        self._retries = self._prepared.facts is None
        self._closed = False
        self._reset()
        _POOLS.add(self)

    @property
    def info(self) -> PolicyInfo:
        """Which policy this is, and on which engine."""
        return self._prepared.info(self._engine.name)

    def _reset(self) -> None:
        self._compiler = Compiler(self._prepared, self._engine)
        self._shards: set[Shard] = set()
        self._local = threading.local()
        self._ended: deque[Counters] = deque()
        self._total_ended = Counters()
        self._lock = threading.RLock()  # a signal's handler may ask for statistics, too

    # -- starting and ending

    async def start(self) -> None:
        """Compile, and make ``size`` instances for this thread. Does nothing where that has happened. Raises why it
        cannot.

        Other tasks have their turns meanwhile, with one exception: compiled modules of wasmer belong to the thread that
        compiled them, so that there the event loop stands still for the compilation.
        """
        self._shard()  # which raises where the pool is closed
        if not self._compiler.belongs_here():
            await anyio.to_thread.run_sync(self._compiler)
        while self.fill_some():
            await anyio.lowlevel.checkpoint()

    def prepare(self) -> None:
        """Compile, on a thread that asks nothing, where compiled modules belong to no thread. Raises why it cannot."""
        if not self._compiler.belongs_here():
            self._compiler()

    def fill_some(self) -> bool:
        """Make an instance or two of those that this thread still lacks. Whether there are more to be made."""
        return self._shard().fill_some()

    async def aclose(self) -> None:
        """Drop the instances of this thread; every later call is refused. Other threads drop theirs when they end."""
        self.close()

    def close(self) -> None:
        """:meth:`aclose` for code that cannot await."""
        self._closed = True
        self.close_here()

    def close_here(self) -> None:
        """Drop the instances of this thread, which makes new ones if it asks again."""
        shard = self._local.__dict__.pop("shard", None)
        if shard is not None:
            shard.close()
        self._local.__dict__.pop("leash", None)

    async def __aenter__(self) -> WasmPool:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _shard(self) -> Shard:
        """This thread's shard, empty at the first call of a thread."""
        if self._closed:
            raise PolicyUnavailable("the pool is closed")
        shard: Shard | None = getattr(self._local, "shard", None)
        if shard is None:
            self._fold_ended()
            drop_orphans()
            shard = Shard(self.size, self._compiler)
            self._local.leash = Leash(shard, self._shards, self._ended)
            self._local.shard = shard
        shard.follow_loop()
        return shard

    # -- asking

    def call(self, input: PolicyInput) -> PolicyResult:
        """Ask an idle instance of this thread, now; never awaits. From a coroutine and from a worker thread alike.

        Raises :class:`~capgate.errors.PolicyError`, of which :class:`PoolExhausted` says that waiting may help.
        """
        if self._closed:
            raise PolicyUnavailable("the pool is closed")
        try:
            shard: Shard = self._local.shard
            interpreter = shard.idle.pop()
        except (AttributeError, IndexError):
            shard, interpreter = self._take_slowly()
        # Nothing below awaits, so nobody else in this thread sees the instance missing: `held` need not have it.
        try:
            interpreter.uses += 1
            result = interpreter.ask(input)
        except BaseException as error:
            return self._failed(shard, interpreter, input, error)
        if self._keeps:
            shard.idle.append(interpreter)
            if shard.waiters:
                shard.hand_over()
        else:
            shard.give_back(interpreter, self._reuse)
        return result

    def _take_slowly(self) -> tuple[Shard, WasmInterpreter]:
        """The first call of a thread, or nothing idle."""
        shard = self._shard()
        if not shard.idle and shard.missing() > 0 and not shard.refill_is_due():
            shard.refill_now()  # lazily started, or a thread where nobody else can
        if not shard.idle:
            raise PoolExhausted("every instance of this thread is in use or being replaced")
        return shard, shard.idle.pop()

    def _failed(
        self, shard: Shard, interpreter: WasmInterpreter, input: PolicyInput, error: BaseException
    ) -> PolicyResult:
        """``interpreter`` raised ``error``, and is given back. Raises what that means, but for a trap of an instance
        that was used before."""
        try:
            interpreter.fail(error)
        except PolicyTrap:
            if interpreter.uses > 1 and self._retries:
                return self._retry(shard, interpreter, input)
            shard.give_back(interpreter, self._reuse)
            raise
        except BaseException:
            shard.give_back(interpreter, self._reuse)
            raise
        finally:
            del error  # whose traceback has this frame

    def _retry(self, shard: Shard, trapped: WasmInterpreter, input: PolicyInput) -> PolicyResult:
        """A reused instance trapped: was it the question, or something left behind? Ask once more, on a fresh one."""
        fresh = shard.replace_now(trapped)
        try:
            return fresh.call_policy_check(input)
        finally:
            shard.give_back(fresh, self._reuse)

    async def wait_and_call(self, input: PolicyInput) -> PolicyResult:
        """:meth:`call`, waiting for an instance. Without bound of its own: callers hold a cancel scope around it.

        Raises :class:`PoolExhausted` at once if ``limits.waiters`` callers wait already.
        """
        await self._idle()
        return self.call(input)

    async def _idle(self) -> Shard:
        """This thread's shard with something idle in it, for the caller to take before it awaits anything else."""
        while True:
            shard = self._shard()
            if shard.idle:
                return shard
            if shard.missing() > 0 and not shard.refill_is_due():
                shard.refill_now()  # which those who wait already get first
            elif len(shard.waiters) >= self.limits.waiters:
                raise PoolExhausted(f"{len(shard.waiters)} callers wait already")
            else:
                await shard.wait()

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[WasmInterpreter]:
        """Hold one instance of this thread for a while. Waits as long as ``limits.deadline``, then
        :class:`PoolExhausted`."""
        shard = self._shard()
        if not shard.idle:
            try:
                with anyio.fail_after(self.limits.deadline):
                    shard = await self._idle()
            except TimeoutError:
                raise PoolExhausted(f"no instance within {self.limits.deadline} s") from None
        interpreter = shard.idle.pop()
        shard.held.add(interpreter)
        try:
            yield interpreter
        finally:
            shard.release(interpreter, self._reuse)

    # -- looking

    def statistics(self) -> PoolStatistics:
        """A frozen snapshot, over all threads."""
        self._fold_ended()
        total = Counters()
        total.add(self._total_ended)
        shards = list(self._shards)
        for shard in shards:
            total.add(shard.counters)
        # After the counters, so that what another thread retires in between is not counted twice.
        live = [instance for shard in shards for instance in (*tuple(shard.idle), *tuple(shard.held))]
        total.calls += sum(interpreter.uses for interpreter in live)
        return PoolStatistics(
            size=self.size,
            idle=sum(len(shard.idle) for shard in shards),
            in_use=sum(len(shard.held) for shard in shards),
            waiting=sum(len(shard.waiters) for shard in shards),
            **{name: getattr(total, name) for name in Counters.__slots__},
        )

    def _fold_ended(self) -> None:
        """Add up what ended threads have left, which they could not do themselves without a lock."""
        with self._lock:
            while self._ended:
                self._total_ended.add(self._ended.popleft())

    def __reduce__(self) -> NoReturn:
        raise TypeError("a WasmPool holds engine objects of this process; build one in the process that uses it")

    def __deepcopy__(self, memo: Any) -> NoReturn:
        self.__reduce__()


#: Instances from before a fork. Their engine's threads and locks did not come along, so nothing of them runs again,
#: not even a destructor; their memory is shared with the parent until it is written to.
_BEFORE_FORK: list[object] = []
_POOLS: weakref.WeakSet[WasmPool] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    _BEFORE_FORK.append(leave_behind())
    for pool in list(_POOLS):
        _BEFORE_FORK.extend((pool._local, pool._shards, pool._compiler))
        pool._reset()


os.register_at_fork(after_in_child=_after_fork_in_child)
