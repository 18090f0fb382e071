"""What the report says of each route is what routing decides for a request that reaches it.

Applications are generated: Starlette, FastAPI and bare routers, mounts, hosts, wrappers, included routers, and every
sort of endpoint; with declarations on each of them, dependencies that ask, public names, and classes that choose in
their own way. Every route has a path of its own, so that one request is known to reach it.
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.routing import BaseRoute, Host, Match, Mount, Route, Router, WebSocketRoute
from starlette.types import Receive, Scope, Send

from capgate.fastapi import Requires
from capgate.middleware.contract import contract_of
from capgate.routes.declare import asks_itself, is_around
from capgate.routes.framework import FRONTENDS, Unresolvable
from capgate.routes.openapi import EXTENSION, add_capabilities
from capgate.routes.route_report import RouteReport, report_routes
from capgate.routes.seat import PUBLIC
from capgate.routes.target import find_target
from capgate.settings.settings import Settings

from ..support.asgi import http_scope, websocket_scope
from ..support.gates import read
from ..support.seats import DEFERRED, resolver_for
from ..support.tools import ROOT, examples
from .applications import Dispatching, MatchingRouter, Wrapper


class Reach(msgspec.Struct, frozen=True):
    """A request that reaches one route: the name of the route, and what the request is made of."""

    template: str
    path: str
    method: str | None
    host: str

    @property
    def scope(self) -> Scope:
        headers = (("host", self.host or "other.example"),)
        if self.method is None:
            return websocket_scope(self.path, headers=headers)
        return http_scope(self.path, self.method, headers)


class OwnMatching(APIRoute):
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(scope)


class OwnDispatch(HTTPEndpoint):
    async def dispatch(self) -> None:
        raise NotImplementedError


class Around(msgspec.Struct, frozen=True):
    """Where routes are added: their name and path begin with these, and their host is this one."""

    name: str = ""
    path: str = ""
    host: str = ""
    depth: int = 0


class Application:
    """An application that grows by what ``draw`` draws. ``reaches`` has a request for each of its routes."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self._number = 0
        self.reaches: list[Reach] = []
        self.public: set[str] = set()
        around = Around()
        kind = self._one_of("starlette", "fastapi", "fastapi", "router", "wrapped")
        self.app: Any
        if kind == "fastapi":
            self.app = self._declared(self._fastapi(around))
        else:
            build = Starlette if kind == "starlette" else Router
            self.app = self._declared(build(routes=self._routes(around)))
        if kind == "wrapped":
            self.app = self._declared(Wrapper(self.app))

    def _one_of(self, *choices: Any) -> Any:
        return self._draw(st.sampled_from(choices))

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _declared(self, target: Any, *, likely: bool = False) -> Any:
        for _ in range(self._one_of(0, 1, *([1] if likely else [0, 0]), 2)):
            always = is_around(target) and self._one_of(True, False)
            target = read(f"e{self._next()}", always=always)(target)
        return target

    def _segment(self) -> tuple[str, str]:
        """A piece of a path as it is declared, and as it is requested."""
        number = self._next()
        shape, value = self._one_of(("", ""), ("/{{p{}}}", "/v"), ("/{{n{}:int}}", "/7"))
        return f"/r{number}{shape.format(number)}", f"/r{number}{value}"

    def _note(self, around: Around, name: str, path: str, *methods: str | None) -> None:
        template = around.name + name
        self.reaches += [Reach(template, around.path + path, method, around.host) for method in methods]
        if self._one_of(True, False, False):
            self.public.add(template)

    # -- routes of Starlette

    def _routes(self, around: Around, *, last: bool = True) -> list[BaseRoute]:
        made = [self._route(around) for _ in range(self._one_of(1, 2, 3))]
        # A mount at the empty path takes every request that comes so far.
        if last and around.depth < 2 and self._one_of(True, False, False, False):
            inside = msgspec.structs.replace(around, depth=around.depth + 1)
            made.append(self._declared(Mount("", routes=self._routes(inside))))
        return made

    def _route(self, around: Around) -> BaseRoute:
        kinds = ["function", "function", "class", "websocket", "application", "partial"]
        if around.depth < 2:
            kinds += ["mount", "mount", "dispatching"] if around.host else ["mount", "mount", "dispatching", "host"]
        kind = self._one_of(*kinds)
        name, path = self._segment()
        if kind == "function":
            method = self._one_of("GET", "POST", "QUERY")
            self._note(around, name, path, *(["GET", "HEAD"] if method == "GET" else [method]))
            return Route(name, self._function(), methods=[method])
        if kind == "partial":
            self._note(around, name, path, "GET")
            return Route(name, functools.partial(self._function()), methods=["GET"])
        if kind == "class":
            methods = self._one_of(None, None, ["GET"], ["GET", "POST"])
            self._note(around, name, path, *(methods or ["GET", "HEAD", "POST"]))
            return Route(name, self._view(), methods=methods)
        if kind == "websocket":
            self._note(around, name, path, None)
            return WebSocketRoute(name, self._function())
        if kind == "application":
            return self._mounted_application(around, name, path)
        if kind == "host":
            host = f"h{self._next()}.example"
            inside = Around(around.name + host, around.path, host, around.depth + 1)
            return self._declared(Host(host, self._container(inside)))  # type: ignore[no-any-return]
        inside = Around(around.name + name, around.path + path, around.host, around.depth + 1)
        if kind == "dispatching":
            return self._declared(Mount(name, Dispatching(self._routes(inside))))  # type: ignore[no-any-return]
        return self._declared(Mount(name, self._container(inside)))  # type: ignore[no-any-return]

    def _container(self, around: Around) -> Any:
        kind = self._one_of("router", "starlette", "fastapi", "wrapped")
        if kind == "fastapi":
            return self._declared(self._fastapi(around))
        build = Starlette if kind == "starlette" else Router
        made = self._declared(build(routes=self._routes(around)))
        return self._declared(Wrapper(made)) if kind == "wrapped" else made

    def _mounted_application(self, around: Around, name: str, path: str) -> Mount:
        async def function(scope: Scope, receive: Receive, send: Send) -> None:
            raise NotImplementedError

        self._note(around, name + "/{path:path}", path + "/x", "GET")
        shape = self._one_of("wrapper", "asking", "function", "class", "hidden")
        inner: Any = function if shape == "function" else Wrapper(function)
        if shape == "class":
            inner = self._view()
        elif shape == "hidden":  # declares a method of which nobody knows whether it is called
            inner.app = type("Hiding", (), {"run": self._function()})()
        else:
            self._declared(inner)
        return self._declared(Mount(name, asks_itself(inner) if shape == "asking" else inner))  # type: ignore[no-any-return]

    def _function(self) -> Any:
        async def endpoint() -> None:
            raise NotImplementedError

        return self._declared(endpoint, likely=True)

    def _view(self) -> type[HTTPEndpoint]:
        async def get(self: HTTPEndpoint, request: Request) -> None:
            raise NotImplementedError

        async def post(self: HTTPEndpoint, request: Request) -> None:
            raise NotImplementedError

        base = self._one_of(HTTPEndpoint, HTTPEndpoint, OwnDispatch)
        view = type("View", (base,), {"get": get, "post": post})
        if self._one_of(True, False):
            view = self._declared(view)
        else:
            self._declared(get)
            self._declared(post)
        return view

    # -- routes of FastAPI

    def _fastapi(self, around: Around) -> FastAPI:
        app = FastAPI(openapi_url=None)
        self._add_api_routes(app, app, around)
        app.router.routes += self._routes(around, last=False) if self._one_of(True, False) else []
        last = self._one_of("", "", "", "frontend", "own matching", "own dispatch", "twice")
        if last == "frontend":
            prefix = self._include_frontend(app) if self._one_of(True, False) else ""
            app.frontend("/front", directory=ROOT / "tests" / "routes") if not prefix else None
            template = around.name + FRONTENDS
            # Below an included router the frontend has its prefix; the report has one line for all.
            self.reaches.append(Reach(template, f"{around.path}{prefix}/front/x", "GET", around.host))
        elif last:
            self._include_last(app, last, around)
        return app

    def _include_frontend(self, app: FastAPI) -> str:
        router = APIRouter()
        router.frontend("/front", directory=ROOT / "tests" / "routes")
        prefix = f"/r{self._next()}"
        app.include_router(self._declared(router), prefix=prefix)
        return prefix

    def _include_last(self, app: FastAPI, what: str, around: Around) -> None:
        """Include what makes requests unresolvable that come by: nothing behind it would be reached."""
        if what == "twice":
            shared, left, right = APIRouter(), APIRouter(), APIRouter()
            self._add_api_route(app, shared, around, "/left", "/right")
            for router, prefix in ((left, "/left"), (right, "/right")):
                router.include_router(shared, prefix=prefix)
                app.include_router(self._declared(router))
            return
        router = MatchingRouter() if what == "own dispatch" else APIRouter(route_class=OwnMatching)
        self._add_api_route(app, router, around)
        app.include_router(router)

    def _add_api_routes(self, app: FastAPI, target: Any, around: Around, included: str = "", depth: int = 0) -> None:
        for _ in range(self._one_of(1, 2)):
            if depth < 2 and self._one_of(True, False, False):
                router = APIRouter()
                name, path = self._segment()
                inside = Around(around.name + name, around.path + path, around.host, around.depth + 1)
                self._add_api_routes(app, router, inside, included, depth + 1)
                target.include_router(self._declared(router), prefix=name)
            else:
                self._add_api_route(app, target, around)

    def _add_api_route(self, app: FastAPI, target: Any, around: Around, *prefixes: str) -> None:
        name, path = self._segment()
        if self._one_of(True, False, False, False):
            for prefix in prefixes or ("",):
                self._note(around, prefix + name, prefix + path, None)
            target.add_api_websocket_route(name, self._api_function())
            return
        asking = []
        for _ in range(self._one_of(0, 0, 1, 2)):
            asking.append(Requires("db.read", resource=f"sql_query:e{self._next()}"))
            if self._one_of(True, False, False):
                app.dependency_overrides[asking[-1].dependency] = lambda: None
        method = self._one_of("GET", "POST")
        for prefix in prefixes or ("",):
            self._note(around, prefix + name, prefix + path, method)
        target.add_api_route(name, self._api_function(), methods=[method], dependencies=asking)

    def _api_function(self) -> Any:
        class Called:
            async def __call__(self) -> None:
                raise NotImplementedError

        return self._function() if self._one_of(True, True, False) else self._declared(Called())


