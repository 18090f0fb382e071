"""Path parameters that FastAPI converts: one resource, however it is written, and the policy is asked about that."""

from __future__ import annotations

import datetime
import enum
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import pytest
from fastapi import APIRouter, Depends, FastAPI
from pydantic import BeforeValidator, StringConstraints

from capgate.checker.local import LocalPolicyChecker
from capgate.fastapi import Requires
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.policy import RuntimePolicy
from capgate.routes.declare import requires

from ..support.asgi import Call, http_scope


class Colour(enum.Enum):
    RED = "red"


def number_of(n: int) -> int:
    return n


DENIED_SEVEN = {
    "tools": "any",
    "rules": [{"effect": "deny", "actions": ["tool.inspect"], "resources": ["tool:7", "tool:true", "tool:red"]}],
}


def application(document: dict[str, Any]) -> FastAPI:
    app = FastAPI()
    app.add_middleware(CapabilityMiddleware, checker=LocalPolicyChecker(RuntimePolicy.from_document(document)))
    included, declared = APIRouter(), requires("tool.inspect", resource="tool:{n}")

    @app.get("/i/{n}")
    @declared
    async def whole(n: int) -> str:
        return str(n)

    @included.get("/included/{n}")
    @declared
    async def in_a_router(n: int) -> str:
        return str(n)

    @app.get("/asks/{n}", dependencies=[Requires("tool.inspect", resource="tool:{n}")])
    async def asks(n: int) -> str:
        return str(n)

    @app.get("/depends/{n}")
    @declared
    async def depends(number: Annotated[int, Depends(number_of)]) -> str:
        return str(number)

    @app.get("/both/{n}")
    @declared
    async def both(n: str, number: Annotated[int, Depends(number_of)]) -> str:
        return n

    @app.get("/stripped/{n}")
    @declared
    async def stripped(n: Annotated[str, StringConstraints(strip_whitespace=True, to_lower=True)]) -> str:
        return n

    @app.get("/decimal/{n}")
    @declared
    async def decimal(n: Decimal) -> str:
        return str(n)

    @app.get("/bool/{n}")
    @declared
    async def boolean(n: bool) -> str:
        return str(n)

    @app.get("/colour/{n}")
    @declared
    async def colour(n: Annotated[Colour, BeforeValidator(str.lower)]) -> str:
        return n.value

    @app.get("/odd/{n}")
    @declared
    async def odd(n: complex) -> str:
        return str(n)

    @app.get("/uuid/{n}")
    @declared
    async def uuid(n: UUID) -> str:
        return str(n)

    @app.get("/date/{n}")
    @declared
    async def date(n: datetime.date) -> str:
        return str(n)

    @app.get("/text/{n}")
    @declared
    async def text(n: str) -> str:
        return n

    app.include_router(included, prefix="/x")
    return app


async def status(app: FastAPI, path: str) -> int:
    return (await Call(http_scope(path, "GET")).to(app)).status


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    ("way", "spellings"),
    [
        *((way, ["7", "07", "+7", " 7", "7.0"]) for way in ("i", "x/included", "asks", "depends", "decimal")),
        ("bool", ["true", "TRUE", "1", "yes", "on"]),
        ("colour", ["red", "RED"]),
        ("stripped", ["7", " 7", "7 "]),
        ("both", ["7"]),
    ],
)
async def test_each_spelling_of_a_denied_parameter_is_denied(way: str, spellings: list[str]) -> None:  # P-3
    app, open_ = application(DENIED_SEVEN), application({"tools": "any"})
    ran = 0
    for spelling in spellings:
        reached = await status(open_, f"/{way}/{spelling}")
        ran += reached == 200
        assert reached in (200, 422)
        assert await status(app, f"/{way}/{spelling}") == (403 if reached == 200 else 422), spelling
    assert ran > len(spellings) // 2


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_each_spelling_of_an_allowed_parameter_is_allowed() -> None:
    number = "0b8f6f0c-5e5e-4f43-9d0e-5b0a3c2b1a00"
    app = application({"tools": ["7", number, "2027-01-31"]})
    for path in ("/i/07", "/x/included/+7", f"/uuid/{number.upper()}", f"/uuid/{number.replace('-', '')}", "/text/7"):
        assert await status(app, path) == 200, path
    assert await status(app, "/date/2027-01-31") == 200
    assert await status(app, "/i/8") == 403
    assert await status(app, "/text/07") == 403


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_has_no_one_text_is_denied() -> None:
    app = application({"tools": "any"})
    assert await status(app, "/odd/1j") == 403
    assert await status(app, "/both/7") == 200
    assert await status(app, "/both/07") == 403  # the endpoint sees one thing, a dependency another
