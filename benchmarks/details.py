"""What a request costs where it is not the plain case: FastAPI, denied, a second declaration, cold caches."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.authentication import requires as starlette_requires
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from capgate import CapabilityMiddleware, Settings, requires
from capgate.checker import CachedChecker

from .asgi import ADDED, BARE, HeaderBackend, added_rows, contender, http_scope, require_status
from .checks import Checker, checkers
from .questions import ACTION, KIND, entry
from .report import Case, Row, ratio
from .requests import HEADER_PAIR, REMEMBERING, SIZE
from .targets import Target
from .timing import Contender

#: What a gate adds to a FastAPI request is at most so many times what Starlette's pair adds.
FASTAPI = 2.0
#: A second declaration costs at most so many µs, and a denial so many more than an allow.
SECOND_US, DENIED_US = 1.5, 12.0
#: Bytes that are written between two requests, so that little of what those need is in a cache of their core.
COLD_BYTES = 2_000_000

TABLES = {
    "fastapi": "One FastAPI request with a pydantic response, path parameter",
    "declarations": "One request, one and two declarations",
    "denied": "One request, allowed and denied, its log record written to a null handler",
    "cold": f"One request, {COLD_BYTES / 1e6:g} MB touched before it",
}
ONE, TWO = "one declaration", "two declarations"
ALLOWED, DENIED = "allowed", "denied"


class Query(BaseModel):
    """What the FastAPI endpoint answers with."""

    name: str
    rows: int
    tags: list[str]


async def run(rounds: int, seed: int) -> Case:
    """Each table in one interleaving."""
    case = Case("details")
    silence()
    async with gates() as own:
        case.rows += await _fastapi(own, rounds, seed)
        for name, checker in own.items():
            case.rows += await _declarations(name, checker, rounds, seed)
            case.rows += await _denied(name, checker, rounds, seed)
        case.rows += await _cold(own, rounds, seed)
        _targets(case, list(own))
    return case


def silence() -> None:
    """Have denials written to a handler that drops them, and nowhere else."""
    logger = logging.getLogger("capgate.decisions")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False


@asynccontextmanager
async def gates() -> AsyncIterator[dict[str, Checker | CachedChecker]]:
    """The checkers of ``checks``, and each as settings make it by default: with decisions remembered."""
    async with checkers(SIZE) as own:
        yield {**own, **{REMEMBERING.format(name): CachedChecker(checker, size=None) for name, checker in own.items()}}


def gated(app: Any, checker: Checker | CachedChecker) -> Any:
    """``app`` with a gate around it."""
    app.add_middleware(CapabilityMiddleware, settings=Settings(service="bench"), checker=checker)
    return app


# -- FastAPI


def fastapi_application(guard: Callable[[Any], Any] | None = None) -> FastAPI:
    """An application whose one route answers with a model; ``guard`` is put around its endpoint."""

    async def query(request: Request, name: str) -> Query:
        return Query(name=name, rows=3, tags=["a", "b"])

    app = FastAPI(openapi_url=None)
    app.post("/queries/{name}", response_model=Query)(query if guard is None else guard(query))
    return app


async def _fastapi(own: dict[str, Checker | CachedChecker], rounds: int, seed: int) -> list[Row]:
    apps = {BARE: fastapi_application(), HEADER_PAIR: fastapi_application(starlette_requires("authenticated"))}
    apps[HEADER_PAIR].add_middleware(AuthenticationMiddleware, backend=HeaderBackend())
    for name, checker in own.items():
        apps[_gate(name)] = gated(fastapi_application(requires(ACTION, resource=KIND + ":{name}")), checker)

    def scope(number: int) -> Scope:
        return http_scope(f"/queries/{entry(number % SIZE)}", "POST")

    return await _timed(TABLES["fastapi"], apps, scope, rounds, seed)


def _gate(checker: str) -> str:
    return f"CapabilityMiddleware, {checker}"


async def _timed(
    table: str, apps: dict[str, Any], scope: Callable[[int], Scope], rounds: int, seed: int, *, base: str = BARE
) -> list[Row]:
    for name, app in apps.items():
        await require_status(f"{name} in {table}", app, scope(0), (200,))
    contenders = [contender(name, app, scope) for name, app in apps.items()]
    return await added_rows(table, contenders, rounds, seed, base)


# -- Starlette


def application(*resources: str) -> Starlette:
    """An application whose one route declares to write to each of ``resources``."""
    endpoint: Any = _copied_endpoint()
    for resource in resources:
        endpoint = requires(ACTION, resource=resource)(endpoint)
    return Starlette(routes=[Route("/queries", endpoint, methods=["POST"])])


def _copied_endpoint() -> Any:
    async def endpoint(request: Request) -> Response:
        return Response(b"ok")

    return endpoint


def _scope(number: int) -> Scope:
    return http_scope("/queries", "POST")


async def _declarations(name: str, checker: Checker | CachedChecker, rounds: int, seed: int) -> list[Row]:
    first, second = f"{KIND}:{entry(1)}", f"{KIND}:{entry(2)}"
    one, two = f"{name}, {ONE}", f"{name}, {TWO}"
    apps = {one: gated(application(first), checker), two: gated(application(first, second), checker)}
    return await _timed(TABLES["declarations"], apps, _scope, rounds, seed, base=one)


async def _denied(name: str, checker: Checker | CachedChecker, rounds: int, seed: int) -> list[Row]:
    allowed, denied = f"{name}, {ALLOWED}", f"{name}, {DENIED}"
    apps = {
        allowed: gated(application(f"{KIND}:{entry(1)}"), checker),
        denied: gated(application(f"{KIND}:{entry(SIZE)}"), checker),
    }
    await require_status(allowed, apps[allowed], _scope(0), (200,))
    await require_status(denied, apps[denied], _scope(0), (403,))
    contenders = [contender(called, app, _scope) for called, app in apps.items()]
    return await added_rows(TABLES["denied"], contenders, rounds, seed, allowed)


async def _cold(own: dict[str, Checker | CachedChecker], rounds: int, seed: int) -> list[Row]:
    apps: dict[str, Any] = {BARE: application(), HEADER_PAIR: _paired()}
    for name, checker in own.items():
        apps[_gate(name)] = gated(application(f"{KIND}:{entry(1)}"), checker)
    for name, app in apps.items():
        await require_status(name, app, _scope(0), (200,))
    return await added_rows(TABLES["cold"], [_cold_contender(name, app) for name, app in apps.items()], rounds, seed)


def _paired() -> Starlette:
    endpoint = starlette_requires("authenticated")(_copied_endpoint())
    app = Starlette(routes=[Route("/queries", endpoint, methods=["POST"])])
    app.add_middleware(AuthenticationMiddleware, backend=HeaderBackend())
    return app


def _cold_contender(name: str, app: ASGIApp) -> Contender:
    """Touches :data:`COLD_BYTES` before each request, by one copy from one buffer to another."""
    source, target = bytes(COLD_BYTES // 2), memoryview(bytearray(COLD_BYTES // 2))

    def touch() -> None:
        target[:] = source

    return dataclasses.replace(contender(name, app, _scope), before=touch)


# -- targets


def _targets(case: Case, own: list[str]) -> None:
    def added(name: str, table: str) -> float | None:
        return case.median(name, TABLES[table], ADDED)

    for name in own:
        value = ratio(added(_gate(name), "fastapi"), added(HEADER_PAIR, "fastapi"))
        case.targets.append(Target(f"{_gate(name)}, FastAPI, to {HEADER_PAIR}", value, FASTAPI))
    for table, called, limit in (("declarations", TWO, SECOND_US), ("denied", DENIED, DENIED_US)):
        for name in own:
            more = added(f"{name}, {called}", table)
            what = "a second declaration, µs" if called == TWO else "denied, µs more than allowed"
            case.targets.append(Target(f"{_gate(name)}, {what}", None if more is None else more / 1e3, limit))
