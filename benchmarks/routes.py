"""What a gate adds with many routes: flat in Starlette, and in included routers of FastAPI."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from capgate import requires
from capgate.checker import CachedChecker, LocalPolicyChecker
from capgate.policy import RuntimePolicy

from .asgi import ADDED, BARE, IN_ALL, added_rows, contender, http_scope, require_status
from .details import gated, silence
from .questions import ACTION, KIND, document, entry
from .report import Case, ratio
from .targets import Target

SIZES = (10, 100, 500, 2_000)
#: The routes of one included router.
INCLUDED = 20
GATE = "CapabilityMiddleware, remembering"
FIRST, MIDDLE, LAST, UNKNOWN = PLACES = ("first route", "middle route", "last route", "unknown path")
#: From so many routes on a gated application is as quick as a bare one, but for the first routes,
MANY, AS_QUICK = 100, 1.0
#: and what the gate adds to the first one is what it adds in an application of ten, but for so much noise.
FIRST_GROWTH = 1.15
#: So many rounds are enough, and all that there is time for with 2,000 routes of seven milliseconds each.
ROUNDS = 60


def endpoint() -> Any:
    """A new endpoint, since a declaration is of one function."""

    async def endpoint(request: Request) -> Response:
        return Response(b"ok")

    return endpoint


def flat(count: int, guard: Callable[[Any], Any]) -> Starlette:
    """``count`` routes in one Starlette application."""
    return Starlette(routes=[Route(f"/{entry(number)}/{{id}}", guard(endpoint())) for number in range(count)])


def included(count: int, guard: Callable[[Any], Any]) -> FastAPI:
    """``count`` routes in routers that one FastAPI application includes."""
    app = FastAPI(openapi_url=None)
    for start in range(0, count, INCLUDED):
        router = APIRouter(prefix=f"/group{start // INCLUDED}")
        for number in range(start, min(start + INCLUDED, count)):
            router.add_api_route(f"/{entry(number)}/{{id}}", guard(endpoint()), response_model=None)
        app.include_router(router)
    return app


SHAPES: dict[str, Callable[[int, Callable[[Any], Any]], Any]] = {
    "Starlette, flat": flat,
    "FastAPI, included routers": included,
}


def paths(shape: str, count: int) -> dict[str, str]:
    """A path that reaches the route in each place; the last one reaches none."""

    def path(number: int) -> str:
        prefix = f"/group{number // INCLUDED}" if shape.startswith("FastAPI") else ""
        return f"{prefix}/{entry(number)}/7"

    return {FIRST: path(0), MIDDLE: path(count // 2), LAST: path(count - 1), UNKNOWN: "/nowhere/at/all"}


async def run(rounds: int, seed: int, sizes: Sequence[int] = SIZES) -> Case:
    """Each shape, size and place in an interleaving of its own: the gated application and the bare one."""
    case = Case("routes")
    silence()
    policy = LocalPolicyChecker(RuntimePolicy.from_document(document(3)))
    resource = f"{KIND}:{entry(1)}"
    for shape, build in SHAPES.items():
        for count in sizes:
            checker = CachedChecker(policy, size=None)
            bare = build(count, lambda endpoint: endpoint)
            gate = gated(build(count, requires(ACTION, resource=resource)), checker)
            for place, path in paths(shape, count).items():
                expected = (403, 404) if place == UNKNOWN else (200,)
                for name, app in ((BARE, bare), (GATE, gate)):
                    await require_status(f"{name}, {shape} of {count}", app, http_scope(path), expected)
                contenders = [contender(name, app, _scopes(path)) for name, app in ((BARE, bare), (GATE, gate))]
                called = table(shape, place)
                case.rows += await added_rows(called, contenders, min(rounds, ROUNDS), seed, column=column(count))
    case.targets += _targets(case, sizes)
    return case


def _scopes(path: str) -> Callable[[int], Any]:
    return lambda number: http_scope(path)


def table(shape: str, place: str) -> str:
    return f"{shape}, {place}"


def column(count: int) -> str:
    return f"{count:,}"


def _targets(case: Case, sizes: Sequence[int]) -> Iterator[Target]:
    def median(name: str, shape: str, place: str, count: int, what: str) -> float | None:
        return case.median(name, table(shape, place), f"{column(count)}, {what}")

    for shape in SHAPES:
        for count in sizes:
            if count >= MANY:
                for place in (MIDDLE, LAST, UNKNOWN):
                    taken = (median(name, shape, place, count, IN_ALL) for name in (GATE, BARE))
                    yield Target(f"{shape} of {count:,}, {place}, gated to bare", ratio(*taken), AS_QUICK)
                first = (median(GATE, shape, FIRST, size, ADDED) for size in (count, sizes[0]))
                yield Target(
                    f"{shape} of {count:,}, {FIRST}, added, to that of {sizes[0]}", ratio(*first), FIRST_GROWTH
                )
