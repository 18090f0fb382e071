"""Sends the demo application its requests, and notes what came back and how long it took."""

from __future__ import annotations

import statistics
import time

import httpx

from ... import PolicyInput, PolicyResult, Resource, WasmArtifact, WasmPolicyChecker, WasmPool
from ...model import PolicyInfo
from .app import Case
from .report import DemoExchange

#: How often the checker is asked in a row, with no server in between.
ROUNDS = 2_000


class TimedChecker:
    """Passes each question on to ``inner``, and notes it with the nanoseconds that the answer took."""

    def __init__(self, inner: WasmPolicyChecker) -> None:
        self._inner = inner
        self.asked: list[tuple[PolicyInput, int]] = []

    @property
    def policy(self) -> PolicyInfo:
        return self._inner.policy

    async def start(self) -> None:
        await self._inner.start()

    async def check(self, input: PolicyInput) -> PolicyResult:
        start = time.perf_counter_ns()
        result = await self._inner.evaluate(input)
        self.asked.append((input, time.perf_counter_ns() - start))
        return result


async def time_in_a_row(artifact: WasmArtifact, engine: str) -> float:
    """Return the microseconds of one check, the median of :data:`ROUNDS` in a row, with no server around them."""
    question = PolicyInput("db.read", resource=Resource("sql_query", "list_orders"))
    async with WasmPolicyChecker(WasmPool(artifact, size=1, engine=engine)) as inner:
        checker = TimedChecker(inner)
        for _ in range(ROUNDS):
            await checker.check(question)
    return median_us([taken for _, taken in checker.asked])


def exchange(client: httpx.Client, checker: TimedChecker, case: Case, repeat: int) -> DemoExchange:
    """Send ``case`` so many times. An answer that differs from the expected one is the one that is told."""
    expected = answer(case.status, case.reason)
    got, times = expected, []
    del checker.asked[:]
    for _ in range(repeat):
        start = time.perf_counter_ns()
        response = client.request(case.method, case.path, headers=dict(case.headers))
        times.append(time.perf_counter_ns() - start)
        reason = response.json().get("reason") if response.status_code == 403 else None
        if got == expected:
            got = answer(response.status_code, reason)
    asked = list(checker.asked)
    return DemoExchange(
        request=f"{case.method} {case.path}",
        about=case.about,
        expected=expected,
        got=got,
        asked=question_of(asked[0][0]) if asked else None,
        check_us=median_us([taken for _, taken in asked]) if asked else None,
        request_us=median_us(times),
    )


def answer(status: int, reason: str | None) -> str:
    """Return status and reason on one line."""
    return str(status) if reason is None else f"{status} {reason}"


def question_of(asked: PolicyInput) -> str:
    """Return action, resource and actor on one line."""
    words = [asked.action]
    if isinstance(asked.resource, Resource):
        words.append(f"{asked.resource.kind}:{asked.resource.id}")
    if name := getattr(asked.actor, "id", None):
        words.append(f"for {name}")
    return " ".join(words)


def median_us(nanoseconds: list[int]) -> float:
    """Return the median, in microseconds, to a tenth."""
    return round(statistics.median(nanoseconds) / 1_000, 1)
