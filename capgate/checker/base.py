"""Says what every checker of capgate's own offers, and how a fault becomes a denial."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, NamedTuple, Protocol, TypeVar

import msgspec

from ..actions import VOCABULARY, Vocabulary
from ..errors import PolicyError, ends_task
from ..events import DecisionLog
from ..limits import Limits
from ..log_writer import BackgroundLogger
from ..model import REASONS, Allow, Decision, Deny, PolicyInfo, PolicyInput, PolicyResult, Reason
from ..policy import MonitoredRule
from ..runtime.abi.fixed import SLOTS
from ..runtime.pool import PoolStatistics
from ..spelling import is_nameless

_log = BackgroundLogger("capgate")

#: One result object per reason code: nothing is allocated for a denial of capgate's own.
DENIED: Final = {reason: Deny(reason) for reason in REASONS}

_Self = TypeVar("_Self", bound="Checker")


def room_for_facts(limits: Limits, inputs: frozenset[str] | None) -> int:
    """Return the :attr:`Checker.facts_room` of a policy that looks at ``inputs``: what the longest texts leave."""
    return 0 if inputs is None or "facts" in inputs else max(0, limits.input_bytes - sum(SLOTS.values()))


class PolicyChecker(Protocol):
    """A policy decision point. An application may bring its own."""

    async def check(self, input: PolicyInput) -> PolicyResult:
        """Answer ``input``. Never raises but for cancellation: an error is a deny."""


class BatchResult(NamedTuple):
    """One decision for each question, the policy that gave them, and what went wrong, if anything did."""

    results: list[PolicyResult]
    policy: PolicyInfo | None
    cause: BaseException | None


class FollowStatus(msgspec.Struct, frozen=True):
    """A snapshot of a checker that follows a store.

    ``sequence``, ``version``, ``sha256`` and ``signers`` are of the policy that answers. Where there are no signers,
    nobody's signature was asked for. The time ``looked`` is when the store was last read with success, in nanoseconds
    since the epoch. A ``problem`` is what is wrong since, or why what is active there does not answer here; ``None``
    where all is well. The record ``rolled_back`` was the last one left for its faults. The count ``swaps`` is how often
    another policy took over.
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


