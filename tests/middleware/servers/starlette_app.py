"""Has a gated Starlette application: ``/good`` and ``/ws`` are what the policy of these tests allows."""

from __future__ import annotations

import os
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from capgate import CapabilityMiddleware, requires

from ...support.journal import note, note_decisions, noted_lifespan

METHODS = ["GET", "POST"]


def endpoint(name: str) -> Any:
    async def run(request: Request) -> Response:
        note("ran", name)
        body = (await request.body()).decode("latin-1")
        return JSONResponse({"ran": name, "body": body, "pid": os.getpid()})

    return run


def socket(name: str) -> Any:
    async def run(websocket: WebSocket) -> None:
        note("ran", name)
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(f"{name}: {text}")

    return run


def read(query: str, run: Any) -> Any:
    return requires("db.read", resource=f"sql_query:{query}")(run)


note_decisions()
app = Starlette(
    lifespan=noted_lifespan,
    routes=[
        Route("/good", read("good", endpoint("good")), methods=METHODS),
        Route("/bad", read("bad", endpoint("bad")), methods=METHODS),
        Route("/undeclared", endpoint("undeclared")),
        Route("/by-name/{name:path}", read("{name}", endpoint("by-name"))),
        Mount("/sub", routes=[Route("/good", read("good", endpoint("sub")))]),
        WebSocketRoute("/ws", read("good", socket("ws"))),
        WebSocketRoute("/ws-bad", read("bad", socket("ws-bad"))),
        WebSocketRoute("/ws-undeclared", socket("ws-undeclared")),
    ],
)
app.add_middleware(CapabilityMiddleware)
