"""Looking at a policy store, and having what became active there answer: the slow half of a following checker.

All of it runs on whichever thread looks, one at a time, and leaves the policy that answers alone until another one is
ready in every place. What was replaced is closed once each question that was put to it has had its deadline.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from ..errors import CapgateError, StoreError, ends_task
from ..runtime.event_loop import on_loop
from ..store.records import Active
from ..store.verify import VerifiedPolicy
from .generation import Alarm, FollowStatus, Generation, Probation
from .local import WasmPolicyChecker

_log = logging.getLogger("capgate.store")

#: Seconds that an event loop gets to make its instances; afterwards it makes them when it needs them.
WARMING: Final = 10.0
#: Seconds after which a policy that was refused is tried again, doubling from the first to the second.
RETRY: Final = (1.0, 300.0)

Make = Callable[[VerifiedPolicy], WasmPolicyChecker]


class Source(Protocol):
    """Where policies come from: a :class:`~capgate.store.PolicyStore`, or its reading half."""

    path: str

    def read_active(self, name: str) -> Active: ...

    def load(self, active: Active) -> VerifiedPolicy: ...

    def load_active(self, name: str) -> VerifiedPolicy: ...


class Backoff:
    """When something that failed is tried again."""

    def __init__(self) -> None:
        self.what: object = None
        self.wait = self._not_before = 0.0

    def holds_off(self, what: object) -> bool:
        """Whether it is too soon to try ``what`` again."""
        return what == self.what and time.monotonic() < self._not_before

    def failed(self, what: object) -> None:
        """``what`` was tried, in vain."""
        self.wait = min(2 * self.wait, RETRY[1]) if what == self.what else RETRY[0]
        self.what, self._not_before = what, time.monotonic() + self.wait


class Watcher:
    """Which policy answers (``now``), and what became of the attempts to have another one answer."""

    def __init__(
        self,
        source: Source,
        name: str,
        make: Make,
        probation: Probation | None,
        rollback: Callable[[int], object] | None,
    ) -> None:
        self.name = name
        self.loops: list[object] = []
        self.alarm = Alarm()
        self._source, self._make = source, make
        self._probation, self._rollback = probation, rollback
        self._make_locks()
        self._closed = False
        self._before: Generation | None = None
        self._replaced: list[tuple[float, Generation]] = []
        self._swaps = 0
        self._problem: str | None = None
        self._left: Active | None = None  # for its faults
        self._untold = False  # the store does not know yet
        self._refused, self._telling = Backoff(), Backoff()
        verified = source.load_active(name)
        active = verified.active or source.read_active(name)
        # Somebody may have activated it a moment ago, and this process have been started to run it.
        age = max(0.0, time.time() - active.when.timestamp())
        self.now = self._generation(active, make(verified), verified.signers, age)
        self._looked = time.time_ns()

    def _make_locks(self) -> None:
        self._lock = threading.RLock()  # held by whoever looks
        self._taking_over = threading.Lock()

    def forget_threads(self) -> None:
        """In the child of a fork: whoever held a lock is not there, and no loop runs."""
        self._make_locks()
        self.loops, self.alarm.event = [], threading.Event()

    def status(self) -> FollowStatus:
        """What answers, and how things are with the store."""
        now, left = self.now, self._left
        return FollowStatus(
            self.name,
            now.active.sequence,
            now.active.version,
            now.active.sha256,
            self._looked,
            self._swaps,
            self._problem,
            None if left is None else left.sequence,
            now.signers,
        )

    def generations(self) -> list[Generation]:
        """All that were not closed yet."""
        return [one for one in (self.now, self._before, *(one for _, one in self._replaced)) if one is not None]

    def close(self) -> None:
        """Have nothing answer any more, and nothing take over."""
        with self._taking_over:
            self._closed = True
        self.loops = []
        for generation in self.generations():
            generation.checker.pool.close()

    # -- looking

    def look(self) -> bool:
        """Look at the store now, in this thread. True if another policy answers afterwards. Raises nothing: what is
        wrong is in :meth:`status`, and in the log when it is new."""
        with self._lock:
            before, active = self.now, None
            if self._closed:
                return False
            try:
                self._close_replaced()
                self._go_back_if_failing()
                active = self._source.read_active(self.name)
                self._looked = time.time_ns()
                self._follow(active)
                self._tell_store(active)
            except BaseException as error:  # an engine's panic is no Exception, and somebody has to go on looking
                if ends_task(error):
                    raise
                self._refuse(active, error)
            return self.now is not before

    def _follow(self, active: Active) -> None:
        now = self.now.active
        if active == self._left:
            return  # and its problem goes on
        if active == now:
            expired = self.now.checker.expired
            self._say(f"version {now.version} has expired, and denies everything" if expired else None)
            return
        if active.sequence <= now.sequence:
            message = f"record {active.sequence} is active after record {now.sequence}, which was verified before"
            raise StoreError(message, reason="corrupt", path=self._source.path)
        if self._refused.holds_off(active):
            return
        verified = self._source.load(active)
        old = next((one for one in (self.now, self._before) if one and one.active.manifest == active.manifest), None)
        if old is self.now:
            old.active, old.signers = active, verified.signers
        else:
            checker = self._make(verified) if old is None else old.checker
            self._bring_in(self._generation(active, checker, verified.signers))
        self._problem, self._refused = None, Backoff()

    def _generation(
        self, active: Active, checker: WasmPolicyChecker, signers: tuple[str, ...], age: float = 0.0
    ) -> Generation:
        return Generation(active, checker, self._probation, self.alarm, signers=signers, age=age)

    def _bring_in(self, generation: Generation) -> None:
        """Have ``generation`` answer, once every loop that asks has its instances."""
        pool = generation.checker.pool
        try:
            pool.prepare()
            self._on_loops(pool.fill_some)
        except BaseException:
            if all(one.checker is not generation.checker for one in self.generations()):
                self._close(generation)
            raise
        if self._take_over(generation, self.now):
            active = generation.active
            _log.warning("policy %s: version %d (%s) answers", self.name, active.version, active.sha256)

    def _take_over(self, generation: Generation, before: Generation | None) -> bool:
        """Replace what answers, unless all was closed. ``before`` is what to go back to. Each question reads ``now``
        once, so nothing is between two policies."""
        with self._taking_over:
            if self._closed:
                generation.checker.pool.close()
                return False
            left = (self._before, self.now)
            self._before, self.now = before, generation
        self._swaps += 1
        kept = {id(one.checker) for one in (before, generation) if one is not None}
        for one in left:
            if one is not None and id(one.checker) not in kept:
                self._replaced.append((_when_answered(one), one))
        return True

    # -- going back

    def _go_back_if_failing(self) -> None:
        """Leave what fails for the policy before it, as the store has recorded that: once for each activation, and
        never from what somebody went back to."""
        now, before = self.now, self._before
        active = now.active
        if active == self._left or active.action != "activate" or active.previous is None or not now.fails():
            return
        self._left, self._untold = active, self._rollback is not None
        self._problem = f"record {active.sequence} was left for its faults"
        text = "policy %s: version %d (%s) is left for %s: %d of its first %d answers were faults"
        _log.critical(text, self.name, active.version, active.sha256, active.previous, now.failed, now.asked)
        # A process that was started with it has nothing else loaded, and follows the store back.
        if before is not None and before.active.manifest == active.previous and not before.checker.expired:
            self._take_over(self._generation(before.active, before.checker, before.signers), None)
        self._tell_store(active)

    def _tell_store(self, active: Active) -> None:
        """Have the store go back too, unless somebody else was first. Tried again while what was left is ``active``."""
        left = self._left
        if left is None or self._rollback is None or not self._untold or self._telling.holds_off(left):
            return
        if active == left:
            self._telling.failed(left)  # unless it goes well
            try:
                self._rollback(left.sequence)
            except StoreError as error:
                if error.reason != "moved":
                    raise
        self._untold = False

    def _say(self, problem: str | None) -> None:
        if problem is not None and problem != self._problem:
            _log.error("policy %s: %s (version %d answers)", self.name, problem, self.now.active.version)
        self._problem = problem

    def _refuse(self, active: Active | None, error: BaseException) -> None:
        """Say what is wrong, and leave what answers as it is. What was refused is tried again, less and less often."""
        if active is not None and active != self._left:
            self._refused.failed(active)
        self._say(str(error) if isinstance(error, CapgateError) else f"{type(error).__name__}: {error}")

    # -- letting go

    def _close_replaced(self) -> None:
        now = time.monotonic()
        kept = {id(one.checker) for one in (self.now, self._before) if one is not None}
        due = [one for when, one in self._replaced if when <= now]
        self._replaced = [(when, one) for when, one in self._replaced if when > now]
        for generation in due:
            if id(generation.checker) not in kept:
                self._close(generation)

    def _close(self, generation: Generation) -> None:
        pool = generation.checker.pool
        self._on_loops(pool.close_here)
        pool.close()

    def _on_loops(self, function: Callable[[], object]) -> None:
        """Have each loop that asks call ``function``, and forget those that are gone."""
        for loop in list(self.loops):
            if not on_loop(loop, function, WARMING):
                with suppress(ValueError):  # all were forgotten meanwhile
                    self.loops.remove(loop)


def _when_answered(generation: Generation) -> float:
    """When no question that was put to ``generation`` until now is still to be answered."""
    return time.monotonic() + 2 * generation.checker.pool.limits.deadline + 1.0
