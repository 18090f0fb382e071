"""Keeps a pool of live policy instances: made at start-up, taken in a microsecond, replaced off the request path.

Engine objects belong to the thread that made them, so each thread has instances of its own. The event loop's thread has
``size`` of them, a worker thread a single one. Where compiled modules belong to a thread too, a worker thread has none,
and has the event loop ask: nothing is compiled on the way of a question.

A call into the guest is synchronous and never awaits. So cancellation cannot come between taking an idle instance,
asking it and giving it back, which cost no lock, no semaphore and no cancel scope. Only a caller that finds nothing
idle waits, and that is under the deadline of whoever asks.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic, thread_time
from types import TracebackType
from typing import Final, NoReturn

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec

from ..artifact.load import WasmArtifact
from ..errors import Overloaded, PolicyError, PolicyTimeout, PolicyTrap, PolicyUnavailable, PoolExhausted, ends_task
from ..events import printable
from ..limits import Limits, check_number
from ..model import ONLY_ENTRYPOINT, Entrypoint, PolicyInfo, PolicyInput, PolicyResult
from .engine import Engine, load_engine
from .event_loop import current_loop, is_running, on_loop
from .instantiation import Compiler, InstanceCounts
from .interpreter import FUEL_SETTING, PreparedPolicy, WasmInterpreter
from .thread_instances import Ownership, ThreadInstances, drop_orphans, leave_orphans_behind
from .turns import COSTLY_SHARE, DOUBTFUL, PAUSES, QUICK, SUSPECT, Suspects, Turns


class _AskFresh(PoolExhausted):
    """An instance trapped that was used before, at some cost. Whoever can wait asks a fresh one later."""


_log = logging.getLogger("capgate.pool")

#: Seconds that a thread waits for an event loop that does not run, be it stopped or blocked. A loop that waits for the
#: thread itself never would.
STANDSTILL: Final = 10.0
#: Seconds until the loop tries again for a thread, where none of its instances was idle.
PAUSE: Final = 0.001


class PoolStatistics(msgspec.Struct, frozen=True):
    """A snapshot over all threads. ``made`` = ``idle`` + ``in_use`` + ``retired`` + ``spent`` + ``closed``, but for
    threads that are in the middle of a call, or ending.

    ``retired`` trapped, timed out or broke the ABI; ``spent`` answered and are not to be reused; ``closed`` were
    dropped with their thread, their event loop or the pool. ``denied_fast`` counts instances that were not tried to be
    made because earlier attempts failed.
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


class Cost(msgspec.Struct, frozen=True):
    """What a question took: fuel, or ``None`` where nobody can say, and seconds of processor time."""

    fuel: int | None
    seconds: float


