"""Has a gated Starlette application whose one route waits for its body, and for an actor that takes a moment."""

from __future__ import annotations

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Scope

from capgate import Anonymous, CapabilityMiddleware, requires


@requires("db.read", resource="sql_query:good", args_hash="body")
async def endpoint(request: Request) -> Response:
    return PlainTextResponse(await request.body())


async def actor(scope: Scope) -> Anonymous:
    await anyio.sleep(0.05)
    return Anonymous()


app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
app.add_middleware(CapabilityMiddleware, actor=actor)
