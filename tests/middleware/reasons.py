"""Settings that tell clients nothing, the reason of the event that a request causes, and an odd error."""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp, Scope

from capgate.settings.settings import Settings

from ..support.asgi import Call
from ..support.gates import (
    events,
)

QUIET = Settings(service="web-tests", mode="test")


async def reason_for(app: ASGIApp, scope: Scope, **options: Any) -> str | None:
    """The reason of the one denial event that the request causes; ``None`` where there is none."""
    with events() as found:
        await Call(scope, **options).to(app)
    assert len(found) <= 1
    return found[0]["reason"] if found else None


class Sudden(BaseException):
    """Like the panics of native extensions."""
