"""The OpenAPI document is described once for each version of the routes, and in mounted applications too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.routing import Mount

import capgate.routes
from capgate.routes.openapi import EXTENSION, describe
from capgate.routes.route_report import report_routes
from capgate.routes.target import find_target

from ..support.gates import read
from .applications import Wrapper, fresh


def nested(count: int, each: int = 20) -> FastAPI:
    """Routes in included routers, themselves in an included router."""
    app, outer = FastAPI(), APIRouter()
    endpoint = fresh("one")
    for start in range(0, count, each):
        inner = APIRouter()
        for number in range(start, start + each):
            inner.add_api_route(f"/r{number}", _plain(endpoint), methods=["GET"])
        outer.include_router(inner, prefix=f"/i{start}")
    app.include_router(outer, prefix="/v1")
    return app


def _plain(endpoint: Any) -> Any:
    async def plain() -> str:
        return "plain"

    return read("one")(plain)


@contextmanager
def calls() -> Iterator[list[str]]:
    """The functions of the room that are called meanwhile."""
    room = str(capgate.routes.__path__[0])
    found: list[str] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(room):
            found.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)


def shown(app: FastAPI) -> dict[str, list[str]]:
    paths = app.openapi()["paths"]
    return {
        path: [one["resource"] for one in operation.get(EXTENSION, [])]
        for path, operations in paths.items()
        for operation in operations.values()
    }


@pytest.mark.slow
def test_described_once_for_each_version_of_the_routes() -> None:  # G-5
    app = nested(40)
    describe(app, find_target(app))
    with calls() as first:
        assert set(map(tuple, shown(app).values())) == {("sql_query:one",)}
    with calls() as again:
        app.openapi()
    assert len(again) <= 3 < len(first)
    app.add_api_route("/later", _plain(None), methods=["GET"])
    assert shown(app)["/later"] == ["sql_query:one"]
    with calls() as again:
        app.openapi()
    assert len(again) <= 3


@pytest.mark.slow
@pytest.mark.parametrize("listing", [lambda app: report_routes(find_target(app)), lambda app: app.openapi()])
def test_what_listing_costs_grows_as_the_routes_do(listing: Any) -> None:  # G-5
    counts = []
    for count in (100, 400):
        app = nested(count)
        describe(app, find_target(app))
        app.openapi_schema = {"paths": {}}  # what FastAPI itself takes is not counted
        app._openapi_routes_version = app.router._get_routes_version()
        with calls() as found:
            listing(app)
        counts.append(len(found))
    assert counts[1] <= 4.2 * counts[0]


def test_mounted_applications_are_described_too() -> None:  # G-17
    inner, innermost, opaque = FastAPI(), FastAPI(), FastAPI()
    for app in (inner, innermost, opaque):
        app.add_api_route("/own", _plain(None), methods=["GET"])
        app.add_api_route("/none", _bare(), methods=["GET"])
    app = FastAPI()
    innermost_around = read("always", always=True)(Mount("/innermost", Wrapper(innermost)))
    inner.router.routes.append(innermost_around)
    router = APIRouter()
    router.mount("/inner", read("default")(inner))
    app.include_router(router, prefix="/v1")
    describe(app, find_target(app))
    assert shown(inner) == {"/own": ["sql_query:one"], "/none": ["sql_query:default"]}
    assert shown(innermost) == {
        "/own": ["sql_query:always", "sql_query:one"],
        "/none": ["sql_query:always", "sql_query:default"],
    }
    assert shown(opaque) == {"/own": [], "/none": []}


def _bare() -> Any:
    async def bare() -> str:
        return "bare"

    return bare
