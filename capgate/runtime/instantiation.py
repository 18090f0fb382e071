"""Makes a pool's instances, and says when it is no use to ask for another."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

from ..errors import PolicyUnavailable
from .bounded_wait import nobodys_time
from .engine import Engine
from .interpreter import CompiledPolicy, PreparedPolicy, WasmInterpreter

#: Replacements of failed instances: how many at once, and per second. Beyond that, checks are denied without building
#: any.
REPLACEMENT_BURST = 64
REPLACEMENTS_PER_SECOND = 4_000.0
#: Seconds without another attempt after instantiation failed, doubling from the first to the second.
BACKOFF = (0.05, 5.0)


#: Seconds after which who waits for another thread to compile looks whether threads still run.
_WAITING = 0.1


class InstanceCounts:
    """What happened to the instances of a thread, or of several."""

    __slots__ = ("calls", "closed", "denied_fast", "made", "retired", "spent")

    def __init__(self) -> None:
        self.calls = self.closed = self.denied_fast = self.made = self.retired = self.spent = 0

    def add(self, other: InstanceCounts) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Compiler:
    """Compiles a policy: once, or once per thread where compiled modules belong to a thread.

    Raises :class:`PolicyUnavailable` in a forked child whose parent had compiled with such an engine. Its compiler has
    threads of its own, which are not there in the child, so that it would wait for them for ever.
    """

    def __init__(self, prepared: PreparedPolicy, engine: Engine) -> None:
        self._prepared = prepared
        self._engine = engine
        self._lock = threading.RLock()  # a signal's handler may ask a policy, too
        self._compiled: CompiledPolicy | None = None

    def belongs_here(self) -> bool:
        """Say whether to call this on the thread that needs it: the module has to be compiled there, or is compiled."""
        return self._engine.thread_bound or self._compiled is not None

    def __call__(self) -> CompiledPolicy:
        if self._engine.thread_bound:
            if self._engine.name in _left_behind:
                raise PolicyUnavailable(f"{self._engine.name} compiled something before a fork, and cannot any more")
            _has_compiled.add(self._engine.name)
            with nobodys_time():
                return CompiledPolicy(self._prepared, self._engine)
        while not self._lock.acquire(timeout=_WAITING):
            _require_lasting_interpreter()
        try:
            if self._compiled is None:
                self._compiled = CompiledPolicy(self._prepared, self._engine)
            return self._compiled
        finally:
            self._lock.release()


class Maker:
    """Makes the instances of one thread."""

    def __init__(self, compiler: Callable[[], CompiledPolicy], counts: InstanceCounts) -> None:
        self.failure = ""
        self._counts = counts
        self._compiler = compiler
        self._compiled: CompiledPolicy | None = None
        self._retired = 0  # not replaced yet
        self._tokens, self._tokens_at = float(REPLACEMENT_BURST), time.monotonic()
        self._backoff, self._not_before = BACKOFF[0], 0.0

    @property
    def has_compiled(self) -> bool:
        """Whether instances can be made without compiling."""
        return self._compiled is not None

    def retired(self) -> None:
        """Note that an instance failed: one of those made from now on replaces it."""
        self._retired += 1

    def forget_backoff(self) -> None:
        """Try again at the next call of :meth:`make`, whose caller has time."""
        self._not_before = 0.0

    def make(self) -> WasmInterpreter:
        """Make an instance. Raises why there can be none.

        Raises :class:`PolicyUnavailable` without an attempt if the last one failed shortly before. The same where
        instances fail so fast that a policy which fails at every call would cost an instantiation at every call.
        """
        now = time.monotonic()
        if now < self._not_before:
            self._counts.denied_fast += 1
            raise PolicyUnavailable(f"the next attempt to make an instance is due shortly; the last: {self.failure}")
        if self._retired:
            self._pay_for_replacement(now)
        interpreter = self._attempt()
        self._counts.made += 1
        self._retired = max(0, self._retired - 1)
        return interpreter

    def _attempt(self) -> WasmInterpreter:
        try:
            if self._compiled is None:
                _require_lasting_interpreter()
                self._compiled = self._compiler()
            interpreter = self._compiled.instantiate()
        except Exception as error:
            self._not_before = time.monotonic() + self._backoff
            self._backoff = min(self._backoff * 2, BACKOFF[1])
            self.failure = f"{type(error).__name__}: {error}"[:300]  # not itself: its traceback keeps what it failed on
            raise
        self._backoff = BACKOFF[0]
        return interpreter

    def _pay_for_replacement(self, now: float) -> None:
        earned = (now - self._tokens_at) * REPLACEMENTS_PER_SECOND
        self._tokens, self._tokens_at = min(self._tokens + earned, float(REPLACEMENT_BURST)), now
        if self._tokens < 1.0:
            self._counts.denied_fast += 1
            raise PolicyUnavailable(
                f"the policy keeps failing; {REPLACEMENTS_PER_SECOND:g} instances a second are replaced"
            )
        self._tokens -= 1.0


def _require_lasting_interpreter() -> None:
    """Raise :class:`PolicyUnavailable` at the end of the process.

    Other threads do not run any more then: one that was compiling never gives back its lock.
    """
    if sys.is_finalizing():
        raise PolicyUnavailable("the interpreter is about to end, so nothing is compiled any more")


#: Engines that compiled with threads of their own, in this process, and before it was forked.
_has_compiled: set[str] = set()
_left_behind: set[str] = set()

os.register_at_fork(after_in_child=lambda: _left_behind.update(_has_compiled))
