"""Has a gated Starlette application that logs to standard error, as ``logging.basicConfig`` does."""

from __future__ import annotations

import logging

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from capgate import CapabilityMiddleware, Settings


async def health(request: Request) -> Response:
    return PlainTextResponse("well")


logging.basicConfig()
app = Starlette(routes=[Route("/health", health), Route("/undeclared", health)])
app.add_middleware(CapabilityMiddleware, settings=Settings(policy={"sql": "any"}, public=("/health",)))
