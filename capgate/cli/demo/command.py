"""Shows a gated application at work: ``capgate demo``."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Annotated

import anyio
import typer

from ... import WasmArtifact, WasmPolicyChecker, WasmPool, build_policy
from ..options import EngineName, Json
from ..terminal import print_json


def demo(
    engine: Annotated[EngineName, typer.Option(help="What runs the policy; auto prefers wasmer.")] = EngineName.auto,
    repeat: Annotated[int, typer.Option(min=1, max=10_000, help="Send each request so many times.")] = 20,
    as_json: Json = False,
    serve: Annotated[bool, typer.Option("--serve", help="Keep the app up afterwards, until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
) -> None:
    """Start a gated FastAPI app, send it real requests, and show what was allowed and denied, and why.

    The app runs under uvicorn on 127.0.0.1. Its policy is a short document, built into a WebAssembly module and run in
    the process. Each request is sent several times; times are medians.

    Exit codes: 0 every answer is the expected one; 1 one is not; 2 usage, or it cannot start.

    Try:

    - `capgate demo`
    - `capgate demo --engine wasmtime`
    - `capgate demo --serve --port 8000`, then the curl lines that it prints
    - `capgate demo --json | jq .exchanges`
    """
    import httpx  # with what else a server needs, it takes as long to import as all of capgate

    from .app import CASES, POLICY, create_app
    from .exchanges import ROUNDS, TimedChecker, exchange, time_in_a_row
    from .report import Report, show
    from .server import serving

    artifact = WasmArtifact.from_bytes(build_policy(POLICY))
    checker = TimedChecker(WasmPolicyChecker(WasmPool(artifact, size=2, engine=engine.value)))
    in_a_row_us = anyio.run(time_in_a_row, artifact, engine.value)
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
            print_json(report)
        else:
            show(report, logs.records)
        if serve:
            logs.live = True
            wait(url)
    raise typer.Exit(1 if report.unexpected else 0)


class _LogCollector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.live = False

    @property
    def never_blocks(self) -> bool:
        """Whether it only keeps what it is given."""
        return not self.live

    def emit(self, record: logging.LogRecord) -> None:
        if self.live:
            print(record.getMessage(), file=sys.stderr, flush=True)
        else:
            self.records.append(record)


@contextlib.contextmanager
def collected_logs() -> Iterator[_LogCollector]:
    """Keep what capgate logs, its decision events included, for the report instead of all over it."""
    log, collector = logging.getLogger("capgate"), _LogCollector()
    propagated, log.propagate = log.propagate, False
    log.addHandler(collector)
    try:
        yield collector
    finally:
        log.removeHandler(collector)
        log.propagate = propagated


def wait(url: str) -> None:
    """Keep the application up until SIGINT or SIGTERM, having said how to ask it."""
    from .report import show_how_to_ask

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    show_how_to_ask(url)
    stop.wait()
