from __future__ import annotations

import copy
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Host, Mount, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from capgate.middleware.middleware import CapabilityMiddleware
from capgate.routes.declare import requires
from capgate.routes.seat import PUBLIC
from capgate.routes.target import find_target

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.gates import SETTINGS, Ran, Recording, gated, make_checker, plain, read
from ..support.seats import resolver_for
from .applications import Wrapper, asked_at, fastapi, fresh, mounted, routes


@pytest.mark.parametrize(
    ("path", "method", "expected"),
    [
        ("/one", "GET", ["one"]),
        ("/both", "GET", ["a", "b"]),
        ("/none", "GET", None),
        ("/by/x", "GET", ["x"]),
        ("/by/x/y", "GET", None),
        ("/number/007", "GET", ["n7"]),
        ("/number/x", "GET", None),
        ("/number/" + "9" * 5_000, "GET", ValueError),
        ("/post", "GET", ["get"]),
        ("/post", "HEAD", ["get"]),
        ("/post", "POST", ["post"]),
        ("/post", "PUT", None),
        ("/one/", "GET", None),
        ("/ws/x", "GET", None),
        ("/ws/x", None, ["ws-x"]),
        ("/one", None, None),
    ],
)
@pytest.mark.parametrize("wrap", [list, Router, Starlette, Wrapper], ids=lambda wrap: wrap.__name__)
def test_routes(wrap: Any, path: str, method: str | None, expected: Any) -> None:
    app: object = Router(routes()) if wrap in (list, Wrapper) else wrap(routes=routes())
    app = Wrapper(Wrapper(app)) if wrap is Wrapper else app  # type: ignore[arg-type]
    scope = websocket_scope(path) if method is None else http_scope(path, method)
    assert asked_at(app, scope) == expected


@pytest.mark.parametrize("prefix", ["", "/v1/outer/inner", "/v2/t/inner", "/v1/outer/mounted"])
@pytest.mark.parametrize(
    ("path", "method", "expected"),
    [
        ("/one", "GET", ["one"]),
        ("/both", "GET", ["a", "b"]),
        ("/none", "GET", None),
        ("/by/x", "GET", ["x"]),
        ("/number/007", "GET", ["n7"]),
        ("/post", "POST", ["post"]),
        ("/post", "PUT", None),
        ("/ws/x", None, ["ws-x"]),
        ("/one/", "GET", None),
    ],
)
def test_fastapi_routes(prefix: str, path: str, method: str | None, expected: Any) -> None:
    made = websocket_scope(prefix + path) if method is None else http_scope(prefix + path, method)
    for scope in (made, {**made, "fastapi": {"mine": 1}}):
        before = copy.deepcopy(scope)
        assert asked_at(fastapi(), scope) == expected
        assert scope == before


def test_what_else_may_be_in_an_included_router() -> None:
    app = fastapi()
    assert asked_at(app, http_scope("/v1/outer/starlette")) == ["starlette"]
    assert asked_at(app, http_scope("/v1/outer/static/x")) is None
    assert asked_at(app, http_scope("/v1/outer/static/x"), "/v1/outer/static/{path:path}") is PUBLIC
    assert asked_at(app, http_scope("/v1/outer/inner/none"), "/v1/outer/inner/none") is PUBLIC
    assert asked_at(app, http_scope("/v1/outer/inner/none"), "/none", "/inner/none") is None
    assert asked_at(app, http_scope("/v1/outer/hosted", headers=[("host", "inner.example")])) == ["hosted"]
    assert asked_at(app, http_scope("/v1/outer/hosted")) is None


def test_routes_that_are_added_later_count() -> None:  # C10
    app, router = fastapi(), APIRouter()
    app.include_router(router, prefix="/later")
    target = find_target(app)
    assert resolver_for(target)(http_scope("/later/x"))[0] == ()
    router.add_api_route("/x", fresh("later"))
    app.add_api_route("/y", fresh("later"))
    for path in ("/later/x", "/y"):
        found = resolver_for(target)(http_scope(path))[0]
        assert isinstance(found, tuple)
        assert [one.action for one in found] == ["db.read"]


