from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.authentication import AuthenticationBackend
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Host, Match, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from capgate.errors import ConfigError
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.model import ANONYMOUS
from capgate.routes.declare import ASKS_ITSELF, asks_itself, requires
from capgate.routes.framework import Unresolvable
from capgate.routes.report import RouteReport, check_order, check_routes, report_routes
from capgate.routes.routing import DEFERRED, PUBLIC, resolver_for
from capgate.routes.target import find_target

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.gates import SETTINGS, Ran, Recording, events, gated, make_checker, plain, read


def fresh(*queries: str) -> Any:
    """A new endpoint that declares to read each of ``queries``."""

    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("ran")

    for query in queries:
        endpoint = read(query)(endpoint)
    return endpoint


def resolve(app: object, scope: Scope, *public: str) -> Any:
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
    assert resolve(app, scope) == expected


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
        assert resolve(fastapi(), scope) == expected
        assert scope == before


def test_what_else_may_be_in_an_included_router() -> None:
    app = fastapi()
    assert resolve(app, http_scope("/v1/outer/starlette")) == ["starlette"]
    assert resolve(app, http_scope("/v1/outer/static/x")) is None
    assert resolve(app, http_scope("/v1/outer/static/x"), "/v1/outer/static/{path:path}") is PUBLIC
    assert resolve(app, http_scope("/v1/outer/inner/none"), "/v1/outer/inner/none") is PUBLIC
    assert resolve(app, http_scope("/v1/outer/inner/none"), "/none", "/inner/none") is None
    assert resolve(app, http_scope("/v1/outer/hosted", headers=[("host", "inner.example")])) == ["hosted"]
    assert resolve(app, http_scope("/v1/outer/hosted")) is None


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
    assert resolve(Router(shadowed), http_scope("/admin")) is None
    assert resolve(Router(shadowed[::-1]), http_scope("/admin")) == ["admin"]


# -- mounts, hosts, and what wraps


def mounted(app: ASGIApp, **options: Any) -> Router:
    return Router([Mount("/sub", app=app, **options)])


@pytest.mark.parametrize(
    "app",
    [
        Router(routes()),
        Starlette(routes=routes()),
        Wrapper(Router(routes())),
        GZipMiddleware(Wrapper(Starlette(routes=routes()))),
        fastapi(),
        CapabilityMiddleware(Router(routes()), settings=SETTINGS, checker=make_checker()),
    ],
    ids=lambda app: type(app).__name__,
)
def test_mounted_applications(app: ASGIApp) -> None:  # S9
    for router in (mounted(app), mounted(app, middleware=[Middleware(Wrapper)])):
        assert resolve(router, http_scope("/sub/by/x")) == ["x"]
        assert resolve(router, http_scope("/sub/none")) is None
        assert resolve(router, http_scope("/sub/none"), "/sub/none") is PUBLIC
        assert resolve(router, http_scope("/sub/none"), "/none", "/sub", "/sub/{path:path}") is None
        assert resolve(router, http_scope("/sub")) is None
        assert resolve(router, websocket_scope("/sub/ws/x")) == ["ws-x"]


def test_mounts_with_parameters_and_mounts_in_mounts() -> None:  # S9
    inner = Mount("/{b}", routes=[Route("/{c}", fresh("{a}-{b}-{c}")), Route("/x/{a}", fresh("{a}-{b}"))])
    app = Router([Mount("/{a}", routes=[inner]), Mount("", routes=[Route("/only", fresh("only"))])])
    assert resolve(app, http_scope("/1/2/3")) == ["1-2-3"]
    assert resolve(app, http_scope("/1/2/x/9")) == ["9-2"]
    assert resolve(Router([Mount("", routes=[Route("/only", fresh("only"))])]), http_scope("/only")) == ["only"]


@pytest.mark.parametrize("public", ["/sub", "/sub/", "/sub/{path}", "/", "/static"])
def test_an_opaque_application_is_not_opened_by_accident(public: str) -> None:  # S22
    assert resolve(mounted(plain), http_scope("/sub/x"), public) is None


