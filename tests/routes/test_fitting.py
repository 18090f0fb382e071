"""What is proposed for a route that declares nothing can be written there as it is, and asks what it says."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute

from capgate.events import printable
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.routes.declare import Requirement, declared, requires
from capgate.routes.fitting import fitting_declaration
from capgate.routes.framework import FRONTENDS
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.gates import PATIENT, Ran, events, make_checker


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def written(line: str) -> Requirement:
    """What the line declares, once it is pasted over a function."""

    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("")

    declaring: Any = eval(line.removeprefix("@"), {"requires": requires})  # what a person would paste
    (requirement,) = declared(declaring(endpoint))
    return requirement


@pytest.mark.parametrize(
    ("path", "methods", "action", "resource"),
    [
        ("/orders", ("GET", "HEAD"), "db.read", "sql_query:orders"),
        ("/orders", ("GET",), "db.read", "sql_query:orders"),
        ("/orders", ("GET", "POST"), "db.write", "sql_query:orders"),
        ("/orders/{id}", ("DELETE",), "db.write", "sql_query:orders/{id}"),
        ("/orders/{id:int}/lines/{n:uuid}", ("HEAD",), "db.read", "sql_query:orders/{id}/lines/{n}"),
        ("/{tenant}/v-{n}.json", ("OPTIONS",), "db.write", "sql_query:{tenant}/v-{n}.json"),
        ("/", ("GET",), "db.read", "sql_query:index"),
        ("/orders", (), "db.write", "sql_query:orders"),
        ("api.example.com/orders", ("GET",), "db.read", "sql_query:api.example.com/orders"),
        ("/files/{name:path}", ("GET",), "fs.read", "path:{name}"),
        ("/files/{name:path}", ("PUT",), "fs.write", "path:{name}"),
        ("/static/{path:path}", (), "fs.read", "path:{path}"),
        ("/{a:path}/b", ("GET",), "db.read", "sql_query:{a}/b"),
        ("/m\0/orders", ("GET",), "db.read", "sql_query:orders"),
        ("/a/{2}/{b", ("GET",), "db.read", "sql_query:a/{{2}}/{{b"),
    ],
)
def test_by_a_stated_rule(path: str, methods: tuple[str, ...], action: str, resource: str) -> None:
    line = fitting_declaration(path, methods)
    assert line == f'@requires("{action}", resource="{resource}")'
    assert written(line) == Requirement.parse(action, resource=resource)


def test_where_no_line_would() -> None:
    assert fitting_declaration("/app" + FRONTENDS, ()) is None
    assert fitting_declaration('/a"b', ("GET",)) is None


@given(st.text(st.sampled_from('ab/{}:path1_"\\é\n😀'), max_size=20), st.sampled_from(((), ("GET",), ("PUT",))))
def test_whatever_the_path_is_it_can_be_pasted(path: str, methods: tuple[str, ...]) -> None:
    line = printable(fitting_declaration("/" + path, methods), 1_024)
    if line is not None:
        known = re.findall(r"{([A-Za-z_][A-Za-z0-9_]*)(?::[A-Za-z_][A-Za-z0-9_]*)?}", path)
        assert written(line).parameters <= set(known)


class View(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("")


def application(kind: str) -> Any:
    ran = Ran()

    async def plain(id: str = "") -> str:
        return ""

    async def static(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("")(scope, receive, send)

    routes = [
        Route("/orders/{id:int}", ran.endpoint("orders"), methods=["GET"]),
        Route("/both", ran.endpoint("both"), methods=["GET", "POST"]),
        Route("/class", View),
        Mount("/static", static),
        WebSocketRoute("/socket", ran.websocket("socket")),
    ]
    app: Any = Starlette(routes=routes)
    if kind == "below":
        app = Starlette(routes=[Host("testserver", Router([Mount("/{tenant}", Starlette(routes=routes))]))])
    elif kind == "fastapi":
        app, inner = FastAPI(openapi_url=None), APIRouter()
        inner.add_api_route("/orders/{id}", plain, methods=["GET"])
        inner.add_api_route("/both", plain, methods=["GET", "POST"])
        inner.routes.extend(routes[2:4])
        inner.add_api_websocket_route("/socket", ran.websocket("socket"))
        app.include_router(inner, prefix="/{tenant}")
    settings = Settings(enforce="monitor", limits=PATIENT)
    app.add_middleware(CapabilityMiddleware, settings=settings, checker=make_checker())
    return app


@pytest.mark.parametrize("kind", ["plain", "below", "fastapi"])
async def test_the_record_and_the_log_say_it(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "capgate")
    app = application(kind)
    prefix = {"plain": "", "below": "testserver/{tenant}/", "fastapi": "{tenant}/"}[kind]
    before = "" if kind == "plain" else "/t"
    proposed = {
        ("/orders/7", "GET"): f'@requires("db.read", resource="sql_query:{prefix}orders/{{id}}")',
        ("/both", "GET"): f'@requires("db.write", resource="sql_query:{prefix}both")',
        ("/class", "GET"): f'@requires("db.read", resource="sql_query:{prefix}class")',
        ("/static/x/y", "GET"): '@requires("fs.read", resource="path:{path}")',
        ("/static/x/y", "PUT"): '@requires("fs.write", resource="path:{path}")',
    }
    for (path, method), line in proposed.items():
        with events() as found:
            assert (await Call(http_scope(before + path, method)).to(app)).status == 200
        assert [(event["would_deny"], event["would_fit"]) for event in found] == [("undeclared_route", line)]
    with events() as found:
        await Call(websocket_scope(before + "/socket")).to(app)
        await Call(http_scope(before + "/nowhere")).to(app)
    socket = f'@requires("db.write", resource="sql_query:{prefix}socket")'
    assert [event["would_fit"] for event in found] == [socket, None]
    said = [line for record in caplog.records if (line := record.getMessage().partition("what would fit: ")[2])]
    del proposed["/static/x/y", "PUT"]
    proposed["/class", "GET"] = proposed["/class", "GET"].replace("read", "write")  # which of them it has, is not said
    assert sorted(said) == sorted([*proposed.values(), socket])


async def test_where_denials_count_nothing_is_proposed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "capgate")
    app = Starlette(routes=[Route("/a", Ran().endpoint("a"))])
    app.add_middleware(CapabilityMiddleware, settings=Settings(limits=PATIENT), checker=make_checker())
    with events() as found:
        assert (await Call(http_scope("/a")).to(app)).status == 403
    assert [event["would_fit"] for event in found] == [None]
    assert "what would fit" not in caplog.text


async def test_a_resolver_needs_no_line() -> None:
    app = Starlette(routes=[Route("/a", Ran().endpoint("a"))])
    settings = Settings(enforce="monitor", limits=PATIENT)
    app.add_middleware(CapabilityMiddleware, settings=settings, checker=make_checker(), resolver=lambda scope: None)
    with events() as found:
        assert (await Call(http_scope("/a")).to(app)).status == 200
    assert [(event["would_deny"], event["would_fit"]) for event in found] == [("undeclared_route", None)]


async def test_of_two_routers_each_has_its_own() -> None:
    first, second = Router([Route("/a", Ran().endpoint("a"))]), Router()

    class Cascade:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            for router in (first, second):
                await Call(dict(scope)).to(router)
            await self.app(scope, receive, send)

    app = Cascade(Router())
    gate = CapabilityMiddleware(app, settings=Settings(enforce="monitor", limits=PATIENT), checker=make_checker())
    with events() as found:
        await Call(http_scope("/a")).to(gate)
    line = '@requires("db.read", resource="sql_query:a")'
    assert [event["would_fit"] for event in found] == [line, None, None]
