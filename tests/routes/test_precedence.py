from __future__ import annotations

from typing import Any, cast

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.routing import Host, Mount, Route, Router
from starlette.types import Receive, Scope, Send

from capgate.fastapi import Requires
from capgate.routes.declare import ASKS_ITSELF, Requirements, asks_itself, declared
from capgate.routes.precedence import resolve
from capgate.routes.route_report import report_routes
from capgate.routes.seat import PUBLIC
from capgate.routes.target import find_target

from ..support.asgi import http_scope
from ..support.gates import plain, read
from ..support.seats import DEFERRED, resolver_for
from .applications import Wrapper, asked_at, fresh, routes

#: Of own, always, default, asks itself and public, what holds; then the status, and what is asked in which order.
TABLE = """
-   -      -       -    -      | undeclared -
-   -      -       -    public | public     -
-   -      -       asks -      | deferred   -
-   -      -       asks public | deferred   -
-   -      default -    -      | declared   default
-   -      default -    public | public     -
-   -      default asks -      | deferred   -
-   -      default asks public | deferred   -
-   always -       -    -      | declared   always
-   always -       -    public | declared   always
-   always -       asks -      | declared   always
-   always -       asks public | declared   always
-   always default -    -      | declared   always default
-   always default -    public | declared   always default
-   always default asks -      | declared   always
-   always default asks public | declared   always
own -      -       -    -      | declared   own
own -      -       -    public | declared   own
own -      -       asks -      | declared   own
own -      -       asks public | declared   own
own -      default -    -      | declared   own
own -      default -    public | declared   own
own -      default asks -      | declared   own
own -      default asks public | declared   own
own always -       -    -      | declared   always own
own always -       -    public | declared   always own
own always -       asks -      | declared   always own
own always -       asks public | declared   always own
own always default -    -      | declared   always own
own always default -    public | declared   always own
own always default asks -      | declared   always own
own always default asks public | declared   always own
"""
ROWS = [tuple(side.split() for side in line.split("|")) for line in TABLE.strip().splitlines()]


def names(requirements: Requirements) -> list[str]:
    return [str(requirement.fixed.id) for requirement in requirements if requirement.fixed]


def test_the_table_has_every_combination() -> None:
    assert len({tuple(holds) for holds, _ in ROWS}) == len(ROWS) == 2**5


@pytest.mark.parametrize(("holds", "expected"), ROWS, ids=[" ".join(holds) for holds, _ in ROWS])
def test_the_rule_of_precedence(holds: list[str], expected: list[str]) -> None:
    own, always, default = (declared(fresh(name)) if name in holds else () for name in ("own", "always", "default"))
    status, requirements = resolve(own, always, default, "asks" in holds, "public" in holds)
    assert [status, *(names(requirements) or ["-"])] == expected


@pytest.mark.parametrize(
    ("shape", "holds", "expected"),
    [
        (shape, *row)
        for shape in ("application", "function", "class", "route of FastAPI", "included")
        for row in ROWS
        if shape not in ("function", "class") or "asks" not in row[0]  # asks_itself() is for applications
    ],
)
def test_each_row_in_an_application(shape: str, holds: list[str], expected: list[str]) -> None:
    """The same from declarations: what routing decides for a request, and what the report says of its route."""
    router: Any = APIRouter() if shape in ("route of FastAPI", "included") else Router()
    template = "/x" if shape != "application" else "/x/{path:path}"
    endpoint: Any = fresh()
    if shape == "application":
        endpoint = asks_itself(Wrapper(plain)) if "asks" in holds else Wrapper(plain)
    elif shape == "class":
        endpoint = type("View", (HTTPEndpoint,), {"get": endpoint})
    if "own" in holds:
        read("own")(endpoint)
    if shape == "application":
        router.routes.append(Mount("/x", endpoint))
    elif shape in ("function", "class"):
        router.routes.append(Route("/x", endpoint))
    else:
        asking = [Requires("db.read", resource="sql_query:dependency")] if "asks" in holds else []
        router.add_api_route("/x", endpoint, dependencies=asking)
    for name in ("always", "default"):
        if name in holds:
            read(name, always=name == "always")(router)
    app = FastAPI(openapi_url=None)
    if shape == "included":
        app.include_router(router, prefix="/in")
    target = find_target(app if shape == "included" else router)
    template = f"/in{template}" if shape == "included" else template
    public = frozenset([template] if "public" in holds else [])
    path = template.replace("{path:path}", "y")
    (route,) = report_routes(target, public)
    assert [route.status, *(names(route.requirements) or ["-"])] == expected
    needed, _ = resolver_for(target, public)(http_scope(path))
    status, *asked = expected
    opened = {"public": PUBLIC, "deferred": DEFERRED}.get(status)
    assert (
        needed is opened if opened else names(cast("Requirements", needed)) == [name for name in asked if name != "-"]
    )


