"""Holds a gate that only monitors to this: each denial is recorded, and the request goes on; and nothing more."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from capgate import CapabilityMiddleware, Settings, requires
from capgate.model import Allow, Deny

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.gates import Answering, events, make_checker

MONITOR = Settings(enforce="monitor")
OVER = Settings(enforce="monitor", enforce_after=datetime.date(2000, 1, 1))


class Monitored:
    """An application behind a gate, and which endpoints of it ran."""

    def __init__(self, settings: Settings = MONITOR, checker: Any = None) -> None:
        self.ran: list[str] = []

        def endpoint(name: str, *declarations: Any) -> Any:
            async def run(request: Request) -> PlainTextResponse:
                self.ran.append(name)
                return PlainTextResponse(name)

            for declare in declarations:
                declare(run)
            return run

        async def socket(websocket: WebSocket) -> None:
            self.ran.append("socket")
            await websocket.accept()
            await websocket.close()

        requires("db.read", resource="sql_query:bad")(socket)
        bad, good = (requires("db.read", resource=f"sql_query:{name}") for name in ("bad", "good"))
        worse = requires("db.write", resource="sql_query:worse")
        hashed = requires("db.read", resource="sql_query:bad", args_hash="body")
        self.app = Starlette(
            routes=[
                Route("/bad", endpoint("bad", bad), methods=["GET"]),
                Route("/good", endpoint("good", good)),
                Route("/both", endpoint("both", good, worse, bad)),
                Route("/hashed", endpoint("hashed", hashed), methods=["POST"]),
                Route("/undeclared", endpoint("undeclared")),
                Mount("/inside", routes=[Route("/bad", endpoint("inside", bad))]),
                WebSocketRoute("/socket", socket),
            ]
        )
        self.app.add_middleware(CapabilityMiddleware, settings=settings, checker=checker or make_checker())


async def get(monitored: Monitored, path: str, method: str = "GET") -> tuple[int, list[str]]:
    """The status, and what would have been denied."""
    with events() as found:
        call = await Call(http_scope(path, method=method)).to(monitored.app)
    assert all(event["decision"] == "allow" for event in found if event["would_deny"])
    return call.status, [event["would_deny"] or event["reason"] for event in found]


@pytest.mark.parametrize(
    ("path", "method", "ran", "would_deny"),
    [
        ("/good", "GET", ["good"], []),
        ("/bad", "GET", ["bad"], ["not_in_allowlist"]),
        ("/both", "GET", ["both"], ["not_in_allowlist", "not_in_allowlist"]),
        ("/hashed", "POST", ["hashed"], ["not_in_allowlist"]),
        ("/undeclared", "GET", ["undeclared"], ["undeclared_route"]),
        ("/inside/bad", "GET", ["inside"], ["not_in_allowlist"]),
    ],
)
async def test_it_goes_on_and_is_recorded(path: str, method: str, ran: list[str], would_deny: list[str]) -> None:
    monitored = Monitored()
    assert await get(monitored, path, method) == (200, would_deny)
    assert monitored.ran == ran
    over = Monitored(OVER)
    status, reasons = await get(over, path, method)
    assert (status, reasons) == ((403, would_deny[:1]) if would_deny else (200, []))
    assert over.ran == ([] if would_deny else ran)


@pytest.mark.parametrize(("path", "method", "status"), [("/nowhere", "GET", 404), ("/bad", "DELETE", 405)])
async def test_where_no_route_is_reached_the_application_answers(path: str, method: str, status: int) -> None:
    monitored = Monitored()
    assert await get(monitored, path, method) == (status, ["undeclared_route"])
    assert monitored.ran == []


@pytest.mark.parametrize("answer", [Deny("not today"), ValueError("x"), "allow", None, True])
async def test_a_checker_of_the_applications(answer: Any) -> None:
    monitored = Monitored(checker=Answering(answer))
    status, would_deny = await get(monitored, "/both")
    assert (status, len(would_deny), monitored.ran) == (200, 3, ["both"])
    over = Monitored(OVER, Answering(answer))
    assert (await get(over, "/both"))[0] == 403
    assert over.ran == []


async def test_a_checker_that_allows_some() -> None:
    monitored = Monitored(checker=Answering(Allow()))
    assert await get(monitored, "/both") == (200, [])


async def test_a_websocket_goes_on_as_well() -> None:
    monitored = Monitored()
    with events() as found:
        await Call(websocket_scope("/socket"), [{"type": "websocket.connect"}]).to(monitored.app)
    assert monitored.ran == ["socket"]
    assert [event["would_deny"] for event in found] == ["not_in_allowlist"]


async def test_what_cannot_be_asked_about_is_denied_all_the_same() -> None:
    monitored = Monitored()
    assert await get(monitored, "/bad\x00") == (403, ["malformed_input"])

    def nobody(scope: Any) -> Any:
        raise LookupError

    unknown = Monitored()
    unknown.app.user_middleware.clear()
    unknown.app.add_middleware(CapabilityMiddleware, settings=MONITOR, checker=make_checker(), actor=nobody)
    assert await get(unknown, "/good") == (403, ["internal_error"])
    assert monitored.ran == unknown.ran == []


async def test_what_was_denied_before_it_ended_stays_so_and_what_follows_counts() -> None:
    """A request whose denial did not count holds the capabilities of a gate that monitors, and no others."""
    monitored = Monitored()
    assert (await get(monitored, "/bad"))[0] == 200
    enforced = Monitored(Settings())
    assert await get(enforced, "/bad") == (403, ["not_in_allowlist"])
    assert enforced.ran == []


async def test_what_middleware_inside_answers_is_sent_and_recorded() -> None:
    class Cache:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await PlainTextResponse("kept")(scope, receive, send)

    for settings, expected in ((MONITOR, 200), (OVER, 403)):
        monitored = Monitored(settings)
        monitored.app.user_middleware.append(Middleware(Cache))
        assert await get(monitored, "/bad") == (expected, ["unasked_response"])
        assert monitored.ran == []