class Checker:
    """A policy decision point of capgate's own: the one interface that all others ask.

    Nothing here raises but what ends the task: an error is a denial. A method that ends in ``_now`` waits for nothing,
    and is for code that cannot await. Instances take no attributes besides their own, so nobody replaces a method of
    one.
    """

    __slots__ = ("__weakref__", "_events", "_vocabulary")

    def __init__(self, vocabulary: Vocabulary = VOCABULARY, events: DecisionLog | None = None) -> None:
        self._vocabulary = vocabulary
        self._events = events or DecisionLog()

    # -- what it is

    @property
    def policy(self) -> PolicyInfo | None:
        """The policy that answers now; ``None`` where nobody says."""
        return None

    @property
    def knows_policy(self) -> bool:
        """Whether :attr:`policy` is certain. An application's checker may say of itself what it likes."""
        return True

    @property
    def inputs(self) -> frozenset[str] | None:
        """The fields of an input that the policy looks at, where that is known, such as ``action`` and ``resource``."""
        return None

    @property
    def facts_room(self) -> int:
        """How much the facts of a question may weigh (:func:`capgate.facts.weigh_facts`) that is remembered.

        Whatever else it has, it is then within ``limits.input_bytes``. 0 where an answer may depend on facts.
        """
        return 0

    @property
    def expires(self) -> float | None:
        """When the policy expires, in seconds since the epoch; ``None`` for never."""
        return None

    @property
    def expired(self) -> bool:
        """Whether the policy has expired, so that it denies everything."""
        return False

    @property
    def current(self) -> Checker:
        """The checker that answers now, with one policy for good: itself, unless it changes policies.

        Whoever needs to know which policy gave an answer takes this once, and asks it for both.
        """
        return self

    @property
    def steady(self) -> Checker | None:
        """The checker that answers for good; ``None`` where policies change, so that :attr:`current` is asked for."""
        return self

    @property
    def count_answer(self) -> Callable[[], None] | None:
        """What is to be called when an answer of this is given again from memory; ``None`` where nobody counts."""
        return None

    @property
    def remembered(self) -> int | None:
        """How many decisions are remembered now; ``None`` where none ever are."""
        return None

    @property
    def monitors_rules(self) -> bool:
        """Whether the policy that answers now has rules that only monitor."""
        return False

    def would_deny(self, input: PolicyInput) -> MonitoredRule | None:
        """Return the first rule that only monitors, and would deny ``input``, which was allowed."""
        return None

    def statistics(self) -> PoolStatistics | None:
        """Return the figures of the pool that answers, if one does."""
        return None

    def status(self) -> FollowStatus | None:
        """Return how things are with the store, where one is followed."""
        return None

    # -- asking

    def answer_now(self, input: PolicyInput) -> PolicyResult | None:
        """Answer ``input``, or return ``None`` where that would have to be waited for."""
        raise NotImplementedError

    def answer_many_now(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult] | None:
        """Answer as :meth:`evaluate_many` does, or return ``None`` where that would have to be waited for."""
        raise NotImplementedError

    async def evaluate(self, input: PolicyInput) -> PolicyResult:
        """Answer ``input`` without an event, for enforcement points, which write one with a decision id of theirs."""
        raise NotImplementedError

    async def evaluate_many(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult]:
        """Answer each of ``inputs``, in their order, by one policy, together under one deadline. Writes no event."""
        raise NotImplementedError

    def evaluate_now(self, input: PolicyInput) -> PolicyResult:
        """Answer as :meth:`evaluate` does, and deny what would have to be waited for."""
        result = self.answer_now(input)
        return DENIED[Reason.POOL_EXHAUSTED] if result is None else result

    def evaluate_many_now(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult]:
        """Answer as :meth:`evaluate_many` does, and deny what would have to be waited for."""
        results = self.answer_many_now(inputs)
        return [DENIED[Reason.POOL_EXHAUSTED]] * len(inputs) if results is None else results

    async def check(self, input: PolicyInput) -> PolicyResult:
        """Answer ``input``; a denial is also an event."""
        current = self.current
        result = await current.evaluate(input)
        if type(result) is Deny:
            self._report(input, result, current)
        return result

    async def check_many(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult]:
        """Answer each of ``inputs`` as :meth:`check` does: all by the same policy, together under one deadline."""
        current = self.current
        results = await current.evaluate_many(inputs)
        for input, result in zip(inputs, results, strict=True):
            if type(result) is Deny:
                self._report(input, result, current)
        return results

    async def ask(self, inputs: Sequence[PolicyInput], *, until_denied: bool = False) -> BatchResult:
        """Answer each of ``inputs`` as :meth:`evaluate_many` does, with their policy and what went wrong.

        With ``until_denied``, whoever can only ask one question after the other stops after the first denial.
        """
        current = self.current
        try:
            results = current.answer_many_now(inputs)
            if results is None:
                results = await current.evaluate_many(inputs)
            return BatchResult(decisions(results, len(inputs)), current.policy, None)
        except BaseException as error:
            if ends_task(error):
                raise
            return BatchResult([denial_for(error)] * len(inputs), current.policy, error)

    def ask_now(self, inputs: Sequence[PolicyInput]) -> BatchResult:
        """Answer as :meth:`ask` does, and deny what would have to be waited for."""
        current = self.current
        try:
            results = current.answer_many_now(inputs)
            if results is None:
                results = current.evaluate_many_now(inputs)
            return BatchResult(decisions(results, len(inputs)), current.policy, None)
        except BaseException as error:
            if ends_task(error):
                raise
            return BatchResult([DENIED[Reason.POLICY_UNAVAILABLE]] * len(inputs), current.policy, error)

    # -- starting and ending

    async def start(self) -> None:
        """Get ready, so that no request waits for it. Raises why it cannot."""

    async def aclose(self) -> None:
        """Let go of what :meth:`start` made. May be called twice."""

    async def __aenter__(self: _Self) -> _Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # -- for those that evaluate a policy

    def _report(self, input: PolicyInput, result: Deny, asked: Checker) -> None:
        try:
            self._events.denied(Decision(input, result, None, asked.policy))
        except Exception as error:  # an input of any type: looking at it may raise
            _log.error("a denial was not reported: %s", type(error).__name__, exc_info=error)

    def _lacks_resource(self, input: PolicyInput) -> bool:
        """Say whether ``input``, which is well-formed, has no resource with an id, though its action needs one.

        Then no policy can allow it, whatever it looks at. Nor can one allow what was asked about something of which
        it is not certain what was meant.
        """
        resource = input.resource
        if resource is not None and is_nameless(resource.kind, resource.id):
            return True
        return (resource is None or resource.id is None) and input.action not in self._vocabulary.optional

    def _fault(self, error: BaseException, input: object) -> Deny:
        """Return the denial for what evaluating ``input`` raised. What is a fault of ours is logged."""
        if isinstance(error, PolicyError):
            return denial_for(error)
        # Not isinstance(), which asks the value for its class.
        if type(input) is PolicyInput and not issubclass(type(input.action), str):
            return DENIED[Reason.MALFORMED_INPUT]  # it could not be looked up in the vocabulary
        _log.error("a policy check failed: %s: %s", type(error).__name__, error, exc_info=error)
        return denial_for(error)


class ChangingChecker(Checker):
    """A checker that changes policies: whatever it is asked, :attr:`current` answers."""

    __slots__ = ()

    @property
    def steady(self) -> Checker | None:
        return None

    @property
    def monitors_rules(self) -> bool:
        return self.current.monitors_rules

    def would_deny(self, input: PolicyInput) -> MonitoredRule | None:
        return self.current.would_deny(input)

    def answer_now(self, input: PolicyInput) -> PolicyResult | None:
        return self.current.answer_now(input)

    def answer_many_now(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult] | None:
        return self.current.answer_many_now(inputs)

    async def evaluate(self, input: PolicyInput) -> PolicyResult:
        return await self.current.evaluate(input)

    async def evaluate_many(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult]:
        return await self.current.evaluate_many(inputs)

    def evaluate_now(self, input: PolicyInput) -> PolicyResult:
        return self.current.evaluate_now(input)

    def evaluate_many_now(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult]:
        return self.current.evaluate_many_now(inputs)


def denial_for(error: BaseException) -> Deny:
    """Return the denial that ``error`` stands for: with its code where it is a :class:`PolicyError`."""
    return DENIED[error.code] if isinstance(error, PolicyError) else DENIED[Reason.INTERNAL_ERROR]


def decisions(results: object, count: int) -> list[PolicyResult]:
    """Return ``results`` as decisions, whatever a checker returned. Where their number is wrong, all are denials."""
    if type(results) is not list or len(results) != count:
        return [DENIED[Reason.MALFORMED_RESULT]] * count
    return [decision(result) for result in results]


def decision(result: object) -> PolicyResult:
    """Return ``result`` where it is an :class:`Allow` or a proper :class:`Deny`, else deny ``malformed_result``."""
    if type(result) is Allow or (type(result) is Deny and type(result.reason) is str):
        return result
    return DENIED[Reason.MALFORMED_RESULT]