def test_opaque_applications() -> None:  # S9, S24
    static = StaticFiles(directory=".")
    assert resolve(mounted(static), http_scope("/sub/x")) is None
    assert resolve(mounted(static), http_scope("/sub/x"), "/sub/{path:path}") is PUBLIC
    declared = requires("db.read", resource="sql_query:static")(StaticFiles(directory="."))
    assert resolve(mounted(declared), http_scope("/sub/x")) == ["static"]
    assert resolve(mounted(Wrapper(declared)), http_scope("/sub/x"), "/sub/{path:path}") == ["static"]
    assert resolve(Router([Mount("", app=plain)]), http_scope("/x"), "/", "") is None


def test_what_is_declared_around_counts_besides_what_is_declared_inside() -> None:
    inside = read("inside", always=True)(Starlette(routes=routes()))
    app = Router([Mount("/{tenant}", app=read("around-{tenant}")(Wrapper(inside)))])
    assert resolve(app, http_scope("/t/one")) == ["around-t", "inside", "one"]
    assert resolve(app, http_scope("/t/none"), "/{tenant}/none") == ["around-t", "inside"]
    assert resolve(app, http_scope("/t/nowhere")) == ["around-t", "inside"]
    assert resolve(read("all")(Wrapper(plain)), http_scope("/x")) == ["all"]
    assert resolve(read("all")(read("all")(Wrapper(plain))), http_scope("/x")) == ["all"]
    assert resolve(Wrapper(plain), http_scope("/x")) is None


def test_what_a_router_declares_is_the_default_of_routes_that_declare_nothing() -> None:
    inside = read("inner")(Starlette(routes=routes()))
    app = read("outer")(Router([Mount("/in", inside), Mount("/out", Router(routes())), Mount("/raw", plain)]))
    assert resolve(app, http_scope("/in/one")) == ["one"]
    assert resolve(app, http_scope("/in/none")) == ["inner"]
    assert resolve(app, http_scope("/out/none")) == ["outer"]
    assert resolve(app, http_scope("/raw/x")) == ["outer"]
    assert resolve(app, http_scope("/in/none"), "/in/none") is PUBLIC
    # A default is for routes: what the application answers with 404 or 405 has none.
    assert resolve(app, http_scope("/in/nowhere")) is None
    assert resolve(app, http_scope("/in/one", "DELETE")) is None


def test_mounts_and_hosts_declare_too() -> None:
    hosted = read("host")(Host("h.example", Router(routes())))
    mounted = read("always-{tenant}", always=True)(read("mount")(Mount("/{tenant}", routes=routes())))
    app = Router([hosted, mounted, read("opaque")(Mount("/opaque/x", plain))])
    at_host = [("host", "h.example")]
    assert resolve(app, http_scope("/none", headers=at_host)) == ["host"]
    assert resolve(app, http_scope("/one", headers=at_host)) == ["one"]
    assert resolve(app, http_scope("/t/none")) == ["always-t", "mount"]
    assert resolve(app, http_scope("/t/one")) == ["always-t", "one"]
    assert resolve(app, http_scope("/t/none"), "/{tenant}/none") == ["always-t", "mount"]
    # A function in a mount: what the mount is always asked for is not forgotten on the short way.
    raw = read("always", always=True)(Mount("/raw", read("own")(raw_application)))
    assert resolve(Router([raw]), http_scope("/raw/x")) == ["always", "own"]


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

    assert resolve(build(None, None, None), http_scope("/m/none")) is None
    assert resolve(build(read("i"), read("m"), read("a")), http_scope("/m/none")) == ["i"]
    assert resolve(build(None, read("m"), read("a")), http_scope("/again/none")) == ["m"]
    assert resolve(build(None, None, read("a")), http_scope("/m/none")) == ["a"]
    assert resolve(build(read("i"), read("m", always=True), read("a")), http_scope("/m/one")) == ["m", "one"]
    assert resolve(build(read("i"), read("m", always=True), None), http_scope("/m/none")) == ["m", "i"]


def test_a_router_that_is_included_below_different_declarations_is_not_resolved() -> None:
    shared, left, right, around, app = (APIRouter() for _ in range(5))
    shared.add_api_route("/none", fresh())
    for router, prefix in ((left, "/left"), (right, "/right")):
        router.include_router(shared, prefix=prefix)
        around.include_router(router)
    app.include_router(around)
    assert resolve(app, http_scope("/left/none")) is None
    read("left")(left)
    assert resolve(app, http_scope("/left/none")) is Unresolvable