def test_the_first_match_counts() -> None:  # C10
    shadowed = [Route("/{name}", fresh()), Route("/admin", fresh("admin"))]
    assert asked_at(Router(shadowed), http_scope("/admin")) is None
    assert asked_at(Router(shadowed[::-1]), http_scope("/admin")) == ["admin"]


@pytest.mark.parametrize(
    "app",
    [
        Router(routes()),
        Starlette(routes=routes()),
        Wrapper(Router(routes())),
        GZipMiddleware(Wrapper(Starlette(routes=routes()))),
        fastapi(),
    ],
    ids=lambda app: type(app).__name__,
)
def test_mounted_applications(app: ASGIApp) -> None:  # S9
    for router in (mounted(app), mounted(app, middleware=[Middleware(Wrapper)])):
        assert asked_at(router, http_scope("/sub/by/x")) == ["x"]
        assert asked_at(router, http_scope("/sub/none")) is None
        assert asked_at(router, http_scope("/sub/none"), "/sub/none") is PUBLIC
        assert asked_at(router, http_scope("/sub/none"), "/none", "/sub", "/sub/{path:path}") is None
        assert asked_at(router, http_scope("/sub")) is None
        assert asked_at(router, websocket_scope("/sub/ws/x")) == ["ws-x"]


def test_mounts_with_parameters_and_mounts_in_mounts() -> None:  # S9
    inner = Mount("/{b}", routes=[Route("/{c}", fresh("{a}-{b}-{c}")), Route("/x/{a}", fresh("{a}-{b}"))])
    app = Router([Mount("/{a}", routes=[inner]), Mount("", routes=[Route("/only", fresh("only"))])])
    assert asked_at(app, http_scope("/1/2/3")) == ["1-2-3"]
    assert asked_at(app, http_scope("/1/2/x/9")) == ["9-2"]
    assert asked_at(Router([Mount("", routes=[Route("/only", fresh("only"))])]), http_scope("/only")) == ["only"]


@pytest.mark.parametrize("public", ["/sub/", "/sub/x", "/sub/{path}", "/", "/static", "/su"])
def test_an_opaque_application_is_not_opened_by_accident(public: str) -> None:  # S22
    assert asked_at(mounted(plain), http_scope("/sub/x"), public) is None


def test_opaque_applications() -> None:  # S9, S24
    static = StaticFiles(directory=".")
    assert asked_at(mounted(static), http_scope("/sub/x")) is None
    for public in ("/sub/{path:path}", "/sub"):
        assert asked_at(mounted(static), http_scope("/sub/x"), public) is PUBLIC
    declared = requires("db.read", resource="sql_query:static")(StaticFiles(directory="."))
    assert asked_at(mounted(declared), http_scope("/sub/x")) == ["static"]
    assert asked_at(mounted(Wrapper(declared)), http_scope("/sub/x"), "/sub/{path:path}", "/sub") == ["static"]
    assert asked_at(Router([Mount("", app=plain)]), http_scope("/x"), "/", "") is None


def test_hosts() -> None:  # S4, S9
    app = Router(
        [
            Host("api.example.com", Router([Route("/x", fresh("api")), Route("/health", fresh())])),
            Host("{tenant}.example.com", Router([Route("/x", fresh("{tenant}"))])),
            Route("/x", fresh("other")),
            Route("/health", fresh()),
        ]
    )

    def at(host: str, path: str = "/x", *public: str) -> Any:
        return asked_at(app, http_scope(path, headers=[("host", host)]), *public)

    assert [at(host) for host in ("api.example.com", "b.example.com", "example.com")] == [["api"], ["b"], ["other"]]
    assert at("api.example.com:8000") == ["api"]
    assert at("api.example.com", "/health", "/health") is None
    assert at("api.example.com", "/health", "api.example.com/health") is PUBLIC
    assert at("other.org", "/health", "/health") is PUBLIC
    assert asked_at(app, {**http_scope("/x"), "headers": []}) == ["other"]


