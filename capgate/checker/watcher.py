"""Looks at a policy store, and has what became active there answer: the slow half of a following checker.

All of it runs on whichever thread looks, one at a time, and leaves the policy that answers alone until another one is
ready in every place. What was replaced is closed once each question that was put to it has had its deadline.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import msgspec

from ..errors import CapgateError, ManifestError, SignatureInvalid, StoreError
from ..limits import check_number
from ..log_writer import BackgroundLogger
from ..model import Deny, PolicyInfo, PolicyInput, PolicyResult, Reason
from ..policy import MonitoredRule
from ..runtime.event_loop import on_loop
from ..runtime.pool import PoolStatistics
from ..store.records import Active
from ..store.verifier import VerifiedPolicy
from ..wasm.interruption import Interrupted, interruptible
from .base import Checker, FollowStatus
from .wasm import WasmPolicyChecker

_log = BackgroundLogger("capgate.store")

#: Seconds that an event loop gets to make its instances. Where it stands still for longer, the policy before goes on.
WARMING: Final = 10.0
#: Seconds after which a policy that was rejected is tried again, doubling from the first to the second.
RETRY: Final = (1.0, 300.0)
#: Answers to questions that no policy was asked, for want of an instance or by a fault of the host: they say nothing
#: about it.
UNASKED: Final = frozenset({Reason.POOL_EXHAUSTED, Reason.POLICY_UNAVAILABLE, Reason.INTERNAL_ERROR})
#: Answers at which the policy itself may have failed.
FAULTS: Final = frozenset({Reason.POLICY_TRAP, Reason.POLICY_TIMEOUT, Reason.MALFORMED_RESULT})

Make = Callable[[VerifiedPolicy], WasmPolicyChecker]


class Probation(msgspec.Struct, frozen=True):
    """The rule by which a new policy is rolled back.

    At least ``questions`` were asked in the first ``seconds`` after it became active, of which at least the ``share``
    (0.01 to 1) were answered with faults. Raises :class:`ConfigError`.
    """

    share: float = 0.5
    questions: int = 20
    seconds: float = 300.0

    def __post_init__(self) -> None:
        check_number("probation.share", self.share, 0.01, 1.0, whole=False)
        check_number("probation.questions", self.questions, 1, 1_000_000, whole=True)
        check_number("probation.seconds", self.seconds, 1.0, 86_400.0, whole=False)


class Alarm:
    """What wakes whoever looks at the store. Replaced as a whole after a fork."""

    def __init__(self) -> None:
        self.event = threading.Event()


class Generation(Checker):
    """One policy that answers, or did.

    Whatever becomes active meanwhile, a question, its answer and ``policy`` belong together. ``age`` is how many
    seconds ago it became active.

    The counts are of its probation: every question that was ``asked`` and answered, from memory as well. Of these the
    policy itself ``failed`` at some, which no memory has. So what is remembered changes nothing about when it is rolled
    back; nor does what the host could not ask. Threads that count at once may lose a few.
    """

    __slots__ = (
        "_alarm",
        "_faults_before",
        "_probation",
        "active",
        "asked",
        "checker",
        "facts_room",
        "inputs",
        "policy",
        "signers",
        "since",
    )

    policy: PolicyInfo
    inputs: frozenset[str] | None
    facts_room: int

    def __init__(
        self,
        active: Active,
        checker: WasmPolicyChecker,
        probation: Probation | None = None,
        alarm: Alarm | None = None,
        *,
        signers: tuple[str, ...] = (),
        age: float = 0.0,
    ) -> None:
        super().__init__()
        self.active = active
        self.checker = checker
        self.policy = checker.policy
        self.inputs = checker.inputs
        self.facts_room = checker.facts_room
        self.signers = signers
        self.asked = 0
        self._faults_before = checker.faults
        self.since = time.monotonic() - age
        self._probation = probation
        self._alarm = alarm

    @property
    def expires(self) -> float | None:
        return self.checker.expires

    @property
    def expired(self) -> bool:
        return self.checker.expired

    @property
    def monitors_rules(self) -> bool:
        return self.checker.monitors_rules

    def would_deny(self, input: PolicyInput) -> MonitoredRule | None:
        return self.checker.would_deny(input)

    def statistics(self) -> PoolStatistics:
        return self.checker.statistics()

    # -- asking

    def answer_now(self, input: PolicyInput) -> PolicyResult | None:
        result = self.checker.answer_now(input)
        return result if result is None else self._counted(result)

    async def evaluate(self, input: PolicyInput) -> PolicyResult:
        return self._counted(await self.checker.evaluate(input))

    def evaluate_now(self, input: PolicyInput) -> PolicyResult:
        return self._counted(self.checker.evaluate_now(input))

    def evaluate_many_now(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult]:
        return [self._counted(result) for result in self.checker.evaluate_many_now(inputs)]

    async def evaluate_many(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult]:
        return [self._counted(result) for result in await self.checker.evaluate_many(inputs)]

    def answer_many_now(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult] | None:
        results = self.checker.answer_many_now(inputs)
        return None if results is None else [self._counted(result) for result in results]

    # -- probation

    @property
    def count_answer(self) -> Callable[[], None] | None:
        return None if self._probation is None else self._count_answer

    def _count_answer(self) -> None:
        self.asked += 1

    @property
    def failed(self) -> int:
        """At how many questions the policy itself failed."""
        return self.checker.faults - self._faults_before

    def _counted(self, result: PolicyResult) -> PolicyResult:
        if type(result) is Deny and result.reason in UNASKED:
            return result
        self.asked += 1
        if type(result) is Deny and result.reason in FAULTS:
            alarm = self._alarm
            if alarm is not None and self.fails():
                self._alarm = None  # once: who looks may have nowhere to go back to
                alarm.event.set()
        return result

    def fails(self) -> bool:
        """Say whether it has to be rolled back.

        That it expired is no fault of it, and no reason to have another one answer.
        """
        probation = self._probation
        if probation is None or self.asked < probation.questions or self.failed < probation.share * self.asked:
            return False
        return time.monotonic() - self.since <= probation.seconds and not self.checker.expired


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
        """Say whether it is too soon to try ``what`` again."""
        return what == self.what and time.monotonic() < self._not_before

    def failed(self, what: object) -> None:
        """Note that ``what`` was tried, in vain."""
        self.wait = min(2 * self.wait, RETRY[1]) if what == self.what else RETRY[0]
        self.what, self._not_before = what, time.monotonic() + self.wait


class Watcher:
    """The policy that answers (``now``), and what became of the attempts to have another one answer."""

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
        self._closed = self._ending = False
        self._before: Generation | None = None
        self._replaced: list[tuple[float, Generation]] = []
        self._swaps = 0
        self._problem: str | None = None
        self._left: Active | None = None  # for its faults
        self._untold = False  # the store does not know yet
        self._rejected, self._telling = Backoff(), Backoff()
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
        """Start anew in the child of a fork: whoever held a lock is not there, and no loop runs."""
        self._make_locks()
        self.loops, self.alarm.event = [], threading.Event()

    def status(self) -> FollowStatus:
        """Return what answers, and how things are with the store."""
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
        """Return all that were not closed yet."""
        replaced = [generation for _, generation in self._replaced]
        return [generation for generation in (self.now, self._before, *replaced) if generation is not None]

    def end(self) -> None:
        """Wake whoever looks, and have them stop within one function of the module that they are loading."""
        self._ending = True
        self.alarm.event.set()

    def close(self) -> None:
        """Have nothing answer any more, and nothing take over."""
        with self._taking_over:
            self._closed = True
        self.loops = []
        for generation in self.generations():
            generation.checker.pool.close()

    # -- looking

    def look(self) -> bool:
        """Look at the store now, in this thread. True if another policy answers afterwards.

        Raises nothing: what is wrong is in :meth:`status`, and in the log when it is new.
        """
        with self._lock:
            before, active = self.now, None
            if self._closed or self._ending:
                return False
            try:
                self._close_replaced()
                self._go_back_if_failing()
                active = self._source.read_active(self.name)
                self._looked = time.time_ns()
                with interruptible(lambda: self._ending):
                    self._follow(active)
                self._tell_store(active)
            except (KeyboardInterrupt, SystemExit):
                raise
            except Interrupted:
                pass  # nobody is left who would like to know
            except BaseException as error:
                # An engine's panic is no Exception, and somebody has to go on looking. This is nobody's task, either:
                # what looks like its end comes from a store, or from a loop that was asked to make instances.
                self._reject(active, error)
            return self.now is not before

    def _follow(self, active: Active) -> None:
        now = self.now.active
        if active == self._left:
            return  # and its problem goes on
        if active == now:
            expired = self.now.checker.expired
            self._say(f"version {now.version} has expired, and denies everything" if expired else None)
            return
        if self._rejected.holds_off(active):
            return
        verified = self._source.load(active)
        _require_newer(active, now, self._source.path)
        loaded = [generation for generation in (self.now, self._before) if generation is not None]
        old = next((generation for generation in loaded if generation.active.manifest == active.manifest), None)
        if old is self.now:
            old.active, old.signers = active, verified.signers
        else:
            checker = self._make(verified) if old is None else old.checker
            self._bring_in(self._generation(active, checker, verified.signers))
        self._problem, self._rejected = None, Backoff()

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
            if all(other.checker is not generation.checker for other in self.generations()):
                self._close(generation)
            raise
        if self._take_over(generation, self.now):
            active = generation.active
            _log.warning("policy %s: version %d (%s) answers", self.name, active.version, active.sha256)

    def _take_over(self, generation: Generation, before: Generation | None) -> bool:
        """Replace what answers, unless all was closed. ``before`` is what to go back to.

        Each question reads ``now`` once, so nothing is between two policies.
        """
        with self._taking_over:
            if self._closed:
                generation.checker.pool.close()
                return False
            left = (self._before, self.now)
            self._before, self.now = before, generation
        self._swaps += 1
        kept = _checkers(before, generation)
        for old in left:
            if old is not None and id(old.checker) not in kept:
                self._replaced.append((_when_answered(old), old))
        return True

    # -- going back

    def _go_back_if_failing(self) -> None:
        """Leave what fails for the policy before it, as the store has recorded that.

        That happens once for each activation, and never from what somebody went back to.
        """
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

    def _reject(self, active: Active | None, error: BaseException) -> None:
        """Say what is wrong, and leave what answers as it is. What was rejected is tried again, less and less often."""
        if active is not None and active != self._left and not _is_of_time(error):
            self._rejected.failed(active)
        self._say(str(error) if isinstance(error, CapgateError) else f"{type(error).__name__}: {error}")

    # -- letting go

    def _close_replaced(self) -> None:
        now = time.monotonic()
        kept = _checkers(self.now, self._before)
        due = [generation for when, generation in self._replaced if when <= now]
        self._replaced = [(when, generation) for when, generation in self._replaced if when > now]
        for generation in due:
            if id(generation.checker) not in kept:
                self._close(generation)

    def _close(self, generation: Generation) -> None:
        pool = generation.checker.pool
        with suppress(TimeoutError):  # then they go with the pool
            self._on_loops(pool.close_here)
        pool.close()

    def _on_loops(self, function: Callable[[], object]) -> None:
        """Have each loop that asks call ``function``, and forget those that are gone. Raises ``TimeoutError`` where one
        stands still."""
        for loop in list(self.loops):
            if not on_loop(loop, function, WARMING):
                with suppress(ValueError):  # all were forgotten meanwhile
                    self.loops.remove(loop)


def _require_newer(active: Active, now: Active, path: str) -> None:
    """Raise :class:`StoreError` (``restored``) where ``active``, which is verified, does not come after ``now``.

    Its number says so. Numbers begin again where a store is restored or rebuilt, and after a reset. Then it counts what
    is signed: the same release, or a higher version. A reset is the word of whoever may write there, as a number is.
    """
    if active.sequence > now.sequence or active.manifest == now.manifest or active.version > now.version:
        return
    if active.action == "reset" and active.when >= now.when:
        return
    message = (
        f"record {active.sequence}, version {active.version}, is active after record {now.sequence}, version"
        f" {now.version}, as if the store came from a backup; a higher version is followed, or a reset"
    )
    raise StoreError(message, reason="restored", path=path)


def _is_of_time(error: BaseException) -> bool:
    """Say whether only the clock is against it, which may be right again at the next look."""
    if isinstance(error, ManifestError):
        return error.field in ("created", "expires")
    return isinstance(error, SignatureInvalid) and error.reason == "time"


def _checkers(*generations: Generation | None) -> set[int]:
    """Return the identities of their checkers, of which two generations may share one."""
    return {id(generation.checker) for generation in generations if generation is not None}


def _when_answered(generation: Generation) -> float:
    """Return when no question that was put to ``generation`` until now is still to be answered."""
    return time.monotonic() + 2 * generation.checker.pool.limits.deadline + 1.0
