"""Holds what every enforcement point has: a checker, the environment that it is told, the deadline, the log.

An :class:`EnforcementPoint` is shared by the middleware, which asks before an endpoint runs, and by what an endpoint
asks itself (:mod:`capgate.enforcement.capabilities`). Denials are values here: made where nobody could be asked, or
looked for in what an application raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..checker.base import Checker, PolicyChecker, denial_for
from ..checker.foreign import as_checker
from ..errors import CapabilityDenied
from ..events import DecisionLog, RequestFacts, new_decision_id
from ..limits import Limits
from ..model import DEFAULT_ENVIRONMENT, Decision, Environment


class EnforcementPoint:
    """What questions are asked with. Made once, and never changed.

    ``deadline`` is in seconds; capgate's own checkers have one of their own. ``body_bytes`` is how much of a body is
    read for its hash. Raises what :func:`~capgate.checker.foreign.as_checker` raises.
    """

    __slots__ = ("body_bytes", "checker", "deadline", "env", "log", "samples_allows", "steady")

    def __init__(
        self,
        checker: PolicyChecker,
        env: Environment = DEFAULT_ENVIRONMENT,
        *,
        deadline: float = Limits().deadline,
        sample_allows: float = 0.0,
        body_bytes: int = 1_048_576,
    ) -> None:
        self.checker = checker = as_checker(checker, deadline)
        #: The same where it has one policy for good, so that nobody need ask for :attr:`Checker.current`.
        self.steady: Checker | None = checker.steady
        self.env = env
        self.deadline = deadline
        self.body_bytes = body_bytes
        self.log = DecisionLog(sample_allows)
        self.samples_allows = sample_allows > 0


def deny_unasked(cause: BaseException, point: EnforcementPoint | None, scope: Mapping[str, Any]) -> Decision:
    """Return the denial for ``cause``, which left nothing that could be asked, and write its event.

    ``point`` is ``None`` where there is nobody to ask; ``scope`` is that of the request, or empty.
    """
    policy, env, log = None, DEFAULT_ENVIRONMENT, None
    if point is not None:
        policy, env, log = point.checker.policy, point.env, point.log
    denial = Decision(None, denial_for(cause), new_decision_id(), policy)
    (log or DecisionLog()).denied(denial, RequestFacts.of(scope, cause=cause, env=env))
    return denial


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