class WasmPool:
    """Instances of one policy, for every thread and event loop of this process.

    ``size`` instances (1 to 1024) are made on the thread that starts the pool. Each is set back to where it was before
    each further question. One whose state cannot be set back answers a single question, and is replaced afterwards.
    ``reuse`` lets an operator say that the module keeps no state, so that neither is done. ``entrypoint`` is for
    modules that OPA compiled. An async context manager; without one it starts, and compiles, at the first call. Raises
    what :class:`WasmInterpreter` raises.

    Making a pool decodes and rewrites the module, and has a child process compile it first unless it is small. That
    takes seconds for a large one. So an application that serves already makes it in a worker thread
    (``anyio.to_thread.run_sync``).
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
        self.artifact = artifact
        self._engine: Engine = load_engine(engine)
        self._prepared = PreparedPolicy(artifact, limits or Limits(), entrypoint, restore=not reuse)
        self.limits = self._prepared.limits
        self._prepared.compile_in_child(self._engine)
        self._reuse = reuse or self._prepared.pure
        # An instance that is restored has to be looked at after each answer.
        self._keeps = self._reuse and not self._prepared.restores
        # What was restored is as good as new, so that asking a new one would bring nothing else.
        self._retries = not self._prepared.restores
        self._closed = False
        self._costly = int(self.limits.call_fuel * COSTLY_SHARE)
        #: Whether a question may take long. None to a document does, so nobody looks at the clock for it.
        self.may_be_costly = not self._prepared.is_own
        self._reset()
        _POOLS.add(self)

    @property
    def info(self) -> PolicyInfo:
        """The policy that this asks, and the engine."""
        return self._prepared.info(self._engine.name)

    def _reset(self) -> None:
        self._compiler = Compiler(self._prepared, self._engine)
        self._of_threads: set[ThreadInstances] = set()
        self._local = threading.local()
        self._ended: deque[InstanceCounts] = deque()
        self._total_ended = InstanceCounts()
        self._lock = threading.RLock()  # a signal's handler may ask for statistics, too
        self._suspects = Suspects()
        self._alone = threading.Lock()
        #: Whether a call was costly lately, so that whoever can wait asks by :meth:`call_in_turn`.
        self.takes_turns = False

    # -- starting and ending

    async def start(self) -> None:
        """Compile, and make ``size`` instances for this thread. Does nothing where that has happened. Raises why it
        cannot.

        Other tasks have their turns meanwhile, but for one case. A compiled module of wasmer belongs to the thread that
        compiled it, so with wasmer the event loop stands still for the compilation.
        """
        self._here()  # which raises where the pool is closed
        if not self._compiler.belongs_here():
            await anyio.to_thread.run_sync(self._compiler)
        while self.fill_some():
            await anyio.lowlevel.checkpoint()

    def prepare(self) -> None:
        """Compile, on a thread that asks nothing, where compiled modules belong to no thread. Raises why it cannot."""
        if not self._compiler.belongs_here():
            self._compiler()

    def fill_some(self) -> bool:
        """Make one of the instances that this thread still lacks. Says whether there are more to be made."""
        return self._here().fill_some()

    async def aclose(self) -> None:
        """Drop the instances of this thread, and answer no more. Other threads drop theirs when they end."""
        self.close()

    def close(self) -> None:
        """Do what :meth:`aclose` does, for code that cannot await."""
        self._closed = True
        self.close_here()

    def close_here(self) -> None:
        """Drop the instances of this thread, which makes new ones if it asks again."""
        instances = self._local.__dict__.pop("instances", None)
        if instances is not None:
            instances.close()
        self._local.__dict__.pop("ownership", None)

    async def __aenter__(self) -> WasmPool:
        await self.start()
        return self

    async def __aexit__(
        self, error_class: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _here(self) -> ThreadInstances:
        """Return this thread's instances, of which there are none at the first call of a thread."""
        if self._closed:
            raise PolicyUnavailable("the pool is closed")
        instances: ThreadInstances | None = getattr(self._local, "instances", None)
        if instances is None:
            self._fold_ended()
            drop_orphans()
            instances = ThreadInstances(self.size, self._compiler)
            self._local.ownership = Ownership(instances, self._of_threads, self._ended)
            self._local.instances = instances
        instances.follow_loop()
        return instances

    # -- asking

    def call(self, input: PolicyInput) -> PolicyResult:
        """Ask an idle instance of this thread, now; never awaits. From a coroutine and from a worker thread alike.

        Raises :class:`~capgate.errors.PolicyError`, of which :class:`PoolExhausted` says that waiting may help. This is
        for whoever cannot wait. Whoever can asks by :meth:`call_in_turn` while :attr:`takes_turns`.
        """
        if self._closed:
            raise PolicyUnavailable("the pool is closed")
        try:
            instances: ThreadInstances = self._local.instances
            interpreter = instances.idle.pop()
        except (AttributeError, IndexError):
            loop = self.loop_to_ask()
            if loop is not None:
                return self._call_there(loop, input)
            instances, interpreter = self._take_slowly()
        # Nothing below awaits, so nobody else in this thread sees the instance missing: `held` need not have it.
        started = monotonic() if self.may_be_costly else 0.0
        try:
            interpreter.uses += 1
            result = interpreter.ask(input)
        except BaseException as error:
            return self._failed(instances, interpreter, input, error, started)
        if started and monotonic() - started > QUICK and self._is_costly(interpreter, started):
            self._suspend(instances, monotonic() - started)
        if self._keeps:
            instances.idle.append(interpreter)
            if instances.waiters:
                instances.hand_over()
        else:
            instances.give_back(interpreter, self._reuse)
        return result

    def loop_to_ask(self) -> object | None:
        """Return the event loop whose instances answer what this thread asks; ``None`` where it has its own.

        That is so on an event loop, beside none that has instances, and wherever compiled modules belong to no thread.
        """
        if not self._engine.thread_bound or current_loop() is not None:
            return None
        here: ThreadInstances | None = getattr(self._local, "instances", None)
        if here is not None and here.has_compiled:
            return None
        loops = (each.loop for each in list(self._of_threads) if each.has_compiled)
        return next((loop for loop in loops if loop is not None and is_running(loop)), None)

    def do_there(self, loop: object, step: Callable[[], bool]) -> None:
        """Have ``loop`` call ``step``, which asks instances of its thread, until it says that nothing is left to do.

        It must raise nothing but what ends the task. Raises :class:`PoolExhausted` where it lacks instances for as long
        as ``limits.deadline``, in which the loop runs; or where that stands still for too long. A loop that is gone
        does nothing, so that ``step`` is called here.
        """
        tries = 0

        def again() -> bool:
            nonlocal tries
            tries += 1
            return step() and tries * PAUSE <= self.limits.deadline

        try:
            if on_loop(loop, again, self.limits.deadline + STANDSTILL, PAUSE):
                return
        except TimeoutError:
            _log.error("an event loop stood still for %g s while a thread asked it; does it wait for it?", STANDSTILL)
            raise PoolExhausted(f"the event loop stood still for {STANDSTILL:g} s") from None
        for each in list(self._of_threads):
            each.forget_loop(loop)
        step()

    def _call_there(self, loop: object, input: PolicyInput) -> PolicyResult:
        """Have ``loop`` do what :meth:`call` does. Raises the same."""
        answers: list[PolicyResult] = []
        failures: list[BaseException] = [PoolExhausted("no instance of the event loop was idle in time")]

        def ask() -> bool:
            try:
                answers.append(self.call_in_turn(input) if self.takes_turns else self.call(input))
            except PoolExhausted as error:
                failures[0] = without_frames(error)
                return True
            except BaseException as error:
                if ends_task(error):
                    raise
                failures[0] = without_frames(error)
            return False

        self.do_there(loop, ask)
        if answers:
            return answers[0]
        try:
            raise failures[0]
        finally:
            failures.clear()  # whose traceback has this frame

    def _take_slowly(self) -> tuple[ThreadInstances, WasmInterpreter]:
        """Take an instance at the first call of a thread, or where nothing is idle."""
        instances = self._here()
        if not instances.idle and instances.missing() > 0 and not instances.refill_is_due():
            instances.refill_now()  # lazily started, or a thread where nobody else can
        if not instances.idle:
            if len(instances.waiters) >= self.limits.waiters:
                raise Overloaded(f"{len(instances.waiters)} callers wait for an instance already")
            raise PoolExhausted("every instance of this thread is in use or being replaced")
        return instances, instances.idle.pop()

    def call_in_turn(self, input: PolicyInput) -> PolicyResult:
        """Do what :meth:`call` does, where ``input`` need not wait for a turn of the event loop.

        Raises :class:`PoolExhausted` where it has to, and :class:`Overloaded` where so many wait that it need not try.
        """
        if current_loop() is None:
            return self._call_in_thread(input)
        turns, rank = self._here().turns, self._suspects.rank(input)
        if not turns.is_free(rank):
            if turns.is_full(rank, self.limits.waiters):
                raise Overloaded(f"{self.limits.waiters} callers wait for a turn already")
            raise PoolExhausted("a costly call ran, and the event loop has to have its turn")
        return self._call_as(self.call, turns, rank, input)

    def call_out_of_turn(self, input: PolicyInput) -> PolicyResult:
        """Do what :meth:`call` does, for whoever cannot wait. What ran out of fuel lately has to, and after a costly
        call also what may: then this raises :class:`PoolExhausted`."""
        if current_loop() is None:
            return self._call_in_thread(input)
        turns, rank = self._here().turns, self._suspects.rank(input)
        if rank and (turns.suspended or (rank == SUSPECT and not turns.is_free(rank))):
            raise PoolExhausted("it ran out of fuel lately, and the event loop has to have its turn")
        return self._call_as(self.call, turns, rank, input)

    def _call_in_thread(self, input: PolicyInput) -> PolicyResult:
        """Do what :meth:`call` does on a thread without an event loop. One at a time asks what ran out of fuel, or may.

        So most of the time some other thread can have the interpreter: after a call that ran out of fuel nobody asks
        such things for a while. Raises :class:`Overloaded` where another thread is at it; what is only doubtful waits
        for that.
        """
        if self.loop_to_ask() is not None:
            return self.call(input)  # and that loop has turns
        turns, rank = self._here().turns, self._suspects.rank(input)
        if not rank:
            return self._call_as(self.call, turns, rank, input)
        if not self._alone.acquire(timeout=self.limits.deadline if rank == DOUBTFUL else 0):
            raise Overloaded("another thread asks what ran out of fuel lately")
        try:
            started = monotonic()
            return self._call_as(self.call, turns, rank, input)
        except PolicyTimeout:
            time.sleep(PAUSES[rank] * (monotonic() - started))
            raise
        finally:
            self._alone.release()

    def _call_as(
        self, call: Callable[[PolicyInput], PolicyResult], turns: Turns, rank: int, input: PolicyInput
    ) -> PolicyResult:
        """Ask by ``call``. What is answered at little cost is of the usual rank afterwards."""
        result = call(input)
        if rank and not turns.suspended:
            self._suspects.clear(input)
        elif self._suspects.are_old and all(each.turns.are_quiet for each in list(self._of_threads)):
            self._suspects.forget()
            self.takes_turns = False
        return result

    def _suspend(self, instances: ThreadInstances, seconds: float, *, burnt: PolicyInput | None = None) -> None:
        """Have nobody ask before the event loop has had its turn, since a costly call took so many ``seconds``.

        ``burnt`` is what ran out of fuel, if anything did.
        """
        self.takes_turns = True
        self._suspects.note_costly()
        rank = None
        if burnt is not None:
            rank = self._suspects.rank(burnt)
            if not self._suspects:  # once in a while, however many there are
                _log.warning(
                    "a question ran out of fuel (%s), of which a call has %d by %s",
                    printable(burnt.action),
                    self.limits.call_fuel,
                    FUEL_SETTING,
                )
            self._suspects.add(burnt)
        instances.turns.suspend(seconds, rank)

    def _failed(
        self,
        instances: ThreadInstances,
        interpreter: WasmInterpreter,
        input: PolicyInput,
        error: BaseException,
        started: float,
    ) -> PolicyResult:
        """Give back ``interpreter``, which raised ``error``. Raises what that means.

        After a trap of an instance that was used before, a fresh one is asked; where the call was costly, at another
        turn of the loop.
        """
        started = started or monotonic()  # a document is over at once, whatever it ran out of
        is_costly = self._is_costly(interpreter, started)
        try:
            interpreter.fail(error)
        except PolicyTrap:
            is_again = interpreter.uses > 1 and self._retries
            if is_again and not is_costly:
                return self._retry(instances, interpreter, input)
            instances.give_back(interpreter, self._reuse)
            if is_costly:
                self._suspend(instances, monotonic() - started)
            if is_again:
                raise _AskFresh("a used instance trapped, at some cost; a fresh one is asked at another turn") from None
            raise
        except PolicyTimeout:
            instances.give_back(interpreter, self._reuse)
            self._suspend(instances, monotonic() - started, burnt=input)
            raise
        except BaseException:
            instances.give_back(interpreter, self._reuse)
            raise
        finally:
            del error  # whose traceback has this frame

    def _is_costly(self, interpreter: WasmInterpreter, started: float) -> bool:
        return monotonic() - started > QUICK and interpreter.fuel_spent > self._costly

    def _retry(self, instances: ThreadInstances, trapped: WasmInterpreter, input: PolicyInput) -> PolicyResult:
        """Ask once more, on a fresh instance: one that trapped when it was reused may have trapped over something that
        an earlier question left behind."""
        return self._ask_fresh(instances, instances.replace_now(trapped), input)

    def _ask_fresh(self, instances: ThreadInstances, fresh: WasmInterpreter, input: PolicyInput) -> PolicyResult:
        started, burnt = monotonic(), None
        try:
            return fresh.call_policy_check(input)
        except PolicyTimeout:
            burnt = input
            raise
        finally:
            if burnt is not None or self._is_costly(fresh, started):
                self._suspend(instances, monotonic() - started, burnt=burnt)
            instances.give_back(fresh, self._reuse)

    async def wait_and_call(self, input: PolicyInput) -> PolicyResult:
        """Do what :meth:`call` does, waiting for an instance, and for a turn of the event loop where calls are costly.
        There is no bound here: callers hold a cancel scope.

        Raises :class:`PoolExhausted` at once if ``limits.waiters`` callers wait already.
        """
        try:
            return await self._wait_and_call(input, self.call)
        except _AskFresh:
            return await self._wait_and_call(input, self._call_fresh)

    async def _wait_and_call(self, input: PolicyInput, call: Callable[[PolicyInput], PolicyResult]) -> PolicyResult:
        while self.takes_turns:
            turns, rank = self._here().turns, self._suspects.rank(input)
            ask = partial(self._call_as, call, turns, rank)
            result = await turns.ask(input, rank, ask, self.limits.waiters, self.limits.deadline)
            if result is not None:
                return result  # else the pool was closed meanwhile
        await self._idle()
        return call(input)

    def _call_fresh(self, input: PolicyInput) -> PolicyResult:
        """Ask an instance of this thread that was not used before: an idle one, or one in place of that."""
        instances, interpreter = self._take_slowly()
        if interpreter.uses:
            interpreter = instances.replace_now(interpreter)
        return self._ask_fresh(instances, interpreter, input)

    async def _idle(self) -> ThreadInstances:
        """Wait until one of this thread's instances is idle, for the caller to take before it awaits anything else."""
        while True:
            instances = self._here()
            if instances.idle:
                return instances
            if instances.missing() > 0 and not instances.refill_is_due():
                instances.refill_now()  # which those who wait already get first
            elif len(instances.waiters) >= self.limits.waiters:
                raise Overloaded(f"{len(instances.waiters)} callers wait already")
            else:
                await instances.wait()

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[WasmInterpreter]:
        """Hold one instance of this thread for a while. Waits up to ``limits.deadline``, then raises
        :class:`PoolExhausted`."""
        instances = self._here()
        if not instances.idle:
            try:
                with anyio.fail_after(self.limits.deadline):
                    instances = await self._idle()
            except TimeoutError:
                raise PoolExhausted(f"no instance within {self.limits.deadline} s") from None
        interpreter = instances.idle.pop()
        instances.held.add(interpreter)
        try:
            yield interpreter
        finally:
            instances.release(interpreter, self._reuse)

    def measure(self, input: PolicyInput) -> Cost:
        """Ask once more, for whoever wants to know what that costs: on the thread that runs no event loop.

        Raises :class:`PoolExhausted` where nothing is idle.
        """
        instances, interpreter = self._take_slowly()
        started = thread_time()
        try:
            interpreter.call_policy_check(input)
            fuel: int | None = interpreter.fuel_spent
        except PolicyTimeout:
            fuel = interpreter.fuel_spent
        except PolicyError:
            fuel = None  # it trapped somewhere, or was not even asked
        seconds = thread_time() - started
        instances.give_back(interpreter, self._reuse)
        return Cost(fuel, seconds)

    # -- looking

    def statistics(self) -> PoolStatistics:
        """Return a frozen snapshot, over all threads."""
        self._fold_ended()
        total = InstanceCounts()
        total.add(self._total_ended)
        of_threads = list(self._of_threads)
        for instances in of_threads:
            total.add(instances.counts)
        # After the counts, so that what another thread retires in between is not counted twice.
        live = [interpreter for each in of_threads for interpreter in (*tuple(each.idle), *tuple(each.held))]
        total.calls += sum(interpreter.uses for interpreter in live)
        return PoolStatistics(
            size=self.size,
            idle=sum(len(instances.idle) for instances in of_threads),
            in_use=sum(len(instances.held) for instances in of_threads),
            waiting=sum(len(instances.waiters) + instances.turns.waiting for instances in of_threads),
            **{name: getattr(total, name) for name in InstanceCounts.__slots__},
        )

    def _fold_ended(self) -> None:
        """Add up what ended threads have left, which they could not do themselves without a lock."""
        with self._lock:
            while self._ended:
                self._total_ended.add(self._ended.popleft())

    def start_anew(self) -> tuple[object, ...]:
        """Begin again in the child of a fork. Returns, for the caller to keep, what no destructor may run for."""
        before = self._local, self._of_threads, self._compiler
        self._reset()
        return before

    def __reduce__(self) -> NoReturn:
        raise TypeError("a WasmPool holds engine objects of this process; build one in the process that uses it")

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__reduce__()


def without_frames(error: BaseException) -> BaseException:
    """Return ``error`` without what its tracebacks keep: engine objects, to be dropped on this thread."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


#: Instances from before a fork. Their engine's threads and locks did not come along, so nothing of them runs again,
#: not even a destructor; their memory is shared with the parent until it is written to.
_BEFORE_FORK: list[object] = []
_POOLS: weakref.WeakSet[WasmPool] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    _BEFORE_FORK.append(leave_orphans_behind())
    for pool in list(_POOLS):
        _BEFORE_FORK.extend(pool.start_anew())


os.register_at_fork(after_in_child=_after_fork_in_child)
