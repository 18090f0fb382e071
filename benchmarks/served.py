"""``python -m benchmarks.served NAME MODULE``: one application under uvicorn, with httptools and uvloop.

Prints the port, and serves until its input ends. What it takes of the processor is measured from outside, by
``benchmarks.server``.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.authentication import requires as starlette_requires
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from capgate import CapabilityMiddleware, Settings, requires

from .asgi import HeaderBackend
from .details import fastapi_application
from .questions import ACTION, KIND

FRAMEWORKS = ("Starlette", "FastAPI")
BARE, PAIR, GATE, ASKING = KINDS = ("bare", "Starlette's pair", "gate", "gate, cache_size=0")
NAMES = tuple(f"{framework}, {kind}" for framework in FRAMEWORKS for kind in KINDS)
#: Anybody may write anything, as different as questions may be.
POLICY: dict[str, Any] = {"name": "bench", "sql": "any"}


def starlette_application(guard: Callable[[Any], Any] | None = None) -> Starlette:
    """One route with a path parameter."""

    async def query(request: Request) -> Response:
        return Response(b"ok")

    return Starlette(routes=[Route("/queries/{name}", query if guard is None else guard(query), methods=["POST"])])


BUILD: dict[str, Callable[[Callable[[Any], Any] | None], Starlette | FastAPI]] = {
    "Starlette": starlette_application,
    "FastAPI": fastapi_application,
}


def application(name: str, module: str) -> Any:
    """The application that is called ``name``, one of :data:`NAMES`. Its gate asks the policy at ``module``."""
    framework, kind = name.split(", ", 1)
    build = BUILD[framework]
    if kind == BARE:
        return build(None)
    if kind == PAIR:
        app = build(starlette_requires("authenticated"))
        app.add_middleware(AuthenticationMiddleware, backend=HeaderBackend())
        return app
    app = build(requires(ACTION, resource=KIND + ":{name}"))
    settings = Settings(artifact=module, service="bench", cache_size=0 if kind == ASKING else None)
    app.add_middleware(CapabilityMiddleware, settings=settings)
    return app


async def serve(name: str, module: str) -> None:
    """Serve until the standard input ends."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        application(name, module), http="httptools", loop="uvloop", access_log=False, log_level="warning"
    )
    server = uvicorn.Server(config)
    print(listening.getsockname()[1], flush=True)
    serving = asyncio.ensure_future(server.serve(sockets=[listening]))
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.should_exit = True
    await serving


if __name__ == "__main__":
    import uvloop

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(serve(*sys.argv[1:]))
