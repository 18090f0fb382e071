"""The asking side of an enforcement point: a checker, the environment it is told, the deadline, the log.

What can answer without waiting is asked without a coroutine; whatever may wait is bounded. :class:`Judge` is shared by
the middleware, which asks before an endpoint runs, and by what an endpoint asks itself (:mod:`capgate.enforcement.capabilities`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

import anyio

from ..checker.cached import QuickChecker
from ..checker.following import FollowingChecker
from ..checker.local import DENIED, Answering, BaseChecker, LocalPolicyChecker, PolicyChecker, WasmPolicyChecker
from ..errors import ConfigError, PolicyError, ends_task
from ..events import DecisionLog
from ..limits import Limits
from ..model import DEFAULT_ENVIRONMENT, Allow, Deny, Environment, PolicyInfo, PolicyInput, PolicyResult, Reason

_log = logging.getLogger("capgate")

#: The checkers that keep the deadline themselves.
OWN: Final = (LocalPolicyChecker, WasmPolicyChecker, QuickChecker, FollowingChecker)
#: What they offer besides ``check``, with the same answers.
_SHORTER: Final = ("evaluate", "evaluate_now", "evaluate_many", "answer_now", "answer_many_now", "answering")


class Answers(NamedTuple):
    """One decision for each question, the policy that gave them, and what went wrong, if anything did."""

    results: list[PolicyResult]
    policy: PolicyInfo | None
    cause: BaseException | None


class Judge:
    """What questions are asked with. Made once, and never changed. ``deadline`` is in seconds.

    Raises :class:`ConfigError` for a checker that has no ``check``, or one of capgate's own of which only a shorter
    way was replaced.
    """

    def __init__(
        self,
        checker: PolicyChecker,
        env: Environment = DEFAULT_ENVIRONMENT,
        *,
        deadline: float = Limits().deadline,
        sample_allows: float = 0.0,
    ) -> None:
        if not callable(getattr(checker, "check", None)):
            raise ConfigError("checker", checker, "an object with an async check(input)")
        self.checker = checker
        self.env = env
        self.deadline = deadline
        #: How much of a body is read for its hash.
        self.body_bytes = 1_048_576
        self.log = DecisionLog(sample_allows)
        self.samples_allows = sample_allows > 0
        #: capgate's own checkers keep the deadline themselves. A cancel scope costs more than ten checks.
        self.bounds_itself = False
        #: Whether another policy may answer the next question, so that :attr:`answering` has to be asked.
        self.moves = False
        self.evaluate: Callable[[PolicyInput], Awaitable[PolicyResult]] = checker.check
        self._evaluate_many: Callable[[Sequence[PolicyInput]], Awaitable[list[PolicyResult]]] | None = None
        #: The answer where nothing has to be waited for, else ``None``: without a coroutine for each question.
        self.answer_now: Callable[[PolicyInput], PolicyResult | None] = _nothing_now
        self.answer_many_now: Callable[[Sequence[PolicyInput]], list[PolicyResult] | None] = _nothing_now
        if isinstance(checker, OWN) and not _overrides(checker):
            self.bounds_itself = True
            self.moves = isinstance(checker, (QuickChecker, FollowingChecker))
            self.evaluate, self._evaluate_many = checker.evaluate, checker.evaluate_many
            self.answer_now, self.answer_many_now = checker.answer_now, checker.answer_many_now

    @property
    def policy(self) -> PolicyInfo | None:
        """Which policy answers now, where the checker says so."""
        try:
            info = getattr(self.checker, "policy", None)
        except Exception:  # a checker of the application's may raise anything; the event is written without
            return None
        return info if type(info) is PolicyInfo else None

    @property
    def answering(self) -> Answering:
        """What answers now, with one policy for good."""
        if self.moves and isinstance(self.checker, BaseChecker):
            return self.checker.answering
        return self

    async def evaluate_many(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult]:
        """One answer for each of ``inputs``. Raises what a checker of the application's raises."""
        if self._evaluate_many is not None:
            return await self._evaluate_many(inputs)
        return [await self.evaluate(input) for input in inputs]

    async def ask(self, inputs: Sequence[PolicyInput]) -> Answers:
        """One decision for each of ``inputs``, together under the deadline, whatever the checker does; and what went
        wrong, if anything did. Raises nothing but what ends the task."""
        results: list[Any] | None = None
        asked: Answering = self
        try:
            if self.bounds_itself:
                asked = self.answering
                results = asked.answer_many_now(inputs)
                if results is None:
                    results = await asked.evaluate_many(inputs)
                return Answers(decisions(results, len(inputs)), asked.policy, None)
            with anyio.move_on_after(self.deadline) as bound:
                results = await self.evaluate_many(inputs)
                if anyio.current_time() >= bound.deadline:
                    results = None
            if results is None:
                return Answers([DENIED[Reason.POLICY_TIMEOUT]] * len(inputs), self.policy, None)
            return Answers(decisions(results, len(inputs)), self.policy, None)
        except BaseException as error:
            if ends_task(error):
                raise
            return Answers([denied_for(error)] * len(inputs), asked.policy, error)

    def ask_now(self, inputs: Sequence[PolicyInput]) -> Answers:
        """:meth:`ask` for code that cannot await. Waits for nothing where the checker is capgate's own.

        Any other checker is asked on the event loop of which this is a worker thread (``anyio.to_thread``); elsewhere
        there is nobody to ask, and the answer is ``policy_unavailable``.
        """
        asked: Answering = self
        try:
            if self.bounds_itself:
                asked = self.answering
                results = asked.answer_many_now(inputs)
                if results is None:
                    return Answers([DENIED[Reason.POOL_EXHAUSTED]] * len(inputs), asked.policy, None)
                return Answers(decisions(results, len(inputs)), asked.policy, None)
            return anyio.from_thread.run(self.ask, inputs)
        except BaseException as error:
            if ends_task(error):
                raise
            return Answers([DENIED[Reason.POLICY_UNAVAILABLE]] * len(inputs), asked.policy, error)


def decisions(results: object, count: int) -> list[PolicyResult]:
    """``results`` as decisions, whatever a checker returned: what is not one is a denial, and so is everything where
    the number is wrong."""
    if type(results) is not list or len(results) != count:
        return [DENIED[Reason.MALFORMED_RESULT]] * count
    return [decision(result) for result in results]


def decision(result: object) -> PolicyResult:
    """``result`` where it is an :class:`Allow` or a proper :class:`Deny`, else the denial ``malformed_result``."""
    if type(result) is Allow or (type(result) is Deny and type(result.reason) is str):
        return result
    return DENIED[Reason.MALFORMED_RESULT]


def denied_for(error: BaseException) -> Deny:
    """The denial that an error stands for."""
    return DENIED[error.code] if isinstance(error, PolicyError) else DENIED[Reason.INTERNAL_ERROR]


def _overrides(checker: BaseChecker) -> bool:
    """Whether ``check`` of a capgate checker is somebody else's, so that its shorter ways would lead past it.

    Raises :class:`ConfigError` where a shorter way was replaced and ``check`` was not: nobody would ask it.
    """
    base = next(kind for kind in OWN if isinstance(checker, kind))
    replaced = [
        name
        for name in ("check", *_SHORTER)
        if name in getattr(checker, "__dict__", {}) or getattr(type(checker), name) is not getattr(base, name)
    ]
    if replaced and "check" not in replaced:
        raise ConfigError("checker", checker, f"a checker that overrides check, and not only {', '.join(replaced)}")
    return bool(replaced)


def _nothing_now(question: object) -> None:
    """For checkers that have no shorter way."""
