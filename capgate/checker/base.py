"""What every policy decision point of capgate's is made of: the protocol, the vocabulary, events, codes for faults."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from types import TracebackType
from typing import Final, Protocol, TypeVar

from ..actions import Vocabulary
from ..errors import PolicyError
from ..events import DecisionLog
from ..model import REASONS, Deny, PolicyInfo, PolicyInput, PolicyResult, Reason

_log = logging.getLogger("capgate")

#: One result object per reason code: nothing is allocated for a denial of capgate's own.
DENIED: Final = {reason: Deny(reason) for reason in REASONS}

_Self = TypeVar("_Self", bound="BaseChecker")


class PolicyChecker(Protocol):
    """A policy decision point. An application may bring its own."""

    async def check(self, input: PolicyInput) -> PolicyResult:
        """The answer to ``input``. Never raises but for cancellation: an error is a deny."""


class Answering(Protocol):
    """What gives answers of one policy, and says which: whatever is active a moment later, ``policy`` is the one that
    gave them. The methods are those of :class:`BaseChecker`, and of the checkers in :mod:`capgate.checker.local`."""

    @property
    def policy(self) -> PolicyInfo | None: ...

    def answer_now(self, input: PolicyInput, /) -> PolicyResult | None: ...

    def evaluate(self, input: PolicyInput, /) -> Awaitable[PolicyResult]: ...

    def evaluate_many(self, inputs: Sequence[PolicyInput], /) -> Awaitable[list[PolicyResult]]: ...

    def answer_many_now(self, inputs: Sequence[PolicyInput], /) -> list[PolicyResult] | None: ...


class BaseChecker:
    """What all checkers of capgate's share: the vocabulary, the events of a bare ``check``, the async context
    manager."""

    policy: PolicyInfo
    #: Which fields of an input the policy looks at, where that is known: ``action``, ``resource``, ``actor``, ``mode``.
    inputs: frozenset[str] | None = None

    def __init__(self, vocabulary: Vocabulary, events: DecisionLog | None) -> None:
        self._vocabulary = vocabulary
        self._events = events or DecisionLog()

    @property
    def answering(self) -> Answering:
        """What answers now, with one policy for good: a checker that follows a store is a sequence of such. Whoever
        needs to know which policy gave an answer takes this once, and asks it for both."""
        return self  # type: ignore[return-value]  # each checker has these methods

    async def check(self, input: PolicyInput) -> PolicyResult:
        """The answer to ``input``; a denial is also an event. Never raises but for cancellation: an error is a deny."""
        asked = self.answering
        result = await asked.evaluate(input)
        if type(result) is Deny:
            self._report(input, result, asked)
        return result

    def _report(self, input: PolicyInput, result: Deny, asked: Answering) -> None:
        try:
            self._events.denied(input, result, asked.policy)
        except Exception as error:  # an input of any type: looking at it may raise
            _log.error("a denial was not reported: %s", type(error).__name__, exc_info=error)

    async def evaluate(self, input: PolicyInput) -> PolicyResult:
        """:meth:`check` without the event, for enforcement points that emit one with a decision id of theirs."""
        raise NotImplementedError

    async def check_many(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult]:
        """One answer for each of ``inputs``, in their order, as :meth:`check` gives it: all by the same policy, and
        together under one deadline."""
        asked = self.answering
        results = await asked.evaluate_many(inputs)
        for input, result in zip(inputs, results, strict=True):
            if type(result) is Deny:
                self._report(input, result, asked)
        return results

    async def evaluate_many(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult]:
        """:meth:`check_many` without the events."""
        raise NotImplementedError

    def _lacks_resource(self, input: PolicyInput) -> bool:
        """Whether ``input``, which is well-formed, has no resource with an id, though its action needs one. Then no
        policy can allow it, whatever it looks at."""
        resource = input.resource
        return (resource is None or resource.id is None) and input.action not in self._vocabulary.optional

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


def denied_for(error: BaseException, input: object) -> Deny:
    """The denial for whatever was raised. capgate's own errors carry a code; anything else is a fault of ours, and
    logged."""
    if isinstance(error, PolicyError):
        return DENIED[error.code]
    # Not isinstance(), which asks the value for its class.
    if type(input) is PolicyInput and not issubclass(type(input.action), str):
        return DENIED[Reason.MALFORMED_INPUT]  # it could not be looked up in the vocabulary
    _log.error("a policy check failed: %s: %s", type(error).__name__, error, exc_info=error)
    return DENIED[Reason.INTERNAL_ERROR]