def decide(application: Application, reach: Reach) -> tuple[str, tuple[Any, ...]]:
    """The status that fits what routing decides, and the requirements."""
    public = frozenset(application.public)
    try:
        needed, _ = resolver_for(find_target(application.app), public)(reach.scope)
    except (Unresolvable, TypeError):
        return "unresolvable", ()
    if needed is PUBLIC or needed is DEFERRED:
        return repr(needed).lower(), ()
    assert isinstance(needed, tuple)
    return ("declared" if needed else "undeclared"), needed


def listed(routes: list[RouteReport], reach: Reach) -> set[tuple[str, str]]:
    """What the report says of the route that ``reach`` reaches; a set, since requirements have no hash."""
    return {
        (route.status, repr(route.requirements))
        for route in routes
        if route.template == reach.template and (not route.methods or reach.method in route.methods)
    }


@pytest.mark.sampled
@settings(
    max_examples=examples(200),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(application=st.composite(Application)())
def test_the_report_says_what_routing_decides(application: Application) -> None:
    target, public = find_target(application.app), frozenset(application.public)
    routes = report_routes(target, public)
    for reach in application.reaches:
        status, requirements = decided = decide(application, reach)
        said = listed(routes, reach)
        event(f"{status}, {'listed' if said else 'not listed'}")
        if said:
            assert said == {(status, repr(requirements))}, reach
        else:  # what is below a router that cannot be resolved has no line of its own
            assert decided == ("unresolvable", ()), reach
            assert any(route.status == "unresolvable" for route in routes)
    reached = {reach.template for reach in application.reaches}
    assert {route.template for route in routes if route.status != "unresolvable"} <= reached
    contract = contract_of(application.app, Settings(public=tuple(sorted(public))))
    assert sorted((route.path, route.methods, route.status) for route in contract.routes) == sorted(
        (route.template, route.methods, route.status) for route in routes
    )
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operations = paths.setdefault(route.template.replace(":int", "").replace(":path", ""), {})
        operations.update((method.lower(), {}) for method in route.methods)
    add_capabilities({"paths": paths}, target, public)
    shown = sum(EXTENSION in operation for operations in paths.values() for operation in operations.values())
    assert shown == sum(len(route.methods) for route in routes if route.requirements or route.asked)
