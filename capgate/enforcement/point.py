"""Holds what every enforcement point has: a checker, the environment that it is told, the deadline, the log.

An :class:`EnforcementPoint` is shared by the middleware, which asks before an endpoint runs, and by what an endpoint
asks itself (:mod:`capgate.enforcement.capabilities`). Denials are values here: made where nobody could be asked, or
looked for in what an application raised.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from ..checker.base import Checker, PolicyChecker, denial_for
from ..checker.foreign import as_checker
from ..errors import ActorTimeout, CapabilityDenied
from ..events import DecisionLog, MonitorPeriod, RequestFacts, new_decision_id
from ..limits import Limits
from ..model import ALLOW, DEFAULT_ENVIRONMENT, Decision, Deny, Environment, PolicyInput
from ..runtime.bounded_wait import BoundedWait

_USUAL: Final = Limits()

_log = logging.getLogger("capgate")


class EnforcementPoint:
    """What questions are asked with. Made once, and never changed.

    ``deadline`` is in seconds; capgate's own checkers have one of their own. ``body_bytes`` is how much of a body is
    read for its hash; ``limits`` say how long that, and an actor, are waited for. In ``period`` denials are recorded
    and do not count; without one they always do. ``log_facts`` are the facts that events tell. Raises what
    :func:`~capgate.checker.foreign.as_checker` raises.
    """

    __slots__ = (
        "_period",
        "_samples_allows",
        "actor_seconds",
        "always_enforces",
        "body_bytes",
        "body_idle_seconds",
        "body_seconds",
        "checker",
        "env",
        "log",
        "looks_at_allows",
        "steady",
    )

    def __init__(
        self,
        checker: PolicyChecker,
        env: Environment = DEFAULT_ENVIRONMENT,
        *,
        deadline: float = _USUAL.deadline,
        limits: Limits = _USUAL,
        sample_allows: float = 0.0,
        body_bytes: int = 1_048_576,
        period: MonitorPeriod | None = None,
        log_facts: Sequence[str] = (),
    ) -> None:
        self.checker = checker = as_checker(checker, deadline)
        #: The same where it has one policy for good, so that nobody need ask for :attr:`Checker.current`.
        self.steady: Checker | None = checker.steady
        self.env = env
        self.actor_seconds = limits.actor_seconds
        self.body_bytes = body_bytes
        self.body_seconds = limits.body_seconds
        self.body_idle_seconds = limits.body_idle_seconds
        self.log = DecisionLog(sample_allows, period, log_facts)
        self._samples_allows = sample_allows > 0
        #: Whether :meth:`report_allow` may have something to write.
        self.looks_at_allows = self._samples_allows or self.steady is None or self.steady.monitors_rules
        self._period = period
        #: Whether there is no time in which :attr:`only_monitors` holds.
        self.always_enforces = period is None

    @property
    def only_monitors(self) -> bool:
        """Whether denials are recorded, and do not count."""
        return self._period is not None and self._period.lasts

    def settle_denial(self, denial: Decision, facts: RequestFacts) -> Decision:
        """Write the event of ``denial``, and return the decision that counts: that, or an allow while it does not.

        This is the one place in the code that makes an allow of a denial.
        """
        period = self._period
        if period is None or not period.lasts or type(denial.result) is not Deny:
            self.log.denied(denial, facts)
            return denial
        self.log.would_deny(denial, facts)
        return Decision(denial.input, ALLOW, denial.decision_id, denial.policy)

    def may_report_allow(self, asked: Checker) -> bool:
        """Say whether :meth:`report_allow` may have something to write of an allow of ``asked``."""
        return self._samples_allows or asked.monitors_rules

    def report_allow(self, asked: Checker, input: PolicyInput, facts: Callable[[], RequestFacts]) -> None:
        """Write the event of an allow, always if a rule of ``asked`` that only monitors would have denied ``input``.

        Else it is sampled. Never raises: the allow is the policy's, and stands.
        """
        try:
            watching = asked.would_deny(input)
            if watching is not None:
                denial = Decision(input, Deny(watching.rule.reason), new_decision_id(), asked.policy)
                self.log.would_deny(denial, msgspec.structs.replace(facts(), rule=watching.number))
            elif self._samples_allows:
                self.log.allowed(Decision(input, ALLOW, None, asked.policy), facts())
        except Exception as error:
            _log.error("an allow could not be reported: %s", type(error).__name__)


async def actor_in_time(actor: Awaitable[Any], seconds: float) -> Any:
    """Return what ``actor`` gives. Raises :class:`ActorTimeout` after ``seconds``, or what ``actor`` raises."""
    with BoundedWait(seconds) as bound:
        given = await actor
    if bound.expired:
        raise ActorTimeout("actor_seconds", seconds)
    return given


def deny_unasked(cause: BaseException, point: EnforcementPoint | None, scope: Mapping[str, Any]) -> Decision:
    """Return the denial for ``cause``, which left nothing that could be asked, and write its event.

    ``point`` is ``None`` where there is nobody to ask; ``scope`` is that of the request, or empty. It counts always.
    """
    denial, facts = _unasked(cause, point, scope)
    (DecisionLog() if point is None else point.log).denied(denial, facts)
    return denial


def settle_unasked(cause: BaseException, point: EnforcementPoint, scope: Mapping[str, Any]) -> Decision:
    """Return what counts where ``cause`` left nothing to ask about: see :meth:`EnforcementPoint.settle_denial`."""
    return point.settle_denial(*_unasked(cause, point, scope))


def _unasked(
    cause: BaseException, point: EnforcementPoint | None, scope: Mapping[str, Any]
) -> tuple[Decision, RequestFacts]:
    policy, env = (None, DEFAULT_ENVIRONMENT) if point is None else (point.checker.policy, point.env)
    denial = Decision(None, denial_for(cause), new_decision_id(), policy)
    return denial, RequestFacts.of(scope, cause=cause, env=env)


def denial_in(error: BaseException, depth: int = 8) -> Decision | None:
    """Return the decision of a :class:`CapabilityDenied`, or ``None``.

    A task group may have raised it together with nothing but denials.
    """
    if isinstance(error, CapabilityDenied):
        return error.decision if type(error.decision) is Decision else None
    inner = getattr(error, "exceptions", None)
    if type(inner) is not tuple or not inner or not depth:
        return None
    denials = [denial_in(part, depth - 1) for part in inner]
    return None if None in denials else denials[0]
