"""Looking at a policy store, and having what became active there answer: the slow half of a following checker.

All of it runs on whichever thread looks, one at a time, and leaves the policy that answers alone until another one is
ready in every place. What was replaced is closed once each question that was put to it has had its deadline.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from ._generation import FollowStatus, Generation, Probation
from ._scheduling import on_loop
from .checker import WasmPolicyChecker
from .errors import CapgateError, StoreError
from .store.records import Active
from .store.verify import VerifiedPolicy

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
        self._source, self._make = source, make
        self._probation, self._rollback = probation, rollback
        self._lock = threading.RLock()  # held by whoever looks
        self._before: Generation | None = None
        self._replaced: list[tuple[float, Generation]] = []
        self._swaps = 0
        self._problem: str | None = None
        self._rolled_back: int | None = None
        self._refused = (0, 0.0, 0.0)  # sequence, not before, seconds to wait the next time
        active = source.read_active(name)
        self.now = Generation(active, make(source.load(active)))
        self._looked = time.time_ns()

    def forget_threads(self) -> None:
        """In the child of a fork: whoever held the lock is not there, and no loop runs."""
        self._lock, self.loops = threading.RLock(), []

    def status(self) -> FollowStatus:
        """What answers, and how things are with the store."""
        active = self.now.active
        return FollowStatus(
            self.name,
            active.sequence,
            active.version,
            active.sha256,
            self._looked,
            self._swaps,
            self._problem,
            self._rolled_back,
        )

    def generations(self) -> list[Generation]:
        """All that were not closed yet."""
        return [one for one in (self.now, self._before, *(one for _, one in self._replaced)) if one is not None]

    def look(self) -> bool:
        """Look at the store now, in this thread. True if another policy answers afterwards. Raises nothing: what is
        wrong is in :meth:`status`, and in the log when it is new."""
        with self._lock:
            before = self.now
            active = None
            try:
                self._go_back_if_failing()
                active = self._source.read_active(self.name)
                self._looked = time.time_ns()
                self._follow(active)
            except Exception as error:
                self._refuse(active, error)
            self._close_replaced()
            return self.now is not before

    def _follow(self, active: Active) -> None:
        now = self.now.active
        if active == now:
            self._problem = None
            return
        if active.sequence <= now.sequence:
            message = f"record {active.sequence} is active after record {now.sequence}, which was verified before"
            raise StoreError(message, reason="corrupt", path=self._source.path)
        sequence, not_before, _ = self._refused
        if active.sequence == sequence and time.monotonic() < not_before:
            return
        verified = self._source.load(active)
        old = next((one for one in (self.now, self._before) if one and one.active.manifest == active.manifest), None)
        if old is self.now:
            old.active = active
        else:
            generation = Generation(active, self._make(verified) if old is None else old.checker)
            self._bring_in(generation)
            _log.warning("policy %s: version %d (%s) answers", self.name, active.version, active.sha256)
        self._problem, self._refused = None, (0, 0.0, 0.0)

    def _bring_in(self, generation: Generation) -> None:
        """Have ``generation`` answer, once every loop that asks has its instances."""
        pool = generation.checker.pool
        pool.prepare()
        for loop in list(self.loops):
            if not on_loop(loop, pool.fill_some, WARMING):
                self.loops.remove(loop)
        self._take_over(generation)

    def _take_over(self, generation: Generation) -> None:
        """Replace what answers: on a loop, so that no question there is between its answer and its event."""

        def swap() -> bool:
            self._before, self.now = self.now, generation
            return False

        left = self._before
        if not (self.loops and on_loop(self.loops[0], swap, WARMING)):
            swap()
        self._swaps += 1
        if left is not None and left.checker is not generation.checker:
            self._replaced.append((_when_answered(left), left))

    def _go_back_if_failing(self) -> None:
        now, before, probation = self.now, self._before, self._probation
        if probation is None or before is None or self._rolled_back == now.active.sequence or not now.fails(probation):
            return
        sequence = now.active.sequence
        _log.critical(
            "policy %s: version %d (%s) is left: %d of its first %d answers were faults; version %d (%s) answers again",
            self.name,
            now.active.version,
            now.active.sha256,
            now.failed,
            now.asked,
            before.active.version,
            before.active.sha256,
        )
        self._rolled_back = sequence
        self._refused = (sequence, float("inf"), RETRY[1])
        self._take_over(Generation(before.active, before.checker))
        self._before = None  # nothing goes back to what failed
        self._replaced.append((_when_answered(now), now))
        self._problem = f"record {sequence} was left for its faults"
        if self._rollback is not None:
            try:
                self._rollback(sequence)
            except StoreError as error:
                if error.reason != "moved":  # somebody else was first
                    raise

    def _refuse(self, active: Active | None, error: Exception) -> None:
        """Say what is wrong, and leave what answers as it is. What was refused is tried again, less and less often."""
        sequence, not_before, wait = self._refused
        if active is not None and not_before < float("inf"):
            wait = min(2 * wait, RETRY[1]) if active.sequence == sequence else RETRY[0]
            self._refused = (active.sequence, time.monotonic() + wait, wait)
        problem = str(error) if isinstance(error, CapgateError) else f"{type(error).__name__}: {error}"
        if problem != self._problem:
            _log.error("policy %s: version %d goes on answering: %s", self.name, self.now.active.version, problem)
        self._problem = problem

    def _close_replaced(self) -> None:
        now, kept = time.monotonic(), {id(one.checker) for one in (self.now, self._before) if one is not None}
        due = [one for when, one in self._replaced if when <= now]
        self._replaced = [(when, one) for when, one in self._replaced if when > now]
        for generation in due:
            if id(generation.checker) not in kept:
                pool = generation.checker.pool
                for loop in self.loops:
                    on_loop(loop, pool.close_here, WARMING)
                pool.close()


def _when_answered(generation: Generation) -> float:
    """When no question that was put to ``generation`` until now is still to be answered."""
    return time.monotonic() + 2 * generation.checker.pool.limits.deadline + 1.0
