"""A router with a dispatch answers as the same router without one, and asks about what runs, whatever the routes are.

Applications are generated, and each is built twice. One is left alone. What it answers, with the route, the router and
the parameters that its endpoints see, is what the other one has to answer.
"""

from __future__ import annotations

import re
import warnings
from typing import Any, Union

import msgspec
import pytest
from fastapi import APIRouter, FastAPI
from hypothesis import event, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Host, Match, Mount, Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from capgate.routes.declare import requires
from capgate.routes.route_table import Table, literal_head

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.seats import Seated
from ..support.tools import examples

PATHS = (
    "/a", "/a/b", "/a/{p}", "/{p}", "/{p}/b", "/{n:int}", "/a/{n:int}/b", "/{r:path}", "/a/{r:path}", "/a-{p}", "/a.b",
    "/a/", "/", "/ä/{p}", "/a{p}b", "/a+b", "/a/b/{p}/c", "/x|y", "/{f:float}",
)  # fmt: skip
METHODS = (("GET",), ("POST",), ("GET", "POST"), None)


class Leaf(msgspec.Struct, frozen=True):
    path: str
    shape: str
    methods: Union[tuple[str, ...], None]


class Below(msgspec.Struct, frozen=True):
    path: str
    shape: str
    children: tuple[Union[Leaf, Below], ...]


def strategies() -> st.SearchStrategy[Any]:
    leaf = st.builds(
        Leaf,
        st.sampled_from(PATHS),
        st.sampled_from(("function", "function", "class", "websocket", "opaque")),
        st.sampled_from(METHODS),
    )
    children: st.SearchStrategy[Any] = st.lists(leaf, min_size=1, max_size=4).map(tuple)
    for _ in range(2):
        below = st.builds(
            Below,
            st.sampled_from(("", "/a", "/a/b", "/{m}", "/b")),
            st.sampled_from(("router", "starlette", "fastapi", "host", "include", "include", "wrapped")),
            children,
        )
        children = st.lists(st.one_of(leaf, leaf, below), min_size=1, max_size=5).map(tuple)
    return children


class Wrapper:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class Built:
    """An application of a plan. ``ran`` are the numbers of the endpoints that ran."""

    def __init__(self, kind: type, children: tuple[Leaf | Below, ...]) -> None:
        self.ran: list[int] = []
        self.names: dict[int, str] = {}
        self._count = 0
        self.app: Any = kind(openapi_url=None) if kind is FastAPI else kind()
        self._fill(self.app if kind is FastAPI else getattr(self.app, "router", self.app), children)

    def _fill(self, router: Any, children: tuple[Leaf | Below, ...]) -> None:
        self.names[id(getattr(router, "router", router))] = f"r{len(self.names)}"
        for child in children:
            if isinstance(child, Leaf):
                self._leaf(router, child)
            elif child.shape == "include" and isinstance(router, (FastAPI, APIRouter)):
                inner = APIRouter()
                self._fill(inner, child.children)
                router.include_router(inner, prefix=re.sub("[{}]", "", child.path) or "/i")
            else:
                self._add(router, self._below(child))

    def _below(self, child: Below) -> BaseRoute:
        makers: dict[str, Any] = {"starlette": Starlette, "fastapi": lambda: FastAPI(openapi_url=None)}
        made = makers.get(child.shape, Router)()
        self._fill(made if isinstance(made, FastAPI) else getattr(made, "router", made), child.children)
        if child.shape == "host":
            return Host("{h}.example", made)
        return Mount(child.path, Wrapper(made) if child.shape == "wrapped" else made)

    def _add(self, router: Any, route: BaseRoute) -> None:
        getattr(router, "router", router).routes.append(route)

    def _leaf(self, router: Any, leaf: Leaf) -> None:
        self._count += 1
        number, action = self._count, requires("db.read", resource=f"sql_query:e{self._count}")
        if leaf.shape == "websocket":

            async def session(websocket: WebSocket) -> None:
                self.ran.append(number)
                await websocket.accept()
                await websocket.send_json(self._seen(websocket.scope, number))
                await websocket.close()

            self._add(router, WebSocketRoute(leaf.path, action(session)))
            return
        if leaf.shape == "opaque":

            async def opaque(scope: Scope, receive: Receive, send: Send) -> None:
                self.ran.append(number)
                if scope["type"] == "http":
                    await JSONResponse(self._seen(scope, number))(scope, receive, send)
                else:
                    await send({"type": "websocket.close", "code": 1000, "reason": ""})

            self._add(router, Mount(re.sub("[{}:]", "", leaf.path), action(opaque)))
            return
        if leaf.shape == "class":

            class View(HTTPEndpoint):
                async def get(view, request: Request) -> Response:
                    self.ran.append(number)
                    return JSONResponse(self._seen(request.scope, number))

            self._add(router, Route(leaf.path, action(View), methods=leaf.methods))
            return

        async def endpoint(request: Request) -> Response:
            self.ran.append(number)
            return JSONResponse(self._seen(request.scope, number))

        if isinstance(router, (FastAPI, APIRouter)):
            path = leaf.path.replace(":int", "").replace(":float", "")
            router.api_route(path, methods=list(leaf.methods or ("GET",)))(action(endpoint))
        else:
            self._add(router, Route(leaf.path, action(endpoint), methods=leaf.methods))

    def _seen(self, scope: Scope, number: int) -> dict[str, Any]:
        route = scope.get("route")
        return {
            "number": number,
            "params": {key: str(value) for key, value in scope["path_params"].items()},
            "root_path": scope.get("root_path"),
            "app_root_path": scope.get("app_root_path"),
            "path": scope["path"],
            "router": self.names[id(scope["router"])],
            "route": f"{type(route).__module__}.{type(route).__qualname__} {getattr(route, 'path', None)}",
            "endpoint": getattr(scope["endpoint"], "__qualname__", "object"),
            "keys": sorted(key for key in scope if key != "capgate.seat"),
        }


