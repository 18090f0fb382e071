"""An application under attack, for a process of its own: ``python -m tests.attack.server ENGINE FUEL``.

Serves on a free port of loopback and prints it. ``/attack/{kind}`` asks a policy that does its worst; ``/harmless`` is
public; ``/health`` says how long the event loop stood still at most, and how much memory the process has.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import uvicorn
import wasmtime
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from capgate import CapabilityMiddleware, Limits, Settings, WasmArtifact, WasmPolicyChecker, WasmPool, requires

HOSTILE = Path(__file__).with_name("hostile.wat")
DEADLINE = 0.5


class Stall:
    """The longest time, in seconds of its thread's own, that the event loop gave nobody else a turn."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def watch(self) -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            self.longest = max(self.longest, time.thread_time() - before)
            await asyncio.sleep(0.0005)


def application(engine: str, fuel: int) -> Starlette:
    stall = Stall()
    limits = Limits(fuel=fuel, deadline=DEADLINE)
    artifact = WasmArtifact.from_bytes(bytes(wasmtime.wat2wasm(HOSTILE.read_text())))
    checker = WasmPolicyChecker(WasmPool(artifact, size=4, engine=engine, limits=limits))

    @requires("db.write", resource="sql_query:{kind}")
    async def attacked(request: Request) -> Response:
        return PlainTextResponse("the effect happened")

    async def harmless(request: Request) -> Response:
        return PlainTextResponse("fine")

    async def health(request: Request) -> Response:
        longest, stall.longest = stall.longest, 0.0
        statistics = checker.pool.statistics()
        rss = psutil.Process().memory_info().rss
        return JSONResponse({"stall": longest, "rss": rss, "made": statistics.made, "retired": statistics.retired})

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        watcher = asyncio.create_task(stall.watch())
        async with checker:
            yield
        watcher.cancel()

    app = Starlette(
        routes=[Route("/attack/{kind}", attacked), Route("/harmless", harmless), Route("/health", health)],
        lifespan=lifespan,
    )
    settings = Settings(public=("/harmless", "/health"), expose_reasons=True, limits=limits)
    app.add_middleware(CapabilityMiddleware, checker=checker, settings=settings)
    return app


def main() -> None:
    # With the protocol spelled out, asyncio turns Nagle's algorithm off; else each answer takes 40 ms.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # who connects before the server runs waits for it
        print(listener.getsockname()[1], flush=True)
        app = application(sys.argv[1], int(sys.argv[2]))
        # Denials are logged one by one, and ten thousands of them would measure the log.
        config = uvicorn.Config(app, log_config=None, access_log=False)
        uvicorn.Server(config).run([listener])


if __name__ == "__main__":
    main()