def test_what_cannot_be_declared() -> None:
    for endpoint in (Route("/x", fresh()), 5, None):
        with pytest.raises(ConfigError) as caught:
            read("x")(endpoint)
        assert caught.value.setting == "endpoint"
    for always in (None, 1, "yes"):
        with pytest.raises(ConfigError) as caught:
            read("x", always=always)
        assert caught.value.setting == "always"
    with pytest.raises(ConfigError) as caught:
        read("x", always=True)(fresh())
    assert caught.value.setting == "always"


def test_what_asks_itself_is_deferred_to() -> None:
    app = asks_itself(Wrapper(Router(routes())))
    assert resolve(Router([Mount("/x", app)]), http_scope("/x/none")) is DEFERRED
    assert resolve(app, http_scope("/none")) is DEFERRED
    assert resolve(Wrapper(app), http_scope("/none")) is DEFERRED
    around = read("around", always=True)(Router([Mount("/x", app)]))
    assert resolve(around, http_scope("/x/none")) == ["around"]
    assert resolve(read("default")(Router([Mount("/x", app)])), http_scope("/x/none")) is DEFERRED
    assert resolve(Router([Mount("/x", read("own")(app))]), http_scope("/x/none")) == ["own"]
    for lie in (1, "yes", None):
        liar = Wrapper(Router(routes()))
        setattr(liar, ASKS_ITSELF, lie)
        assert resolve(Router([Mount("/x", liar)]), http_scope("/x/none")) is None


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
        return resolve(app, http_scope(path, headers=[("host", host)]), *public)

    assert [at(host) for host in ("api.example.com", "b.example.com", "example.com")] == [["api"], ["b"], ["other"]]
    assert at("api.example.com:8000") == ["api"]
    assert at("api.example.com", "/health", "/health") is None
    assert at("api.example.com", "/health", "api.example.com/health") is PUBLIC
    assert at("other.org", "/health", "/health") is PUBLIC
    assert resolve(app, {**http_scope("/x"), "headers": []}) == ["other"]


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


# -- what is not certain


class Dispatching(Router):
    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.routes[-1].handle(scope, receive, send)


class Calling(Router):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.routes[-1].handle(scope, receive, send)


class Harmless(Router):
    def url_path_for(self, name: str, /, **path_params: Any) -> Any:
        return "/"


class Blank(BaseRoute):
    """Matches everything, and does not say what it runs."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return Match.FULL, {}


class Versioned(APIRoute):
    """Matches by a header too."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(scope) if (b"x-version", b"2") in scope["headers"] else (Match.NONE, {})


class MatchingRouter(APIRouter):
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return Match.FULL, {}


def included(router: APIRouter) -> FastAPI:
    app = FastAPI(openapi_url=None)
    between = APIRouter()
    between.include_router(router)
    app.include_router(between)
    app.add_api_route("/one", fresh("after"))
    return app


def versioned() -> APIRouter:
    router = APIRouter(route_class=Versioned)
    router.add_api_route("/one", fresh("versioned"))
    return router


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
        assert resolve(app, http_scope(path)) in (Unresolvable, None)
    assert Unresolvable in [resolve(app, http_scope(path)) for path in ("/one", "/sub/one")]


def test_classes_that_leave_the_choice_alone_are_fine() -> None:
    class Timed(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Any]:
            return super().get_route_handler()

    router = APIRouter(route_class=Timed)
    router.add_api_route("/one", fresh("timed"))
    assert resolve(included(router), http_scope("/one")) == ["timed"]
    assert resolve(Harmless(routes()), http_scope("/one")) == ["one"]


def test_a_route_class_that_matches_in_its_own_way_is_asked_itself() -> None:
    app = FastAPI(openapi_url=None)
    app.router.route_class = Versioned
    app.add_api_route("/one", fresh("two"))
    app.router.route_class = APIRoute
    app.add_api_route("/one", fresh("one"))
    assert resolve(app, http_scope("/one")) == ["one"]
    assert resolve(app, http_scope("/one", headers=[("x-version", "2")])) == ["two"]


