"""What was asked about is what the framework runs: routes that change, that match in part, and what is kept."""

from __future__ import annotations

import copy
import gc
import logging
import re
import weakref
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.routing import Host, Match, Mount, Route, Router, WebSocketRoute
from starlette.types import Receive, Scope, Send

from capgate.routes.canary import TESTED, check_framework, check_versions
from capgate.routes.dispatch import arm
from capgate.routes.framework import Unresolvable
from capgate.routes.pinned import View, pin
from capgate.routes.route_table import Table

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.seats import Seated
from .dispatching import Notes, Rewriting, asked, call, needs

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"

# -- routes that change while requests are served


@pytest.mark.parametrize("kind", [Router, APIRouter, "included"])
async def test_routes_that_come_and_go(kind: Any) -> None:
    notes = Notes()
    outer = (APIRouter if kind == "included" else kind)()
    router = APIRouter() if kind == "included" else outer
    outer.add_route("/first", notes.endpoint("first"))
    if router is not outer:
        router.add_route("/start", notes.endpoint("start"))
        outer.include_router(router, prefix="/i")
    prefix = "/i" if router is not outer else ""
    seated = Seated(outer)
    assert (await call(seated, f"{prefix}/a")).status == 403
    router.add_route("/a", notes.endpoint("a"))
    assert (await call(seated, f"{prefix}/a")).body == b"a"
    router.add_route("/b", notes.endpoint("b"))
    assert (await call(seated, f"{prefix}/b")).body == b"b"
    if router is outer:
        router.routes.insert(0, notes.route("/a", "before"))
        assert (await call(seated, "/a")).body == b"before"
        router.routes[0] = notes.route("/a", "instead")
        assert (await call(seated, "/a")).body == b"instead"
        router.routes.reverse()
        assert (await call(seated, "/a")).body == b"a"
        del router.routes[:]
        assert (await call(seated, "/a")).status == 403
        router.routes = [notes.route("/a", "another list")]
        assert (await call(seated, "/a")).body == b"another list"


async def test_a_route_that_equals_the_one_whose_place_it_takes() -> None:
    notes = Notes()
    endpoint = notes.endpoint("a")
    old, new = Route("/a", endpoint), Route("/a", endpoint, middleware=[Middleware(Rewriting, note="new")])
    router = Router([old])
    seated = Seated(router)
    await call(seated, "/a")
    assert old == new
    router.routes[0] = new
    scope = http_scope("/a")
    await Call(scope).to(seated)
    assert scope["note"] == "new"


async def test_a_route_that_appears_while_a_question_is_waited_for_does_not_run() -> None:
    notes = Notes()
    router = Router([notes.route("/a", "asked")])

    seated = Seated(router, during=lambda: router.routes.insert(0, notes.route("/a", "later")))
    await call(seated, "/a")
    assert (asked(seated), notes) == (["asked"], ["asked"])


async def test_one_router_mounted_twice_under_different_declarations() -> None:
    notes = Notes()
    router = Router([Route("/plain", notes.app("plain")), notes.route("/own", "own")])
    app = Starlette(
        routes=[
            needs("a", always=True)(Mount("/a", router)),
            needs("b")(Mount("/b", router)),
            Mount("/c", router),
            Host("h.example", needs("d", always=True)(Router([Mount("/d", router)]))),
        ]
    )
    for path, expected in {
        "/a/plain": ["a"],
        "/a/own": ["a", "own"],
        "/b/plain": ["b"],
        "/b/own": ["own"],
        "/c/plain": [],
        "/c/own": ["own"],
    }.items():
        seated = Seated(app)
        assert (await call(seated, path)).status == (200 if expected else 403), path
        assert asked(seated) == expected
    await call(seated, "/d/own", headers=(("host", "h.example"),))
    assert asked(seated) == ["d", "own"]


