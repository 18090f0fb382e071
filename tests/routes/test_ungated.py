"""Where an endpoint that declares something runs and there is no gate, the log says so once."""

from __future__ import annotations

import functools
import logging
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, Router, WebSocketRoute
from starlette.types import Receive, Scope, Send

from capgate.middleware.middleware import CapabilityMiddleware
from capgate.routes.ungated import note_ungated
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.gates import PATIENT, Ran, make_checker, read
from .applications import Wrapper


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Any:
    """How many endpoints were named, since it was asked last."""
    caplog.set_level(logging.WARNING, "capgate")

    def count() -> int:
        records = [record for record in caplog.records if "no gate" in record.message]
        caplog.clear()
        return len(records)

    return count


def gate(app: Any) -> Any:
    app.add_middleware(CapabilityMiddleware, settings=Settings(limits=PATIENT), checker=make_checker())
    return app


def fresh(declares: bool = True) -> Any:
    endpoint = Ran().endpoint("endpoint")
    return read("good")(endpoint) if declares else endpoint


class View(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("view")


def endpoint_of(shape: str) -> Any:
    if shape == "function":
        return fresh()
    if shape == "wrapped":
        inner = fresh()

        @functools.wraps(inner)
        async def outer(request: Request) -> Any:
            return await inner(request)

        return outer
    if shape == "partial":
        return functools.partial(fresh())
    if shape == "method":

        class Holder:
            @read("good")
            async def endpoint(self, request: Request) -> Response:
                return PlainTextResponse("method")

        return Holder().endpoint
    if shape == "class":
        return read("good")(type("Own", (View,), {}))
    if shape == "method of a class":

        class Own(View):
            @read("good")
            async def get(self, request: Request) -> Response:
                return await super().get(request)

        return Own

    class Called:
        __slots__ = ()

        @read("good")
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await PlainTextResponse("called")(scope, receive, send)

    return Called()


SHAPES = ["function", "wrapped", "partial", "method", "class", "method of a class", "object"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["starlette", "router", "mounted", "fastapi", "included"])
async def test_said_once_at_the_first_call(kind: str, shape: str, said: Any) -> None:  # G-16
    route = Route("/a", endpoint_of(shape))
    inner = APIRouter(routes=[route])
    app: Any = {"starlette": Starlette, "router": Router, "mounted": Router, "fastapi": Router}.get(kind, Router)(
        [route]
    )
    if kind == "starlette":
        app = Starlette(routes=[route])
    elif kind == "mounted":
        app = Starlette(routes=[Mount("", Wrapper(Starlette(routes=[Mount("", app)])))])
    elif kind in ("fastapi", "included"):
        app = FastAPI(routes=[route] if kind == "fastapi" else None)
        if kind == "included":
            app.include_router(inner)
    assert (await Call(http_scope("/nowhere")).to(app)).status == 404
    assert said() == 0
    for expected in (1, 0):
        assert (await Call(http_scope("/a")).to(app)).status == 200
        assert said() == expected


async def test_each_endpoint_by_itself_and_none_that_declares_nothing(said: Any) -> None:
    app = Starlette(routes=[Route("/a", fresh()), Route("/b", fresh()), Route("/c", fresh(declares=False))])
    for path, expected in (("/a", 1), ("/c", 0), ("/b", 1), ("/a", 0), ("/b", 0)):
        await Call(http_scope(path)).to(app)
        assert said() == expected


async def test_a_websocket_and_what_raises(said: Any) -> None:
    @read("good")
    async def raising(request: Request) -> Response:
        raise LookupError

    app = Starlette(routes=[WebSocketRoute("/ws", read("good")(Ran().websocket("ws"))), Route("/raising", raising)])
    await Call(websocket_scope("/ws")).to(app)
    assert said() == 1
    with pytest.raises(LookupError):
        await Call(http_scope("/raising")).to(app)
    assert said() == 1


async def test_a_direct_call_is_silent(said: Any) -> None:
    endpoint = fresh()
    assert (await endpoint(Request(http_scope("/a"), Call(http_scope("/a")).receive))).status_code == 200
    assert said() == 0


async def test_behind_a_gate_it_is_silent_and_so_is_the_same_application_outside_of_it(said: Any) -> None:
    routes = [Route("/a", fresh()), Mount("/m", routes=[Route("/a", fresh())])]
    router = Router([Route("/a", fresh())], middleware=[Middleware(Wrapper)])
    inner = Starlette(routes=[*routes, Mount("/r", router)])
    app = gate(Starlette(routes=[Mount("/i", inner)]))
    for path in ("/a", "/m/a", "/r/a"):
        assert (await Call(http_scope(f"/i{path}")).to(app)).status == 200
        assert (await Call(http_scope(path)).to(inner)).status == 200
    assert (await Call(http_scope("/a")).to(router)).status == 200
    assert said() == 0


async def test_a_gate_around_a_part_of_an_application(said: Any) -> None:
    inside, beside = gate(Starlette(routes=[Route("/a", fresh())])), Route("/a", fresh())
    app = Starlette(routes=[Mount("/m", inside), beside])
    for _ in range(2):
        assert (await Call(http_scope("/m/a")).to(app)).status == 200
    assert said() == 0
    assert (await Call(http_scope("/a")).to(app)).status == 200
    assert said() == 1


async def test_what_an_endpoint_that_was_allowed_calls_is_its_own_affair(said: Any) -> None:
    other = Router([Route("/b", fresh())])

    @read("good")
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(str((await Call(http_scope("/b")).to(other)).status))

    assert (await Call(http_scope("/a")).to(gate(Starlette(routes=[Route("/a", endpoint)])))).body == b"200"
    assert said() == 0


@pytest.mark.parametrize("endpoint", [None, 5, "text", object(), [].append])
def test_whatever_is_in_the_scope_nothing_is_raised(endpoint: Any, said: Any) -> None:
    class Everything:
        def __getattr__(self, name: str) -> Any:
            return name

    for strange in (endpoint, Everything()):
        note_ungated(Router(), {"type": "http", "endpoint": strange})
    assert said() == 0
