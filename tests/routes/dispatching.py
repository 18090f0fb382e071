"""Endpoints that note that they ran, and calls of routers at which a request is asked about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from capgate.routes.declare import requires

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.seats import Seated


def needs(name: str, **options: Any) -> Callable[[Any], Any]:
    return requires("db.read", resource=f"sql_query:{name}", **options)


class Notes(list[str]):
    """Endpoints by name, which note here that they ran."""

    def endpoint(self, name: str) -> Any:
        async def endpoint(request: Request) -> Response:
            self.append(name)
            return PlainTextResponse(name)

        return needs(name)(endpoint)

    def route(self, path: str, name: str, **options: Any) -> Route:
        return Route(path, self.endpoint(name), **options)

    def app(self, name: str) -> ASGIApp:
        return Undeclared(self, name)


class Undeclared:
    def __init__(self, notes: Notes, name: str) -> None:
        self.notes = notes
        self.name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.notes.append(self.name)
        await PlainTextResponse(self.name)(scope, receive, send)


def asked(seated: Seated) -> list[str]:
    return [id for _, questions in seated.last.asked for _, id in questions]


def scope_of(path: str, method: str = "GET", **extra: Any) -> Scope:
    if method == "websocket":
        return websocket_scope(path, **extra)
    return http_scope(path, method, **extra)


async def call(app: ASGIApp, path: str, method: str = "GET", **extra: Any) -> Call:
    return await Call(scope_of(path, method, **extra)).to(app)


class Rewriting:
    """Middleware that changes the scope as it is told, in place or in a copy."""

    def __init__(self, app: ASGIApp, /, copies: bool = False, **changes: Any) -> None:
        self.app = app
        self.copies = copies
        self.changes = changes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.copies:
            scope = {**scope, **self.changes}
        else:
            scope.update(self.changes)
        await self.app(scope, receive, send)
