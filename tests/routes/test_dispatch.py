"""What is judged is what the router runs, however a request gets to it."""

from __future__ import annotations

import contextvars
import copy
import functools
import gc
import logging
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Host, Match, Mount, Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from capgate.routes.canary import check_framework, check_versions
from capgate.routes.declare import requires
from capgate.routes.dispatch import Dispatch, arm
from capgate.routes.framework import Unresolvable
from capgate.routes.pinned import View, pin
from capgate.routes.route_table import Table
from capgate.routes.seat import SEAT

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.seats import Seated


def needs(name: str, **options: Any) -> Callable[[Any], Any]:
    return requires("db.read", resource=f"sql_query:{name}", **options)


class Notes(list[str]):
    """Endpoints by name, which note here that they ran."""

    def endpoint(self, name: str) -> Any:
        async def endpoint(request: Request) -> Response:
            self.append(name)
            return PlainTextResponse(name)

        return needs(name)(endpoint)

    def route(self, path: str, name: str, **options: Any) -> Route:
        return Route(path, self.endpoint(name), **options)

    def app(self, name: str) -> ASGIApp:
        return Undeclared(self, name)


class Undeclared:
    def __init__(self, notes: Notes, name: str) -> None:
        self.notes = notes
        self.name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.notes.append(self.name)
        await PlainTextResponse(self.name)(scope, receive, send)


def asked(seated: Seated) -> list[str]:
    return [id for _, questions in seated.last.asked for _, id in questions]


def scope_of(path: str, method: str = "GET", **extra: Any) -> Scope:
    if method == "websocket":
        return websocket_scope(path, **extra)
    return http_scope(path, method, **extra)


async def call(app: ASGIApp, path: str, method: str = "GET", **extra: Any) -> Call:
    return await Call(scope_of(path, method, **extra)).to(app)


# -- where the scope is changed on the way


class Rewriting:
    """Middleware that changes the scope as it is told, in place or in a copy."""

    def __init__(self, app: ASGIApp, /, copies: bool = False, **changes: Any) -> None:
        self.app = app
        self.copies = copies
        self.changes = changes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.copies:
            scope = {**scope, **self.changes}
        else:
            scope.update(self.changes)
        await self.app(scope, receive, send)


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize(
    ("changes", "runs"),
    [
        ({"method": "DELETE"}, "delete"),
        ({"path": "/other"}, "other"),
        ({"root_path": "/x", "path": "/x/other"}, "other"),
        ({"path": "/sub/a"}, "sub-a"),
        ({"headers": [(b"host", b"h.example")]}, "host"),
    ],
)
@pytest.mark.parametrize("where", ["application", "mounted", "router", "mount", "route"])
async def test_what_runs_is_what_was_asked_about(where: str, changes: dict[str, Any], runs: str, copies: bool) -> None:
    notes = Notes()
    middleware = [Middleware(Rewriting, copies=copies, **changes)]

    def routes() -> list[BaseRoute]:
        return [
            Host("h.example", Router([notes.route("/{p:path}", "host")])),
            notes.route("/orders", "get"),
            notes.route("/orders", "delete", methods=["DELETE"]),
            notes.route("/other", "other"),
            Mount("/sub", routes=[notes.route("/a", "sub-a")]),
        ]

    app: Any
    if where == "application":
        app = Starlette(routes=routes(), middleware=middleware)
    elif where == "mounted":
        app = Starlette(routes=[Mount("", Starlette(routes=routes(), middleware=middleware))])
    elif where == "router":
        app = Starlette(routes=[Mount("", Router(routes(), middleware=middleware))])
    elif where == "mount":
        app = Starlette(routes=[Mount("", Router(routes()), middleware=middleware)])
    else:  # behind the choice of the route: what was chosen runs
        app = Starlette(routes=[notes.route("/orders", "get", middleware=middleware), *routes()])
        runs = "get"
    for allowed in (True, False):
        notes.clear()
        seated = Seated(app, allow=lambda action, id, yes=allowed: yes)
        await call(seated, "/orders")
        assert asked(seated) == [runs]
        assert notes == ([runs] if allowed else [])


class OwnCall(Starlette):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["path"] = scope["path"].replace("/pub", "/adm")
        await super().__call__(scope, receive, send)


class OwnStack(Starlette):
    def build_middleware_stack(self) -> ASGIApp:
        return Rewriting(super().build_middleware_stack(), path="/s/adm")


class Keeping:
    """Not a wrapper, though it looks like one: it calls something else than its ``app``."""

    def __init__(self, app: ASGIApp, other: ASGIApp) -> None:
        self.app = app
        self.other = other

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.other(scope, receive, send)


