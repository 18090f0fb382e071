"""A denial that a handler was told of and answered itself is no response; one that nobody handled is the 403."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import Message, Receive, Scope, Send

from capgate.enforcement.response import HELD_BYTES
from capgate.errors import CapabilityDenied
from capgate.middleware.middleware import CapabilityMiddleware

from ..support.asgi import Call, http_scope
from ..support.gates import events, gated, make_checker, read
from .application import BAD, PATIENT, at

BUSY = {"retry-after": "30"}


async def ask(request: Request) -> None:
    await request.state.capabilities.require(*BAD)


async def catching(request: Request) -> Response:
    try:
        await ask(request)
    except CapabilityDenied:
        return JSONResponse({"busy": True}, 503, BUSY)
    raise AssertionError("not reached")


async def answering_inside(request: Request) -> Response:
    """Sends its answer while the denial is still being handled."""

    class Inside(Response):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await request.state.capabilities.require(*BAD)
            except CapabilityDenied:
                await JSONResponse({"busy": True}, 503, BUSY)(scope, receive, send)

    return Inside()


async def streaming(request: Request) -> Response:
    await catching(request)

    async def body() -> AsyncIterator[bytes]:
        for part in (b'{"busy"', b":", b"true}"):
            yield part

    return StreamingResponse(body(), 503, {**BUSY, "content-type": "application/json"})


def catching_now(request: Request) -> Response:
    try:
        request.state.capabilities.require_now(*BAD)
    except CapabilityDenied:
        return JSONResponse({"busy": True}, 503, BUSY)
    raise AssertionError("not reached")


async def raising(request: Request) -> Response:
    await ask(request)
    raise AssertionError("not reached")


class Passing(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


def inside_out(handler: Any, **options: Any) -> Any:
    """The framework's own middleware for errors stands inside the gate."""
    routes: list[BaseRoute] = [Route("/", read("good")(handler))]
    return CapabilityMiddleware(Starlette(routes=routes, **options), settings=PATIENT, checker=make_checker())


def inside_out_behind_middleware(handler: Any, **options: Any) -> Any:
    return inside_out(handler, middleware=[Middleware(Passing)], **options)


def mounted(handler: Any, **options: Any) -> Any:
    app = Starlette(routes=[Route("/", read("good")(handler))], **options)
    return gated([Mount("/", app)], None, PATIENT)


PLACES = [inside_out, inside_out_behind_middleware, mounted]


@pytest.mark.parametrize("build", [at, *PLACES], ids=lambda build: build.__name__)
@pytest.mark.parametrize("handler", [catching, answering_inside, streaming, catching_now], ids=lambda f: f.__name__)
async def test_a_handler_that_was_denied_may_answer_with_a_server_error(build: Any, handler: Any) -> None:  # G-6
    with events() as found:
        call = await Call(http_scope("/")).to(build(handler))
    assert (call.status, call.headers["retry-after"], call.json) == (503, "30", {"busy": True})
    assert [event["reason"] for event in found] == ["not_in_allowlist"]


@pytest.mark.parametrize("build", [at, *PLACES], ids=lambda build: build.__name__)
async def test_a_handler_of_exceptions_may_answer_with_a_server_error(build: Any) -> None:  # G-6
    async def busy(request: Request, error: Exception) -> Response:
        return JSONResponse({"busy": True}, 503, BUSY)

    if build is at:
        app = at(raising)
        app.add_exception_handler(CapabilityDenied, busy)
    else:
        app = build(raising, exception_handlers={CapabilityDenied: busy})
    call = await Call(http_scope("/")).to(app)
    assert (call.status, call.headers["retry-after"], call.json) == (503, "30", {"busy": True})


async def a_page(request: Request, error: Exception) -> Response:
    return PlainTextResponse("something went wrong", 500)


async def a_streamed_page(request: Request, error: Exception) -> Response:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"something went wrong"

    return StreamingResponse(body(), 503, background=BackgroundTask(anyio.lowlevel.checkpoint))


