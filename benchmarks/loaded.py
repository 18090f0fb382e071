"""The application that ``python -m benchmarks.load`` sends requests to: ``loaded.py ENGINE POLICY`` under uvicorn.

It is a script, and imports nothing of this package, so that it measures whatever capgate is on the path. It prints its
port, and serves until its input ends. ``POLICY`` is ``own``, a document, or ``foreign``: a module that burns its fuel
where the name it is asked about begins with ``b``, and works for some time where that begins with ``w``.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import AsyncIterator

import uvicorn
import uvloop
import wasmtime
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from capgate import CapabilityMiddleware, Settings, WasmArtifact, WasmPolicyChecker, WasmPool, build_policy, requires

_CHECK = "capgate:policy/policy@0.1.0#policy-check"
#: Iterations of what works: somewhat more than half of a million of fuel.
_WORK = 120_000
_MODULE = f"""(module (memory (export "memory") 2)
  (global $next (mut i32) (i32.const 4096))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
    (global.set $next (i32.add (local.get $at) (local.get 3)))
    (local.get $at))
  (func (export "{_CHECK}") (param $input i32) (result i32) (local $first i32) (local $left i32)
    (local.set $first (i32.load8_u (i32.load offset=36 (local.get $input))))
    (if (i32.eq (local.get $first) (i32.const 98)) (then (loop $forever (br $forever))))
    (if (i32.eq (local.get $first) (i32.const 119))
      (then (local.set $left (i32.const {_WORK}))
        (loop $more (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))))
    (i32.const 1024)))"""


class Gaps:
    """The longest turn of the event loop since somebody looked: by the clock, and by the time of its thread."""

    def __init__(self) -> None:
        self.clock = self.thread = 0.0

    async def watch(self) -> None:
        """Look at a turn every half a millisecond."""
        while True:
            clock, thread = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0)
            self.thread = max(self.thread, time.thread_time() - thread)
            self.clock = max(self.clock, time.perf_counter() - clock)
            await asyncio.sleep(0.0005)

    def take(self) -> dict[str, float]:
        """Return both, and begin anew."""
        longest, self.clock, self.thread = {"clock": self.clock, "thread": self.thread}, 0.0, 0.0
        return longest


def application(engine: str, policy: str) -> Starlette:
    """Return it, with a gate that has the default limits."""
    gaps = Gaps()
    data = build_policy({"sql": "any"}) if policy == "own" else bytes(wasmtime.wat2wasm(_MODULE))
    checker = WasmPolicyChecker(WasmPool(WasmArtifact.from_bytes(data), engine=engine))

    @requires("db.read", resource="sql_query:{name}")
    async def asked(request: Request) -> Response:
        return Response(b"ok")

    async def innocent(request: Request) -> Response:
        return Response(b"ok")

    async def facts(request: Request) -> Response:
        return JSONResponse({**gaps.take(), "cpu": time.process_time()})

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        watching = asyncio.create_task(gaps.watch())
        yield
        watching.cancel()

    app = Starlette(
        routes=[Route("/asked/{name}", asked), Route("/innocent", innocent), Route("/facts", facts)], lifespan=lifespan
    )
    settings = Settings(public=("/innocent", "/facts"), expose_reasons=True)
    app.add_middleware(CapabilityMiddleware, checker=checker, settings=settings)
    return app


async def serve(engine: str, policy: str) -> None:
    """Serve until the standard input ends."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=1_024)
    config = uvicorn.Config(
        application(engine, policy), http="httptools", loop="uvloop", access_log=False, log_level="warning"
    )
    server = uvicorn.Server(config)
    print(listening.getsockname()[1], flush=True)
    serving = asyncio.ensure_future(server.serve(sockets=[listening]))
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.should_exit = True
    await serving


if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(serve(*sys.argv[1:]))