@pytest.mark.parametrize("kind", [OwnCall, OwnStack])
async def test_mounted_subclasses_that_change_the_path(kind: type[Starlette]) -> None:  # G-2
    notes = Notes()
    inner = kind(routes=[notes.route("/pub", "pub"), notes.route("/adm", "adm")])
    seated = Seated(Starlette(routes=[Mount("/s", inner)]), allow=lambda action, id: id == "pub")
    assert (await call(seated, "/s/pub")).status == 403
    assert asked(seated) == ["adm"]
    assert notes == []


async def test_a_router_that_nobody_saw_is_judged() -> None:
    notes = Notes()
    seen = Router([notes.route("/a", "seen")])
    hidden = Starlette(routes=[notes.route("/a", "hidden"), Route("/open", notes.app("undeclared"))])
    seated = Seated(Starlette(routes=[Mount("/m", Keeping(seen, hidden))]))
    assert (await call(seated, "/m/a")).body == b"hidden"
    assert asked(seated) == ["hidden"]
    assert (await call(seated, "/m/open")).status == 403
    seated = Seated(Starlette(middleware=[Middleware(Keeping, other=hidden)]), allow=lambda action, id: False)
    assert (await call(seated, "/a")).status == 403
    assert asked(seated) == ["hidden"]
    assert notes == ["hidden"]


async def test_what_is_declared_around_counts_for_a_router_that_nobody_saw() -> None:
    notes = Notes()
    hidden = Router([Route("/plain", notes.app("plain")), notes.route("/own", "own")])
    mount = Mount("/m", Keeping(Router(), hidden))
    needs("always", always=True)(needs("default")(mount))
    seated = Seated(Starlette(routes=[mount]))
    await call(seated, "/m/plain")
    assert asked(seated) == ["always", "default"]
    await call(seated, "/m/own")
    assert asked(seated) == ["always", "own"]
    needs("router", always=True)(hidden)
    await call(seated, "/m/own")
    assert asked(seated) == ["always", "router", "own"]


async def test_a_router_that_takes_the_place_of_another() -> None:
    notes = Notes()
    app = needs("app", always=True)(Starlette(routes=[notes.route("/a", "old")]))
    seated = Seated(app)
    app.router = Router([notes.route("/a", "new")])
    await call(seated, "/a")
    assert (asked(seated), notes) == (["app", "new"], ["new"])


async def test_a_cascade_judges_each_application_that_it_tries() -> None:
    notes = Notes()
    first, second = Router([notes.route("/a", "first")]), Router([notes.route("/b", "second")])

    class Cascade:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            statuses: list[int] = []

            async def note(message: Any) -> None:
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])

            await first(dict(scope), receive, note)
            await (second(scope, receive, send) if statuses != [200] else self.app(scope, receive, send))

    seated = Seated(Starlette(middleware=[Middleware(Cascade)]))
    await call(seated, "/b")
    assert (asked(seated), notes) == (["second"], ["second"])


# -- classes that dispatch in their own way


class OwnApp(Router):
    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.routes[0].handle(scope, receive, send)


class OwnRouterCall(Router):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.routes[0].handle(scope, receive, send)


class Hiding:
    ran: ClassVar[list[str]] = []

    def __init__(self, app: ASGIApp) -> None:
        self._hidden = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.ran.append("middleware")
        await self._hidden(scope, receive, send)


@pytest.mark.parametrize("below", [True, False])
@pytest.mark.parametrize("kind", [OwnApp, OwnRouterCall, "hiding"])
async def test_what_dispatches_in_its_own_way_is_refused_before_it_runs(kind: Any, below: bool) -> None:
    notes = Notes()
    routes: list[BaseRoute] = [notes.route("/a", "first")]
    router = Router(routes, middleware=[Middleware(Hiding)]) if kind == "hiding" else kind(routes)
    with pytest.raises(Unresolvable):
        arm(router)
    app = Mount("/m", router) if below else Mount("/m", Keeping(Router(), router))
    seated = Seated(Starlette(routes=[app]))
    if not below and kind is OwnRouterCall:
        return  # an application of its own, hidden behind another: nothing of starlette's router is called
    Hiding.ran.clear()
    assert (await call(seated, "/m/a")).status == 403
    assert (notes, Hiding.ran) == ([], [])
    assert isinstance(seated.last.causes[0], Unresolvable)


async def test_a_bound_app_of_a_router_is_no_way_past_it() -> None:
    notes = Notes()
    router = Router([notes.route("/a", "a")])
    arm(router)
    for app in (router.app, functools.partial(router.app), router.__call__, Rewriting(router.app)):
        seated = Seated(Starlette(routes=[Mount("/m", app)]), public=frozenset({"/m/{path:path}"}))
        assert (await call(seated, "/m/a")).status == 403
        assert isinstance(seated.last.causes[0], Unresolvable)
    assert notes == []


