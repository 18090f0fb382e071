"""What is judged is what the router runs, however a request gets to it."""

from __future__ import annotations

import contextvars
import functools
from typing import Any, ClassVar

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Host, Mount, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from capgate.routes.dispatch import Dispatch, arm
from capgate.routes.framework import Unresolvable
from capgate.routes.seat import SEAT

from ..support.asgi import Call, http_scope
from ..support.seats import Seated
from .dispatching import Notes, Rewriting, asked, call, needs

# -- where the scope is changed on the way


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
