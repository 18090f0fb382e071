"""What no route answers is denied, or left to the framework's own 404, 405 or redirect; and then nothing else runs."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Host, Match, Mount, Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from capgate.middleware.middleware import CapabilityMiddleware
from capgate.routes.declare import Requirement
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.gates import PATIENT, Ran, events, make_checker, read


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


PASS = Settings(unknown_routes="pass", expose_reasons=True, limits=PATIENT)
HIDE = Settings(expose_reasons=True, limits=PATIENT)


def add_gate(app: Any, settings: Settings = PASS, **options: Any) -> Any:
    app.add_middleware(CapabilityMiddleware, settings=settings, checker=make_checker(), **options)
    return app


def view(ran: Ran, base: type[HTTPEndpoint] = HTTPEndpoint) -> type[HTTPEndpoint]:
    class View(base):  # type: ignore[misc, valid-type]
        @read("good")
        async def get(self, request: Request) -> Response:
            ran.names.append("class")
            return PlainTextResponse("class")

    return View


def starlette_routes(ran: Ran) -> list[BaseRoute]:
    return [
        Route("/items", read("good")(ran.endpoint("items"))),
        Route("/secret", read("bad")(ran.endpoint("secret")), methods=["GET"]),
        Route("/undeclared", ran.endpoint("undeclared")),
        Route("/class", view(ran)),
        WebSocketRoute("/socket", read("good")(ran.websocket("socket"))),
    ]


def fastapi_of(ran: Ran, included: bool) -> FastAPI:
    app, inner = FastAPI(), APIRouter()
    target: Any = inner if included else app
    for name, query in (("items", "good"), ("secret", "bad"), ("undeclared", None)):

        async def endpoint(name: str = name) -> str:
            ran.names.append(name)
            return name

        target.add_api_route(f"/{name}", read(query)(endpoint) if query else endpoint, methods=["GET"])
    target.add_route("/class", view(ran), methods=None)
    target.add_api_websocket_route("/socket", read("good")(ran.websocket("socket")))
    if included:
        between = APIRouter()
        between.include_router(inner)
        app.include_router(between)
    return app


def application(kind: str, ran: Ran) -> Any:
    if kind == "starlette":
        return Starlette(routes=starlette_routes(ran))
    if kind == "mounted":
        return Starlette(routes=[Mount("/m", Starlette(routes=starlette_routes(ran)))])
    if kind == "host":
        return Starlette(routes=[Host("testserver", Router(starlette_routes(ran)))])
    app = fastapi_of(ran, included=kind != "fastapi")
    return Starlette(routes=[Mount("/m", app)]) if kind == "mounted fastapi" else app


KINDS = ["starlette", "mounted", "host", "fastapi", "included", "mounted fastapi"]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_application_answers_by_itself(kind: str) -> None:  # G-11
    ran = Ran()
    bare, app = application(kind, Ran()), add_gate(application(kind, ran))
    prefix = "/m" if "mounted" in kind else ""
    starlette = "fastapi" not in kind and kind != "included"
    for path, method, status in (
        ("/nowhere", "GET", 404),
        ("/nowhere", "OPTIONS", 404),
        ("/items/", "GET", 307),
        ("/secret/", "GET", 307),
        ("/items", "DELETE", 405),
        ("/secret", "POST", 405),
        ("/undeclared", "POST", 405),
        ("/items", "OPTIONS", 405),
        ("/class", "DELETE", 405),
        ("/class", "OPTIONS", 405),
        ("/items", "HEAD", 200 if starlette else 405),  # starlette answers it by the endpoint: that is what was asked
        ("/secret", "HEAD", 403 if starlette else 405),
        ("/class", "HEAD", 200),
        ("/items", "GET", 200),
        ("/secret", "GET", 403),
        ("/undeclared", "GET", 403),
    ):
        ran.names.clear()
        with events() as found:
            call = await Call(http_scope(prefix + path, method)).to(app)
        assert call.status == status, (path, method)
        assert bool(found) == (status == 403)
        assert ran.names == ([path.strip("/")] if status == 200 else [])
        if status in (307, 404, 405):
            expected = await Call(http_scope(prefix + path, method)).to(bare)
            assert (expected.sent, expected.status) == (call.sent, status)
            hidden = await Call(http_scope(prefix + path, method)).to(add_gate(application(kind, Ran()), HIDE))
            assert hidden.status == 403


@pytest.mark.parametrize("kind", KINDS)
async def test_a_websocket_to_an_unknown_path_is_refused_either_way(kind: str) -> None:  # G-11
    prefix = "/m" if "mounted" in kind else ""
    for settings in (PASS, HIDE):
        app = add_gate(application(kind, Ran()), settings)
        with events() as found:
            for path in ("/nowhere", "/items", "/socket/"):
                call = await Call(websocket_scope(prefix + path)).to(app)
                assert [(message["type"], message.get("code")) for message in call.sent] == [("websocket.close", 1008)]
        assert [event["reason"] for event in found] == ["undeclared_route"] * 3


# -- what is not the framework's own answer


def noting(ran: Ran, status: int = 404) -> ASGIApp:
    async def somebody(scope: Scope, receive: Receive, send: Send) -> None:
        ran.names.append("somebody")
        await PlainTextResponse("", status)(scope, receive, send)

    return somebody


class OwnNotFound(Router):
    ran: Ran

    async def not_found(self, scope: Scope, receive: Receive, send: Send) -> None:
        await noting(self.ran)(scope, receive, send)


class Answered(Route):
    """Says of what it runs that it matches in part."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        return (Match.PARTIAL if match is Match.FULL else match), child


