"""Evaluates a policy document in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..actions import VOCABULARY, Vocabulary
from ..errors import ends_task
from ..events import DecisionLog
from ..limits import Limits
from ..model import Allow, Deny, PolicyInfo, PolicyInput, PolicyResult, Reason
from ..policy import MonitoredRule, RuntimePolicy
from ..runtime.abi.lowering import check_lowerable
from .base import DENIED, Checker, room_for_facts

_UNKNOWN_ACTION: Final = DENIED[Reason.UNKNOWN_ACTION]
_MALFORMED_INPUT: Final = DENIED[Reason.MALFORMED_INPUT]


class LocalPolicyChecker(Checker):
    """Evaluates a policy document in this process, in Python. No sandbox is needed: a document cannot compute."""

    __slots__ = ("_limits", "_policy", "facts_room", "inputs", "policy")

    policy: PolicyInfo
    inputs: frozenset[str] | None
    facts_room: int

    def __init__(
        self,
        policy: RuntimePolicy,
        *,
        limits: Limits | None = None,
        vocabulary: Vocabulary = VOCABULARY,
        events: DecisionLog | None = None,
    ) -> None:
        super().__init__(vocabulary, events)
        self._policy = policy
        self._limits = limits or Limits()
        self.policy = PolicyInfo(policy.name, policy.version, policy.sha256)
        self.inputs = policy.inputs
        self.facts_room = room_for_facts(self._limits, policy.inputs)

    @property
    def monitors_rules(self) -> bool:
        return self._policy.monitored is not None

    def would_deny(self, input: PolicyInput) -> MonitoredRule | None:
        monitored = self._policy.monitored
        return None if monitored is None else monitored.first(input)

    async def evaluate(self, input: PolicyInput) -> PolicyResult:
        return self.evaluate_now(input)

    def evaluate_now(self, input: PolicyInput) -> PolicyResult:
        """Answer ``input`` at once. Nothing here ever has to be waited for."""
        try:
            if type(input) is not PolicyInput:
                return _MALFORMED_INPUT
            if input.action not in self._vocabulary.names:
                return _UNKNOWN_ACTION if isinstance(input.action, str) else _MALFORMED_INPUT
            check_lowerable(input, self._limits.input_bytes)
            result = self._policy.evaluate(input)
        except BaseException as error:
            if ends_task(error):
                raise
            return self._fault(error, input)
        if type(result) is Allow and self._lacks_resource(input):
            return DENIED[Reason.MISSING_RESOURCE]
        return result if type(result) in (Allow, Deny) else DENIED[Reason.INTERNAL_ERROR]

    async def evaluate_many(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult]:
        return self.answer_many_now(inputs)

    def answer_many_now(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult]:
        """Answer each of ``inputs`` at once."""
        return [self.evaluate_now(input) for input in inputs]

    answer_now = evaluate_now