@pytest.mark.parametrize("where", ["beside", "inside"])
async def test_public_names_are_of_routes_that_are_seen(where: str) -> None:
    notes = Notes()
    hidden = needs("default")(Router([Route("/health", notes.app("hidden"))]))

    class Legacy:
        """Middleware behind which there is another application, below a path of its own."""

        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            legacy = scope["path"].startswith("/legacy")
            await (
                hidden({**scope, "root_path": "/legacy"}, receive, send) if legacy else self.app(scope, receive, send)
            )

    async def opaque(scope: Scope, receive: Receive, send: Send) -> None:
        await hidden(scope, receive, send)

    health = Route("/health", notes.app("health"))
    if where == "beside":
        app = Starlette(routes=[health], middleware=[Middleware(Legacy)])
    else:
        app = Starlette(routes=[health, Mount("/legacy", needs("opaque")(opaque))])
    seated = Seated(app, public=frozenset({"/health"}), allow=lambda action, id: id == "opaque")
    assert (await call(seated, "/health")).status == 200
    assert (await call(seated, "/legacy/health")).status == 403
    assert asked(seated)[-1] == "default"
    assert notes == ["health"]


def test_routers_with_middleware_are_armed_at_its_end() -> None:
    router = Router(middleware=[Middleware(Rewriting), Middleware(Rewriting)])
    dispatch = arm(router)
    assert arm(router) is dispatch
    assert router.middleware_stack.app.app is dispatch  # type: ignore[attr-defined]
    assert isinstance(dispatch, Dispatch)


# -- without a seat


async def test_without_a_seat_all_is_as_ever() -> None:
    notes = Notes()
    inner = Starlette(routes=[Route("/free", notes.app("free")), notes.route("/a", "a")])
    gated, free = Seated(inner), Starlette(routes=[Mount("/f", inner)])
    assert (await call(gated, "/free")).status == 403
    assert (await call(free, "/f/free")).status == 200
    assert (await call(inner, "/a")).status == 200
    assert notes == ["free", "a"]


async def test_a_scope_made_anew_is_refused_while_nothing_was_decided() -> None:
    notes = Notes()
    other = Router([Route("/a", notes.app("other"))])

    class Anew:
        def __init__(self, app: ASGIApp, target: ASGIApp | None = None) -> None:
            self.app = app
            self.target = target or app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await self.target({key: scope[key] for key in scope if key != SEAT}, receive, send)

    for target in (None, other):
        app = Starlette(routes=[notes.route("/a", "a")], middleware=[Middleware(Anew, target=target)])
        assert (await call(Seated(app), "/a")).status == 403
    assert notes == []


async def test_an_endpoint_that_was_allowed_may_call_what_it_likes() -> None:
    notes = Notes()
    other = Router([Route("/b", notes.app("b")), notes.route("/a", "a")])

    @needs("outer")
    async def endpoint(request: Request) -> Response:
        await Call(http_scope("/b")).to(other)
        call = await Call({**request.scope, "path": "/a"}).to(other)
        return PlainTextResponse(str(call.status))

    seated = Seated(Starlette(routes=[Route("/o", endpoint)]), allow=lambda action, id: id == "outer")
    assert (await call(seated, "/o")).body == b"403"  # what declares something is asked, also from inside
    assert (asked(seated), notes) == (["outer", "a"], ["b"])


async def test_inside_of_what_was_admitted_as_a_whole_only_declarations_count() -> None:
    notes = Notes()
    inner = Router([Route("/plain", notes.app("plain")), notes.route("/own", "own"), Mount("/m", notes.app("m"))])

    async def opaque(scope: Scope, receive: Receive, send: Send) -> None:
        await inner(scope, receive, send)

    app = Starlette(routes=[Mount("/o", needs("opaque")(opaque))])
    seated = Seated(app, allow=lambda action, id: id != "own")
    for path, status, questions in (
        ("/o/plain", 200, ["opaque"]),
        ("/o/own", 403, ["opaque", "own"]),
        ("/o/m/x", 200, ["opaque"]),
        ("/o/nowhere", 404, ["opaque"]),
    ):
        assert (await call(seated, path)).status == status, path
        assert asked(seated) == questions


async def test_another_context_is_no_way_past_the_gate() -> None:
    notes = Notes()

    class Elsewhere:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            running: Any = contextvars.Context().run(self.app, scope, receive, send)
            await running

    app = Starlette(routes=[Route("/plain", notes.app("plain"))], middleware=[Middleware(Elsewhere)])
    assert (await call(Seated(app), "/plain")).status == 403
    assert notes == []


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
