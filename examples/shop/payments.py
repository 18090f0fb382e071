"""Serves as a payment provider, in as far as the shop needs one. It remembers whom it charged."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


async def charge(request: Request) -> Response:
    """``{"order": number, "cents": number}``: the money is gone."""
    charges: list[dict[str, Any]] = request.app.state.charges
    charges.append(await request.json())
    return JSONResponse({"charge": f"ch-{len(charges)}"}, 201)


def create_app() -> Starlette:
    app = Starlette(routes=[Route("/charges", charge, methods=["POST"])])
    app.state.charges = []
    return app


app = create_app()
