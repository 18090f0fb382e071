"""Tries at start whether the framework runs what was pinned, and nothing else.

For each shape of router one route is pinned, and another one is asked for. A framework that runs the other one, or
none, chooses by something that :mod:`capgate.routes.pinned` does not have in hand.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from importlib.metadata import PackageNotFoundError, version
from logging import Logger
from typing import Any, Final

from starlette.responses import Response
from starlette.routing import Match, Mount, Route, Router
from starlette.types import Message, Receive, Scope, Send

from ..errors import ConfigError
from .pinned import View, pin
from .route_table import Table

#: The versions that the tests were run with, from the lowest to the newest.
TESTED: Final = {"starlette": ((0, 49, 1), (1, 10)), "fastapi": ((0, 143, 5), (0, 165))}
_PINNED, _ASKED = "/pinned/", "/asked/"


@functools.cache
def check_framework(fastapi: bool) -> None:
    """Raise :class:`~capgate.errors.ConfigError`, with the versions, unless the framework runs what was pinned.

    ``fastapi`` says whether FastAPI was imported: this is tried once for each of both.
    """
    for shape, router in _shapes() if not fastapi else _shapes_of_fastapi():
        try:
            ran = _run_pinned(router)
        except Exception as error:
            ran = f"{type(error).__name__}: {error}"
        if ran != _PINNED:
            raise ConfigError(
                "framework",
                f"{', '.join(versions())}, whose {shape} runs {ran!r} for {_PINNED!r}",
                "versions of starlette and FastAPI that run the route they are given",
            )


def check_versions(log: Logger) -> None:
    """Log which of the frameworks has a version that was not tested. Requests are asked about all the same."""
    untested = [name for name in TESTED if name in sys.modules and not _is_tested(name, _version(name))]
    if untested:
        log.warning("not tested with %s", ", ".join(shown for shown in versions() if shown.split()[0] in untested))


@functools.cache
def is_tested(name: str) -> bool:
    """Say whether the version of that framework is one that was tested."""
    return _is_tested(name, _version(name))


def _is_tested(name: str, shown: str) -> bool:
    """Say whether the numbers of the version are in the range that was tested; of the newest, any patch."""
    parts = tuple(int(part) for part in re.findall(r"[0-9]+", shown)[:3])
    lowest, newest = TESTED[name]
    return lowest <= parts and parts[: len(newest)] <= newest


def versions() -> list[str]:
    """Return the names and versions of the frameworks that are imported."""
    return [f"{name} {_version(name)}" for name in ("starlette", "fastapi") if name in sys.modules]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "of unknown version"


class _Endpoint:
    """An application that notes by which path it was reached."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "canary", "path": self._path})


def _shapes() -> Iterator[tuple[str, Any]]:
    yield "router", Router([Route(path, _Endpoint(path)) for path in (_ASKED, _PINNED)])
    yield "mount", Router([Mount(path, _Endpoint(path)) for path in (_ASKED, _PINNED)])


def _shapes_of_fastapi() -> Iterator[tuple[str, Any]]:
    from fastapi import APIRouter

    def filled(**options: Any) -> Any:
        router = APIRouter(**options)
        for path in (_ASKED, _PINNED):
            router.add_route(path, _Endpoint(path))  # type: ignore[arg-type]  # as Route takes them
        return router

    def of_functions() -> Any:
        router = APIRouter()
        for path in (_ASKED, _PINNED):
            router.add_api_route(path, _function(path))
        return router

    yield "APIRouter", filled()
    yield "APIRoute", of_functions()
    for name, inner in (("included router", filled()), ("included APIRoute", of_functions())):
        outer = APIRouter()
        outer.include_router(inner)
        yield name, outer
        around = APIRouter()
        around.include_router(outer)
        yield f"{name} in an included router", around


def _function(path: str) -> Any:
    async def endpoint() -> Response:
        return _Noted(path)

    return endpoint


class _Noted(Response):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "canary", "path": self._path})


def _run_pinned(router: Any) -> Any:
    """Ask for one route where the other is pinned, and return the path of what ran."""
    reached = Table(router).find(_scope(_PINNED))
    if reached is None or reached[1] is not Match.FULL:
        return None
    ran: list[Any] = []

    async def send(message: Message) -> None:
        ran.append(message.get("path"))

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    view = View((pin(reached),), getattr(router, "form_limits", None))
    running = type(router).app(view, _scope(_ASKED), receive, send)
    try:
        running.send(None)
    except StopIteration:
        return ran[0] if len(ran) == 1 else ran
    running.close()
    return "something that waits"


def _scope(path: str) -> Scope:
    stack = AsyncExitStack()
    scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": [], "query_string": b""}
    return {**scope, "router": None, "fastapi_middleware_astack": stack, "fastapi_inner_astack": stack}
