"""An application with one handler, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Scope

from capgate.limits import Limits
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope
from ..support.gates import gated, read

GOOD, BAD = ("db.read", "sql_query:good"), ("db.read", "sql_query:bad")
PATIENT = Settings(service="web-tests", mode="test", expose_reasons=True, limits=Limits(deadline=20.0))


def at(handler: Callable[[Request], Any], checker: Any = None, settings: Settings = PATIENT, **options: Any) -> Any:
    """An application with ``handler`` at ``/``, where everybody may read ``good``."""
    return gated([Route("/", read("good")(handler), methods=["GET", "POST"])], checker, settings, **options)


async def answer(app: Any, scope: Scope | None = None) -> Any:
    call = await Call(scope or http_scope("/")).to(app)
    assert call.status == 200, call.body
    return call.json


def names(results: list[Any]) -> list[str]:
    return [type(result).__name__ for result in results]
