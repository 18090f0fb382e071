"""Asks a pool of WebAssembly instances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic, time
from typing import Final

import anyio

from ..actions import VOCABULARY, Vocabulary
from ..errors import PoolExhausted, ends_task
from ..events import DecisionLog
from ..model import ALLOW, Allow, Deny, PolicyInfo, PolicyInput, PolicyResult, Reason
from ..runtime.pool import PoolStatistics, WasmPool
from .base import DENIED, Checker

_MISSING_RESOURCE: Final = DENIED[Reason.MISSING_RESOURCE]
_UNKNOWN_ACTION: Final = DENIED[Reason.UNKNOWN_ACTION]
_MALFORMED_INPUT: Final = DENIED[Reason.MALFORMED_INPUT]
_TIMEOUT: Final = DENIED[Reason.POLICY_TIMEOUT]
_UNAVAILABLE: Final = DENIED[Reason.POLICY_UNAVAILABLE]


class WasmPolicyChecker(Checker):
    """Asks a :class:`~capgate.runtime.pool.WasmPool`. Owns it: starting and closing this starts and closes the pool.

    From ``expires`` on, in seconds since the epoch by ``clock``, every answer is ``policy_unavailable``. The fields
    ``inputs`` are what the policy looks at, where its module does not show that itself but its manifest says so.
    """

    __slots__ = ("_call", "_clock", "_deadline", "expires", "inputs", "policy", "pool")

    policy: PolicyInfo
    inputs: frozenset[str] | None
    expires: float | None

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

    def answer_now(self, input: PolicyInput) -> PolicyResult | None:
        """Answer ``input`` where an instance is idle, else return ``None``.

        The path of nearly every check: nothing waits, so no cancel scope is entered.
        """
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
            return self._fault(error, input)
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
        """Answer each of ``inputs`` where instances are idle, else return ``None``."""
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
        """Wait for an instance, since none is idle, and for its answer: ``left`` seconds, or else the deadline."""
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
            return self._fault(error, input)

    def statistics(self) -> PoolStatistics:
        return self.pool.statistics()

    async def start(self) -> None:
        await self.pool.start()

    async def aclose(self) -> None:
        await self.pool.aclose()