TEXTS = st.sampled_from(
    ("/a", "/a/b", "/a/", "/a/7/b", "/7", "/a/b/", "/x", "/", "", "/a/b/c", "/a/b/x/c", "/a-1", "/a.b", "/axb", "/ä/ö",
     "/a\n", "/a/b\n", "//a", "/a//b", "/a/a/b", "/b/a", "/b/a/b", "/m/a", "/m/a/b", "/a/b/a", "/a+b", "/x|y", "/1.5",
     "/a/a", "/a/b/a/b", "/a/b/7", "/b/b", "/ä", "/a/{p}", "/m/m", "/m", "/a/m", "/b", "/a%20b", "/a/x\n/c")
)  # fmt: skip
REQUESTS = st.tuples(
    TEXTS,
    st.sampled_from(("GET", "GET", "GET", "POST", "HEAD", "DELETE", "websocket")),
    st.sampled_from(("", "", "", "/a", "/r", "/a/")),
    st.sampled_from(("x", "v.example", "V.example:80")),
)


def scope_of(request: tuple[str, str, str, str]) -> Scope:
    path, method, root_path, host = request
    if method == "websocket":
        return websocket_scope(root_path + path, root_path=root_path, headers=(("host", host),))
    return http_scope(root_path + path, method, (("host", host),), root_path=root_path)


async def answer(built: Built, app: ASGIApp, request: tuple[str, str, str, str]) -> tuple[Any, list[int]]:
    built.ran.clear()
    call = Call(scope_of(request))
    try:
        await call.to(app)
    except Exception as error:
        return repr(error), list(built.ran)
    return call.sent, list(built.ran)


KINDS = st.sampled_from((Starlette, FastAPI, Router, APIRouter))