async def test_one_router_included_twice_under_different_declarations() -> None:
    notes = Notes()
    inner = APIRouter()
    inner.add_api_route("/plain", _plain(notes))
    first, second = needs("first", always=True)(APIRouter()), needs("second")(APIRouter())
    for around in (first, second):
        around.include_router(inner)
    app = FastAPI(openapi_url=None)
    app.include_router(first, prefix="/1")
    app.include_router(second, prefix="/2")
    app.include_router(inner, prefix="/3")
    seated = Seated(app)
    for prefix, expected in (("/1", ["first"]), ("/2", ["second"]), ("/3", [])):
        assert (await call(seated, f"{prefix}/plain")).status == (200 if expected else 403)
        assert asked(seated) == expected


def _plain(notes: Notes) -> Any:
    async def plain() -> str:
        notes.append("plain")
        return "plain"

    return plain


# -- what matches in part, or not at all


async def test_what_matches_in_part_does_not_run_where_its_class_could() -> None:
    notes = Notes()

    class Anyhow(Route):
        async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
            await self.app(scope, receive, send)

    app = needs("always", always=True)(Starlette(routes=[Anyhow("/a", notes.endpoint("a"), methods=["POST"])]))
    seated = Seated(app)
    assert (await call(seated, "/a")).status == 403
    assert notes == []
    assert (await call(Seated(Starlette(routes=[Anyhow("/a", notes.endpoint("a"))])), "/a")).status == 200


async def test_a_route_class_that_matches_in_its_own_way_is_judged_by_its_answer() -> None:
    notes = Notes()

    class ByHeader(Route):
        def matches(self, scope: Scope) -> tuple[Match, Scope]:
            scope["looked"] = True
            if (b"x", b"1") in scope["headers"]:
                return Match.FULL, {"endpoint": self.endpoint, "path_params": {}}
            return Match.NONE, {}

    app = Starlette(routes=[notes.route("/a", "a"), ByHeader("/x", notes.endpoint("x"))])
    seated = Seated(app, allow=lambda action, id: id == "a")
    assert (await call(seated, "/any", headers=(("x", "1"),))).status == 403
    assert asked(seated) == ["x"]
    assert (await call(seated, "/any")).status == 403
    assert (await call(seated, "/a", headers=(("x", "1"),))).status == 200
    assert notes == ["a"]


class Endless(Exception):
    pass


@pytest.mark.parametrize("error", [Endless(), RecursionError(), ValueError("x")])
async def test_an_error_on_the_way_is_a_denial(error: Exception) -> None:
    notes = Notes()

    class Raising(Route):
        def matches(self, scope: Scope) -> tuple[Match, Scope]:
            raise error

    seated = Seated(Starlette(routes=[Raising("/r", notes.endpoint("r")), notes.route("/a", "a")]))
    assert (await call(seated, "/a")).status == 403
    assert seated.last.causes == [error]
    assert notes == []


# -- the framework, and what was pinned


@pytest.mark.parametrize("fastapi", [False, True])
def test_the_framework_runs_what_was_pinned(fastapi: bool) -> None:
    check_framework.__wrapped__(fastapi)


