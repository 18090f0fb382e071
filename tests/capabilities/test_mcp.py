"""The gate around an MCP server: what is asked, what the server gets to see, what the client is told."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from capgate.capabilities.mcp import GatedMCP
from capgate.capabilities.tools import canonical_hash
from capgate.errors import ConfigError
from capgate.model import ALLOW, Anonymous, Reason, User

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.gates import Answering, Recording, events, make_checker
from .gated_mcp import (
    DENIED,
    GOOD,
    PARAMS,
    POLICY,
    client_of,
    gated,
    post,
)
from .kinds import KINDS
from .rpc_server import Careless, call

# -- one call


@pytest.mark.parametrize("engine", KINDS)
async def test_an_allowed_call_reaches_the_server_as_it_was_and_a_denied_one_does_not(engine: str) -> None:
    server = Careless(result={"content": []})
    async with make_checker(engine, POLICY) as checker:
        app = gated(server, checker)
        body = b' {"id": 7, "jsonrpc":"2.0",\n"params":{"name":"g\\u006fod"}, "method":"tools\\/call"}\r\n'
        answer = await post(app, body)
        assert (answer.status_code, answer.json()) == (200, {"jsonrpc": "2.0", "id": 7, "result": {"content": []}})
        assert server.requests == [("POST", body)]
        with events() as denials:
            answer = await post(app, call("bad", "x"))
        assert server.ran == ["good"]
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"
        (denial,) = denials
        error = {"code": DENIED, "message": "Denied by policy", "data": {"decision_id": denial["decision_id"]}}
        assert answer.json() == {"jsonrpc": "2.0", "id": "x", "error": error}
        assert (denial["action"], denial["resource_id"], denial["reason"]) == (
            "tool.modify",
            "bad",
            Reason.NOT_IN_ALLOWLIST,
        )
        assert (denial["service"], denial["policy_version"], denial["path"]) == ("mcp-tests", "3", "/mcp/")


@pytest.mark.parametrize("arguments", [None, {}, {"b": [1.0, {"ü": None}], "a": "x"}])
async def test_the_question_has_the_name_and_the_hash_of_what_the_server_gets(arguments: Any) -> None:
    server, checker = Careless(), Recording(make_checker("local", POLICY))
    await post(gated(server, checker), call("good", 1, arguments))
    ((input, _),) = checker.asked
    assert input.resource is not None
    assert (input.action, input.resource.kind, input.resource.id) == ("tool.modify", "tool", "good")
    assert [input.args_hash] == server.hashes == [canonical_hash(arguments or {})]
    assert (input.env.mode, input.actor) == ("test", Anonymous())


async def test_null_arguments_are_none() -> None:
    server, checker = Careless(), Recording(make_checker("local", POLICY))
    await post(gated(server, checker), {**call("good"), "params": {"name": "good", "arguments": None}})
    assert [input.args_hash for input, _ in checker.asked] == server.hashes == [canonical_hash({})]


async def test_a_denied_notification_is_acknowledged_and_has_no_effect() -> None:
    server = Careless()
    answer = await post(gated(server), call("bad", ...))
    assert (answer.status_code, answer.content, server.requests) == (202, b"", [])
    answer = await post(gated(server), call("good", ...))
    assert (answer.status_code, server.ran) == (202, ["good"])


@pytest.mark.parametrize(
    "message",
    [
        {"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
        {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": None},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}},
        {"jsonrpc": "2.0", "id": "x", "result": {}},
        {"jsonrpc": "2.0", "id": 2, "error": {"code": -1, "message": ""}},
        {"jsonrpc": "2.0", "id": None, "error": {"code": -1, "message": ""}},
    ],
)
async def test_what_is_no_call_passes_unasked(message: dict[str, Any]) -> None:
    server, checker = Careless(), Recording(make_checker("local", POLICY))
    answer = await post(gated(server, checker), message)
    assert answer.status_code in (200, 202)
    assert [json.loads(body) for _, body in server.requests] == [message]
    assert checker.asked == []


@pytest.mark.parametrize("method", ["GET", "DELETE", "HEAD", "OPTIONS"])
async def test_requests_without_messages_pass_without_a_body(method: str) -> None:
    server = Careless()
    async with client_of(gated(server)) as client:
        await client.request(method, "", content=json.dumps(call("bad")).encode())
    assert (server.requests, server.ran) == ([(method, b"")], [])


async def test_a_body_is_withheld_and_the_disconnect_is_not() -> None:
    seen = []

    async def server(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend([await receive(), await receive()])

    body: list[Message] = [
        {"type": "http.request", "body": b"x", "more_body": True},
        {"type": "http.request", "body": b"y"},
    ]
    await Call(http_scope(method="GET"), [*body, {"type": "http.disconnect"}]).to(GatedMCP(server))
    assert seen == [{"type": "http.request", "body": b"", "more_body": False}, {"type": "http.disconnect"}]


@pytest.mark.parametrize("method", ["PUT", "PATCH", "QUERY", "post"])
async def test_other_methods_are_not_passed_on(method: str) -> None:
    server = Careless()
    sent = await Call(http_scope("/", method), [{"type": "http.request", "body": GOOD}]).to(GatedMCP(server))
    assert (sent.status, sent.headers["allow"]) == (405, "GET, HEAD, DELETE, OPTIONS, POST")
    assert server.requests == []


async def test_a_websocket_is_refused_and_a_lifespan_passes() -> None:
    server = Careless()
    sent = await Call(websocket_scope("/mcp")).to(GatedMCP(server))
    assert [event["type"] for event in sent.sent] == ["websocket.close"]
    assert server.ran == []
    await Call({"type": "lifespan"}).to(GatedMCP(server))
    assert server.ran == ["lifespan"]


# -- which action


def _by_prefix(name: str) -> str | None:
    return {"read": "tool.inspect", "make": "tool.generate"}.get(name.partition("_")[0])


def _broken(name: str) -> str | None:
    raise LookupError(name)


@pytest.mark.parametrize(
    ("action", "name", "asked"),
    [
        ("tool.inspect", "anything", "tool.inspect"),
        ({"good": "tool.generate"}, "good", "tool.generate"),
        ({"good": "tool.generate"}, "fine", ""),
        (_by_prefix, "read_this", "tool.inspect"),
        (_by_prefix, "make_this", "tool.generate"),
        (_by_prefix, "good", ""),
        (_broken, "good", ""),
        (lambda name: 7, "good", ""),
        (lambda name: "tool.unheard_of", "good", "tool.unheard_of"),
        (lambda name: "db.write", "good", "db.write"),
    ],
)
async def test_the_action_of_a_tool(action: Any, name: str, asked: str) -> None:
    known = asked.startswith("tool.") and asked != "tool.unheard_of"
    server, checker = Careless(), Recording(make_checker("local", {"tools": "any", "sql": ["x"]}))
    logging.getLogger("capgate").setLevel(logging.CRITICAL)
    try:
        await post(gated(server, checker, action=action), call(name))
        assert checker.questions == [(asked, name)]
        assert server.ran == ([name] if known else [])
        # Whatever a checker says about it: a tool without an action is nobody's.
        server.ran.clear()
        await post(gated(server, Answering(ALLOW), action=action), call(name))
        assert server.ran == ([name] if asked else [])
    finally:
        logging.getLogger("capgate").setLevel(logging.NOTSET)


METHODS = {"resources/read": "fs.read", "prompts/get": "tool.inspect", "logging/setLevel": "runtime.config.write"}


@pytest.mark.parametrize(
    ("method", "params", "question"),
    [
        ("resources/read", {"uri": "file:///open", "_meta": {}}, ("fs.read", "path", "file:///open")),
        ("resources/read", {"uri": "file:///open/../x"}, ("fs.read", "path", None)),
        ("prompts/get", {"name": "good", "arguments": {"a": "b"}}, ("tool.inspect", "tool", "good")),
        ("logging/setLevel", {"level": "debug"}, ("runtime.config.write", "config_key", "logging/setLevel")),
    ],
)
async def test_other_methods_are_gated_where_that_is_wanted(
    method: str, params: dict[str, Any], question: tuple[str, str, str | None]
) -> None:
    server, checker = Careless(), Recording(make_checker("local", POLICY))
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    answer = await post(gated(server, checker, methods=METHODS), message)
    ((input, result),) = checker.asked
    assert input.resource is not None
    assert (input.action, input.resource.kind, input.resource.id) == question
    assert input.args_hash == canonical_hash({key: value for key, value in params.items() if key != "_meta"})
    assert (server.ran == [method.casefold()]) == (result == ALLOW) == ("result" in answer.json())


@pytest.mark.parametrize("params", [{}, {"uri": None}, {"uri": ""}, {"uri": 7}, {"URI": "file:///open"}])
async def test_a_gated_method_names_what_it_is_about(params: dict[str, Any]) -> None:
    server = Careless()
    message = {"jsonrpc": "2.0", "id": 5, "method": "resources/read", "params": params}
    answer = await post(gated(server, methods=METHODS), message)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, PARAMS)
    assert (answer.json()["id"], server.requests) == (5, [])


@pytest.mark.parametrize(
    ("setting", "options"),
    [
        ("action", {"action": "tool.destroy"}),
        ("action", {"action": "db.write"}),
        ("action", {"action": 7}),
        ("action.good", {"action": {"good": "tool.destroy"}}),
        ("methods", {"methods": {"tools/call": "tool.inspect"}}),
        ("methods", {"methods": {"": "tool.inspect"}}),
        ("methods.resources/read", {"methods": {"resources/read": "fs.raed"}}),
        ("actor", {"actor": User("ada")}),
        ("capabilities", {"capabilities": make_checker()}),
        ("body_bytes", {"body_bytes": "1"}),
        ("answer_bytes", {"answer_bytes": -1}),
    ],
)
def test_options_are_checked_when_it_is_made(setting: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as error:
        GatedMCP(Careless(), **options)
    assert error.value.setting == setting


# -- with the gate around it


async def test_a_route_beside_it_is_still_gated() -> None:
    async def beside(request: Request) -> Response:
        raise AssertionError("it ran")

    app = gated(Careless())
    app.router.routes.insert(0, Route("/beside", beside))
    async with client_of(app) as client:
        assert (await client.get("http://mcp.test/beside")).status_code == 403


async def test_the_gate_lets_everything_reach_it_unasked() -> None:
    server = Careless()
    app = gated(server)
    assert (await post(app, call("good"))).json()["result"] == {}
    assert (await post(app, call("bad"))).json()["error"]["code"] == DENIED
    async with client_of(app) as client:
        await client.get("")
    assert server.ran == ["good"]
    assert [method for method, _ in server.requests] == ["POST", "GET"]
