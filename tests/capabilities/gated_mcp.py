"""An MCP server behind both gates, and a client that posts to it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from capgate import CapabilityMiddleware, Settings
from capgate.capabilities.mcp import GatedMCP

from ..support.gates import make_checker
from .rpc_server import call

POLICY: dict[str, Any] = {"name": "mcp", "version": "3", "tools": ["good", "fine"], "fs": ["file:///open"]}
SETTINGS = Settings(service="mcp-tests", mode="test")
GOOD = json.dumps(call("good")).encode()
DENIED, PARSE, INVALID, UNKNOWN, PARAMS, INTERNAL, MISMATCH = -32010, -32700, -32600, -32601, -32602, -32603, -32020


def gated(server: ASGIApp, checker: Any = None, **options: Any) -> Starlette:
    """The server behind both gates, as an application would have it."""
    app = Starlette(routes=[Mount("/mcp", GatedMCP(server, **options))])
    app.add_middleware(CapabilityMiddleware, settings=SETTINGS, checker=checker or make_checker("local", POLICY))
    return app


@asynccontextmanager
async def client_of(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://mcp.test/mcp/") as client:
        yield client


async def post(app: ASGIApp, message: Any, **headers: str) -> httpx.Response:
    content = message if isinstance(message, bytes) else json.dumps(message).encode()
    async with client_of(app) as client:
        given = {"content-type": "application/json", **{name.replace("_", "-"): v for name, v in headers.items()}}
        return await client.post("", content=content, headers=given)


JSON = "application/json"