ROOTS: list[tuple[str, str, str, str, str]] = [
    # root_path of the application, of the server, of the mounted application, path, what runs
    ("", "", "", "/sub/a", "a"),
    ("", "/v", "", "/v/sub/a", "a"),
    ("", "/v", "", "/sub/a", "-"),
    ("", "/v", "", "/v1/sub/a", "-"),
    ("/api", "", "", "/api/sub/a", "a"),
    ("/api", "/v", "", "/api/sub/a", "a"),
    ("/api", "/v", "", "/v/sub/a", "-"),
    ("", "", "/x", "/sub/a", "-"),
    ("", "", "/sub", "/sub/a", "a"),
    ("", "/sub", "", "/sub/sub/a", "a"),
    ("", "/sub/a", "", "/sub/a", "-"),
    ("", "/", "", "/sub/a", "-"),
    ("", "/v/", "", "/v/sub/a", "-"),
]


@pytest.mark.parametrize(("of_app", "of_server", "of_mounted", "path", "expected"), ROOTS)
async def test_root_paths(of_app: str, of_server: str, of_mounted: str, path: str, expected: str) -> None:  # S8
    """What is resolved, and what the application itself then runs."""
    ran = Ran()

    def build() -> FastAPI:
        mounted = FastAPI(openapi_url=None)
        mounted.root_path = of_mounted
        mounted.add_route("/a", read("a")(ran.endpoint("a")))
        app = FastAPI(openapi_url=None)
        app.root_path = of_app
        app.mount("/sub", mounted)
        return app

    inside, checker = build(), Recording(make_checker(document={"sql": "any"}))
    inside.add_middleware(CapabilityMiddleware, settings=SETTINGS, checker=checker)
    outside = CapabilityMiddleware(build(), settings=SETTINGS, checker=checker)
    await Call(http_scope(path, root_path=of_server)).to(build())
    assert ran.names == ([] if expected == "-" else [expected])
    for app in (inside, outside):
        checker.asked.clear()
        ran.names.clear()
        await Call(http_scope(path, root_path=of_server)).to(app)
        assert ran.names == [id for _, id in checker.questions] == ([] if expected == "-" else [expected])


async def test_documentation_is_behind_the_gate() -> None:  # S9
    app = FastAPI()
    app.add_middleware(CapabilityMiddleware, settings=SETTINGS, checker=make_checker())
    for path in ("/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"):
        assert (await Call(http_scope(path)).to(app)).json["reason"] == "undeclared_route"
    assert asked_at(app.router, http_scope("/docs"), "/docs") is PUBLIC


async def test_strangers_do_not_learn_which_routes_exist() -> None:  # S9
    app = gated(routes())
    calls = [("/nowhere", "GET"), ("/one/", "GET"), ("/post", "PUT"), ("/none", "GET")]
    replies = [(await Call(http_scope(path, method)).to(app)) for path, method in calls]
    assert {(call.status, call.json["reason"], len(call.body)) for call in replies} == {
        (403, "undeclared_route", len(replies[0].body))
    }


async def test_websocket_endpoints_of_fastapi_run_behind_the_gate() -> None:
    app, ran = FastAPI(openapi_url=None), []

    @app.websocket("/ws/{name}")
    @read("{name}")
    async def ws(websocket: WebSocket, name: str) -> None:
        ran.append(name)
        await websocket.accept()

    app.add_middleware(CapabilityMiddleware, settings=SETTINGS, checker=make_checker())
    for name in ("good", "bad"):
        await Call(websocket_scope(f"/ws/{name}")).to(app)
    assert ran == ["good"]
