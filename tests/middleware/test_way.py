"""What runs between a request and its answer, call by call, and through which rooms.

Nothing is timed here: the functions of capgate that are called are counted, so that what belongs at start-up, or is
needed for denials only, cannot creep onto the way of every request unseen.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Scope

import capgate
from capgate import CapabilityMiddleware, Settings, WasmArtifact, WasmPolicyChecker, WasmPool, build_policy, requires
from capgate.checker import CachedChecker

PACKAGE = str(Path(capgate.__file__).parent)

#: In this order, once each but for ``send``, which is called for each message of the response.
ALLOWED = [
    ("middleware/middleware", "__call__"),
    ("middleware/request", "enter_now"),
    ("routes/dispatch", "__call__"),
    ("routes/dispatch", "serve"),
    ("routes/route_table", "find"),
    ("middleware/request", "admit_now"),
    ("middleware/request", "_ask_now"),
    ("checker/wasm", "answer_now"),
    ("runtime/pool", "call"),
    ("runtime/abi/fixed", "ask"),
    ("middleware/seal", "send"),
    ("middleware/seal", "send"),
    ("middleware/request", "leave"),
]
#: The same where it was allowed before: no question is made, however many declarations there are.
REMEMBERED = [*ALLOWED[:6], ("checker/cached", "allowed"), *ALLOWED[-3:]]
#: What brings a parameter into the spelling of its kind.
SPELLED = [("model", "__post_init__"), ("spelling", "normal_id"), ("spelling", "normal_query")]
#: The same where the answer is a denial: an event, and a response of the middleware's own.
DENIED = [
    *ALLOWED[:7],
    ("routes/declare", "resource"),
    *SPELLED,
    ("checker/wasm", "answer_now"),
    ("runtime/pool", "call"),
    ("runtime/abi/fixed", "ask"),
    ("runtime/abi/canonical_abi", "denied"),
    ("runtime/abi/canonical_abi", "deny"),
    ("middleware/request", "_settle"),
    ("middleware/request", "_deny"),
    ("events", "new_decision_id"),
    ("middleware/request", "_duration_us"),
    *[
        ("events", name)
        for name in ("denied", "_emit", "_steady_fields", "_all_printable", "emit", "write", "__init__")
    ],
    *[("log_writer", name) for name in ("make", "write", "handlers_of", "split", "_have_written")],
    *[("events", "__str__")] * 2,  # for pytest's handlers, which take what is logged at once
    ("middleware/seal", "refuse"),
    ("middleware/request", "_shown_reason"),
    ("enforcement/response", "problem"),
    ("enforcement/response", "refuse"),
    ("enforcement/response", "_response"),
    *[("middleware/seal", "send"), ("middleware/seal", "_send_denied")] * 2,
    ("middleware/request", "leave"),
]
#: Rooms that a request passes through, at most.
ROOMS = {"allowed": 4, "denied": 7}


def rooms(calls: list[tuple[str, str]]) -> set[str]:
    """The rooms of these calls. The words that all of them use are none."""
    return {module.partition("/")[0] for module, _ in calls} - {"model", "spelling"}


class Named:
    """A user as starlette's newest versions have it."""

    is_authenticated = True

    def __init__(self, identity: str) -> None:
        self.identity = identity


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Message) -> None:
    pass


def called(app: ASGIApp, scope: Scope) -> list[tuple[str, str]]:
    """The functions of capgate, but for engines, that are called for one request, in which nothing is waited for."""
    calls: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(PACKAGE):
            module = name[len(PACKAGE) + 1 :].removesuffix(".py")
            if not module.startswith("runtime/engine"):
                calls.append((module, frame.f_code.co_name))

    request = app(scope, receive, send)
    sys.setprofile(note)
    try:
        request.send(None)  # type: ignore[attr-defined]  # ASGIApp says "awaitable", and it is a coroutine
    except StopIteration:
        pass
    finally:
        sys.setprofile(None)
    return calls


def scope_of(path: str, **more: Any) -> Scope:
    base = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b"", "state": {}}
    return {**base, **more}


@asynccontextmanager
async def served(engine: str, size: int | None = 0, *further: Route) -> AsyncIterator[Starlette]:
    @requires("db.read", resource="sql_query:a")
    async def fixed(request: Request) -> Response:
        return Response(b"")

    @requires("db.read", resource="sql_query:{name}")
    async def filled(request: Request) -> Response:
        return Response(b"")

    if size is None:
        fixed = requires("db.read", resource="sql_query:b")(fixed)
    artifact = WasmArtifact.from_bytes(build_policy({"sql": ["a", "b"]}))
    async with CachedChecker(WasmPolicyChecker(WasmPool(artifact, engine=engine)), size=size) as cached:
        checker = cached.inner if size == 0 else cached
        gate = Middleware(CapabilityMiddleware, settings=Settings(), checker=checker)
        yield Starlette(routes=[Route("/fixed", fixed), Route("/by/{name}", filled), *further], middleware=[gate])


async def test_the_way_of_an_allow(engine_name: str) -> None:
    async with served(engine_name) as app:
        # The first request starts the gate; the second writes, where the first wrote what stays.
        for _ in range(2):
            await app(scope_of("/fixed"), receive, send)
        assert called(app, scope_of("/fixed")) == ALLOWED
        assert len(rooms(ALLOWED)) <= ROOMS["allowed"]


async def test_the_way_of_what_was_allowed_before(engine_name: str) -> None:  # T-10
    async with served(engine_name, size=None) as app:
        for path in ("/fixed", "/by/a"):
            for _ in range(2):
                await app(scope_of(path), receive, send)
            assert called(app, scope_of(path)) == REMEMBERED
    assert len(rooms(REMEMBERED)) <= ROOMS["allowed"]


async def test_the_way_of_a_denial(engine_name: str) -> None:
    async with served(engine_name) as app:
        for _ in range(2):
            await app(scope_of("/by/z"), receive, send)
        assert called(app, scope_of("/by/z")) == DENIED
        assert len(rooms(DENIED)) <= ROOMS["denied"]


async def test_what_a_parameter_and_a_user_add(engine_name: str) -> None:
    async with served(engine_name) as app:
        for name in "ab":
            await app(scope_of(f"/by/{name}", user=Named("u")), receive, send)
        calls = called(app, scope_of("/by/a", user=Named("v")))
        added = [
            ("middleware/actors", "actor_from_user"),
            ("routes/declare", "resource"),
            *SPELLED,
        ]
        assert [call for call in calls if call not in added] == ALLOWED
        assert [call for call in calls if call in added] == added


async def test_two_declarations_are_two_questions_and_no_look_at_a_clock(engine_name: str) -> None:
    @requires("db.read", resource="sql_query:a")
    @requires("db.read", resource="sql_query:b")
    async def both(request: Request) -> Response:
        return Response(b"")

    async with served(engine_name, 0, Route("/both", both)) as app:
        for _ in range(2):
            await app(scope_of("/both"), receive, send)
        calls = called(app, scope_of("/both"))
        assert calls.count(("runtime/pool", "call")) == calls.count(("runtime/abi/fixed", "ask")) == 2
        assert ("checker/wasm", "is_over") not in calls
