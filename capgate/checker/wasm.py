"""Asks a pool of WebAssembly instances."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from time import monotonic, thread_time, time
from typing import Final

from ..actions import VOCABULARY, Vocabulary
from ..errors import Overloaded, PoolExhausted, ends_task, is_by_policy
from ..events import DecisionLog
from ..model import ALLOW, Allow, Deny, PolicyInfo, PolicyInput, PolicyResult, Reason
from ..policy import MonitoredRule
from ..runtime.bounded_wait import BoundedWait
from ..runtime.pool import PoolStatistics, WasmPool
from .base import DENIED, Checker, room_for_facts

#: So many questions to a document take less than the shortest deadline: each at the very worst 40 microseconds.
FEW: Final = 8

_MISSING_RESOURCE: Final = DENIED[Reason.MISSING_RESOURCE]
_UNKNOWN_ACTION: Final = DENIED[Reason.UNKNOWN_ACTION]
_MALFORMED_INPUT: Final = DENIED[Reason.MALFORMED_INPUT]
_TIMEOUT: Final = DENIED[Reason.POLICY_TIMEOUT]
_EXHAUSTED: Final = DENIED[Reason.POOL_EXHAUSTED]
_UNAVAILABLE: Final = DENIED[Reason.POLICY_UNAVAILABLE]


class WasmPolicyChecker(Checker):
    """Asks a :class:`~capgate.runtime.pool.WasmPool`. Owns it: starting and closing this starts and closes the pool.

    From ``expires`` on, in seconds since the epoch by ``clock``, every answer is ``policy_unavailable``. The fields
    ``inputs`` are what the policy looks at, where its module does not show that itself but its manifest says so.

    ``faults`` counts the questions at which the policy itself failed, see :func:`~capgate.errors.is_by_policy`. Threads
    that count at once may lose a few.
    """

    __slots__ = ("_call", "_clock", "_deadline", "expires", "facts_room", "faults", "inputs", "policy", "pool")

    policy: PolicyInfo
    inputs: frozenset[str] | None
    facts_room: int
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
        self.faults = 0
        self.policy = pool.info
        self.inputs = inputs if pool.artifact.inputs is None else pool.artifact.inputs
        told = pool.artifact.sees_facts and not pool.artifact.is_built
        self.facts_room = 0 if told else room_for_facts(pool.limits, self.inputs)
        self._call = pool.call
        self._deadline = pool.limits.deadline

    async def check(self, input: PolicyInput) -> PolicyResult:
        result = self.answer_now(input)
        if result is ALLOW:
            return result
        if result is None:
            result, _ = await self._wait(input, self._deadline)
        if type(result) is Deny:
            self._report(input, result, self)
        return result

    async def evaluate(self, input: PolicyInput) -> PolicyResult:
        result = self.answer_now(input)
        return (await self._wait(input, self._deadline))[0] if result is None else result

    @property
    def expired(self) -> bool:
        """Whether the policy has expired, so that it denies everything."""
        return self.expires is not None and not self._clock() < self.expires

    @property
    def monitors_rules(self) -> bool:
        return self.pool.artifact.monitored is not None

    def would_deny(self, input: PolicyInput) -> MonitoredRule | None:
        monitored = self.pool.artifact.monitored
        return None if monitored is None else monitored.first(input)

    def answer_now(self, input: PolicyInput) -> PolicyResult | None:
        """Answer ``input`` where an instance is idle, else return ``None``.

        The path of nearly every check: nothing waits, so no cancel scope is entered.
        """
        try:
            if self.expires is not None and self.expired:
                return _UNAVAILABLE
            if type(input) is not PolicyInput:
                return _MALFORMED_INPUT
            if input.action not in self._vocabulary.names:
                return _UNKNOWN_ACTION if isinstance(input.action, str) else _MALFORMED_INPUT
            result = self._call(input) if not self.pool.takes_turns else self.pool.call_in_turn(input)
        except Overloaded:
            return _EXHAUSTED  # before anything is done for who would wait in vain
        except PoolExhausted:
            return None
        except BaseException as error:
            if ends_task(error):
                raise
            return self._fault(error, input)
        resource = input.resource
        if type(result) is Allow and (resource is None or not resource.id) and self._lacks_resource(input):
            return _MISSING_RESOURCE
        return result

    def evaluate_now(self, input: PolicyInput) -> PolicyResult:
        result = self.answer_now(input)
        if result is None:
            result = self._answer_out_of_turn(input)
        return result

    def _answer_out_of_turn(self, input: PolicyInput) -> PolicyResult:
        """Answer ``input`` for who cannot wait for a turn of the event loop. Others go on without waiting for who has
        to."""
        if not self.pool.takes_turns:
            return _EXHAUSTED
        try:
            result = self.pool.call_out_of_turn(input)
        except PoolExhausted:
            return _EXHAUSTED
        except BaseException as error:
            if ends_task(error):
                raise
            return self._fault(error, input)
        if type(result) is Allow and self._lacks_resource(input):
            return _MISSING_RESOURCE
        return result

    def evaluate_many_now(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult]:
        work, results = _Work(self._deadline), list[PolicyResult]()
        for input in inputs:
            results.append(self.evaluate_now(input))
            if results[-1] is _TIMEOUT:  # one such call in one turn of the loop
                return [*results, *[_EXHAUSTED] * (len(inputs) - len(results))]
            if work.is_over():
                return [_TIMEOUT] * len(inputs)
        return results

    async def evaluate_many(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult]:
        """Answer each of ``inputs``. All of them together wait no longer for instances than the deadline, and several
        have no more processor time."""
        left, results = self._deadline, []
        work = _Work(self._deadline if len(inputs) > 1 else math.inf)
        for input in inputs:
            result = self.answer_now(input)
            if result is None:
                before = thread_time()
                result, left = await self._wait(input, left)
                work.leave_out(thread_time() - before)  # in which other tasks had their turns
            results.append(result)
            if work.is_over():
                return [_TIMEOUT] * len(inputs)
        return results

    def answer_many_now(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult] | None:
        """Answer each of ``inputs`` where instances are idle, else return ``None``."""
        if len(inputs) == 1:  # which fuel bounds
            result = self.answer_now(inputs[0])
            return None if result is None else [result]
        loop = self.pool.loop_to_ask()
        if loop is not None:
            return self._answer_many_there(loop, inputs)
        # Looking at the clocks takes as long as a question; what a route declares needs none of it.
        work = None if len(inputs) <= FEW and not self.pool.may_be_costly else _Work(self._deadline)
        results = []
        for input in inputs:
            result = self.answer_now(input)
            if result is None:
                return None
            results.append(result)
            if work is not None and work.is_over():
                return [_TIMEOUT] * len(inputs)
        return results

    def _answer_many_there(self, loop: object, inputs: Sequence[PolicyInput]) -> list[PolicyResult] | None:
        """Have ``loop`` answer ``inputs``, all at once where it has the instances."""
        results: list[PolicyResult] = []

        def ask() -> bool:
            work = _Work(self._deadline)
            while len(results) < len(inputs):
                result = self.answer_now(inputs[len(results)])
                if result is None:
                    return True
                results.append(result)
                if work.is_over():
                    results[:] = [_TIMEOUT] * len(inputs)
            return False

        try:
            self.pool.do_there(loop, ask)
        except PoolExhausted:
            return None
        return results if len(results) == len(inputs) else None

    async def _wait(self, input: PolicyInput, seconds: float) -> tuple[PolicyResult, float]:
        """Wait up to ``seconds`` for an instance, since none is idle. Returns its answer, which counts however late it
        is, and the seconds that are left."""
        result: PolicyResult = _EXHAUSTED
        left = seconds
        try:
            with BoundedWait(seconds) as bound:
                result = await self.pool.wait_and_call(input)
            left = bound.left
            if type(result) is Allow and self._lacks_resource(input):
                result = _MISSING_RESOURCE
        except BaseException as error:
            if ends_task(error):
                raise
            result = self._fault(error, input)
        return result, left

    def _fault(self, error: BaseException, input: object) -> Deny:
        if is_by_policy(error):
            self.faults += 1
        return super()._fault(error, input)

    def statistics(self) -> PoolStatistics:
        return self.pool.statistics()

    async def start(self) -> None:
        await self.pool.start()

    async def aclose(self) -> None:
        await self.pool.aclose()


class _Work:
    """What answering a batch has taken. Only this thread's own processor time counts, which costs a system call: so it
    is looked at where the time on the wall says that it may be over."""

    __slots__ = ("_processor", "_seconds", "_since")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since, self._processor = monotonic(), thread_time()

    def leave_out(self, seconds: float) -> None:
        """Leave out so many seconds of processor time."""
        self._processor += seconds

    def is_over(self) -> bool:
        """Say whether there are no seconds left."""
        return monotonic() - self._since > self._seconds and thread_time() - self._processor > self._seconds