class Handling(Route):
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


async def refused(app: Any, path: str, method: str = "GET") -> str:
    with events() as found:
        call = await Call(http_scope(path, method)).to(app)
    assert call.status == 403
    (event,) = found
    return str(event["reason"])


async def test_a_default_application_is_somebodys() -> None:
    ran = Ran()
    app = Starlette(routes=starlette_routes(ran))
    app.router.default = noting(ran)
    assert await refused(add_gate(app), "/nowhere") == "undeclared_route"
    assert (await Call(http_scope("/items", "DELETE")).to(app)).status == 405
    below = OwnNotFound(starlette_routes(ran))
    below.ran = ran
    app = add_gate(Starlette(routes=[Mount("/m", below), Mount("/n", Router(default=noting(ran)))]))
    assert await refused(app, "/m/nowhere") == "undeclared_route"
    assert await refused(app, "/n/nowhere") == "undeclared_route"
    assert ran.names == []


@pytest.mark.parametrize("always", [False, True])
async def test_a_route_that_matches_in_part_and_would_run(always: bool) -> None:
    ran = Ran()
    routes = [
        Answered("/partial", ran.endpoint("partial")),
        Handling("/handling", ran.endpoint("handling"), methods=["POST"]),
        Route("/patched", ran.endpoint("patched"), methods=["POST"]),
    ]
    routes[2].handle = routes[2].app  # type: ignore[method-assign, assignment]
    app = Starlette(routes=routes)
    app = add_gate(read("good", always=True)(app) if always else app)
    for path in ("/partial", "/handling", "/patched"):
        assert await refused(app, path) == "undeclared_route"
    assert ran.names == []


async def test_methods_that_change_meanwhile() -> None:
    """An outer gate waits, and the route that would have answered 405 is no longer one that does."""
    ran = Ran()
    route = Route("/items", read("good")(ran.endpoint("items")), methods=["POST"])

    def resolver(scope: Scope) -> Requirement:
        assert route.methods is not None
        route.methods.add("GET")
        return Requirement.parse("db.read", resource="sql_query:good")

    app: Any = Starlette(routes=[route])
    app.add_middleware(CapabilityMiddleware, settings=PASS, checker=make_checker())
    app.add_middleware(CapabilityMiddleware, settings=PASS, checker=make_checker(), resolver=resolver)
    call = Call(http_scope("/items"))
    with pytest.raises(Exception, match="in part"):
        await call.to(app)
    assert call.status in (403, 500)
    assert ran.names == []


@pytest.mark.parametrize(
    "member",
    [
        "__init__",
        "dispatch",
        "method_not_allowed",
        "__await__",
        "__getattr__",
        "__del__",
        "__setattr__",
        "post",
        "scope",
        "meta",
    ],
)
async def test_a_class_that_answers_in_its_own_way(member: str) -> None:
    ran = Ran()

    def own(self: Any, *arguments: Any, **options: Any) -> Any:
        ran.names.append(member)
        raise AttributeError(member)

    class Meta(type):
        def __call__(cls, *arguments: Any) -> Any:
            ran.names.append("meta")
            return super().__call__(*arguments)

    base: Any = Meta("Base", (HTTPEndpoint,), {} if member == "meta" else {member: own})
    if member != "meta":
        base = type("Base", (HTTPEndpoint,), {member: property(own, own) if member in ("post", "scope") else own})
    plain = type("View", (base,), {"get": ran.endpoint("get")})
    app = add_gate(Starlette(routes=[Route("/class", plain)]))
    ran.names.clear()
    assert await refused(app, "/class", "DELETE") == "undeclared_route"
    assert ran.names == []


async def test_a_class_behind_middleware_of_its_route() -> None:
    ran = Ran()

    class Noting:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            ran.names.append("middleware")
            await self.app(scope, receive, send)

    plain = type("View", (HTTPEndpoint,), {"get": ran.endpoint("get")})
    app = add_gate(Starlette(routes=[Route("/class", plain, middleware=[Middleware(Noting)])]))
    assert await refused(app, "/class", "DELETE") == "undeclared_route"
    assert ran.names == []