def test_routers_that_contain_themselves_end() -> None:
    router = Router()
    router.routes.append(Mount("", app=router))
    assert resolve(router, http_scope("/one")) is Unresolvable
    wrapper = Wrapper(plain)
    wrapper.app = wrapper
    assert resolve(mounted(wrapper), http_scope("/sub/x")) is Unresolvable


def test_routers_that_are_included_too_deep() -> None:
    router = APIRouter()
    router.add_api_route("/one", fresh("one"))
    for _ in range(40):
        outer = APIRouter()
        outer.include_router(router)
        router = outer
    app = FastAPI(openapi_url=None)
    app.include_router(router)
    assert resolve(app, http_scope("/one")) is Unresolvable


def test_a_frontend_has_no_endpoint(tmp_path: Any) -> None:  # S9
    (tmp_path / "index.html").write_text("hello")
    app = FastAPI(openapi_url=None)
    app.frontend("/", directory=tmp_path)
    app.add_api_route("/one", fresh("one"))
    assert resolve(app, http_scope("/one")) == ["one"]
    assert resolve(app, http_scope("/index.html")) is None
    assert [one.status for one in report_routes(find_target(app))] == ["declared", "undeclared"]
    read("always", always=True)(app)
    assert resolve(app, http_scope("/index.html")) == ["always"]
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
        assert resolve(app, http_scope("/index.html")) == expected
        assert [one.status for one in report_routes(find_target(app))] == [status]


def test_a_default_application_does_not_lead_past_what_it_declares() -> None:  # S9
    for default in (fresh("bad"), Wrapper(Router(routes())), read("default")(Router())):
        router = read("always", always=True)(Router(routes(), default=default))
        assert resolve(router, http_scope("/one")) == ["always", "one"]
        assert resolve(router, http_scope("/nowhere")) is Unresolvable
    router = read("always", always=True)(Router(routes(), default=plain))
    assert resolve(router, http_scope("/nowhere")) == ["always"]


async def test_documentation_is_behind_the_gate() -> None:  # S9
    app = FastAPI()
    app.add_middleware(CapabilityMiddleware, settings=SETTINGS, checker=make_checker())
    for path in ("/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"):
        assert (await Call(http_scope(path)).to(app)).json["reason"] == "undeclared_route"
    assert resolve(app.router, http_scope("/docs"), "/docs") is PUBLIC


async def test_strangers_do_not_learn_which_routes_exist() -> None:  # S9
    app = gated(routes())
    calls = [("/nowhere", "GET"), ("/one/", "GET"), ("/post", "PUT"), ("/none", "GET")]
    replies = [(await Call(http_scope(path, method)).to(app)) for path, method in calls]
    assert {(call.status, call.json["reason"], len(call.body)) for call in replies} == {
        (403, "undeclared_route", len(replies[0].body))
    }


# -- the report at start-up


def test_the_report_lists_every_route() -> None:  # C10
    app = Router(
        [
            Route("/open", fresh()),
            Route("/said/{name}", fresh("{name}")),
            Route("/missing/{nam}", fresh("{name}")),
            Route("/silent", fresh(), methods=["POST"]),
            Mount("/m/{a}", routes=[Route("/{b}", fresh("{a}{b}"))]),
            Mount("/static", app=plain),
            Host("h.example", Router([Route("/x", fresh())])),
            Blank(),
        ]
    )
    report = {
        route.template: (route.status, route.missing) for route in report_routes(find_target(app), frozenset({"/open"}))
    }
    assert report == {
        "/open": ("public", ()),
        "/said/{name}": ("declared", ()),
        "/missing/{nam}": ("declared", ("name",)),
        "/silent": ("undeclared", ()),
        "/m/{a}/{b}": ("declared", ()),
        "/static/{path:path}": ("undeclared", ()),
        "h.example/x": ("undeclared", ()),
        "Blank": ("unresolvable", ()),
    }


def test_the_report_sees_through_included_routers() -> None:
    found = [route.template for route in report_routes(find_target(fastapi()))]
    assert {
        "/one",
        "/v1/outer/inner/one",
        "/v2/{tenant}/mounted/one",
        "/v1/outer/static/{path:path}",
    } <= set(found)
    for router in (versioned(), MatchingRouter()):
        report = report_routes(find_target(included(router)))
        assert [route.status for route in report] == ["unresolvable", "declared"]


