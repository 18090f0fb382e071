"""A route that was found runs itself where the framework would do no more with it, and the framework runs it else."""

from __future__ import annotations

import functools
import sys
from types import CodeType, FrameType
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Match, Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from capgate.routes.pinned import shows_route
from capgate.routes.seat import SEAT

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.seats import Seated
from .dispatching import needs

PATH = "/orders/7"


def code_of(function: Any) -> CodeType:
    code: CodeType = function.__code__
    return code


async def runs_of(code: CodeType, app: ASGIApp, scope: Scope) -> int:
    """How often a function with this code was called for one request."""
    count = 0

    def note(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call" and frame.f_code is code

    call = Call(scope)
    sys.setprofile(note)
    try:
        await call.to(app)
    finally:
        sys.setprofile(None)
    assert call.sent
    return count


class Seen:
    """Applications whose endpoint keeps what its scope is."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    def keep(self, scope: Scope) -> None:
        self.scopes.append(dict(scope))

    def endpoint(self) -> Any:
        async def endpoint(request: Request) -> Response:
            self.keep(request.scope)
            return PlainTextResponse("ran")

        return needs("orders")(endpoint)

    def socket(self) -> Any:
        async def endpoint(websocket: WebSocket) -> None:
            self.keep(websocket.scope)
            await websocket.accept()
            await websocket.close()

        return needs("orders")(endpoint)

    def view(self) -> Any:
        seen = self

        @needs("orders")
        class View(HTTPEndpoint):
            async def get(self, request: Request) -> Response:
                seen.keep(request.scope)
                return PlainTextResponse("ran")

        return View

    def apps(self) -> dict[str, tuple[Any, Scope]]:
        path = "/orders/{number}"
        of_functions, of_sockets, mixed = FastAPI(), FastAPI(), FastAPI()
        of_functions.get(path)(self.endpoint())
        of_sockets.websocket(path)(self.socket())
        mixed.router.add_route(path, self.endpoint())
        return {
            "function": (Starlette(routes=[Route(path, self.endpoint())]), http_scope(PATH)),
            "class": (Starlette(routes=[Route(path, self.view())]), http_scope(PATH)),
            "socket": (Starlette(routes=[WebSocketRoute(path, self.socket())]), websocket_scope(PATH)),
            "root path": (Starlette(routes=[Route(path, self.endpoint())]), http_scope("/a" + PATH, root_path="/a")),
            "bare router": (Router([Route(path, self.endpoint())]), http_scope(PATH)),
            "FastAPI": (of_functions, http_scope(PATH)),
            "FastAPI's socket": (of_sockets, websocket_scope(PATH)),
            "a plain route of FastAPI": (mixed, http_scope(PATH)),
        }


@pytest.mark.parametrize("name", Seen().apps())
async def test_an_endpoint_sees_what_it_sees_without_a_gate(name: str) -> None:
    seen = Seen()
    app, scope = seen.apps()[name]
    await Call(dict(scope)).to(app)
    seated = Seated(app)
    run = await runs_of(code_of(type(getattr(app, "router", app)).app), seated, dict(scope))
    assert run == 0
    bare, gated = seen.scopes
    assert gated.pop(SEAT) is not None
    for key in {*bare, *gated} - {"fastapi_inner_astack", "fastapi_function_astack", "fastapi_middleware_astack"}:
        assert bare[key] is gated[key] or bare[key] == gated[key], key
    assert bare.keys() == gated.keys()


@pytest.mark.parametrize("more", ["telemetry", "form limits"])
async def test_fastapi_runs_a_route_where_it_does_more(more: str) -> None:
    seen = Seen()
    app: Any = FastAPI()
    app.get("/orders/{number}")(seen.endpoint())
    app.router.form_limits = {"max_files": 2} if more == "form limits" else {}
    scope = http_scope(PATH)
    if more == "telemetry":
        scope["fastapi.telemetry"] = object()
    assert await runs_of(code_of(type(app.router).app), Seated(app), scope) == 1
    assert len(seen.scopes) == 1


def test_what_the_frameworks_of_these_versions_do_is_known() -> None:
    assert shows_route(Router.app) is not None
    assert shows_route(APIRouter.app) is not None


async def _more(self: Any, scope: Scope, receive: Receive, send: Send) -> None:
    for route in self.routes:
        match, child = route.matches(scope)
        if match == Match.FULL:
            scope.update({**child, "default": 1})
            await route.handle(scope, receive, send)


async def _copying(self: Any, scope: Scope, receive: Receive, send: Send) -> None:
    for route in self.routes:
        _, child = route.matches(scope)
        await route.handle({**scope, **child}, receive, send)


async def _twice(self: Any, scope: Scope, receive: Receive, send: Send) -> None:
    for route in self.routes:
        _, child = route.matches(scope)
        scope.update(child)
        await route.handle(scope, receive, send)
        await route.handle(scope, receive, send)


async def _afterwards(self: Any, scope: Scope, receive: Receive, send: Send) -> None:
    for route in self.routes:
        _, child = route.matches(scope)
        scope.update(child)
        await route.handle(scope, receive, send)
        scope["default"] = 1


async def _other_channel(self: Any, scope: Scope, receive: Receive, send: Send) -> None:
    for route in self.routes:
        _, child = route.matches(scope)
        scope.update(child)
        await route.handle(scope, receive, lambda message: send(message))


async def _nothing(self: Any, scope: Scope, receive: Receive, send: Send) -> None: ...


async def _for_one_type(self: Any, scope: Scope, receive: Receive, send: Send) -> None:
    for route in self.routes:
        _, child = route.matches(scope)
        scope.update(child)
        if scope["type"] == "http":
            await route.handle(scope, receive, send)


async def _raising(self: Any, scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError


async def _looking_further(self: Any, scope: Scope, receive: Receive, send: Send) -> None:
    if scope.get("x-trace"):
        self.trace(scope)
    for route in self.routes:
        _, child = route.matches(scope)
        scope.update(child)
        await route.handle(scope, receive, send)


def _wrapped() -> Any:
    """Somebody's wrapper, of which nothing is seen but that it calls on."""
    original, called = Router.app, list[int]()

    async def app(self: Any, scope: Scope, receive: Receive, send: Send) -> None:
        called[:] = [1]
        await original(self, scope, receive, send)

    return app


OTHERS: list[Any] = [
    _wrapped(),
    *(_more, _copying, _twice, _afterwards, _other_channel, _nothing, _for_one_type, _raising, _looking_further),
    functools.partial(_nothing),
    len,
]


@pytest.mark.parametrize("run", OTHERS)
def test_what_does_anything_else_is_left_to_run(run: Any) -> None:
    assert shows_route(run) is None


def test_what_does_the_same_is_known_to() -> None:
    async def app(self: Any, scope: Scope, receive: Receive, send: Send) -> None:
        for route in self.routes:
            _, child = route.matches(scope)
            scope.update(child)
            await route.handle(scope, receive, send)

    assert shows_route(app) is False
