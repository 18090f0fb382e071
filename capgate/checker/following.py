"""Follows a policy store: what becomes active there answers here, and never anything in between.

A thread looks at one small file, again and again. What is new is loaded, verified, metered and compiled on that thread.
Then each loop that asks makes its instances. Then one attribute is replaced, which each question, and each batch, reads
once. So it is answered by one policy or by the other, and its event names that one. Whatever fails leaves the running
policy where it is, and is told: in :meth:`FollowingChecker.status` and in the log.

For a while after it became active a policy is on probation. If it fails at too many questions (a trap, no fuel left, a
malformed result), the one before answers again, at once. What befalls the host is no failure of the policy. The store
is rolled back by whichever process comes first. That happens once for each activation, and only to what the record of
the activation says was there before. Nothing goes back to a policy that somebody has left.
"""

from __future__ import annotations

import os
import random
import threading
import weakref
from collections.abc import Callable
from typing import Final

import anyio.to_thread

from ..actions import VOCABULARY, Vocabulary
from ..events import DecisionLog
from ..limits import STORE_POLL, check_number
from ..model import PolicyInfo
from ..runtime.event_loop import current_loop
from ..runtime.pool import PoolStatistics
from .base import ChangingChecker, FollowStatus
from .watcher import Alarm, Generation, Make, Probation, Source, Watcher

#: Seconds to wait for the thread when closing. It ends at once, unless an engine is compiling: then it is left behind.
JOINING: Final = 1.0


class FollowingChecker(ChangingChecker):
    """Asks whatever policy is active under ``name`` in ``source``, and owns it.

    ``make`` gives a checker for a policy that was verified. ``poll`` is the number of seconds between two looks.
    ``probation`` may be ``None``. ``rollback(sequence)`` tells the store that the record with that sequence is to be
    left; without it only this process goes back. Raises what loading the first policy raises.
    """

    __slots__ = ("_poll", "_starting", "_stop", "_thread", "_watcher")

    def __init__(
        self,
        source: Source,
        name: str,
        make: Make,
        *,
        poll: float = 1.0,
        probation: Probation | None = None,
        rollback: Callable[[int], object] | None = None,
        vocabulary: Vocabulary = VOCABULARY,
        events: DecisionLog | None = None,
    ) -> None:
        super().__init__(vocabulary, events)
        check_number("store_poll", poll, *STORE_POLL, whole=False)
        self._poll = poll
        self._watcher = Watcher(source, name, make, probation, rollback)
        self._reset_threads()
        _FOLLOWERS.add(self)

    def _reset_threads(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    @property
    def policy(self) -> PolicyInfo:
        return self._watcher.now.policy

    @property
    def inputs(self) -> frozenset[str] | None:
        return self._watcher.now.inputs

    @property
    def facts_room(self) -> int:
        return self._watcher.now.facts_room

    @property
    def expires(self) -> float | None:
        return self._watcher.now.expires

    @property
    def expired(self) -> bool:
        return self._watcher.now.expired

    @property
    def current(self) -> Generation:
        return self._watcher.now

    def statistics(self) -> PoolStatistics:
        return self._watcher.now.statistics()

    def status(self) -> FollowStatus:
        return self._watcher.status()

    async def refresh(self) -> bool:
        """Look now, on a worker thread. True if another policy answers afterwards."""
        return await anyio.to_thread.run_sync(self._watcher.look)

    # -- starting and ending

    async def start(self) -> None:
        """Make the first policy's instances for this loop, and begin to look. Raises why it cannot."""
        await self._watcher.now.checker.start()
        loop = current_loop()
        if loop is not None and loop not in self._watcher.loops:
            self._watcher.loops.append(loop)
        self._start_thread()

    def _start_thread(self) -> None:
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._stop.clear()
                arguments = (weakref.ref(self), self._stop, self._watcher.alarm, self._poll)
                self._thread = threading.Thread(
                    target=_keep_looking, args=arguments, name="capgate-follow", daemon=True
                )
                self._thread.start()

    async def aclose(self) -> None:
        self._stop.set()
        self._watcher.end()
        thread, self._thread = self._thread, None
        try:
            if thread is not None:
                await anyio.to_thread.run_sync(thread.join, JOINING, abandon_on_cancel=True)
        finally:
            self._watcher.close()


def _keep_looking(follower: weakref.ref[FollowingChecker], stop: threading.Event, alarm: Alarm, poll: float) -> None:
    """Look every ``poll`` seconds or so, that several processes do not all look at once, until nobody follows."""
    wake = alarm.event
    while not stop.is_set():
        wake.wait(poll * random.uniform(0.8, 1.2))  # noqa: S311  # no secret
        wake.clear()
        checker = follower()
        if checker is None or stop.is_set():
            return
        checker._watcher.look()
        del checker


#: The thread that looks is not there after a fork, nor is anybody who could release a lock.
_FOLLOWERS: weakref.WeakSet[FollowingChecker] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for follower in list(_FOLLOWERS):
        ran = follower._thread is not None
        follower._watcher.forget_threads()
        follower._reset_threads()
        if ran:
            follower._start_thread()


os.register_at_fork(after_in_child=_after_fork_in_child)
