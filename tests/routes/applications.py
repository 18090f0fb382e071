"""Applications and endpoints that several tests of the routes use, and what is asked at them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Match, Mount, Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from capgate.routes.seat import PUBLIC
from capgate.routes.target import find_target

from ..support.gates import plain, read
from ..support.seats import DEFERRED, resolver_for


def fresh(*queries: str) -> Any:
    """A new endpoint that declares to read each of ``queries``."""

    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("ran")

    for query in queries:
        endpoint = read(query)(endpoint)
    return endpoint


def asked_at(app: object, scope: Scope, *public: str) -> Any:
    """The resource ids that would be asked about; ``None`` for nothing, ``PUBLIC``, or the exception class."""
    try:
        found, params = resolver_for(find_target(app), frozenset(public))(scope)
    except Exception as error:
        return type(error)
    if found is PUBLIC or found is DEFERRED:
        return found
    assert isinstance(found, tuple)
    ids = [resource.id if (resource := one.resource(params)) else None for one in found]
    return ids or None


class Wrapper:
    """Middleware as it is usually written."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def routes() -> list[BaseRoute]:
    return [
        Route("/one", fresh("one")),
        Route("/both", fresh("a", "b")),
        Route("/none", fresh()),
        Route("/by/{name}", fresh("{name}")),
        Route("/number/{n:int}", fresh("n{n}")),
        Route("/post", fresh("get"), methods=["GET"]),
        Route("/post", fresh("post"), methods=["POST"]),
        WebSocketRoute("/ws/{name}", fresh("ws-{name}")),
    ]


def fastapi(**options: Any) -> FastAPI:
    """The same routes: on the application, and through routers that are included, in one another."""
    inner = APIRouter(prefix="/inner")
    outer = APIRouter()
    app = FastAPI(openapi_url=None, **options)
    for router in (app.router, inner):
        for route in routes():
            if isinstance(route, Route):
                router.add_api_route(route.path, route.endpoint, methods=sorted(route.methods or ()))
            elif isinstance(route, WebSocketRoute):
                router.add_api_websocket_route(route.path, route.endpoint)
    # These three are included without the prefix of their own router: FastAPI gives that to its own routes only.
    inner.add_route("/starlette", fresh("starlette"))
    inner.mount("/mounted", Starlette(routes=routes()))
    inner.mount("/static", plain)
    inner.host("inner.example", Starlette(routes=[Route("/hosted", fresh("hosted"))]))
    outer.include_router(inner, prefix="/outer")
    app.include_router(outer, prefix="/v1")
    app.include_router(inner, prefix="/v2/{tenant}")
    return app


def mounted(app: ASGIApp, **options: Any) -> Router:
    return Router([Mount("/sub", app=app, **options)])


def included(router: APIRouter) -> FastAPI:
    app = FastAPI(openapi_url=None)
    between = APIRouter()
    between.include_router(router)
    app.include_router(between)
    app.add_api_route("/one", fresh("after"))
    return app


class Versioned(APIRoute):
    """Matches by a header too."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(scope) if (b"x-version", b"2") in scope["headers"] else (Match.NONE, {})


def versioned() -> APIRouter:
    router = APIRouter(route_class=Versioned)
    router.add_api_route("/one", fresh("versioned"))
    return router


class MatchingRouter(APIRouter):
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return Match.FULL, {}


class Dispatching(Router):
    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.routes[-1].handle(scope, receive, send)


class Blank(BaseRoute):
    """Matches everything, and does not say what it runs."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return Match.FULL, {}
