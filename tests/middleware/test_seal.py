"""No response begins that was not decided about, and a request has nothing of another one's: cases G-1 to G-4."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.authentication import SimpleUser
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from capgate.enforcement.current import current
from capgate.errors import ConfigError
from capgate.fastapi import Requires
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.model import Reason
from capgate.routes.declare import requires

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.gates import SETTINGS, Ran, Recording, events, gated, make_checker, read

Around = Callable[[ASGIApp], ASGIApp]


def inside(routes: Any, around: Any, checker: Any = None, **options: Any) -> CapabilityMiddleware:
    """A gate, and middleware between it and the routes."""
    settings = options.pop("settings", SETTINGS)
    app = around(Starlette(routes=routes))
    return CapabilityMiddleware(app, settings=settings, checker=checker or make_checker(), **options)


class Middle:
    """Middleware that is a function of application, scope, receive and send."""

    def __init__(self, app: ASGIApp, how: Any) -> None:
        self.app = app
        self.how = how

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.how(self.app, scope, receive, send)


def middle(how: Any) -> Around:
    return lambda app: Middle(app, how)


# -- G-1: what is rewritten inside


async def override(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    for name, value in scope["headers"]:
        if name == b"x-http-method-override":
            scope["method"] = value.decode()
    await app(scope, receive, send)


@pytest.mark.parametrize("where", ["wrapper", "middleware", "mounted"])
async def test_a_method_override_inside_the_gate(where: str) -> None:  # G-1, S16
    ran = Ran()
    write = requires("db.write", resource="sql_query:good")
    routes = [
        Route("/orders", read("good")(ran.endpoint("get"))),
        Route("/orders", write(ran.endpoint("delete")), methods=["DELETE"]),
    ]
    checker = Recording(make_checker(document={"sql": [{"name": "good", "operation": "select"}]}))
    app: Any
    if where == "wrapper":
        app = inside(routes, middle(override), checker)
    elif where == "middleware":
        app = Starlette(routes=routes)
        app.add_middleware(Middle, how=override)
        app.add_middleware(CapabilityMiddleware, settings=SETTINGS, checker=checker)
    else:
        mounted = Starlette(routes=routes, middleware=[Middleware(Middle, how=override)])
        app = gated([Mount("/m", mounted)], checker)
    path = "/m/orders" if where == "mounted" else "/orders"
    assert (await Call(http_scope(path)).to(app)).status == 200
    call = await Call(http_scope(path, headers=[("x-http-method-override", "DELETE")])).to(app)
    assert (call.status, call.json["reason"], ran.names) == (403, "not_in_allowlist", ["get"])
    assert [input.action for input, _ in checker.asked] == ["db.read", "db.write"]


# -- G-2: subclasses that do more


class Moving(Starlette):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = scope["path"].replace("/pub", "/adm")
        await super().__call__(scope, receive, send)


class MovingFastAPI(FastAPI):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = scope["path"].replace("/pub", "/adm")
        await super().__call__(scope, receive, send)


@pytest.mark.parametrize("kind", [Moving, MovingFastAPI])
@pytest.mark.parametrize("outermost", [True, False])
async def test_an_application_that_moves_requests(kind: type[Starlette], outermost: bool) -> None:  # G-2
    ran = Ran()
    app: Any = kind(routes=[Route(f"/{name}", read(query)(ran.endpoint(name))) for name, query in _PAIRS])
    app = CapabilityMiddleware(
        app if outermost else Router([Mount("/s", app)]), settings=SETTINGS, checker=make_checker()
    )
    call = await Call(http_scope("/pub" if outermost else "/s/pub")).to(app)
    assert (call.status, call.json["reason"], ran.names) == (403, "not_in_allowlist", [])


_PAIRS = (("pub", "good"), ("adm", "bad"))


# -- G-3, must 2: what answers itself


def kept(response: Response) -> type[APIRoute]:
    class Kept(APIRoute):
        def get_route_handler(self) -> Any:
            original = super().get_route_handler()

            async def handler(request: Request) -> Response:
                return response if request.headers.get("x-cached") else await original(request)

            return handler

    return Kept


@pytest.mark.parametrize(
    ("status", "expected"), [(200, 403), (304, 403), (302, 403), (401, 401), (422, 422), (503, 503)]
)
async def test_what_a_route_class_kept_is_not_an_answer(status: int, expected: int) -> None:  # G-3
    app = FastAPI(openapi_url=None)
    app.router.route_class = kept(Response(b"", status) if status == 304 else PlainTextResponse("kept", status))

    @app.get("/secret", dependencies=[Requires("db.read", resource="sql_query:good")])
    async def secret() -> str:
        return "secret"

    app.add_middleware(CapabilityMiddleware, settings=SETTINGS, checker=make_checker())
    assert (await Call(http_scope("/secret")).to(app)).json == "secret"
    with events() as found:
        call = await Call(http_scope("/secret", headers=[("x-cached", "1")])).to(app)
    assert call.status == expected
    assert [event["reason"] for event in found] == ["unasked_response"] * (expected == 403)
    if expected == 403:
        assert call.json["reason"] == Reason.UNASKED_RESPONSE


async def test_a_dependency_that_says_no_before_it_asks() -> None:
    async def nobody() -> None:
        from fastapi import HTTPException

        raise HTTPException(401, headers={"www-authenticate": "Bearer"})

    app = FastAPI(openapi_url=None)
    asks = Requires("db.read", resource="sql_query:good", actor=nobody)

    @app.get("/secret", dependencies=[asks])
    async def secret() -> str:
        raise AssertionError

    @app.get("/number/{number}", dependencies=[Depends(lambda: None), Requires("db.read", resource="sql_query:good")])
    async def number(number: int) -> int:
        return number

    app.add_middleware(CapabilityMiddleware, settings=SETTINGS, checker=make_checker())
    call = await Call(http_scope("/secret")).to(app)
    assert (call.status, call.headers["www-authenticate"]) == (401, "Bearer")
    assert (await Call(http_scope("/number/x")).to(app)).status == 422
    assert (await Call(http_scope("/number/7")).to(app)).json == 7


@pytest.mark.parametrize("how", ["cache", "redirect", "error", "stream", "early"])
async def test_middleware_that_answers_itself_is_replaced(how: str) -> None:
    async def answer(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        if how == "early":
            await send({"type": "http.response.early_hint", "links": []})
        status = {"redirect": 302, "error": 500}.get(how, 200)
        await send({"type": "http.response.start", "status": status, "headers": [(b"x-secret", b"1")]})
        await send({"type": "http.response.body", "body": b"secret", "more_body": how == "stream"})
        if how == "stream":
            await send({"type": "http.response.body", "body": b"more"})

    ran = Ran()
    app = inside([Route("/good", read("good")(ran.endpoint("good")))], middle(answer))
    with events() as found:
        call = await Call(http_scope("/good")).to(app)
    assert (call.status, call.json["reason"], ran.names) == (403, "unasked_response", [])
    assert [message["type"] for message in call.sent] == ["http.response.start", "http.response.body"]
    assert b"secret" not in call.body
    assert "x-secret" not in call.headers
    assert [event["reason"] for event in found] == ["unasked_response"]
    assert found[0]["decision_id"] == call.json["decision_id"]


@pytest.mark.parametrize("denied", [False, True])
async def test_what_middleware_asks_for_itself_opens_nothing(denied: bool) -> None:
    async def asking(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        async def nowhere(message: Message) -> None:
            pass

        if denied:
            await app(scope, receive, nowhere)
        await current().require("db.read", "sql_query:good")
        await PlainTextResponse("secret")(scope, receive, send)

    app = inside([Route("/bad", read("bad")(Ran().endpoint("bad")))], middle(asking))
    call = await Call(http_scope("/bad")).to(app)
    assert (call.status, call.json["reason"]) == (403, "not_in_allowlist" if denied else "unasked_response")


async def test_a_websocket_that_middleware_accepts_itself_is_refused() -> None:
    async def accept(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "secret"})

    both: tuple[dict[str, Any], ...] = ({}, {"websocket.http.response": {}})
    for extensions in both:
        app = inside([WebSocketRoute("/ws", read("good")(Ran().websocket("ws")))], middle(accept))
        call = await Call(websocket_scope("/ws", extensions=extensions)).to(app)
        assert "secret" not in str(call.sent)
        assert call.status == 403 if extensions else call.sent[0]["code"] == 1008


async def test_an_object_that_keeps_another_application_is_not_taken_for_it() -> None:
    ran = Ran()

    class Object:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await PlainTextResponse("its own")(scope, receive, send)

    app = gated([Mount("/m", Object(Starlette(routes=[Route("/good", read("good")(ran.endpoint("good")))])))])
    call = await Call(http_scope("/m/good")).to(app)
    assert (call.status, call.json["reason"]) == (403, "unasked_response")


async def test_a_denial_keeps_what_middleware_adds_to_its_headers() -> None:
    def around(app: ASGIApp) -> ASGIApp:
        return GZipMiddleware(CORSMiddleware(app, allow_origins=["*"]))

    app = inside([Route("/bad", read("bad")(Ran().endpoint("bad")))], around)
    call = await Call(http_scope("/bad", headers=[("origin", "https://x.example"), ("accept-encoding", "gzip")])).to(
        app
    )
    assert (call.status, call.headers["access-control-allow-origin"]) == (403, "*")
    assert call.headers["content-length"] == str(len(call.body))


@pytest.mark.parametrize(
    "change",
    [
        lambda message: {**message, "status": 200} if "status" in message else message,
        lambda message: {**message, "body": b"other"} if "body" in message else message,
        lambda message: {**message, "more_body": True} if "body" in message else message,
        lambda message: None,
        lambda message: None if "body" in message else message,
        lambda message: message if "body" in message else None,
    ],
)
async def test_after_a_denial_only_the_denial_passes(change: Any) -> None:
    async def changing(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        async def changed(message: Message) -> None:
            changed = change(message)
            if changed is not None:
                await send(changed)

        await app(scope, receive, changed)

    app = inside([Route("/bad", read("bad")(Ran().endpoint("bad")))], middle(changing))
    call = await Call(http_scope("/bad")).to(app)
    assert (call.status, call.json["reason"], len(call.sent)) == (403, "not_in_allowlist", 2)
    assert not call.sent[1].get("more_body", False)
    assert call.headers["content-length"] == str(len(call.body))


async def test_a_denial_is_for_good() -> None:
    ran = Ran()

    async def again(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        async def nowhere(message: Message) -> None:
            pass

        await app({**scope, "path": "/bad"}, receive, nowhere)
        await app(scope, receive, send)

    app = inside([Route(f"/{name}", read(name)(ran.endpoint(name))) for name in ("good", "bad")], middle(again))
    with events() as found:
        call = await Call(http_scope("/good")).to(app)
    assert (call.status, call.json["reason"], ran.names) == (403, "not_in_allowlist", [])
    assert len(found) == 1


async def test_a_later_denial_closes_what_an_earlier_allow_opened() -> None:
    @read("good")
    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        async def nowhere(message: Message) -> None:
            pass

        await inner({**scope, "path": "/bad", "root_path": ""}, receive, nowhere)
        await PlainTextResponse("secret")(scope, receive, send)

    inner = Router([Route("/bad", read("bad")(Ran().endpoint("bad")))])
    call = await Call(http_scope("/m/x")).to(gated([Mount("/m", endpoint)]))
    assert (call.status, call.json["reason"]) == (403, "not_in_allowlist")


async def test_middleware_that_runs_the_application_in_a_task_of_its_own() -> None:
    class Based(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Response:
            response: Response = await call_next(request)
            response.headers["x-based"] = "1"
            return response

    def answering(name: str) -> Any:  # which reads nothing: what starlette reads with here is not closed by it
        async def endpoint(request: Request) -> Response:
            ran.append(name)
            return PlainTextResponse(name)

        return read(name)(endpoint)

    ran: list[str] = []
    app = inside([Route(f"/{name}", answering(name)) for name in ("good", "bad")], Based)
    call = await Call(http_scope("/good")).to(app)
    assert (call.status, call.headers["x-based"]) == (200, "1")
    call = await Call(http_scope("/bad")).to(app)
    assert (call.status, call.json["reason"], ran) == (403, "not_in_allowlist", ["good"])


async def test_middleware_that_runs_the_application_in_another_context() -> None:
    seen: list[Any] = []

    async def elsewhere(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        running: Any = contextvars.Context().run(app, scope, receive, send)
        await running

    @read("good")
    async def endpoint(request: Request) -> Response:
        seen.append(request.state.capabilities)
        return PlainTextResponse("ran")

    app = inside([Route("/good", endpoint), Route("/bad", read("bad")(Ran().endpoint("bad")))], middle(elsewhere))
    assert (await Call(http_scope("/good")).to(app)).body == b"ran"
    assert (await Call(http_scope("/bad")).to(app)).status == 403
    assert len(seen) == 1


# -- classes whose methods declare


async def test_a_class_whose_methods_declare_behind_the_middleware_of_its_route() -> None:
    ran: list[str] = []

    class Item(HTTPEndpoint):
        @read("good")
        async def get(self, request: Request) -> Response:
            ran.append("get")
            return PlainTextResponse("got")

        @read("bad")
        async def delete(self, request: Request) -> Response:
            ran.append("delete")
            return PlainTextResponse("gone")

    async def delete(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        scope["method"] = "DELETE"
        await app(scope, receive, send)

    app = gated([Route("/x", Item, middleware=[Middleware(Middle, how=delete)]), Route("/y", Item)])
    call = await Call(http_scope("/x")).to(app)
    assert (call.status, call.json["reason"]) == (403, "undeclared_route")
    assert (await Call(http_scope("/y")).to(app)).status == 200
    assert ran == ["get"]


# -- G-4, must 3: nothing shared


async def test_two_requests_with_one_state() -> None:  # G-4
    shared: dict[str, Any] = {"kept": 1}
    both = anyio.Event()
    names: dict[str, list[str]] = {}

    @read("good")
    async def endpoint(request: Request) -> Response:
        request.state.seen = request.scope["user"].display_name
        if request.scope["user"].display_name == "first":
            await both.wait()
        else:
            both.set()
        for capabilities in (request.state.capabilities, current(), request.scope["state"]["capabilities"]):
            names.setdefault(request.scope["user"].display_name, []).append(capabilities.actor.id)
        return JSONResponse(sorted(request.scope["state"]))

    app = gated([Route("/good", endpoint)])
    calls = [Call(http_scope("/good", state=shared, user=SimpleUser(name))) for name in ("first", "second")]
    async with anyio.create_task_group() as group:
        for call in calls:
            group.start_soon(call.to, app)
    assert names == {"first": ["first"] * 3, "second": ["second"] * 3}
    assert [call.json for call in calls] == [["capabilities", "kept", "seen"]] * 2
    assert shared in ({"kept": 1, "seen": "first"}, {"kept": 1, "seen": "second"})
    assert [call.scope["state"] is shared for call in calls] == [True, True]


# -- G-17: one question for each file


async def test_a_mount_that_declares_is_asked_for_each_file(tmp_path: Any) -> None:  # G-17
    for name in ("a.txt", "b.txt", "sub/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    files = requires("fs.read", resource="path:{path}")(Mount("/files", StaticFiles(directory=tmp_path, html=True)))
    checker = Recording(make_checker(document={"fs": ["a.txt", "sub/c.txt"]}))
    app = gated([files], checker)
    for path, status, asked in (
        ("/files/a.txt", 200, "a.txt"),
        ("/files/b.txt", 403, "b.txt"),
        ("/files/sub/c.txt", 200, "sub/c.txt"),
        ("/files/sub/../b.txt", 403, None),
        ("/files//b.txt", 403, None),
        ("/files/./b.txt", 403, None),
        ("/files/b.txt/", 403, "b.txt"),
        ("/files/sub\\..\\b.txt", 403, None),
    ):
        checker.asked.clear()
        assert (await Call(http_scope(path)).to(app)).status == status, path
        assert [id for _, id in checker.questions] == ([] if asked is None else [asked]), path


# -- what is no longer possible


async def test_a_router_that_only_describes_is_not_taken() -> None:
    with events():
        app = CapabilityMiddleware(Router(), settings=SETTINGS, checker=make_checker(), router=Router())
        call = Call({"type": "lifespan"})
        with pytest.raises(ConfigError):
            await call.to(app)
    assert call.sent[0]["type"] == "lifespan.startup.failed"
    assert "resolver=" in call.sent[0]["message"]


async def test_a_resolver_is_asked_about_what_the_router_has() -> None:
    ran = Ran()
    asked: list[str] = []

    def resolver(scope: Scope) -> Any:
        asked.append(f"{scope['method']} {scope['path']}")
        return requirement("good" if scope["method"] == "GET" else "bad")

    def requirement(name: str) -> Any:
        from capgate.routes.declare import Requirement

        return Requirement.parse("db.read", resource=f"sql_query:{name}")

    routes = [Route("/o", ran.endpoint(method.lower()), methods=[method]) for method in ("POST", "DELETE", "GET")]
    mounted = Starlette(routes=routes, middleware=[Middleware(Middle, how=override)])
    app = inside([*routes, Mount("/m", mounted)], middle(override), resolver=resolver)
    header = [("x-http-method-override", "DELETE")]
    assert (await Call(http_scope("/o")).to(app)).status == 200
    assert (await Call(http_scope("/o", headers=header)).to(app)).status == 403
    assert (await Call(http_scope("/m/o")).to(app)).status == 200
    assert (await Call(http_scope("/m/o", headers=header)).to(app)).status == 403
    app = CapabilityMiddleware(
        Router([Mount("/m", mounted)]), settings=SETTINGS, checker=make_checker(), resolver=resolver
    )
    assert (await Call(http_scope("/m/o", headers=header)).to(app)).status == 403
    assert ran.names == ["get", "get"]
    assert asked[-2:] == ["GET /m/o", "DELETE /m/o"]
    assert (await Call(http_scope("/nowhere")).to(app)).status == 404


async def test_a_websocket_of_a_resolver() -> None:
    async def session(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    from capgate.routes.seat import PUBLIC

    app = CapabilityMiddleware(
        Router([WebSocketRoute("/ws", session)]),
        settings=SETTINGS,
        checker=make_checker(),
        resolver=lambda scope: PUBLIC if scope["type"] == "websocket" else None,
    )
    assert (await Call(websocket_scope("/ws")).to(app)).sent[0]["type"] == "websocket.accept"
    assert (await Call(http_scope("/ws")).to(app)).status == 403


async def test_a_body_that_was_read_for_its_hash_is_given_once() -> None:
    async def echo(request: Request) -> Response:
        return PlainTextResponse(await request.body())

    inner = Router([Route("/{p:path}", echo, methods=["POST"])])

    @read("good", args_hash="body")
    async def opaque(scope: Scope, receive: Receive, send: Send) -> None:
        async def upper() -> Message:
            message = await receive()
            return {**message, "body": message["body"].upper()}

        await inner(scope, upper, send)

    call = Call(http_scope("/m/x", "POST"), [{"type": "http.request", "body": b"text"}])
    assert (await call.to(gated([Mount("/m", opaque)]))).body == b"TEXT"


# -- gates around gates


@pytest.mark.parametrize("mounted", [True, False])
async def test_each_gate_is_asked_the_outermost_first_and_one_denial_is_one_event(mounted: bool) -> None:
    order: list[str] = []
    ran = Ran()

    class Named(Recording):
        def __init__(self, name: str, *allowed: str) -> None:
            super().__init__(make_checker(document={"sql": list(allowed)}))
            self.name = name

        async def check(self, input: Any) -> Any:
            order.append(f"{self.name} {input.resource.id}")
            return await super().check(input)

    routes = [Route(f"/{name}", read(name)(ran.endpoint(name))) for name in ("both", "inner", "outer", "neither")]
    inner = CapabilityMiddleware(Starlette(routes=routes), settings=SETTINGS, checker=Named("inside", "both", "inner"))
    outer = CapabilityMiddleware(
        Router([Mount("/m", inner)]) if mounted else inner,
        settings=SETTINGS,
        checker=Named("outside", "both", "outer"),
    )
    prefix = "/m" if mounted else ""
    for name, status, asked in (
        ("both", 200, ["outside both", "inside both"]),
        ("inner", 403, ["outside inner"]),
        ("outer", 403, ["outside outer", "inside outer"]),
        ("neither", 403, ["outside neither"]),
    ):
        order.clear()
        with events() as found:
            call = await Call(http_scope(f"{prefix}/{name}")).to(outer)
        assert (call.status, order) == (status, asked)
        assert [event["reason"] for event in found] == ["not_in_allowlist"] * (status == 403)
        assert status == 200 or call.json["decision_id"] == found[0]["decision_id"]
    assert ran.names == ["both"]