@pytest.mark.parametrize(
    ("starlette", "fastapi", "named"),
    [
        ("0.49.1", "0.143.5", []),
        ("1.10.9", "0.165.7", []),
        ("1.0.0rc1", "0.150.0", []),
        ("0.49.0", "0.143.5", ["starlette"]),
        ("1.11.0", "0.143.4", ["starlette", "fastapi"]),
        ("2.0", "0.166.0", ["starlette", "fastapi"]),
        ("of unknown version", "1.0.0", ["starlette", "fastapi"]),
    ],
)
def test_versions_that_were_not_tested_are_named(
    starlette: str, fastapi: str, named: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("capgate.routes.canary._version", {"starlette": starlette, "fastapi": fastapi}.__getitem__)
    check_versions(logging.getLogger("capgate"))
    assert [name for name in ("starlette", "fastapi") if name in caplog.text] == named


@pytest.mark.skipif(not PYPROJECT.is_file(), reason="the source tree is not there")
@pytest.mark.parametrize("framework", sorted(TESTED))
def test_the_lowest_version_that_may_be_installed_is_the_lowest_that_is_tested(framework: str) -> None:  # G-15
    """With those versions ``.ci/run`` runs the tests of the gate: 0.139 of FastAPI denied what it should not."""
    lowest = ".".join(map(str, TESTED[framework][0]))
    bounds = set(re.findall(rf'"{framework}>=([0-9.]+)"', PYPROJECT.read_text()))
    assert bounds == {lowest}


def test_a_framework_that_looks_further_finds_nothing() -> None:
    router = Router([Route("/a", PlainTextResponse("a"))])
    found = Table(router).find(http_scope("/a"))
    assert found is not None
    view = View((pin(found),), None)
    for name in ("redirect_slashes", "default", "not_found", "url_path_for", "_match_low_priority", "lifespan_context"):
        assert not hasattr(view, name)


async def test_redirects_and_what_is_not_allowed_are_as_without() -> None:
    notes = Notes()
    app = needs("always", always=True)(
        Starlette(routes=[notes.route("/a/", "a"), notes.route("/p", "p", methods=["POST"]), notes.route("/p", "q")])
    )
    seated = Seated(app)
    redirected = await call(seated, "/a", query_string=b"x=1")
    assert (redirected.status, redirected.headers["location"]) == (307, "http://testserver/a/?x=1")
    assert (await call(seated, "/p", "DELETE")).headers["allow"] == "POST"
    assert (await call(seated, "/none")).status == 404
    assert (await call(seated, "/none", "websocket")).sent == [{"type": "websocket.close", "code": 1000, "reason": ""}]
    assert notes == []


async def test_what_is_always_asked_stands_before_redirects_too() -> None:
    app = needs("always", always=True)(Starlette(routes=[Route("/a/", RedirectResponse("/"))]))
    seated = Seated(app, allow=lambda action, id: False)
    assert [(await call(seated, path)).status for path in ("/a", "/none")] == [403, 403]


async def test_frontends_are_served_by_what_is_always_asked(tmp_path: Any) -> None:
    (tmp_path / "index.html").write_text("front")
    inner = APIRouter()
    inner.frontend("/", directory=str(tmp_path))
    for allowed in (True, False):
        app = needs("always", always=True)(FastAPI(openapi_url=None))
        app.include_router(inner, prefix="/f")
        seated = Seated(app, allow=lambda action, id, yes=allowed: yes)
        answer = await call(seated, "/f/", headers=(("accept", "text/html"),))
        assert (answer.status, answer.body) == ((200, b"front") if allowed else (403, b"refused"))


# -- how it is kept


async def test_nothing_of_a_request_is_kept() -> None:
    notes = Notes()
    seated = Seated(Starlette(routes=[Mount("/m", routes=[notes.route("/{p}", "a")])]))

    class Body:
        pass

    body = Body()
    seen = weakref.ref(body)
    gc.disable()
    try:
        await call(seated, "/m/x", body=body)
        del body
        assert seen() is None
    finally:
        gc.enable()


async def test_an_application_that_is_copied() -> None:
    notes = Notes()
    app = Router([notes.route("/a", "a")])
    Seated(app)
    copied = copy.copy(app)
    copied.routes = [notes.route("/b", "b")]
    assert (await call(Seated(app), "/a")).status == 200
    with pytest.raises(Unresolvable):  # what it calls is the application that it was copied from
        arm(copied)


def test_many_routes_below_one_head_are_not_all_asked() -> None:
    class Counting(Route):
        pass

    routes = [Route(f"/repos/{{owner}}/{{repo}}/r{number}", PlainTextResponse("")) for number in range(500)]
    table = Table(Router(routes))
    assert len(table.candidates("/repos/o/r/r499")) == 1
    assert len(table.candidates("/repos/o/r/none")) == 0
    slashes = "/" * 60_000
    assert len(table.candidates(slashes)) == 0


def test_websockets_and_http_at_one_path() -> None:
    routes = [WebSocketRoute("/a", PlainTextResponse("")), Route("/a", PlainTextResponse(""))]
    table = Table(Router(routes))
    for scope, index in ((websocket_scope("/a"), 0), (http_scope("/a"), 1)):
        found = table.find(scope)
        assert found is not None
        assert found[0].index == index
