"""An application that says which process answered, and by which version of the policy its handler was answered."""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from capgate import Allow, CapabilityMiddleware, requires

QUESTIONS = [("db.read", f"sql_query:v{kind}") for kind in (0, 1)]


@requires("db.read", resource="sql_query:always")
async def which(request: Request) -> Response:
    results = await request.state.capabilities.check_many(QUESTIONS)
    allowed = [kind for kind, result in enumerate(results) if type(result) is Allow]
    return JSONResponse({"pid": os.getpid(), "allowed": allowed})


def create_app() -> Starlette:
    app = Starlette(routes=[Route("/", which)])
    app.add_middleware(CapabilityMiddleware)
    return app
