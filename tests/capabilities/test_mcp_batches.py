"""Batches of MCP: each message is asked about, and has its own answer."""

from __future__ import annotations

import json

import pytest
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from capgate.capabilities.mcp.jsonrpc import BATCH

from ..support.asgi import Call, http_scope
from ..support.gates import events, make_checker
from .gated_mcp import (
    DENIED,
    INTERNAL,
    INVALID,
    JSON,
    POLICY,
    gated,
    post,
)
from .kinds import KINDS
from .rpc_server import Careless, call


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("engine", KINDS)
async def test_in_a_batch_the_denied_get_errors_and_the_others_go_on(engine: str, streams: bool) -> None:
    server = Careless(streams=streams, result={"content": [{"type": "text", "text": "a\u20acb"}]})
    batch = [
        call("bad", 1),
        call("good", 2, {"x": 1.5}),
        call("good", ...),
        call("bad", ...),
        {"jsonrpc": "2.0", "id": "2", "method": "tools/list"},
        call("fine", "five"),
        {"jsonrpc": "2.0", "id": 9, "result": {}},
    ]
    async with make_checker(engine, POLICY) as checker:
        with events() as denials:
            answer = await post(gated(server, checker), batch)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    found = {(type(one["id"]), one["id"]): one for one in answer.json()}
    assert [one.get("id") for one in answer.json()] == [1, 2, "2", "five"]
    assert found[int, 1]["error"]["code"] == DENIED
    assert found[int, 1]["error"]["data"] == {"decision_id": denials[0]["decision_id"]}
    assert found[str, "five"]["result"] == {"content": [{"type": "text", "text": "a€b"}]}
    assert [event["resource_id"] for event in denials] == ["bad", "bad"]
    assert server.ran == ["good", "good", "tools/list", "fine"]
    passed = [one for one in batch if one.get("params", {}).get("name") != "bad"]
    assert [json.loads(body) for _, body in server.requests] == passed
    for scope, (_, body) in zip(server.scopes, server.requests, strict=True):
        lengths = [value for name, value in scope["headers"] if name in (b"content-length", b"transfer-encoding")]
        assert lengths == [str(len(body)).encode()]


async def test_a_batch_of_denied_notifications_gets_no_answer() -> None:
    server = Careless()
    answer = await post(gated(server), [call("bad", ...), call("bad", ...)])
    assert (answer.status_code, answer.content, server.requests) == (202, b"", [])


async def test_the_size_of_a_batch_is_bounded() -> None:
    server = Careless()
    answer = await post(gated(server), [call("good", n) for n in range(BATCH)])
    assert len(answer.json()) == BATCH
    answer = await post(gated(server), [call("good", n) for n in range(BATCH + 1)])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, INVALID)
    assert len(server.ran) == BATCH


async def test_initialize_is_not_for_batches() -> None:
    server = Careless()
    answer = await post(gated(server), [{"jsonrpc": "2.0", "id": 1, "method": "initialize"}])
    assert (answer.status_code, server.requests) == (400, [])


async def test_in_a_batch_a_question_to_the_client_is_an_error() -> None:
    server = Careless(asks=True)
    answer = await post(gated(server), [call("good", 1), call("bad", 2)])
    assert [(one["id"], one["error"]["code"]) for one in answer.json()] == [(1, INTERNAL), (2, DENIED)]
    assert server.ran == ["good"]


@pytest.mark.parametrize("streams", [False, True])
async def test_answers_to_a_batch_are_bounded_together(streams: bool) -> None:
    server = Careless(streams=streams, result={"text": "x" * 400})
    answer = await post(gated(server, answer_bytes=2_000), [call("good", n) for n in range(9)])
    kinds = ["result" if "result" in one else one["error"]["code"] for one in answer.json()]
    assert len(kinds) == 9
    assert kinds[0] == "result"
    assert kinds[-1] == INTERNAL


async def test_errors_of_the_server_keep_their_code_in_a_batch() -> None:
    async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
        error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "Session not found"}}
        await JSONResponse(error, 404)(scope, receive, send)

    answer = await post(gated(refuses), [call("good", 1)])
    error = {"code": -32600, "message": "Session not found"}
    assert answer.json() == [{"jsonrpc": "2.0", "id": 1, "error": error}]


async def test_answers_in_a_batch_come_as_bytes() -> None:
    seen = []

    async def server(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["extensions"])

    headers = [("content-type", JSON)]
    request = http_scope("/mcp/", "POST", headers, extensions={"http.response.pathsend": {}})
    body = json.dumps([call("good")]).encode()
    await Call(request, [{"type": "http.request", "body": body}]).to(gated(server))
    assert seen == [{}]


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Not even a response."""


async def _text(scope: Scope, receive: Receive, send: Send) -> None:
    await Response("[]", 500)(scope, receive, send)


async def _other(scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse({"jsonrpc": "2.0", "id": 8, "result": {"of": "somebody else"}})(scope, receive, send)


async def _fails(scope: Scope, receive: Receive, send: Send) -> None:
    raise LookupError("secret")


@pytest.mark.parametrize("server", [_nothing, _text, _other, _fails])
async def test_a_server_without_an_answer_is_an_error_in_a_batch(
    server: ASGIApp, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await post(gated(server), [call("good", 1), call("bad", 2)])
    assert [(one["id"], one["error"]["code"]) for one in answer.json()] == [(1, INTERNAL), (2, DENIED)]
    assert "secret" not in answer.text
    assert ("LookupError" in caplog.text) == (server is _fails)