@pytest.mark.slow
@settings(max_examples=examples(120))
@given(kind=KINDS, children=strategies(), requests=st.lists(REQUESTS, min_size=3, max_size=8))
async def test_as_without(kind: type, children: Any, requests: list[tuple[str, str, str, str]]) -> None:
    bare, gated, around, passing = (Built(kind, children) for _ in range(4))
    seated, passed = Seated(gated.app), Seated(passing.app, passes=True)
    always = Seated(requires("env.read", resource="env_var:X", always=True)(around.app))
    for request in requests:
        expected, ran = await answer(bare, bare.app, request)
        assert (expected, ran) == await answer(gated, gated.app, request), "without a seat"

        found, reached = await answer(gated, seated, request)
        last = seated.last
        if ran:
            assert (found, reached) == (expected, ran)
            assert last.asked == [("declared", (("db.read", f"e{ran[0]}"),))]
        elif not reached and expected != found:
            assert last.refusals == 1
            assert not any(last.allow for _, questions in last.asked if questions) or type(expected) is str
        event("ran" if ran else "no endpoint ran")

        found, reached = await answer(passing, passed, request)
        assert reached == ran
        if passed.last.refusals:
            assert not ran
            event("passed: no, and there is something opaque, or a websocket")
        else:
            assert found == expected
        if not ran and request[1] != "websocket" and not passed.last.causes:
            assert not passed.last.refusals, passed.last.asked

        found, reached = await answer(around, always, request)
        if type(expected) is str:  # what a converter raises is a denial; what is raised where nothing matches is not
            assert found == expected or always.last.refusals
            continue
        if always.last.causes:  # below an opaque mount, or where an endpoint cannot be told
            assert not reached
            continue
        assert (found, reached) == (expected, ran)
        assert all(questions[0][0] == "env.read" for _, questions in always.last.asked)


@pytest.mark.slow
@settings(max_examples=examples(300))
@given(kind=KINDS, children=strategies(), requests=st.lists(REQUESTS, min_size=1, max_size=12))
def test_the_table_finds_what_a_linear_search_finds(kind: type, children: Any, requests: list[Any]) -> None:
    app = Built(kind, children).app
    router: Any = getattr(app, "router", app)
    table = Table(router)
    for request in requests:
        scope = scope_of(request)
        full = partial = None
        for route in router.routes:
            match, child = route.matches(scope)
            if match is Match.FULL:
                full = route, match, child
                break
            if match is Match.PARTIAL and partial is None:
                partial = route, match, child
        expected = full or partial
        found = table.find(scope)
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            entry, match, child = found
            assert (entry.top, match) == (expected[0], expected[1])
            assert entry.top is expected[0]
            if not entry.chain:
                assert child == expected[2]


REGEXES = st.text(st.sampled_from("ab/|()[]?*+{}\\.^$-_ \nä1,"), max_size=10).map(lambda text: "^" + text + "$")


@pytest.mark.slow
@settings(max_examples=examples(600))
@given(
    st.one_of(REGEXES, REGEXES.map(lambda text: text[:-1])), st.text(st.sampled_from("ab/|.^$-_ \nä1,("), max_size=8)
)
def test_a_literal_head_rules_out_nothing_that_matches(pattern: str, path: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "possible nested set": what is meant is what it does
            regex = re.compile(pattern)
    except (re.error, OverflowError):
        return
    head, whole = literal_head(regex)
    if regex.match(path):
        event("matches")
        assert path.startswith(head)
        assert not whole or path in (head, head + "\n")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("^/a$", ("/a", True)),
        ("^/a/(?P<x>[^/]+)$", ("/a/", False)),
        ("^/a\\.b$", ("/a.b", True)),
        ("^/a|/b$", ("", False)),
        ("^/a(?P<x>b|c)$", ("/a", False)),
        ("^/ab?$", ("/a", False)),
        ("^/ab{0}$", ("/a", False)),
        ("^/a\\d$", ("/a", False)),
        ("^(?P<x>.*)$", ("", False)),
        ("/a$", ("", False)),
    ],
)
def test_literal_heads(pattern: str, expected: tuple[str, bool]) -> None:
    assert literal_head(re.compile(pattern)) == expected


@pytest.mark.parametrize("flags", [re.IGNORECASE, re.VERBOSE, re.MULTILINE, re.DOTALL, re.ASCII])
def test_flags_leave_no_head(flags: re.RegexFlag) -> None:
    assert literal_head(re.compile("^/a$", flags)) == ("", False)
