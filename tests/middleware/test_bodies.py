"""Bodies that are hashed where that is declared, and still reach the application."""

from __future__ import annotations

import hashlib
import socket
from typing import Any

import msgspec
import pytest
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from capgate.limits import Limits
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.routes.declare import Requirement
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.gates import (
    PATIENT,
    SETTINGS,
    Ran,
    Recording,
    events,
    gated,
    make_checker,
    read,
)
from ..support.serving import served
from .reasons import reason_for

# -- the body


def body_app(ran: Ran, checker: Any, limit: int = 100, limits: Limits = PATIENT) -> Any:
    settings = Settings(body_bytes=limit, limits=limits, expose_reasons=True)
    endpoint = read("good", args_hash="body")(read("other")(ran.endpoint("body")))
    return gated([Route("/", endpoint, methods=["POST"])], checker, settings)


def chunks(*parts: bytes) -> list[dict[str, Any]]:
    return [
        {"type": "http.request", "body": part, "more_body": number < len(parts)} for number, part in enumerate(parts, 1)
    ]


@pytest.mark.parametrize(
    "parts", [[b""], [b"hello"], [b"he", b"", b"llo"], [b"x" * 100], [bytes([n]) for n in range(100)]]
)
async def test_a_body_is_hashed_where_declared_and_still_reaches_the_application(parts: list[bytes]) -> None:
    ran, checker = Ran(), Recording()
    call = await Call(http_scope(method="POST"), chunks(*parts)).to(body_app(ran, checker))
    digests = {question.resource.id: question.args_hash for question, _ in checker.asked if question.resource}
    assert digests == {"good": hashlib.sha256(b"".join(parts)).hexdigest(), "other": None}
    assert call.json["body"] == b"".join(parts).decode("latin-1")


async def test_after_the_body_the_application_hears_of_the_disconnect() -> None:
    heard: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        heard.extend([(await receive())["type"], (await receive())["type"]])

    requirement = Requirement.parse("db.read", resource="sql_query:good", args_hash="body")
    gate = CapabilityMiddleware(app, settings=SETTINGS, checker=make_checker(), resolver=lambda scope: requirement)
    await Call(http_scope(method="POST"), chunks(b"a", b"b")).to(gate)
    assert heard == ["http.request", "http.disconnect"]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (chunks(b"x" * 101), "malformed_input"),
        (chunks(b"x" * 60, b"x" * 41), "malformed_input"),
        ([{"type": "http.disconnect"}], "malformed_input"),
        ([*chunks(b"x", b"y")[:1], {"type": "http.disconnect"}], "malformed_input"),
        ([{"type": "http.request", "body": None}], "internal_error"),
        ([{}], "internal_error"),
    ],
)
async def test_bodies_that_are_denied(messages: list[dict[str, Any]], reason: str) -> None:
    ran, checker = Ran(), Recording()
    assert await reason_for(body_app(ran, checker), http_scope(method="POST"), messages=messages) == reason
    assert (ran.names, checker.asked) == ([], [])


@pytest.mark.parametrize("limit", ["body_seconds", "body_idle_seconds"])
@pytest.mark.parametrize("parts", [[], chunks(b"x", b"y")[:1], [{"type": "http.request", "more_body": True}]])
async def test_a_body_that_never_comes_is_denied(limit: str, parts: list[dict[str, Any]]) -> None:
    ran = Ran()
    app = body_app(ran, None, limits=msgspec.structs.replace(PATIENT, **{limit: 0.03}))
    with events() as found:
        await Call(http_scope(method="POST"), parts, hangs=True).to(app)
    assert [event["reason"] for event in found] == ["body_timeout"]
    assert f"BodyTimeout: {limit} are 0.03" in found[0]["cause"]
    assert ran.names == []


async def test_a_websocket_has_no_body() -> None:
    from starlette.routing import WebSocketRoute

    ran = Ran()
    app = gated([WebSocketRoute("/", read("good", args_hash="body")(ran.websocket("ws")))])
    assert await reason_for(app, websocket_scope("/")) == "malformed_input"
    assert ran.names == []


async def test_a_body_is_not_read_unless_declared() -> None:
    received = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        received.append(receive)

    good = Requirement.parse("db.read", resource="sql_query:good")
    gate = CapabilityMiddleware(app, settings=SETTINGS, checker=make_checker(), resolver=lambda scope: good)
    call = Call(http_scope(method="POST"))
    await call.to(gate)
    assert call.received == 0
    assert received == [call.receive]


# -- what strangers see of it


async def test_only_a_route_that_hashes_a_body_waits_for_one() -> None:  # S18, G-12
    """So whoever holds a body back can tell such a route from an unknown path, which README says."""
    routes = [
        Route("/hashed", read("bad", args_hash="body")(Ran().endpoint("it")), methods=["POST"]),
        Route("/denied", read("bad")(Ran().endpoint("it")), methods=["POST"]),
    ]
    app = gated(list(routes), settings=Settings(limits=Limits(body_seconds=0.05)))
    waits = {}
    for path in ("/hashed", "/denied", "/unknown"):
        call = await Call(http_scope(path, "POST"), [], hangs=True).to(app)
        assert call.status == 403
        assert sorted(call.json) == ["decision_id", "status", "title", "type"]
        waits[path] = call.received
    assert waits == {"/hashed": 1, "/denied": 0, "/unknown": 0}


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_a_server_asks_for_a_body_that_is_held_back_only_where_it_is_hashed(http: str) -> None:  # S18, G-12
    route = Route("/hashed", read("bad", args_hash="body")(Ran().endpoint("it")), methods=["POST"])
    app = gated([route], settings=Settings(limits=Limits(deadline=20.0)))
    request = "POST {} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
    with served(app, http=http) as port:
        first = {}
        for path in ("/hashed", "/unknown"):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                connection.sendall(request.format(path).encode())
                first[path] = connection.makefile("rb").readline().split()[1]
    assert first == {"/hashed": b"100", "/unknown": b"403"}
