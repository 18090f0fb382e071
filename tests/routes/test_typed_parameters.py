"""Path parameters that FastAPI converts: one resource, however it is written, and the policy is asked about that."""

from __future__ import annotations

import datetime
import enum
import ipaddress
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType, Union
from uuid import UUID

import pytest
from fastapi import APIRouter, Depends, FastAPI, Path, WebSocket
from pydantic import BeforeValidator, StringConstraints
from pydantic_core import core_schema
from starlette.testclient import TestClient

from capgate.checker.local import LocalPolicyChecker
from capgate.fastapi import Requires
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.policy import RuntimePolicy
from capgate.routes.declare import requires

from ..support.asgi import Call, http_scope
from ..support.gates import Recording


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


# -- other types, and what start-up says


class Number(enum.IntEnum):
    SEVEN = 7


Slug = NewType("Slug", str)
OPEN = {"tools": "any"}


class Own(str):
    """Text of a class of its own, which FastAPI takes."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema(strip_whitespace=True))


def endpoint_of(annotation: Any) -> Any:
    async def endpoint(n: Any) -> str:
        return repr(n.normalize() if isinstance(n, Decimal) else n)

    endpoint.__annotations__["n"] = annotation
    return requires("tool.inspect", resource="tool:{n}", args={"n": "path:n"})(endpoint)


def gated_by(annotation: Any) -> tuple[FastAPI, Recording]:
    app, checker = FastAPI(), Recording(LocalPolicyChecker(RuntimePolicy.from_document(OPEN)))
    app.add_middleware(CapabilityMiddleware, checker=checker)
    app.get("/{n}")(endpoint_of(annotation))
    return app, checker


NUMBER = UUID("0b8f6f0c-5e5e-4f43-9d0e-5b0a3c2b1a00")
#: A type, spellings of one value, the id that is asked about, and the argument.
TYPES: dict[str, tuple[Any, list[str], str, Any]] = {
    "int": (int, ["7", "07", "+7", " 7"], "7", 7),
    "a constrained int": (Annotated[int, Path(ge=1, le=9)], ["7", "007"], "7", 7),
    "an int or text": (Union[int, None], ["7", "07"], "7", 7),
    "a flag": (bool, ["true", "1", "on"], "true", True),
    "a float": (float, ["7", "7.0", "07e0"], "7.0", 7.0),
    "an enumeration of numbers": (Number, ["7"], "7", 7),
    "a literal": (Literal["red", "blue"], ["red"], "red", "red"),
    "a UUID": (UUID, [str(NUMBER), str(NUMBER).upper(), NUMBER.hex, f"{{{NUMBER}}}"], str(NUMBER), str(NUMBER)),
    "stripped text": (Annotated[str, StringConstraints(strip_whitespace=True, to_upper=True)], ["a", " A "], "A", "A"),
    "a pattern": (Annotated[str, Path(pattern="^[a-z]+$")], ["abc"], "abc", "abc"),
    "a new type": (Slug, ["abc"], "abc", "abc"),
    "a decimal": (Decimal, ["7", "7.0", "07.00", "7e0"], "7", "7"),
    "a date": (datetime.date, ["2027-01-31"], "2027-01-31", "2027-01-31"),
}


@pytest.mark.parametrize("name", TYPES)
def test_each_spelling_is_one_resource_and_one_argument(name: str, caplog: pytest.LogCaptureFixture) -> None:
    annotation, spellings, id, argument = TYPES[name]
    app, checker = gated_by(annotation)
    with TestClient(app) as client:
        seen = {client.get(f"/{spelling}").text for spelling in spellings}
    assert len(seen) == 1, seen  # what the endpoint saw
    asked = [(question.resource and question.resource.id, question.args) for question, _ in checker.asked]
    assert asked == [(id, {"n": argument})] * len(spellings)
    assert type(asked[0][1]["n"]) is type(argument)
    assert not [text for text in caplog.messages if "path parameter" in text]


@pytest.mark.parametrize(("annotation", "path"), [(complex, "1j"), (ipaddress.IPv4Address, "10.0.0.1"), (Own, "a")])
def test_start_up_says_where_it_is_not_known_what_an_endpoint_sees(
    annotation: Any, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    app, checker = gated_by(annotation)
    with TestClient(app) as client:
        assert client.get(f"/{path}").status_code == 403
    (told,) = [text for text in caplog.messages if "path parameter" in text]
    assert all(part in told for part in ("'GET /{n}'", " n ", annotation.__name__))
    assert checker.asked == []


def test_start_up_says_where_functions_take_a_parameter_in_several_ways(caplog: pytest.LogCaptureFixture) -> None:
    with TestClient(application(OPEN)):
        pass
    told = [text for text in caplog.messages if "path parameter" in text]
    assert sorted(text.split("'")[1] for text in told) == ["GET /both/{n}", "GET /odd/{n}"]


def test_nothing_is_said_of_parameters_that_nobody_asks_about(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    app.add_middleware(CapabilityMiddleware, checker=LocalPolicyChecker(RuntimePolicy.from_document(OPEN)))

    @app.get("/{n}")
    @requires("tool.inspect", resource="tool:fixed")
    async def endpoint(n: complex) -> str:
        return str(n)

    with TestClient(app) as client:
        assert client.get("/1j").status_code == 200
    assert not [text for text in caplog.messages if "path parameter" in text]


def test_websockets_of_fastapi() -> None:
    app, checker = FastAPI(), Recording(LocalPolicyChecker(RuntimePolicy.from_document({"tools": ["7"]})))
    app.add_middleware(CapabilityMiddleware, checker=checker)

    @app.websocket("/ws/{n}")
    @requires("tool.inspect", resource="tool:{n}", args={"n": "path:n"})
    async def endpoint(websocket: WebSocket, n: int) -> None:
        await websocket.accept()
        await websocket.send_text(repr(n))
        await websocket.close()

    with TestClient(app) as client, client.websocket_connect("/ws/07") as session:
        assert session.receive_text() == "7"
    asked = [(question.resource and question.resource.id, question.args) for question, _ in checker.asked]
    assert asked == [("7", {"n": 7})]