@pytest.mark.parametrize("build", PLACES, ids=lambda build: build.__name__)
@pytest.mark.parametrize(
    "options",
    [{}, {"debug": True}, {"exception_handlers": {Exception: a_page}}, {"exception_handlers": {500: a_streamed_page}}],
    ids=["plain", "debug", "a page", "a streamed page"],
)
async def test_what_frameworks_make_of_a_denial_that_nobody_handled_is_the_403(build: Any, options: Any) -> None:
    with events() as found:
        call = await Call(http_scope("/")).to(build(raising, **options))
    assert (call.status, call.headers["content-type"]) == (403, "application/problem+json")
    assert [call.json["decision_id"]] == [event["decision_id"] for event in found]


@pytest.mark.parametrize("build", PLACES, ids=lambda build: build.__name__)
async def test_another_error_after_a_denial_that_was_handled_is_the_applications(build: Any) -> None:
    async def failing(request: Request) -> Response:
        await catching(request)
        raise ValueError("its own")

    call = Call(http_scope("/"))
    with pytest.raises(ValueError, match="its own"):
        await call.to(build(failing))
    assert (call.status, call.body) == (500, b"Internal Server Error")


async def test_another_error_is_told_though_the_client_is_gone() -> None:
    async def failing(request: Request) -> Response:
        await catching(request)
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        await Call(http_scope("/"), gone=True).to(inside_out(failing))


async def test_a_long_server_error_is_not_waited_with() -> None:
    sent_when_full: list[int] = []
    call = Call(http_scope("/"))

    async def endpoint(request: Request) -> Response:
        await catching(request)

        async def body() -> AsyncIterator[bytes]:
            yield b"x" * HELD_BYTES
            sent_when_full.append(len(call.sent))
            yield b"y"
            sent_when_full.append(len(call.sent))
            yield b"z"

        return StreamingResponse(body(), 503)

    await call.to(at(endpoint))
    assert sent_when_full == [0, 3]
    assert (call.status, call.body) == (503, b"x" * HELD_BYTES + b"yz")


async def test_many_small_parts_are_not_kept_for_ever() -> None:
    call = Call(http_scope("/"))

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await scope["state"]["capabilities"].require(*BAD)
        except CapabilityDenied:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            for _ in range(HELD_BYTES):
                if call.sent:
                    return
                await send({"type": "http.response.body", "body": b"", "more_body": True})

    await call.to(gated([Mount("/", read("good")(endpoint))], None, PATIENT))
    assert call.status == 500
    assert len(call.sent) < HELD_BYTES // 4


async def test_messages_keep_their_order_around_what_is_held_back() -> None:
    messages: list[Message] = [
        {"type": "http.response.early_hint", "links": []},
        {"type": "http.response.start", "status": 503, "headers": [], "trailers": True},
        {"type": "http.response.body", "body": b"a", "more_body": True},
        {"type": "http.response.body", "body": b"b", "more_body": False},
        {"type": "http.response.trailers", "headers": [], "more_trailers": False},
    ]

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await scope["state"]["capabilities"].require(*BAD)
        except CapabilityDenied:
            for message in messages:
                await send(message)

    call = await Call(http_scope("/")).to(gated([Mount("/", read("good")(endpoint))], None, PATIENT))
    assert call.sent == messages


# -- around what the gate itself decides


async def test_a_server_error_before_anything_was_decided_does_not_go_out() -> None:
    """Middleware inside the gate asks, is denied, and answers itself: nothing was asked about the request."""

    class Asking:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await scope["state"]["capabilities"].require(*BAD)
            except CapabilityDenied:
                await JSONResponse({"busy": True}, 503)(scope, receive, send)

    call = await Call(http_scope("/")).to(inside_out(catching, middleware=[Middleware(Asking)]))
    assert (call.status, call.json["reason"]) == (403, "unasked_response")


async def test_a_request_that_is_denied_meanwhile_is_answered_with_that() -> None:
    """A later dispatch in the same request is denied while a server error waits."""

    async def never(request: Request) -> Response:
        raise AssertionError("not reached")

    inner = Starlette(routes=[Route("/", read("bad")(never))])

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await scope["state"]["capabilities"].require(*BAD)
        except CapabilityDenied:
            await send({"type": "http.response.start", "status": 503, "headers": []})
            await inner({**scope, "path": "/", "root_path": ""}, receive, send)

    outer = Mount("/", Router([Mount("/", endpoint)]))
    with events() as found:
        call = await Call(http_scope("/")).to(gated([read("good")(outer)], None, PATIENT))
    assert call.status == 403
    assert found[-1]["decision"] == "deny"