async def test_frontends_are_files_that_nobody_declared(tmp_path: Any) -> None:
    (tmp_path / "index.html").write_text("front")
    app, inner = FastAPI(), APIRouter()
    inner.frontend("/f", directory=str(tmp_path))
    app.include_router(inner)
    add_gate(app)
    for path, method in (("/f/", "GET"), ("/f/x", "GET"), ("/f/", "POST")):
        assert await refused(app, path, method) == "undeclared_route"
    assert (await Call(http_scope("/g")).to(app)).status == 404


# -- what stands around the framework's answer


@pytest.mark.parametrize(("status", "passes"), [(404, True), (307, True), (200, False), (302, False), (500, False)])
async def test_a_page_of_the_applications_own(status: int, passes: bool) -> None:
    async def page(request: Request, error: Exception) -> Response:
        return RedirectResponse("/", status) if 300 <= status < 400 else PlainTextResponse("page", status)

    app = Starlette(routes=[Route("/items", read("good")(Ran().endpoint("items")))], exception_handlers={404: page})
    with events() as found:
        call = await Call(http_scope("/nowhere")).to(add_gate(app))
    assert call.status == (status if passes else 403)
    assert [event["reason"] for event in found] == ([] if passes else ["unasked_response"])


async def test_a_handler_of_404_may_call_no_router_unasked() -> None:
    ran = Ran()
    hidden = Router([Route("/nowhere", ran.endpoint("hidden")), Route("/items", read("bad")(ran.endpoint("bad")))])

    async def page(request: Request, error: Exception) -> Response:
        for keeps in (True, False):
            scope = {key: value for key, value in request.scope.items() if keeps or key != "capgate.seat"}
            inner = await Call({**scope, "path": "/nowhere"}).to(hidden)
            assert inner.status == 403
        return PlainTextResponse("page", 404)

    app = add_gate(Starlette(exception_handlers={404: page}))
    assert (await Call(http_scope("/nowhere")).to(app)).status == 403
    assert ran.names == []


async def test_what_follows_the_framework_is_asked_about() -> None:
    """A cascade: where the first router has nothing, the second is tried."""
    ran = Ran()
    first, second = Router([]), Router([Route("/items", read("good")(ran.endpoint("items")))])
    second.routes.append(Route("/bad", read("bad")(ran.endpoint("bad"))))

    class Cascade:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            for router in (first, second):
                try:
                    await router(dict(scope), receive, send)
                except HTTPException:
                    continue
                return
            await self.app(scope, receive, send)

    app = add_gate(Starlette())
    app.user_middleware.append(Middleware(Cascade))
    assert (await Call(http_scope("/items")).to(app)).status == 200
    assert (await Call(http_scope("/bad")).to(app)).status == 403
    assert (await Call(http_scope("/nowhere")).to(app)).status == 404
    assert ran.names == ["items"]


async def test_what_is_always_asked_is_asked_there_as_well() -> None:
    for query, status in (("good", 404), ("bad", 403)):
        app = read(query, always=True)(Starlette())
        assert (await Call(http_scope("/nowhere")).to(add_gate(app))).status == status


async def test_a_malformed_path_is_no_unknown_route() -> None:
    assert await refused(add_gate(Starlette()), "/nowhere\x00") == "malformed_input"


async def test_a_resolver_that_knows_nothing_of_it() -> None:
    ran = Ran()
    app = add_gate(Starlette(routes=[Route("/items", ran.endpoint("items"))]), resolver=lambda scope: None)
    assert (await Call(http_scope("/nowhere")).to(app)).status == 404
    assert await refused(app, "/items") == "undeclared_route"
    assert ran.names == []


async def test_gates_around_gates() -> None:
    for outer, inner, status in ((PASS, PASS, 404), (PASS, HIDE, 403), (HIDE, PASS, 403)):
        app = add_gate(add_gate(Starlette(), inner), outer)
        assert (await Call(http_scope("/nowhere")).to(app)).status == status


async def test_a_gate_that_monitors_leaves_all_of_it_to_the_application() -> None:
    monitor = Settings(unknown_routes="pass", enforce="monitor", limits=PATIENT)

    async def page(request: Request, error: Exception) -> Response:
        return PlainTextResponse("page")

    for handlers, status, recorded in (({}, 404, []), ({404: page}, 200, ["unasked_response"])):
        app = add_gate(Starlette(exception_handlers=handlers), monitor)
        with events() as found:
            assert (await Call(http_scope("/nowhere")).to(app)).status == status
        assert [event["would_deny"] for event in found] == recorded
