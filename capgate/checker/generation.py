"""What a following checker is made of: one policy that answers, when it is rolled back, and what is told of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from ..limits import check_number
from ..model import Deny, PolicyInfo, PolicyInput, PolicyResult, Reason
from ..store.records import Active
from .local import WasmPolicyChecker

#: Answers that say something about the policy, and not about the question.
FAULTS: Final = frozenset(
    {
        Reason.POLICY_TRAP,
        Reason.POLICY_TIMEOUT,
        Reason.POLICY_UNAVAILABLE,
        Reason.MALFORMED_RESULT,
        Reason.INTERNAL_ERROR,
    }
)


class Probation(msgspec.Struct, frozen=True):
    """When a new policy is rolled back: once at least ``questions`` were asked in the first ``seconds`` after it became
    active, of which at least the ``share`` (0.01 to 1) were answered with faults. Raises :class:`ConfigError`."""

    share: float = 0.5
    questions: int = 20
    seconds: float = 300.0

    def __post_init__(self) -> None:
        check_number("probation.share", self.share, 0.01, 1.0, whole=False)
        check_number("probation.questions", self.questions, 1, 1_000_000, whole=True)
        check_number("probation.seconds", self.seconds, 1.0, 86_400.0, whole=False)


class FollowStatus(msgspec.Struct, frozen=True):
    """A snapshot. ``sequence``, ``version``, ``sha256`` and ``signers`` are of the policy that answers; where there are
    no signers, nobody's signature was asked for.

    ``looked`` is when the store was last read with success, in nanoseconds since the epoch. ``problem`` says what is
    wrong since, or why what is active there does not answer here; ``None`` where all is well. ``rolled_back`` is the
    sequence of the last record that was left for its faults. ``swaps`` counts how often another policy took over.
    """

    name: str
    sequence: int
    version: int
    sha256: str
    looked: int
    swaps: int
    problem: str | None
    rolled_back: int | None
    signers: tuple[str, ...] = ()


class Alarm:
    """What wakes whoever looks at the store. Replaced as a whole after a fork."""

    def __init__(self) -> None:
        self.event = threading.Event()


class Generation:
    """One policy that answers, or did: a :class:`~capgate.checker.local.Answering`, so that what was asked of it, the answer
    and its ``policy`` belong together, whatever becomes active meanwhile.

    The counts are of its probation; threads that count at once may lose a few. ``age`` is how many seconds ago it
    became active.
    """

    __slots__ = ("_alarm", "_probation", "active", "asked", "checker", "failed", "inputs", "policy", "signers", "since")

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
        self.active = active
        self.checker = checker
        self.policy: PolicyInfo = checker.policy
        self.inputs = checker.inputs
        self.signers = signers
        self.asked = self.failed = 0
        self.since = time.monotonic() - age
        self._probation = probation
        self._alarm = alarm

    # -- asking

    def answer_now(self, input: PolicyInput) -> PolicyResult | None:
        result = self.checker.answer_now(input)
        return result if result is None else self._counted(result)

    async def evaluate(self, input: PolicyInput) -> PolicyResult:
        return self._counted(await self.checker.evaluate(input))

    def evaluate_now(self, input: PolicyInput) -> PolicyResult:
        return self._counted(self.checker.evaluate_now(input))

    async def evaluate_many(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult]:
        return [self._counted(result) for result in await self.checker.evaluate_many(inputs)]

    def answer_many_now(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult] | None:
        results = self.checker.answer_many_now(inputs)
        return None if results is None else [self._counted(result) for result in results]

    # -- probation

    def _counted(self, result: PolicyResult) -> PolicyResult:
        self.asked += 1
        if type(result) is Deny and result.reason in FAULTS:
            self.failed += 1
            alarm = self._alarm
            if alarm is not None and self.fails():
                self._alarm = None  # once: who looks may have nowhere to go back to
                alarm.event.set()
        return result

    def fails(self) -> bool:
        """Whether it has to be rolled back. That it expired is no fault of it, and no reason to have another answer."""
        probation = self._probation
        if probation is None or self.asked < probation.questions or self.failed < probation.share * self.asked:
            return False
        return time.monotonic() - self.since <= probation.seconds and not self.checker.expired
