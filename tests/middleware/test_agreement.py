"""An endpoint runs only if the policy was asked about exactly what it declares, and allowed it.

Applications are generated: Starlette, FastAPI and bare routers, with routes, class-based endpoints, mounts, hosts,
included routers, converters, declarations around and inside, and root paths. Between the gate and the routers, and in
mounted applications, there is middleware, or a subclass, that changes method, path, root path and query, or answers
itself. Some applications are mounted twice, under different declarations, and some are called past the gate as well.
Routes come, go and change their order while requests are served. Each application is built twice from the same
plan, once with the gate and once without. What ran without it is what may run with it, and what the policy is to be
asked is what that endpoint declares, with the path parameters that the endpoint itself saw. Nothing here looks at how
the gate finds a route.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, Union

import msgspec
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.exceptions import FastAPIError
from hypothesis import HealthCheck, event, given, reject, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Host, Mount, Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from capgate.enforcement.current import capabilities_for, using
from capgate.fastapi import Requires
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.model import ANONYMOUS, Allow
from capgate.routes.declare import is_around, requires
from capgate.routes.route_report import report_routes
from capgate.routes.target import find_target
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.gates import PATIENT, Answering, Recording, make_checker
from ..support.tools import examples

#: Reading a cache is always allowed, reading the database if the number of the endpoint is even.
CHECKER = make_checker(document={"cache": "any", "sql": [f"e{number}" for number in range(0, 400, 2)]})
EVERYTHING = capabilities_for(Answering(Allow()), ANONYMOUS)
KINDS = {"cache.read": "namespace", "db.read": "sql_query"}

#: An action, a path parameter to put into the id, and for groups whether it is always asked.
Declaration = tuple[str, Union[str, None], bool]
#: What is asked for around an endpoint: always, and if it declares nothing. Action, number of who declares, parameter.
Question = tuple[str, int, Union[str, None]]
Around = tuple[tuple[Question, ...], tuple[Question, ...]]


class Meddling(msgspec.Struct, frozen=True):
    """What happens to the scope on the way; ``subclass`` says that an application does it itself."""

    changes: tuple[tuple[str, Any], ...] = ()
    copies: bool = False
    answers: bool = False
    subclass: bool = False


class Endpoint(msgspec.Struct, frozen=True):
    path: str
    kind: Literal["function", "class", "websocket", "opaque"]
    methods: tuple[str, ...]
    declared: tuple[Declaration, ...]
    public: bool
    dependency: tuple[Declaration, ...] = ()


class Group(msgspec.Struct, frozen=True):
    path: str
    kind: Literal["routes", "router", "starlette", "fastapi", "wrapped", "host", "include"]
    root_path: str
    declared: tuple[Declaration, ...]
    on_mount: bool
    children: tuple[Union[Endpoint, Group], ...]
    meddling: Meddling = Meddling()
    #: What is declared on a second mount of the same application, one segment further down, if there is one.
    twin: Union[tuple[Declaration, ...], None] = None


class Plan(msgspec.Struct, frozen=True):
    kind: Literal["starlette", "fastapi", "router"]
    root_path: str
    inside: bool
    declared: tuple[Declaration, ...]
    children: tuple[Union[Endpoint, Group], ...]
    meddling: Meddling = Meddling()
    unknown_routes: Literal["hide", "pass"] = "hide"


class Place(msgspec.Struct, frozen=True):
    """A way to an endpoint: the parameters of second mounts on it, the path as it is written, and what is around."""

    twins: frozenset[str]
    template: str
    around: Around


class Ran(msgspec.Struct, frozen=True):
    """An endpoint that ran: the questions that its declarations amount to, and whether it may run without any; the path
    of its route as it is written, and the parameters that it saw."""

    number: int
    questions: tuple[tuple[str, str], ...]
    public: bool
    template: str
    params: dict[str, Any]
    method: str


class Wrapper:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class Middle:
    def __init__(self, app: ASGIApp, how: Meddling) -> None:
        self.app = app
        self.how = how

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if self.how.answers and scope["type"] == "http" and scope["query_string"] == b"kept":
            await PlainTextResponse("kept")(scope, receive, send)
            return
        changes = {key: value for key, value in self.how.changes if key in scope}
        if self.how.copies:
            scope = {**scope, **changes}
        else:
            scope.update(changes)
        await self.app(scope, receive, send)


def meddled(app_class: Any, how: Meddling) -> Any:
    """A class of application that does by itself what middleware may do; or the class."""
    if not how.subclass:
        return app_class

    class Own(app_class):  # type: ignore[misc]
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await Middle(super().__call__, how)(scope, receive, send)

    return Own


def middleware_of(how: Meddling) -> list[Middleware]:
    return [] if how.subclass or how == Meddling() else [Middleware(Middle, how=how)]


class Application:
    """A plan, built. ``ran`` fills when it is called."""

    def __init__(self, plan: Plan) -> None:
        self.ran: list[Ran] = []
        self.public: set[str] = set()
        self._number = 0
        self._places: dict[int, list[Place]] = {}
        self._twins: frozenset[str] = frozenset()
        self.app: Any
        number, around = self._inside(plan.declared, ((), ()))
        self.around = around
        if plan.kind == "fastapi":
            self.app = fastapi(plan.root_path)
            self._fill(self.app, plan.children, "", around)
        else:
            build = Starlette if plan.kind == "starlette" else Router
            self.app = build(routes=self._routes(plan.children, "", around))
        declare(self.app, plan, number)
        if plan.kind != "router":
            self.app.user_middleware.extend(middleware_of(plan.meddling))

    def change(self, how: str) -> None:
        """Change the routes of the outermost router."""
        routes = getattr(self.app, "router", self.app).routes
        if how == "turn" and routes:
            routes.append(routes.pop(0))
        elif how == "drop" and routes:
            routes.pop()
        elif how == "add":
            added = Endpoint("/a", "function", ("GET",), (("cache.read", None, False),), False)
            routes[:0] = self._route(added, "", self.around)

    def _routes(self, children: Sequence[Endpoint | Group], prefix: str, around: Around) -> list[BaseRoute]:
        return [route for child in children for route in self._route(child, prefix, around)]

    def _route(self, child: Endpoint | Group, prefix: str, around: Around, included: str = "") -> list[BaseRoute]:
        if isinstance(child, Group) and child.kind != "host":
            return self._group(child, prefix, around)
        return [self._single(child, prefix, around, included)]

    def _single(self, child: Endpoint | Group, prefix: str, around: Around, included: str) -> BaseRoute:
        if isinstance(child, Endpoint):
            made = self._endpoint(child, prefix, around)
            if child.kind == "websocket":
                return WebSocketRoute(child.path, made)
            if child.kind == "opaque":
                return Mount(child.path, made)
            return Route(child.path, made, methods=None if child.kind == "class" else list(child.methods))
        number, around = self._inside(child.declared, around)
        inner = Router(self._routes(child.children, prefix + "h.example" + included, around))
        host = Host("h.example", inner)
        declare(host if child.on_mount else inner, child, number)
        return host

    def _group(self, child: Group, prefix: str, around: Around) -> list[BaseRoute]:
        """The mount of an application, and before it the second one, if there is one."""
        if child.twin is None:
            return [self._mount(child, prefix, around)[0]]
        # Of what is inside, the numbers are the same. What is built the second time only says what is around it there.
        twin, path = Group("", "router", "", child.twin, True, ()), f"{child.path}/{{tw{self._number}}}"
        twin_number, further = self._inside(child.twin, around)
        start = self._number
        mount, inside = self._mount(child, prefix, around)
        end, self._number, twins = self._number, start, self._twins
        self._twins |= {path.rpartition("{")[2].rstrip("}")}
        shared = msgspec.structs.replace(child, path=path, declared=() if child.on_mount else child.declared)
        if child.kind == "wrapped":
            shared = msgspec.structs.replace(shared, declared=child.declared)
        self._mount(shared, prefix, further)
        self._number, self._twins = end, twins
        middleware = middleware_of(child.meddling) if child.kind == "routes" else None
        return [declare(Mount(path, app=inside, middleware=middleware), twin, twin_number), mount]

    def _mount(self, child: Group, prefix: str, around: Around) -> tuple[Mount, ASGIApp]:
        """The mount of an application, and that."""
        number, around = self._inside(child.declared, around, wrapper=child.kind == "wrapped")
        inside: Any
        if child.kind == "fastapi":
            inside = fastapi(child.root_path, meddled(FastAPI, child.meddling))
            inside.user_middleware.extend(middleware_of(child.meddling))
            self._fill(inside, child.children, prefix + child.path, around)
        else:
            build = meddled(Starlette, child.meddling) if child.kind == "starlette" else Router
            options: dict[str, Any] = {} if child.kind == "routes" else {"middleware": middleware_of(child.meddling)}
            inside = build(routes=self._routes(child.children, prefix + child.path, around), **options)
        if child.kind == "wrapped":
            inside = Wrapper(declare(Wrapper(inside), child, number))
        mount = Mount(
            child.path, app=inside, middleware=middleware_of(child.meddling) if child.kind == "routes" else None
        )
        if child.kind != "wrapped":
            declare(mount if child.on_mount else inside, child, number)
        return mount, inside

    def _fill(
        self,
        target: Any,
        children: Sequence[Endpoint | Group],
        prefix: str,
        around: Around,
        included: str = "",
    ) -> None:
        """The same in FastAPI's own ways of adding routes. ``included`` is the prefix of included routers: FastAPI
        puts it behind the name of a host."""
        for child in children:
            if isinstance(child, Endpoint) and child.kind == "function":
                endpoint, asked = self._endpoint(child, prefix + included, around, asks=True)
                target.add_api_route(child.path, endpoint, methods=list(child.methods), dependencies=asked)
            elif isinstance(child, Endpoint) and child.kind == "websocket":
                target.add_api_websocket_route(child.path, self._endpoint(child, prefix + included, around))
            elif isinstance(child, Group) and child.kind == "include":
                router = APIRouter()
                number, within = self._inside(child.declared, around)
                self._fill(router, child.children, prefix, within, included + child.path)
                declare(router, child, number)
                target.include_router(router, prefix=child.path)
            else:
                router = target.router if isinstance(target, FastAPI) else target
                if isinstance(child, Group) and child.kind == "host":
                    router.routes.extend(self._route(child, prefix, around, included))
                else:
                    router.routes.extend(self._route(child, prefix + included, around))

    def _next(self, declared: tuple[Declaration, ...]) -> tuple[int, tuple[Question, ...]]:
        self._number += 1
        return self._number, tuple((action, self._number, parameter) for action, parameter, _ in declared)

    def _inside(
        self, declared: tuple[Declaration, ...], around: Around, *, wrapper: bool = False
    ) -> tuple[int, Around]:
        """What holds inside of a group: the nearest default counts, and all that is asked always."""
        number, questions = self._next(declared)
        always, default = around
        flagged = [(one, wrapper or is_always) for one, (_, _, is_always) in zip(questions, declared, strict=True)]
        asked = dict.fromkeys(one for one, is_always in flagged if is_always)  # each once, as elsewhere around
        nearest = tuple(one for one, is_always in flagged if not is_always)
        return number, ((*always, *asked), nearest or default)

    def _endpoint(self, child: Endpoint, prefix: str, around: Around, *, asks: bool = False) -> Any:
        number, own = self._next(child.declared)
        asked_by, asked = self._next(child.dependency if asks else ())
        template = prefix + child.path + ("/{path:path}" if child.kind == "opaque" else "")
        if child.public:
            self.public.add(template)
        self._places.setdefault(number, []).append(Place(self._twins, template, around))

        def note(connection: HTTPConnection) -> None:
            params: Mapping[str, Any] = connection.path_params
            twins = {name for name in params if name.startswith("tw")}
            (place,) = [place for place in self._places[number] if place.twins == twins]
            template, (always, default) = place.template, place.around
            event("reached by a second mount" if twins else "reached")
            public = template in self.public and not (always or own or asked)
            before = (*always, *(own or (() if public or asked else default)))
            questions = tuple(
                (action, resource_id(number, parameter).format(**params))
                for action, number, parameter in (*before, *asked)
            )
            method = connection.scope.get("method", "")
            self.ran.append(Ran(number, questions, public, template, dict(params), method))

        async def function(request: Request) -> Response:
            note(request)
            return PlainTextResponse("ran")

        async def websocket(websocket: WebSocket) -> None:
            note(websocket)
            await websocket.accept()
            await websocket.close()

        async def opaque(scope: Scope, receive: Receive, send: Send) -> None:
            note(HTTPConnection(scope))
            await PlainTextResponse("ran")(scope, receive, send) if scope["type"] == "http" else None

        class View(HTTPEndpoint):
            async def get(self, request: Request) -> Response:
                note(request)
                return PlainTextResponse("ran")

        made = {"function": function, "websocket": websocket, "opaque": opaque, "class": View}[child.kind]
        if child.kind == "class" and number % 3:  # declared on the method, or else on the class
            declare(View.get, child, number)
            return View
        declare(made, child, number)
        if not asks:
            return made
        return made, [
            Requires(action, resource=f"{KINDS[action]}:{resource_id(asked_by, parameter)}")
            for action, parameter, _ in child.dependency
        ]


def fastapi(root_path: str, app_class: Any = FastAPI) -> FastAPI:
    app: FastAPI = app_class(openapi_url=None)
    app.root_path = root_path  # as FastAPI(root_path=...) does, which warns that it is deprecated
    return app


def declare(target: Any, plan: Endpoint | Group | Plan, number: int) -> Any:
    for action, parameter, always in plan.declared:
        always = always and is_around(target)
        resource = f"{KINDS[action]}:{resource_id(number, parameter)}"
        target = requires(action, resource=resource, always=always)(target)
    return target


def resource_id(number: int, parameter: str | None) -> str:
    return f"e{number}" if parameter is None else f"e{number}-{{{parameter}}}"


# -- plans. Strategies are made once: making one costs far more than drawing from it.


@cache
def one_of(*choices: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(choices)


SEGMENTS = ("a", "b", "{p}", "{q}", "{n:int}", "{r:path}", "")
ENDPOINT_KINDS = one_of("function", "function", "function", "class", "websocket", "opaque")
GROUP_KINDS = one_of("routes", "router", "starlette", "fastapi", "wrapped", "host", "include", "include")
METHODS = one_of(("GET",), ("POST",), ("GET", "POST"))
ACTIONS = st.lists(one_of("cache.read", "cache.read", "db.read"), max_size=2)
PATHS = st.lists(one_of(*SEGMENTS), min_size=1, max_size=2).map(
    lambda segments: "".join("/" + segment for segment in dict.fromkeys(segments))
)


def parameters(path: str) -> tuple[str, ...]:
    return tuple(piece.partition("}")[0].partition(":")[0] for piece in path.split("{")[1:])


@st.composite
def declarations(draw: st.DrawFn, known: tuple[str, ...]) -> tuple[Declaration, ...]:
    parameter = one_of(None, None, *known)
    return tuple(
        (action, draw(parameter) if action == "cache.read" else None, draw(one_of(True, False)))
        for action in draw(ACTIONS)
    )


@st.composite
def endpoints(draw: st.DrawFn, known: tuple[str, ...]) -> Endpoint:
    kind = draw(ENDPOINT_KINDS)
    path = draw(one_of("/a", "/o", "") if kind == "opaque" else PATHS)
    declared = draw(cached(declarations, known + parameters(path)))
    dependency = draw(cached(declarations, known + parameters(path))) if draw(one_of(True, False, False)) else ()
    return Endpoint(path, kind, draw(METHODS), declared, not declared and draw(one_of(True, False)), dependency)


@st.composite
def groups(draw: st.DrawFn, known: tuple[str, ...], depth: int) -> Group:
    kind = draw(GROUP_KINDS)
    if kind == "host":
        path = ""
    elif kind == "include":
        path = draw(one_of("", "/a", "/i", f"/{{i{depth}}}"))
    else:
        path = draw(one_of("", "/a", "/b", f"/{{m{depth}}}", "/{p}"))
    inside = known + parameters(path)
    declared = draw(cached(declarations, inside)) if draw(one_of(True, False)) else ()
    root_path, on_mount = draw(one_of("", "", "/a", "/r")), draw(one_of(True, False))
    children = draw(trees(inside, depth + 1))
    twin = (
        draw(cached(declarations, inside))
        if kind not in ("host", "include") and draw(one_of(True, False, False))
        else None
    )
    return Group(path, kind, root_path, declared, on_mount, children, draw(MEDDLING), twin)


@cache
def cached(make: Any, *arguments: Any) -> st.SearchStrategy[Any]:
    made: st.SearchStrategy[Any] = make(*arguments)
    return made


@cache
def trees(known: tuple[str, ...], depth: int) -> st.SearchStrategy[tuple[Endpoint | Group, ...]]:
    leaf = cached(endpoints, known)
    child = leaf if depth == 3 else st.one_of(leaf, leaf, cached(groups, known, depth))
    return st.lists(child, min_size=1, max_size=3).map(tuple)


CHANGED = st.one_of(
    st.tuples(st.just("method"), one_of("GET", "POST", "HEAD", "get")),
    st.tuples(st.just("path"), one_of("/a", "/b", "/a/b", "/x", "/a/x", "/7", "/")),
    st.tuples(st.just("root_path"), one_of("", "/a", "/r")),
    st.tuples(st.just("query_string"), one_of(b"", b"kept")),
)
MEDDLING = st.one_of(
    st.just(Meddling()),
    st.builds(
        Meddling,
        st.lists(CHANGED, max_size=2).map(tuple),
        one_of(True, False),
        one_of(True, False, False),
        one_of(True, False),
    ),
)
PLANS = st.builds(
    Plan,
    one_of("starlette", "fastapi", "router"),
    one_of("", "", "/r", "/a"),
    one_of(True, False),
    st.one_of(st.just(()), cached(declarations, ())),
    trees((), 0),
    MEDDLING,
    one_of("hide", "pass"),
)


# -- requests


def targets(children: Sequence[Endpoint | Group], prefix: str = "") -> Iterator[str]:
    """The paths at which there is something, as templates."""
    for child in children:
        if isinstance(child, Endpoint):
            yield prefix + child.path + ("/x" if child.kind == "opaque" else "")
        else:
            yield from targets(child.children, prefix + child.path)
            if child.twin is not None:
                yield from targets(child.children, prefix + child.path + "/{tw}")


PIECES = {
    "int": one_of("7", "007", "-1", "9" * 5_000),
    "path": one_of("", "x/y", "/x", "..", "a"),
    "": one_of("a", "b", "x", "%2e", "ä"),
}
BEFORE = one_of("", "", "", "/r", "/a", "/r/")
AFTER = one_of(
    *[""] * 8, "/", "//", "/.", "/..", "/../a", ";x", "?x", "#", "\n", "\0", "\ufffd", "%00", "/a", " ", "\\", "\x85"
)  # fmt: skip
ROOT_PATHS = one_of("", "", "", "/r", "/r/", "/a", "/")
HEADERS = one_of((("host", "h.example"),), (("host", "x"),), (("host", "H.EXAMPLE:80"),), ())
CALLS = one_of("GET", "GET", "POST", "HEAD", "PUT", "get", "websocket")


@st.composite
def requests(draw: st.DrawFn, plan: Plan) -> Scope:
    path = draw(one_of(*targets(plan.children)))
    while "{" in path:
        before, _, rest = path.partition("{")
        name, _, after = rest.partition("}")
        path = before + draw(PIECES[name.partition(":")[2]]) + after
    path = draw(BEFORE) + path + draw(AFTER)
    root_path, headers, method = draw(ROOT_PATHS), draw(HEADERS), draw(CALLS)
    query = draw(one_of(b"", b"", b"kept"))
    if method == "websocket":
        return websocket_scope(path, root_path=root_path, headers=headers, query_string=query)
    return http_scope(path, method, headers, root_path=root_path, query_string=query)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Plan, list[tuple[str, Scope]]]:
    plan = draw(PLANS)
    return plan, [(draw(one_of("", "", "", "turn", "drop", "add")), draw(requests(plan))) for _ in range(6)]


# -- the property


async def call(app: ASGIApp, scope: Scope) -> Call:
    call = Call(dict(scope))
    try:
        await call.to(app)
    except Exception:
        event("the application raised")
    return call


@contextmanager
def quiet() -> Iterator[None]:
    logger = logging.getLogger("capgate")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


@pytest.mark.slow
@settings(
    max_examples=examples(120), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(case=cases())
async def test_an_endpoint_runs_only_if_the_policy_was_asked_about_it_and_allowed_it(
    case: tuple[Plan, list[tuple[str, Scope]]],
) -> None:
    plan, scopes = case
    try:
        free, gated, checker = Application(plan), Application(plan), Recording(CHECKER)
    except FastAPIError:  # prefix and path of an included route are both empty
        reject()
    options: dict[str, Any] = {
        "checker": checker,
        "settings": Settings(
            limits=PATIENT, public=tuple(sorted(gated.public - {""})), unknown_routes=plan.unknown_routes
        ),
    }
    app: ASGIApp = gated.app
    bare: ASGIApp = free.app
    outside: ASGIApp | None = None  # the way past the gate to the very application that is behind it
    if plan.inside and plan.kind != "router":
        gated.app.add_middleware(CapabilityMiddleware, **options)
    elif plan.kind == "router":
        bare, outside = Middle(free.app, plan.meddling), Middle(gated.app, plan.meddling)
        app = CapabilityMiddleware(outside, **options)
    else:
        outside, app = gated.app, CapabilityMiddleware(gated.app, **options)
    with quiet():
        for turn, (change, scope) in enumerate(scopes):
            free.change(change)
            gated.change(change)
            for part in (free.ran, gated.ran, checker.asked):
                part.clear()
            with using(EVERYTHING):  # for dependencies
                await call(bare, scope)
                if turn % 2 and outside is not None:
                    await call(outside, scope)
                    assert (gated.ran, checker.asked) == (free.ran, [])
                    gated.ran.clear()
            answer = await call(app, scope)
            hold(free.ran, gated.ran, checker, scope)
            assert b"kept" not in answer.body
            for ran in gated.ran:
                assert is_reported(ran, gated)


def hold(free: list[Ran], gated: list[Ran], checker: Recording, scope: Scope) -> None:
    answers = [type(result) is Allow for _, result in checker.asked]
    assert gated in ([], free)
    if gated:
        (ran,) = gated
        assert checker.questions == list(ran.questions)
        assert all(answers)
        assert ran.questions or ran.public
        event("ran: public" if not answers else "ran: asked once" if len(answers) == 1 else "ran: asked more than once")
    elif free:
        (missed,) = free
        clean = scope["path"].isascii() and scope["path"].isprintable()
        denied = not missed.questions and not missed.public
        event(
            "denied: undeclared" if denied else "denied: by the policy" if not all(answers) else "denied: unclean path"
        )
        assert denied or not all(answers) or (not clean and not answers)
    else:
        event("no endpoint")


def is_reported(ran: Ran, application: Application) -> bool:
    """Whether the report, and with it contracts and the OpenAPI document, says of the route what was asked."""
    for route in report_routes(find_target(application.app), frozenset(application.public - {""})):
        if route.template != ran.template or (route.methods and ran.method not in route.methods):
            continue
        if not route.missing and (route.status == "public") == ran.public:
            asked = [(one.action, one.resource(ran.params)) for one in (*route.requirements, *route.asked)]
            if {(action, resource.id) for action, resource in asked if resource} == set(ran.questions):
                return True
    return False
