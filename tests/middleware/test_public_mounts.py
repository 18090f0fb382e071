"""Mounts that are public: what the path of a mount opens, and that it opens nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastapi
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Host, Mount, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from capgate.middleware.middleware import CapabilityMiddleware
from capgate.routes.declare import requires
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope
from ..support.gates import Ran, Recording, gated, make_checker
from .reasons import reason_for


@pytest.fixture
def static(tmp_path: Path) -> StaticFiles:
    (tmp_path / "sub").mkdir()
    for name in ("a.txt", "sub/b.txt"):
        (tmp_path / name).write_text(name)
    return StaticFiles(directory=tmp_path)


class Wrapper:
    """Hides what it calls: no router can be seen below it."""

    def __init__(self, app: ASGIApp) -> None:
        self.__app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.__app(scope, receive, send)


def public(*paths: str) -> Settings:
    return Settings(public=paths)


async def status(app: Any, path: str) -> int:
    return (await Call(http_scope(path)).to(app)).status


@pytest.mark.parametrize("name", ["/static", "/static/{path:path}"])
async def test_files_of_a_public_mount_are_served(static: StaticFiles, name: str) -> None:  # P-17
    checker = Recording()
    routes = [Mount("/static", static), Mount("/staticx", static), Route("/static-page", Ran().endpoint("page"))]
    app = gated(routes, checker, public(name))
    assert [await status(app, f"/static/{path}") for path in ("a.txt", "sub/b.txt", "none")] == [200, 200, 404]
    for path in ("/static", "/staticx/a.txt", "/static-page", "/sub/static/a.txt", "/staticx", "/STATIC/a.txt"):
        assert await reason_for(app, http_scope(path)) == "undeclared_route", path
    assert checker.asked == []


@pytest.mark.parametrize("name", ["/static/", "/", "/stat", "/static/a.txt", "/{path:path}", "/static/{rest}"])
async def test_no_other_name_opens_a_mount(static: StaticFiles, name: str) -> None:
    app = gated([Mount("/static", static), Mount("", static)], Recording(), public(name))
    for path in ("/static/a.txt", "/a.txt"):
        opened = name == "/{path:path}" and path == "/a.txt"
        assert await reason_for(app, http_scope(path)) == (None if opened else "undeclared_route"), path


async def test_mounts_in_mounts(static: StaticFiles) -> None:
    inner = [Mount("/static", static), Route("/x", Ran().endpoint("x")), Mount("", static)]
    routes: list[BaseRoute] = [
        Mount("/a", routes=inner),
        Mount("/{tenant}/b", routes=inner),
        Host("h.example", Router(inner)),
    ]
    app = gated(routes, Recording(), public("/a/static", "/{tenant}/b/static", "h.example/static"))
    assert await status(app, "/a/static/a.txt") == 200
    assert await status(app, "/t/b/static/a.txt") == 200
    for path in ("/a/x", "/a/a.txt", "/t/b/x", "/t/b/a.txt"):
        assert await reason_for(app, http_scope(path)) == "undeclared_route", path


async def test_of_a_mounted_application_nothing_is_open_that_is_not_named() -> None:
    """Each of its routes can be seen: a new one would be open, though nobody named it."""
    ran = Ran()
    routes = [
        Route("/open", ran.endpoint("open")),
        Route("/new", ran.endpoint("new")),
        Route("/good", requires("db.read", resource="sql_query:good")(ran.endpoint("good"))),
        Route("/bad", requires("db.read", resource="sql_query:bad")(ran.endpoint("bad"))),
    ]
    for mounted in (Starlette(routes=routes), Router(routes)):
        ran.names.clear()
        app = gated([Mount("/sub", mounted)], Recording(make_checker()), public("/sub", "/sub/open"))
        assert [await reason_for(app, http_scope(f"/sub/{name}")) for name in ("open", "new", "good", "bad")] == [
            *(None, "undeclared_route", None, "not_in_allowlist")
        ]
        assert ran.names == ["open", "good"]


async def test_what_is_declared_is_asked_in_spite_of_it(static: StaticFiles, tmp_path: Path) -> None:
    """On the mount, around it, and by routes of an application that nobody could see beforehand."""
    declared = requires("fs.read", resource="path:{path}")
    ran = Ran()
    hidden = Wrapper(Router([Route("/bad", requires("db.read", resource="sql_query:bad")(ran.endpoint("bad")))]))
    routes: list[BaseRoute] = [
        declared(Mount("/files", static)),
        Mount("/static", requires("db.read", resource="sql_query:bad")(StaticFiles(directory=tmp_path))),
        Mount("/hidden", hidden),
    ]
    checker = Recording(make_checker(document={"sql": ["good"]}))
    app = gated(routes, checker, public("/files", "/static", "/hidden"))
    assert await reason_for(app, http_scope("/files/a.txt")) == "not_in_allowlist"
    assert await reason_for(app, http_scope("/static/a.txt")) == "not_in_allowlist"
    assert await reason_for(app, http_scope("/hidden/bad")) == "not_in_allowlist"
    assert [id for _, id in checker.questions] == ["a.txt", "bad", "bad"]
    assert ran.names == []


async def test_fastapi_mounts_files_too(static: StaticFiles) -> None:
    app, router = fastapi.FastAPI(openapi_url=None), fastapi.APIRouter(prefix="/v1")
    app.mount("/static", static)
    router.mount("/files", static)
    app.include_router(router)
    gate = CapabilityMiddleware(app, settings=public("/static", "/files"), checker=make_checker())
    assert await status(gate, "/static/a.txt") == 200
    assert await status(gate, "/staticx/a.txt") == 403
    assert await status(gate, "/a.txt") == 403
    assert await status(gate, "/files/a.txt") == 200  # FastAPI leaves the prefix of a router away, of mounts
    assert await status(gate, "/v1/files/a.txt") == 403


class Seen(Wrapper):
    """Answers HTTP and WebSockets, and says where it was asked."""

    def __init__(self) -> None:
        self.paths: list[tuple[str, str]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.append((scope["type"], scope["path"]))
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 4000})
        else:
            await PlainTextResponse("seen")(scope, receive, send)


async def test_no_spelling_of_a_path_leads_out_of_a_public_mount() -> None:  # P-17
    """A path is never resolved: what begins with the mount goes to it, also with dots, and nothing else does."""
    inside, beside, ran = Seen(), Seen(), Ran()
    routes = [
        Mount("/out", routes=[Mount("/in", inside), Route("/r", ran.endpoint("r"))]),
        Mount("/beside", beside),
        Route("/x", ran.endpoint("x")),
    ]
    app = gated(routes, Recording(), public("/out/in"))
    within = ["/out/in/", "/out/in/z", "/out/in/../r", "/out/in//x", "/out/in/%2e%2e/r", "/out/in/../../x"]
    assert [await status(app, path) for path in within] == [200] * len(within)
    assert inside.paths == [("http", path) for path in within]
    outside = ["/x", "/out/r", "/out/in", "/out//in/z", "//out/in/z", "/out/inx", "/beside/x", "/out/../out/in/z"]
    assert [await status(app, path) for path in outside] == [403] * len(outside)
    for path, root in (("/x", "/out/in"), ("/out/in/z", "/out/in"), ("/beside/x", "/out/in"), ("/out/r", "/out/in")):
        assert await reason_for(app, {**http_scope(path), "root_path": root}) == "undeclared_route", (path, root)
    assert await reason_for(app, {**http_scope("/p/out/r"), "root_path": "/p"}) == "undeclared_route"
    assert (await Call({**http_scope("/p/out/in/z"), "root_path": "/p"}).to(app)).status == 200
    assert (beside.paths, ran.names) == ([], [])


async def test_a_websocket_is_opened_where_its_mount_is_public() -> None:  # P-17
    inside, beside = Seen(), Seen()
    app = gated([Mount("/in", inside), Mount("/beside", beside)], Recording(), public("/in"))
    closed = []
    for path in ("/in/ws", "/beside/ws", "/in"):
        call = Call({**http_scope(path), "type": "websocket", "scheme": "ws", "subprotocols": []})
        await call.to(app)
        closed.append([message.get("code") for message in call.sent if message["type"] == "websocket.close"])
    assert closed == [[4000], [1008], [1008]]
    assert (inside.paths, beside.paths) == ([("websocket", "/in/ws")], [])
