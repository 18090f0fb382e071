"""Policy decision points: ask a policy, get ``Allow`` or ``Deny``, whatever happens.

:class:`LocalPolicyChecker` evaluates a policy document in Python, :class:`WasmPolicyChecker` asks a pool of
WebAssembly instances. They are interchangeable, and :mod:`capgate.settings.select` picks one of them once, at start-up. What
they share is in :mod:`capgate.checker.base`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic, time
from typing import Final

import anyio

from ..actions import VOCABULARY, Vocabulary
from ..errors import PoolExhausted, ends_task
from ..events import DecisionLog
from ..limits import Limits
from ..model import ALLOW, Allow, Deny, PolicyInfo, PolicyInput, PolicyResult, Reason
from ..policy import RuntimePolicy
from ..runtime.abi.lowering import check_lowerable
from ..runtime.pool import WasmPool
from .base import DENIED, Answering, BaseChecker, PolicyChecker, denied_for

__all__ = ["DENIED", "Answering", "BaseChecker", "LocalPolicyChecker", "PolicyChecker", "WasmPolicyChecker"]

_MISSING_RESOURCE: Final = DENIED[Reason.MISSING_RESOURCE]
_UNKNOWN_ACTION: Final = DENIED[Reason.UNKNOWN_ACTION]
_MALFORMED_INPUT: Final = DENIED[Reason.MALFORMED_INPUT]
_TIMEOUT: Final = DENIED[Reason.POLICY_TIMEOUT]
_UNAVAILABLE: Final = DENIED[Reason.POLICY_UNAVAILABLE]


class LocalPolicyChecker(BaseChecker):
    """Evaluates a policy document in this process, in Python. No sandbox is needed: a document cannot compute."""

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

    @property
    def answering(self) -> LocalPolicyChecker:
        return self

    async def evaluate(self, input: PolicyInput) -> PolicyResult:
        return self.evaluate_now(input)

    def evaluate_now(self, input: PolicyInput) -> PolicyResult:
        """:meth:`evaluate` for code that cannot await. Nothing here ever has to be waited for."""
        try:
            if type(input) is not PolicyInput:
                return _MALFORMED_INPUT
            if input.action not in self._vocabulary.names:
                return _UNKNOWN_ACTION if isinstance(input.action, str) else _MALFORMED_INPUT
            check_lowerable(input, self._limits.input_bytes)
            result = self._policy.evaluate(input)
        except Exception as error:
            return denied_for(error, input)
        if self._lacks_resource(input) and type(result) is Allow:
            return _MISSING_RESOURCE
        return result if type(result) in (Allow, Deny) else DENIED[Reason.INTERNAL_ERROR]

    async def evaluate_many(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult]:
        return self.answer_many_now(inputs)

    def answer_many_now(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult]:
        """:meth:`evaluate_many` for code that cannot await."""
        return [self.evaluate_now(input) for input in inputs]

    answer_now = evaluate_now


class WasmPolicyChecker(BaseChecker):
    """Asks a :class:`~capgate.runtime.pool.WasmPool`. Owns it: starting and closing this starts and closes the pool.

    Once ``expires``, in seconds since the epoch by ``clock``, every answer is ``policy_unavailable``. ``inputs`` are
    what the policy looks at, where its module does not show that itself but its manifest says so.
    """

    def __init__(
        self,
        pool: WasmPool,
        *,
        vocabulary: Vocabulary = VOCABULARY,
        events: DecisionLog | None = None,
        expires: float | None = None,
        clock: Callable[[], float] = time,
        inputs: frozenset[str] | None = None,
    ) -> None:
        super().__init__(vocabulary, events)
        self.expires = expires
        self._clock = clock
        self.pool = pool
        self.policy = pool.info
        self.inputs = inputs if pool.artifact.inputs is None else pool.artifact.inputs
        self._call = pool.call
        self._deadline = pool.limits.deadline

    @property
    def answering(self) -> WasmPolicyChecker:
        return self

    async def check(self, input: PolicyInput) -> PolicyResult:
        result = self.answer_now(input)
        if result is ALLOW:
            return result
        if result is None:
            result = await self._wait(input)
        if type(result) is Deny:
            self._report(input, result, self)
        return result

    async def evaluate(self, input: PolicyInput) -> PolicyResult:
        result = self.answer_now(input)
        return await self._wait(input) if result is None else result

    @property
    def expired(self) -> bool:
        """Whether the policy has expired, so that it denies everything."""
        return self.expires is not None and not self._clock() < self.expires

    def evaluate_now(self, input: PolicyInput) -> PolicyResult:
        """:meth:`evaluate` for code that cannot await, such as a ``def`` endpoint in a worker thread. Does not wait."""
        result = self.answer_now(input)
        return DENIED[Reason.POOL_EXHAUSTED] if result is None else result

    def answer_now(self, input: PolicyInput) -> PolicyResult | None:
        """:meth:`evaluate` where an instance is idle, else ``None``. The path of nearly every check: nothing waits,
        so no cancel scope is entered."""
        started = monotonic()
        try:
            if self.expires is not None and self.expired:
                return _UNAVAILABLE
            if type(input) is not PolicyInput:
                return _MALFORMED_INPUT
            if input.action not in self._vocabulary.names:
                return _UNKNOWN_ACTION if isinstance(input.action, str) else _MALFORMED_INPUT
            result = self._call(input)
        except PoolExhausted:
            return None
        except BaseException as error:
            if ends_task(error):
                raise
            return denied_for(error, input)
        if monotonic() - started > self._deadline:
            return _TIMEOUT  # an answer, but too late
        resource = input.resource
        if (resource is None or resource.id is None) and type(result) is Allow and self._lacks_resource(input):
            return _MISSING_RESOURCE
        return result

    async def evaluate_many(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult]:
        started, results = monotonic(), []
        for input in inputs:
            left = self._deadline - (monotonic() - started)
            result = self.answer_now(input) if left > 0 else _TIMEOUT
            results.append(await self._wait(input, left) if result is None else result)
        return results if monotonic() - started <= self._deadline else [_TIMEOUT] * len(results)

    def answer_many_now(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult] | None:
        """:meth:`evaluate_many` where nothing has to be waited for, else ``None``."""
        started, results = monotonic(), []
        for input in inputs:
            result = self.answer_now(input)
            if result is None:
                return None
            results.append(result)
            if monotonic() - started > self._deadline:
                return [_TIMEOUT] * len(inputs)
        return results

    async def _wait(self, input: PolicyInput, left: float | None = None) -> PolicyResult:
        """Nothing was idle: wait for an instance, and for its answer, as long as the deadline allows: ``left``
        seconds."""
        started = monotonic()
        try:
            with anyio.fail_after(self._deadline if left is None else left):
                result = await self.pool.wait_and_call(input)
            if type(result) is Allow and self._lacks_resource(input):
                return _MISSING_RESOURCE
            return _TIMEOUT if monotonic() - started > self._deadline else result
        except TimeoutError:
            return DENIED[Reason.POOL_EXHAUSTED]
        except BaseException as error:
            if ends_task(error):
                raise
            return denied_for(error, input)

    async def start(self) -> None:
        await self.pool.start()

    async def aclose(self) -> None:
        await self.pool.aclose()
