"""What becomes of a denial that is raised: the same 403, unless somebody answered otherwise."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route, Router, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from capgate.errors import CapabilityDenied
from capgate.limits import Limits
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.model import CompilerTool, Deny
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.gates import events, gated, make_checker, read
from .application import BAD, PATIENT, at

# -- denials that are raised


async def require_bad(request: Request) -> Response:
    await request.state.capabilities.require(*BAD)
    raise AssertionError("not reached")


def require_bad_now(request: Request) -> Response:
    request.state.capabilities.require_now(*BAD)
    raise AssertionError("not reached")


async def require_bad_as_a_tool(request: Request) -> Response:
    await request.state.capabilities.for_actor(CompilerTool("x")).require(*BAD)
    raise AssertionError("not reached")


async def require_bad_in_a_group(request: Request) -> Response:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(request.state.capabilities.require, *BAD)
    raise AssertionError("not reached")


HANDLERS = [require_bad, require_bad_now, require_bad_as_a_tool, require_bad_in_a_group]


class Passing(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


def inside_out(handler: Any) -> Any:
    routes: list[BaseRoute] = [Route("/", read("good")(handler))]
    return CapabilityMiddleware(Starlette(routes=routes), settings=PATIENT, checker=make_checker())


def mounted(handler: Any) -> Any:
    return gated([Mount("/", Starlette(routes=[Route("/", read("good")(handler))]))], None, PATIENT)


def debugging(handler: Any) -> Any:
    app = at(handler)
    app.debug = True
    return app


def behind_middleware(handler: Any) -> Any:
    app = Starlette(routes=[Route("/", read("good")(handler))], middleware=[Middleware(Passing)])
    app.add_middleware(CapabilityMiddleware, settings=PATIENT, checker=make_checker())
    return app


def with_a_page_for_errors(handler: Any) -> Any:
    async def page(request: Request, error: Exception) -> Response:
        return PlainTextResponse("something went wrong", 500)

    routes: list[BaseRoute] = [Route("/", read("good")(handler))]
    app = Starlette(routes=[Mount("/", Starlette(routes=routes, exception_handlers={Exception: page}))])
    app.add_middleware(CapabilityMiddleware, settings=PATIENT, checker=make_checker())
    return app


@pytest.mark.parametrize("handler", HANDLERS, ids=lambda handler: handler.__name__)
@pytest.mark.parametrize(
    "build", [at, inside_out, mounted, debugging, behind_middleware, with_a_page_for_errors], ids=lambda f: f.__name__
)
async def test_a_denial_that_is_raised_is_the_same_403(build: Any, handler: Any) -> None:
    app = build(handler)
    with events() as found:
        call = await Call(http_scope("/")).to(app)
    assert (call.status, call.headers["content-type"]) == (403, "application/problem+json")
    (event,) = found
    assert (event["action"], event["resource_id"], event["reason"]) == ("db.read", "bad", "not_in_allowlist")
    assert (event["method"], event["path"]) == ("GET", "/")
    assert call.json["decision_id"] == event["decision_id"]
    assert call.json["reason"] == "not_in_allowlist"


async def test_the_reason_is_told_only_where_settings_say_so() -> None:
    call = await Call(http_scope("/")).to(at(require_bad, settings=Settings(limits=Limits(deadline=20.0))))
    assert call.status == 403
    assert "reason" not in call.json


async def test_a_handler_may_answer_a_denial_itself() -> None:
    async def handler(request: Request) -> Response:
        try:
            await request.state.capabilities.require(*BAD)
        except CapabilityDenied as error:
            return JSONResponse({"denied": error.decision.input.resource.id}, 402)
        raise AssertionError("not reached")

    async def convert(request: Request, error: Exception) -> Response:
        assert isinstance(error, CapabilityDenied)
        return JSONResponse({"denied": error.decision.input.resource.id}, 402)

    by_handler = at(require_bad)
    by_handler.add_exception_handler(CapabilityDenied, convert)
    for app in (at(handler), by_handler):
        call = await Call(http_scope("/")).to(app)
        assert (call.status, call.json) == (402, {"denied": "bad"})


async def test_what_goes_wrong_after_a_denial_was_answered_otherwise_is_the_applications() -> None:
    async def handler(request: Request) -> Response:
        assert type(await request.state.capabilities.check(*BAD)) is Deny
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        await Call(http_scope("/")).to(at(handler))


async def test_a_response_that_began_is_not_replaced() -> None:
    async def handler(request: Request) -> Response:
        async def body() -> Any:
            yield b"first"
            await request.state.capabilities.require(*BAD)
            yield b"never"

        return StreamingResponse(body())

    app = CapabilityMiddleware(Router([Route("/", read("good")(handler))]), settings=PATIENT, checker=make_checker())
    call = Call(http_scope("/"))
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        await call.to(app)
    error: Any = caught.value
    while not isinstance(error, CapabilityDenied):
        (error,) = error.exceptions
    assert call.status == 200
    assert call.body == b"first"


@pytest.mark.parametrize("kind", ["http.response.early_hint", "http.response.debug", "http.response.push"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("outside", [False, True])
async def test_what_is_sent_before_a_response_does_not_begin_it(kind: str, after: bool, outside: bool) -> None:  # S20
    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if not after:
                await send({"type": kind})
            await scope["state"]["capabilities"].require(*BAD)
        finally:
            if after:
                await send({"type": kind})

    mount = Mount("/", read("good")(endpoint))
    app = CapabilityMiddleware(Router([mount]), settings=PATIENT, checker=make_checker())
    call = await Call(http_scope("/")).to(app if outside else gated([mount], None, PATIENT))
    assert (call.sent[0]["type"], call.status, call.headers["content-type"]) == (kind, 403, "application/problem+json")


async def test_a_mixed_group_of_errors_is_the_applications() -> None:
    class Mixed(Exception):
        pass

    async def handler(request: Request) -> Response:
        async def fail() -> None:
            raise Mixed

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(request.state.capabilities.require, *BAD)
            tasks.start_soon(fail)
        raise AssertionError("not reached")

    call = Call(http_scope("/"))
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        await call.to(at(handler))
    assert any(isinstance(error, Mixed) for error in getattr(caught.value, "exceptions", ()))


@pytest.mark.parametrize("accept", [False, True])
async def test_websockets_are_closed(accept: bool) -> None:
    async def endpoint(websocket: WebSocket) -> None:
        if accept:
            await websocket.accept()
        await websocket.state.capabilities.require(*BAD)
        raise AssertionError("not reached")

    app = gated([WebSocketRoute("/ws", read("good")(endpoint))], None, PATIENT)
    call = await Call(websocket_scope("/ws")).to(app)
    kinds = [message["type"] for message in call.sent]
    assert kinds == (["websocket.accept"] if accept else []) + ["websocket.close"]
    assert call.sent[-1]["code"] == 1008
