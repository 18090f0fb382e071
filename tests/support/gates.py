"""A policy, checkers that answer by it on every engine, and checkers that go wrong, for the tests of the gate."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from capgate.artifact.build import build_policy
from capgate.artifact.load import WasmArtifact
from capgate.checker.base import PolicyChecker
from capgate.checker.local import LocalPolicyChecker
from capgate.checker.wasm import WasmPolicyChecker
from capgate.limits import Limits
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.model import PolicyInfo, PolicyInput, PolicyResult
from capgate.policy import RuntimePolicy
from capgate.routes.declare import requires
from capgate.runtime.pool import WasmPool
from capgate.settings.settings import Settings

from ..support.engines import EXPECTED_ENGINES

_T = TypeVar("_T")

#: What checks are made with in these tests: the document in Python, and as a module on each engine.
KINDS = ("local", *EXPECTED_ENGINES)
POLICY: dict[str, Any] = {"name": "web", "version": "7", "sql": ["good", "other"]}
SETTINGS = Settings(service="web-tests", mode="test", expose_reasons=True)
#: Enough for a busy machine: no test here is about the deadline passing, unless it says so.
PATIENT = Limits(deadline=20.0)


def make_checker(
    kind: str = "local", document: dict[str, Any] = POLICY, *, size: int = 2
) -> LocalPolicyChecker | WasmPolicyChecker:
    if kind == "local":
        return LocalPolicyChecker(RuntimePolicy.from_document(document), limits=PATIENT)
    artifact = WasmArtifact.from_bytes(build_policy(document))
    return WasmPolicyChecker(WasmPool(artifact, size=size, engine=kind, limits=PATIENT))


class Recording:
    """Passes questions on to a real checker, and keeps each with its answer."""

    def __init__(self, inner: LocalPolicyChecker | WasmPolicyChecker | None = None) -> None:
        self.inner = inner or make_checker()
        self.asked: list[tuple[PolicyInput, PolicyResult]] = []

    @property
    def policy(self) -> PolicyInfo:
        return self.inner.policy

    async def start(self) -> None:
        await self.inner.start()

    async def check(self, input: PolicyInput) -> PolicyResult:
        result = await self.inner.evaluate(input)
        self.asked.append((input, result))
        return result

    @property
    def questions(self) -> list[tuple[str, str | None]]:
        return [(input.action, input.resource.id if input.resource else None) for input, _ in self.asked]


class Answering:
    """Somebody else's checker: it has ``check`` and nothing more, and answers or raises whatever it is told to."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    async def check(self, input: PolicyInput) -> PolicyResult:
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer  # type: ignore[no-any-return]


class Ran:
    """Endpoints that note that they ran, with the path parameters they were given."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def endpoint(self, name: str) -> Any:
        async def endpoint(request: Request) -> Response:
            self.names.append(name)
            return JSONResponse({"ran": name, "body": (await request.body()).decode("latin-1")})

        return endpoint

    def websocket(self, name: str) -> Any:
        async def endpoint(websocket: WebSocket) -> None:
            self.names.append(name)
            await websocket.accept()
            await websocket.close()

        return endpoint


def gated(
    routes: list[BaseRoute], checker: PolicyChecker | None = None, settings: Settings = SETTINGS, **options: Any
) -> Starlette:
    """A Starlette application with the gate added the usual way."""
    app = Starlette(routes=routes)
    app.add_middleware(CapabilityMiddleware, settings=settings, checker=checker or make_checker(), **options)
    return app


def example(ran: Ran, checker: PolicyChecker | None = None, settings: Settings = SETTINGS, **options: Any) -> Starlette:
    """``/good`` and ``/ws`` are allowed, ``/bad`` and ``/ws-bad`` are not, ``/undeclared`` says nothing."""
    routes: list[BaseRoute] = [
        Route("/good", read("good")(ran.endpoint("good")), methods=["GET", "POST"]),
        Route("/bad", read("bad")(ran.endpoint("bad")), methods=["GET", "POST"]),
        Route("/undeclared", ran.endpoint("undeclared")),
        Route("/by-name/{name:path}", read("{name}")(ran.endpoint("by-name"))),
        WebSocketRoute("/ws", read("good")(ran.websocket("ws"))),
        WebSocketRoute("/ws-bad", read("bad")(ran.websocket("ws-bad"))),
    ]
    return gated(routes, checker, settings, **options)


def read(query: str, **more: Any) -> Callable[[_T], _T]:
    return requires("db.read", resource=f"sql_query:{query}", **more)


#: An application without routes and without a declaration.
plain: ASGIApp = PlainTextResponse("plain")


@contextmanager
def events(level: int = logging.WARNING) -> Iterator[list[dict[str, Any]]]:
    """The decision events that are written meanwhile, as a handler of the standard logger sees them."""
    found: list[dict[str, Any]] = []

    class Handler(logging.Handler):
        never_blocks = True

        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.capgate)  # type: ignore[attr-defined]

    logger, handler = logging.getLogger("capgate.decisions"), Handler()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
