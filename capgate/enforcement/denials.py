"""Denials as values: found in what an application raised, or made where nobody could be asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import CapabilityDenied
from ..events import DecisionLog, new_decision_id
from ..model import DEFAULT_ENVIRONMENT, Decision
from .point import Judge, denied_for


def denial_in(error: BaseException, depth: int = 8) -> Decision | None:
    """The decision of a :class:`CapabilityDenied`, also where a task group raised it together with nothing but
    denials."""
    if isinstance(error, CapabilityDenied):
        return error.decision if type(error.decision) is Decision else None
    inner = getattr(error, "exceptions", None)
    if type(inner) is not tuple or not inner or not depth:
        return None
    found = [denial_in(one, depth - 1) for one in inner]
    return None if None in found else found[0]


def refusal(judge: Judge | None, scope: Mapping[str, Any], cause: BaseException) -> Decision:
    """The denial for ``cause`` where nothing could be asked, reported."""
    result, id, policy = denied_for(cause), new_decision_id(), None if judge is None else judge.policy
    (DecisionLog() if judge is None else judge.log).denied(
        None,
        result,
        policy,
        decision_id=id,
        env=DEFAULT_ENVIRONMENT if judge is None else judge.env,
        method=scope.get("method", scope.get("type")),
        path=scope.get("path"),
        cause=cause,
    )
    return Decision(None, result, id, policy)