def test_what_is_reported(caplog: pytest.LogCaptureFixture) -> None:  # C10
    app = Router(
        [*routes(), Route("/x/{a}", fresh("{b}")), Route("/two", fresh()), Route("/two", fresh(), methods=["POST"])]
    )
    with caplog.at_level(logging.WARNING):
        check_routes(find_target(app), frozenset({"/two", "/nowhere", "/one"}), logging.getLogger("capgate"))
    lines = caplog.messages
    assert len(lines) == 5
    assert ["/none" in lines[0], "/two" in lines[0]] == [True, False]
    assert ["/x/{a}" in lines[1], lines[1].endswith("b")] == [True, True]
    assert [("/nowhere" in lines[2]), ("/one" in lines[3]), ("/two" in lines[4])] == [True, True, True]


def test_no_router_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    check_routes(find_target(plain), frozenset(), logging.getLogger("capgate"))
    assert "router=" in caplog.text


class Rewriting(Wrapper):
    pass


@pytest.mark.parametrize(
    ("added", "warned"),
    [
        ([], None),
        ([GZipMiddleware], None),
        ([Rewriting], "Rewriting"),
        ([GZipMiddleware, Rewriting], "Rewriting"),
    ],
)
def test_middleware_outside_the_gate_is_reported(
    added: list[Any], warned: str | None, caplog: pytest.LogCaptureFixture
) -> None:  # S10
    app = Starlette()
    app.add_middleware(Wrapper)
    app.add_middleware(CapabilityMiddleware)
    for middleware in added:
        app.add_middleware(middleware)
    check_order(app, CapabilityMiddleware, logging.getLogger("capgate"))
    assert ("Wrapper" in caplog.text, bool(caplog.messages)) == (False, warned is not None)
    assert warned is None or warned in caplog.text
    caplog.clear()
    check_order(None, CapabilityMiddleware, logging.getLogger("capgate"))
    check_order(Starlette(middleware=[Middleware(Rewriting)]), CapabilityMiddleware, logging.getLogger("capgate"))
    assert not caplog.messages


async def test_the_report_is_written_once_when_the_gate_starts(caplog: pytest.LogCaptureFixture) -> None:
    app = gated(routes())
    app.add_middleware(Rewriting)
    for _ in range(2):
        with events():
            await Call(http_scope("/one")).to(app)
    reports = [record.getMessage() for record in caplog.records if record.name == "capgate"]
    assert [("/none" in line, "Rewriting" in line) for line in reports] == [(False, True), (True, False)]


@pytest.mark.parametrize(
    ("order", "options", "warned"),
    [
        ((CapabilityMiddleware, AuthenticationMiddleware), {}, False),
        ((AuthenticationMiddleware, CapabilityMiddleware), {}, True),
        ((AuthenticationMiddleware, CapabilityMiddleware), {"actor": lambda scope: ANONYMOUS}, False),
    ],
)
async def test_authentication_behind_the_gate_is_reported(
    order: tuple[Any, ...], options: dict[str, Any], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:  # S10
    class Nobody(AuthenticationBackend):
        async def authenticate(self, conn: Any) -> None:
            return None

    gate = {"settings": SETTINGS, "checker": make_checker(), **options}
    app = Starlette(routes=routes())
    for middleware in order:  # the last is the outermost
        app.add_middleware(middleware, **(gate if middleware is CapabilityMiddleware else {"backend": Nobody()}))
    with events():
        await Call(http_scope("/one")).to(app)
    assert any("AuthenticationMiddleware" in record.getMessage() for record in caplog.records) == warned


async def test_a_report_that_fails_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("capgate.middleware.startup.check_routes", fail)
    checker = make_checker(document={"sql": ["one"]})
    assert (await Call(http_scope("/one")).to(gated(routes(), checker))).status == 200


def test_a_report_line_is_printable() -> None:
    assert str(RouteReport("/a\r\n\u202eb", ("GET", "HEAD"), "undeclared")) == r"'GET|HEAD /a\r\n\u202eb'"


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
