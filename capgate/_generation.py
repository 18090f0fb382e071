"""What a following checker is made of: one policy that answers, when it is rolled back, and what is told of it."""

from __future__ import annotations

import time
from typing import Final

import msgspec

from .checker import WasmPolicyChecker
from .limits import check_number
from .model import Deny, Reason
from .store.records import Active

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
    """A snapshot. ``sequence``, ``version`` and ``sha256`` are of the policy that answers.

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


class Generation:
    """One policy that answers, or did. The counts are of its probation; threads that count at once may lose a few."""

    __slots__ = ("active", "asked", "checker", "failed", "since")

    def __init__(self, active: Active, checker: WasmPolicyChecker) -> None:
        self.active = active
        self.checker = checker
        self.asked = self.failed = 0
        self.since = time.monotonic()

    def count(self, result: object) -> bool:
        """Count an answer. True if it was a fault."""
        self.asked += 1
        if type(result) is Deny and result.reason in FAULTS:
            self.failed += 1
            return True
        return False

    def fails(self, probation: Probation) -> bool:
        """Whether it has to be rolled back."""
        if self.asked < probation.questions or self.failed < probation.share * self.asked:
            return False
        return time.monotonic() - self.since <= probation.seconds
