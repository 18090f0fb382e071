from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastapi.routing
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.routing import Host, Match, Mount, Route, Router, WebSocketRoute
from starlette.types import Receive, Scope, Send

from capgate.routes.framework import Unresolvable, dispatches_as_usual, matches_as_usual
from capgate.routes.route_report import report_routes
from capgate.routes.target import find_target

from ..support.asgi import http_scope
from ..support.gates import plain, read
from .applications import (
    Blank,
    Dispatching,
    MatchingRouter,
    Versioned,
    Wrapper,
    asked_at,
    fresh,
    included,
    mounted,
    routes,
    versioned,
)


class Calling(Router):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.routes[-1].handle(scope, receive, send)


class Harmless(Router):
    def url_path_for(self, name: str, /, **path_params: Any) -> Any:
        return "/"


def test_a_router_that_is_included_below_different_declarations_is_asked_about_by_each() -> None:
    shared, left, right, around, app = (APIRouter() for _ in range(5))
    shared.add_api_route("/none", fresh())
    for router, prefix in ((left, "/left"), (right, "/right")):
        router.include_router(shared, prefix=prefix)
        around.include_router(router)
    app.include_router(around)
    assert asked_at(app, http_scope("/left/none")) is None
    read("left")(left)
    assert asked_at(app, http_scope("/left/none")) == ["left"]
    assert asked_at(app, http_scope("/right/none")) is None


@pytest.mark.parametrize(
    "app",
    [
        Dispatching(routes()),
        Calling(routes()),
        mounted(Dispatching(routes())),
        Router([Blank(), Route("/one", fresh("one"))]),
        included(MatchingRouter()),
        included(versioned()),
    ],
)
def test_a_choice_of_routes_that_is_not_the_frameworks_is_not_guessed(app: Any) -> None:
    for path in ("/one", "/sub/one"):
        assert asked_at(app, http_scope(path)) in (Unresolvable, None)
    assert Unresolvable in [asked_at(app, http_scope(path)) for path in ("/one", "/sub/one")]


def test_classes_that_leave_the_choice_alone_are_fine() -> None:
    class Timed(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Any]:
            return super().get_route_handler()

    router = APIRouter(route_class=Timed)
    router.add_api_route("/one", fresh("timed"))
    assert asked_at(included(router), http_scope("/one")) == ["timed"]
    assert asked_at(Harmless(routes()), http_scope("/one")) == ["one"]


def test_a_route_class_that_matches_in_its_own_way_is_asked_itself() -> None:
    app = FastAPI(openapi_url=None)
    app.router.route_class = Versioned
    app.add_api_route("/one", fresh("two"))
    app.router.route_class = APIRoute
    app.add_api_route("/one", fresh("one"))
    assert asked_at(app, http_scope("/one")) == ["one"]
    assert asked_at(app, http_scope("/one", headers=[("x-version", "2")])) == ["two"]


class Renamed(fastapi.routing.APIRoute):
    """Has name and module of FastAPI's class, matches by a header, and leaves a trace in the scope."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        scope["trace"] = True
        return super().matches(scope) if (b"x-version", b"2") in scope["headers"] else (Match.NONE, {})


Renamed.__name__, Renamed.__module__ = "APIRoute", "fastapi.routing"


@pytest.mark.parametrize("replaced", [False, True])
def test_a_route_class_is_not_the_frameworks_for_its_name(replaced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(APIRoute):
        def matches(self, scope: Scope) -> tuple[Match, Scope]:
            raise NotImplementedError

    if replaced:  # of neither class is anything remembered yet
        monkeypatch.setattr(fastapi.routing, "APIRoute", Mine)
    assert not matches_as_usual(Mine)
    assert not matches_as_usual(Renamed)


def test_a_route_class_of_the_frameworks_name_is_asked_about_a_copy() -> None:
    app = FastAPI(openapi_url=None)
    app.router.routes.append(Renamed("/one", fresh("two")))
    app.add_api_route("/one", fresh("one"))
    for headers, expected in ((), ["one"]), ((("x-version", "2"),), ["two"]):
        scope = http_scope("/one", headers=headers)
        assert asked_at(app, scope) == expected
        assert "trace" not in scope
    router = APIRouter(route_class=Renamed)
    router.add_api_route("/one", fresh("two"))
    assert asked_at(included(router), http_scope("/one")) is Unresolvable


def test_the_frameworks_own_classes_match_and_dispatch_as_usual() -> None:
    class Plain(APIRoute):
        pass

    for route_class in (Route, WebSocketRoute, Mount, Host, APIRoute, fastapi.routing.APIWebSocketRoute, Plain):
        assert matches_as_usual(route_class)
    assert [dispatches_as_usual(cls) for cls in (Router, APIRouter, Harmless)] == [True, True, True]
    assert [dispatches_as_usual(cls) for cls in (Dispatching, Calling, MatchingRouter)] == [False, False, False]


def test_routers_that_contain_themselves_end() -> None:
    router = Router()
    router.routes.append(Mount("", app=router))
    assert asked_at(router, http_scope("/one")) is Unresolvable
    wrapper = Wrapper(plain)
    wrapper.app = wrapper
    assert asked_at(mounted(wrapper), http_scope("/sub/x")) is Unresolvable


def test_routers_that_are_included_too_deep() -> None:
    router = APIRouter()
    router.add_api_route("/one", fresh("one"))
    for _ in range(40):
        outer = APIRouter()
        outer.include_router(router)
        router = outer
    app = FastAPI(openapi_url=None)
    app.include_router(router)
    assert asked_at(app, http_scope("/one")) is Unresolvable


def test_a_frontend_has_no_endpoint(tmp_path: Any) -> None:  # S9
    (tmp_path / "index.html").write_text("hello")
    app = FastAPI(openapi_url=None)
    app.frontend("/", directory=tmp_path)
    app.add_api_route("/one", fresh("one"))
    assert asked_at(app, http_scope("/one")) == ["one"]
    assert asked_at(app, http_scope("/index.html")) is None
    assert [one.status for one in report_routes(find_target(app))] == ["declared", "undeclared"]
    read("always", always=True)(app)
    assert asked_at(app, http_scope("/index.html")) == ["always"]
    assert [one.status for one in report_routes(find_target(app))] == ["declared", "declared"]


def test_a_frontend_does_not_lead_past_what_its_router_is_always_asked_for(tmp_path: Any) -> None:  # S9
    (tmp_path / "index.html").write_text("hello")
    router, around, app = APIRouter(), APIRouter(), FastAPI(openapi_url=None)
    router.frontend("/", directory=tmp_path)
    around.include_router(router)
    app.include_router(around)
    for name, target, expected, status in (
        ("always", app, ["always"], "declared"),
        ("always", router, ["always"], "declared"),  # the same, and asked already
        ("other", around, Unresolvable, "unresolvable"),
    ):
        read(name, always=True)(target)
        assert asked_at(app, http_scope("/index.html")) == expected
        assert [one.status for one in report_routes(find_target(app))] == [status]


def test_a_default_application_does_not_lead_past_what_it_declares() -> None:  # S9
    for default in (fresh("bad"), Wrapper(Router(routes())), read("default")(Router())):
        router = read("always", always=True)(Router(routes(), default=default))
        assert asked_at(router, http_scope("/one")) == ["always", "one"]
        assert asked_at(router, http_scope("/nowhere")) is Unresolvable
    router = read("always", always=True)(Router(routes(), default=plain))
    assert asked_at(router, http_scope("/nowhere")) == ["always"]