def test_what_is_declared_around_counts_besides_what_is_declared_inside() -> None:
    inside = read("inside", always=True)(Starlette(routes=routes()))
    app = Router([Mount("/{tenant}", app=read("around-{tenant}")(Wrapper(inside)))])
    assert asked_at(app, http_scope("/t/one")) == ["around-t", "inside", "one"]
    assert asked_at(app, http_scope("/t/none"), "/{tenant}/none") == ["around-t", "inside"]
    assert asked_at(app, http_scope("/t/nowhere")) == ["around-t", "inside"]
    assert asked_at(read("all")(Wrapper(plain)), http_scope("/x")) == ["all"]
    assert asked_at(read("all")(read("all")(Wrapper(plain))), http_scope("/x")) == ["all"]
    assert asked_at(Wrapper(plain), http_scope("/x")) is None


def test_what_a_router_declares_is_the_default_of_routes_that_declare_nothing() -> None:
    inside = read("inner")(Starlette(routes=routes()))
    app = read("outer")(Router([Mount("/in", inside), Mount("/out", Router(routes())), Mount("/raw", plain)]))
    assert asked_at(app, http_scope("/in/one")) == ["one"]
    assert asked_at(app, http_scope("/in/none")) == ["inner"]
    assert asked_at(app, http_scope("/out/none")) == ["outer"]
    assert asked_at(app, http_scope("/raw/x")) == ["outer"]
    assert asked_at(app, http_scope("/in/none"), "/in/none") is PUBLIC
    # A default is for routes: what the application answers with 404 or 405 has none.
    assert asked_at(app, http_scope("/in/nowhere")) is None
    assert asked_at(app, http_scope("/in/one", "DELETE")) is None


def test_mounts_and_hosts_declare_too() -> None:
    hosted = read("host")(Host("h.example", Router(routes())))
    mounted = read("always-{tenant}", always=True)(read("mount")(Mount("/{tenant}", routes=routes())))
    app = Router([hosted, mounted, read("opaque")(Mount("/opaque/x", plain))])
    at_host = [("host", "h.example")]
    assert asked_at(app, http_scope("/none", headers=at_host)) == ["host"]
    assert asked_at(app, http_scope("/one", headers=at_host)) == ["one"]
    assert asked_at(app, http_scope("/t/none")) == ["always-t", "mount"]
    assert asked_at(app, http_scope("/t/one")) == ["always-t", "one"]
    assert asked_at(app, http_scope("/t/none"), "/{tenant}/none") == ["always-t", "mount"]
    # A function in a mount: what the mount is always asked for is not forgotten on the short way.
    raw = read("always", always=True)(Mount("/raw", read("own")(raw_application)))
    assert asked_at(Router([raw]), http_scope("/raw/x")) == ["always", "own"]


async def raw_application(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotImplementedError


def test_routers_included_by_fastapi_declare_too() -> None:
    def build(*declarations: Any) -> FastAPI:
        inner, middle, app = APIRouter(), APIRouter(), FastAPI(openapi_url=None)
        inner.add_api_route("/none", fresh())
        inner.add_api_route("/one", fresh("one"))
        for router, declaration in zip((inner, middle, app), declarations, strict=True):
            if declaration is not None:
                declaration(router)
        middle.include_router(inner, prefix="/m")
        middle.include_router(inner, prefix="/again")
        app.include_router(middle)
        return app

    assert asked_at(build(None, None, None), http_scope("/m/none")) is None
    assert asked_at(build(read("i"), read("m"), read("a")), http_scope("/m/none")) == ["i"]
    assert asked_at(build(None, read("m"), read("a")), http_scope("/again/none")) == ["m"]
    assert asked_at(build(None, None, read("a")), http_scope("/m/none")) == ["a"]
    assert asked_at(build(read("i"), read("m", always=True), read("a")), http_scope("/m/one")) == ["m", "one"]
    assert asked_at(build(read("i"), read("m", always=True), None), http_scope("/m/none")) == ["m", "i"]


def test_what_asks_itself_is_deferred_to() -> None:
    app = asks_itself(Wrapper(Router(routes())))
    assert asked_at(Router([Mount("/x", app)]), http_scope("/x/none")) is DEFERRED
    assert asked_at(app, http_scope("/none")) is DEFERRED
    assert asked_at(Wrapper(app), http_scope("/none")) is DEFERRED
    around = read("around", always=True)(Router([Mount("/x", app)]))
    assert asked_at(around, http_scope("/x/none")) == ["around"]
    assert asked_at(read("default")(Router([Mount("/x", app)])), http_scope("/x/none")) is DEFERRED
    assert asked_at(Router([Mount("/x", read("own")(app))]), http_scope("/x/none")) == ["own"]
    for lie in (1, "yes", None):
        liar = Wrapper(Router(routes()))
        setattr(liar, ASKS_ITSELF, lie)
        assert asked_at(Router([Mount("/x", liar)]), http_scope("/x/none")) is None
