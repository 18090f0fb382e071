"""Who is not logged in is told how to, where a policy denied it and the application says how."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.authentication import SimpleUser
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import Scope
from starlette.websockets import WebSocket

from capgate.enforcement.response import asks_for_login
from capgate.errors import ConfigError, PolicyTimeout
from capgate.fastapi import Requires
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.model import ALLOW, REASONS, Deny, PolicyInput, PolicyResult, Reason, Service
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.gates import PATIENT, Answering, Ran, events, example, gated, make_checker, read

CHALLENGE = 'Bearer realm="orders", Basic realm="orders"'
LOGIN = Settings(www_authenticate=CHALLENGE, limits=PATIENT)


async def denied(app: Any, scope: Scope) -> tuple[int, str | None]:
    with events() as found:
        call = await Call(scope).to(app)
    assert call.headers["content-type"] == "application/problem+json"
    assert call.headers["cache-control"] == "no-store"
    if scope["method"] != "HEAD":
        assert call.json["status"] == call.status
        assert call.json["title"] == {401: "Unauthorized", 403: "Forbidden"}[call.status]
        assert call.json["decision_id"] == found[0]["decision_id"]
    return call.status, call.headers.get("www-authenticate")


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_nobody_is_told_how_to_log_in(method: str) -> None:  # G-10
    assert await denied(example(Ran(), settings=LOGIN), http_scope("/bad", method)) == (401, CHALLENGE)


async def test_without_the_setting_it_is_forbidden() -> None:  # G-10
    assert await denied(example(Ran()), http_scope("/bad")) == (403, None)


async def test_who_is_logged_in_is_forbidden() -> None:
    app = example(Ran(), settings=LOGIN)
    assert await denied(app, http_scope("/bad", user=SimpleUser("ada"))) == (403, None)
    app = example(Ran(), settings=LOGIN, actor=lambda scope: Service("nightly"))
    assert await denied(app, http_scope("/bad")) == (403, None)


async def test_an_unknown_path_does_not_ask_for_a_login() -> None:
    app = example(Ran(), settings=LOGIN)
    for path in ("/undeclared", "/nowhere", "/bad\0"):
        assert await denied(app, http_scope(path)) == (403, None)


@pytest.mark.parametrize("reason", sorted(REASONS))
async def test_faults_do_not_ask_for_a_login(reason: str) -> None:
    app = example(Ran(), Answering(Deny(reason)), LOGIN)
    expected = (401, CHALLENGE) if reason in (Reason.NOT_IN_ALLOWLIST, Reason.MISSING_FACT) else (403, None)
    assert await denied(app, http_scope("/good")) == expected


@pytest.mark.parametrize("answer", [ValueError("x"), PolicyTimeout("x"), None, "allow", True])
async def test_answers_that_are_none_do_not_ask_for_a_login(answer: Any) -> None:
    assert await denied(example(Ran(), Answering(answer), LOGIN), http_scope("/good")) == (403, None)


async def test_words_of_the_policys_own_ask_for_a_login() -> None:
    app = example(Ran(), Answering(Deny("members only")), LOGIN)
    assert await denied(app, http_scope("/good")) == (401, CHALLENGE)


async def test_a_gate_that_did_not_start_does_not_ask_for_a_login() -> None:
    settings = Settings(policy="missing.json", www_authenticate=CHALLENGE)
    app = gated([Route("/", read("good")(Ran().endpoint("it")))], None, settings)
    app.user_middleware[0].kwargs["checker"] = None
    assert await denied(app, http_scope()) == (403, None)


async def test_an_actor_that_is_unknown_does_not_ask_for_a_login() -> None:
    app = example(Ran(), settings=LOGIN, actor=lambda scope: None)
    assert await denied(app, http_scope("/bad")) == (403, None)


async def test_a_handler_that_is_denied_asks_for_a_login() -> None:
    async def handler(request: Request) -> Response:
        await request.state.capabilities.require("db.read", "sql_query:bad")
        raise AssertionError("not reached")

    async def as_a_service(request: Request) -> Response:
        await request.state.capabilities.for_actor(Service("x")).require("db.read", "sql_query:bad")
        raise AssertionError("not reached")

    app = gated([Route("/", read("good")(handler)), Route("/service", read("good")(as_a_service))], None, LOGIN)
    assert await denied(app, http_scope()) == (401, CHALLENGE)
    assert await denied(app, http_scope("/service")) == (403, None)
    assert await denied(app, http_scope(user=SimpleUser("ada"))) == (403, None)


async def test_a_fault_in_a_handlers_question_does_not_ask_for_a_login() -> None:
    async def handler(request: Request) -> Response:
        await request.state.capabilities.require("db.read", "no resource")
        raise AssertionError("not reached")

    assert await denied(gated([Route("/", read("good")(handler))], None, LOGIN), http_scope()) == (403, None)


def test_a_reason_that_is_no_text_asks_for_nothing() -> None:
    question = PolicyInput("db.read")
    assert asks_for_login(question, Deny("members only")) is True
    odd: list[Any] = [[], None, 5, {}]
    assert [asks_for_login(question, Deny(reason)) for reason in odd] == [False] * 4
    for input, result in ((None, Deny("x")), (question, ALLOW), (question, None), (object(), Deny("x"))):
        assert asks_for_login(input, result) is False  # type: ignore[arg-type]


async def test_a_dependency_without_a_user_asks_for_a_login() -> None:
    async def current_user() -> None:
        return None

    app = FastAPI()
    app.add_middleware(CapabilityMiddleware, settings=LOGIN, checker=make_checker())

    @app.get("/", dependencies=[Requires("db.read", resource="sql_query:bad", actor=current_user)])
    async def endpoint(user: Annotated[Any, Depends(current_user)]) -> None:
        raise AssertionError("not reached")

    assert await denied(app, http_scope()) == (401, CHALLENGE)


async def test_of_several_questions_the_one_that_was_denied_counts() -> None:
    class Asking:
        async def check(self, input: PolicyInput) -> PolicyResult:
            fails = input.resource is not None and input.resource.id == "other"
            return Deny(Reason.POLICY_TIMEOUT if fails else Reason.NOT_IN_ALLOWLIST)

    first = read("bad")(read("other")(Ran().endpoint("it")))
    last = read("other")(read("bad")(Ran().endpoint("it")))
    app = gated([Route("/first", first), Route("/last", last)], Asking(), LOGIN)
    assert sorted([(await denied(app, http_scope(path)))[0] for path in ("/first", "/last")]) == [401, 403]


async def test_the_head_of_it_has_no_body() -> None:
    routes = [Route("/", read("bad")(Ran().endpoint("it")), methods=["GET"])]
    call = await Call(http_scope("/", "HEAD")).to(gated(list(routes), None, LOGIN))
    assert call.body == b""


@pytest.mark.parametrize("extensions", [{}, {"websocket.http.response": {}}])
async def test_websockets_are_forbidden(extensions: dict[str, Any]) -> None:  # G-10
    async def endpoint(websocket: WebSocket) -> None:
        raise AssertionError("not reached")

    app = gated([WebSocketRoute("/ws", read("bad")(endpoint))], None, LOGIN)
    call = await Call(websocket_scope("/ws", extensions=extensions)).to(app)
    assert call.sent[0].get("status", call.sent[0].get("code")) == (403 if extensions else 1008)
    assert b"www-authenticate" not in dict(call.sent[0].get("headers", ()))


@pytest.mark.parametrize(
    "value",
    [
        "Bearer",
        'Bearer realm="x"',
        'Basic realm="a, b", charset="UTF-8", Bearer',
        "Negotiate YWJj==",
        r'X a="\"b\\", c=d',
    ],
)
def test_challenges_that_are_taken(value: str) -> None:
    assert Settings(www_authenticate=value).www_authenticate == value
    assert Settings.from_env({"CAPGATE_WWW_AUTHENTICATE": value}).www_authenticate == value


@pytest.mark.parametrize(
    "value",
    ["", " ", "Bearer realm=x y", 'Bearer realm="x', "Bearer\r\nSet-Cookie: a=b", "Bearer\n", "Bärer",
     'B realm="\0"', ",", "Bearer ", " Bearer", "X" * 1_025, b"Bearer", True, 5],
)  # fmt: skip
def test_challenges_that_are_rejected(value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(www_authenticate=value)
    assert caught.value.setting == "www_authenticate"


async def test_headers_that_middleware_inside_adds_to_the_denial_stay() -> None:
    """The denial is sent from where it was decided, so middleware on the way sees it and may add to it."""

    class Adding:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
            async def add(message: Any) -> None:
                if message["type"] == "http.response.start":
                    message = {**message, "headers": [*message["headers"], (b"x-added", b"1")]}
                await send(message)

            await self.app(scope, receive, add)

    inner = Starlette(routes=[Route("/", read("bad")(Ran().endpoint("it")))], middleware=[Middleware(Adding)])
    call = await Call(http_scope("/")).to(CapabilityMiddleware(inner, settings=LOGIN, checker=make_checker()))
    assert (call.status, call.headers["www-authenticate"], call.headers["x-added"]) == (401, CHALLENGE, "1")
    assert call.json["status"] == 401


async def test_a_response_of_the_applications_with_the_same_status_is_replaced() -> None:
    """Only the denial itself passes, with its id: not a page that looks like one."""

    class Own:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
            async def swallow(message: Any) -> None:
                pass

            await self.app(scope, receive, swallow)
            await Response("secret", 401)(scope, receive, send)

    inner = Starlette(routes=[Route("/", read("bad")(Ran().endpoint("it")))], middleware=[Middleware(Own)])
    call = await Call(http_scope("/")).to(CapabilityMiddleware(inner, settings=LOGIN, checker=make_checker()))
    assert (call.status, call.headers["www-authenticate"]) == (401, CHALLENGE)
    assert b"secret" not in call.body
