"""``capgate demo``: starts the demo application, sends it the requests, and says what came back."""

from __future__ import annotations

import contextlib
import logging
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator

import anyio
import httpx

from ... import PolicyInput, PolicyResult, Resource, WasmArtifact, WasmPolicyChecker, WasmPool, build_policy
from ...model import PolicyInfo
from .app import CASES, POLICY, Case, create_app
from .report import Exchange, Report, show, show_how_to_ask, show_json
from .server import serving

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


def run(engine: str, *, repeat: int, as_json: bool, serve: bool, port: int) -> int:
    """The whole demo; its exit code. Raises :class:`CapgateError` where it cannot start."""
    artifact = WasmArtifact.from_bytes(build_policy(POLICY))
    checker = TimedChecker(WasmPolicyChecker(WasmPool(artifact, size=2, engine=engine)))
    in_a_row_us = anyio.run(time_in_a_row, artifact, engine)
    with collected_logs() as logs, serving(create_app(checker), port) as url:
        with httpx.Client(base_url=url, trust_env=False, timeout=10.0) as client:
            exchanges = [exchange(client, checker, case, repeat) for case in CASES]
        report = Report(
            engine=checker.policy.engine,
            url=url,
            policy=checker.policy,
            document=POLICY,
            exchanges=exchanges,
            repeat=repeat,
            rounds=ROUNDS,
            in_a_row_us=in_a_row_us,
            unexpected=sum(each.got != each.expected for each in exchanges),
        )
        if as_json:
            show_json(report)
        else:
            show(report, logs.records)
        if serve:
            logs.live = True
            wait(url)
    return 1 if report.unexpected else 0


async def time_in_a_row(artifact: WasmArtifact, engine: str) -> float:
    """Microseconds of one check, the median of :data:`ROUNDS` in a row, with no server around them."""
    question = PolicyInput("db.read", resource=Resource("sql_query", "list_orders"))
    async with WasmPolicyChecker(WasmPool(artifact, size=1, engine=engine)) as inner:
        checker = TimedChecker(inner)
        for _ in range(ROUNDS):
            await checker.check(question)
    return median_us([taken for _, taken in checker.asked])


def exchange(client: httpx.Client, checker: TimedChecker, case: Case, repeat: int) -> Exchange:
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
    return Exchange(
        request=f"{case.method} {case.path}",
        about=case.about,
        expected=expected,
        got=got,
        asked=question_of(asked[0][0]) if asked else None,
        check_us=median_us([taken for _, taken in asked]) if asked else None,
        request_us=median_us(times),
    )


def answer(status: int, reason: str | None) -> str:
    """Status and reason on one line."""
    return str(status) if reason is None else f"{status} {reason}"


def question_of(asked: PolicyInput) -> str:
    """Action, resource and actor on one line."""
    words = [asked.action]
    if isinstance(asked.resource, Resource):
        words.append(f"{asked.resource.kind}:{asked.resource.id}")
    if name := getattr(asked.actor, "id", None):
        words.append(f"for {name}")
    return " ".join(words)


def median_us(nanoseconds: list[int]) -> float:
    """The median, in microseconds, to a tenth."""
    return round(statistics.median(nanoseconds) / 1_000, 1)


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.live = False

    def emit(self, record: logging.LogRecord) -> None:
        if self.live:
            print(record.getMessage(), file=sys.stderr, flush=True)
        else:
            self.records.append(record)


@contextlib.contextmanager
def collected_logs() -> Iterator[_Collector]:
    """What capgate logs, its decision events included, kept for the report instead of written all over it."""
    log, collector = logging.getLogger("capgate"), _Collector()
    propagated, log.propagate = log.propagate, False
    log.addHandler(collector)
    try:
        yield collector
    finally:
        log.removeHandler(collector)
        log.propagate = propagated


def wait(url: str) -> None:
    """Keep the application up until SIGINT or SIGTERM, having said how to ask it."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    show_how_to_ask(url)
    stop.wait()
