"""The gate around an MCP server: what is asked, what the server gets to see, what the client is told."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from capgate import CapabilityMiddleware, Settings
from capgate.capabilities import CapabilityDenied, capabilities_for, current, using
from capgate.capabilities.mcp import GatedMCP
from capgate.capabilities.mcp.jsonrpc import BATCH, DEPTH, VALUES
from capgate.capabilities.tools import canonical_hash
from capgate.errors import ConfigError
from capgate.model import ALLOW, Actor, Anonymous, CompilerTool, Reason, User

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.gates import KINDS, Answering, Recording, events, make_checker
from .rpc_server import Careless, call

POLICY: dict[str, Any] = {"name": "mcp", "version": "3", "tools": ["good", "fine"], "fs": ["file:///open"]}
SETTINGS = Settings(service="mcp-tests", mode="test")
GOOD = json.dumps(call("good")).encode()
DENIED, PARSE, INVALID, UNKNOWN, PARAMS, INTERNAL, MISMATCH = -32010, -32700, -32600, -32601, -32602, -32603, -32020


def gated(server: ASGIApp, checker: Any = None, **options: Any) -> Starlette:
    """The server behind both gates, as an application would have it."""
    app = Starlette(routes=[Mount("/mcp", GatedMCP(server, **options))])
    app.add_middleware(CapabilityMiddleware, settings=SETTINGS, checker=checker or make_checker("local", POLICY))
    return app


@asynccontextmanager
async def client_of(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://mcp.test/mcp/") as client:
        yield client


async def post(app: ASGIApp, message: Any, **headers: str) -> httpx.Response:
    content = message if isinstance(message, bytes) else json.dumps(message).encode()
    async with client_of(app) as client:
        given = {"content-type": "application/json", **{name.replace("_", "-"): v for name, v in headers.items()}}
        return await client.post("", content=content, headers=given)


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


# -- ways round it


def _gzipped(body: bytes) -> bytes:
    return gzip.compress(body)


JSON = "application/json"
BAD = json.dumps(call("bad")).encode()
TWO = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"good","name":"bad"}}'
#: What is tried, the body, headers in place of ``content-type: application/json``, and the status and the code of the
#: refusal. Each of them makes :class:`Careless` run ``bad`` where there is no gate.
ATTEMPTS: list[tuple[str, bytes, dict[str, str], int, int]] = [
    ("named openly", BAD, {}, 200, DENIED),
    ("escapes in the method", BAD.replace(b"tools/call", b"\\u0074ools\\u002fcall"), {}, 200, DENIED),
    ("escapes in a key", BAD.replace(b"method", b"m\\u0065thod"), {}, 200, DENIED),
    ("escapes in the name", BAD.replace(b'"bad"', b'"b\\u0061d"'), {}, 200, DENIED),
    ("method in other case", BAD.replace(b"tools/call", b"Tools/CALL"), {}, 404, UNKNOWN),
    ("method with white space", BAD.replace(b"tools/call", b" tools/call"), {}, 400, INVALID),
    ("method with NUL", BAD.replace(b"tools/call", b"tools/call\\u0000"), {}, 400, INVALID),
    ("method with a letter that folds", BAD.replace(b"tools", "tool\u017f".encode()), {}, 400, INVALID),
    ("key in other case", BAD.replace(b'"method"', b'"Method"'), {}, 400, INVALID),
    ("key twice in other case", BAD.replace(b'"method"', b'"method":"ping","Method"'), {}, 400, INVALID),
    ("method twice, the last counts", BAD.replace(b'"method"', b'"method":"ping","method"'), {}, 400, PARSE),
    ("method twice, once escaped", BAD.replace(b'"method"', b'"method":"ping","m\\u0065thod"'), {}, 400, PARSE),
    ("name twice", TWO, {}, 400, PARSE),
    ("name twice in other case", TWO.replace(b',"name"', b',"Name"'), {}, 400, PARAMS),
    ("a letter that folds", BAD.replace(b'"name"', '"\u017f":{},"s":{},"name"'.encode()), {}, 400, PARAMS),
    ("params twice", BAD.replace(b'"params"', b'"params":{"name":"good"},"params"'), {}, 400, PARSE),
    ("twice far inside", BAD.replace(b'"name"', b'"arguments":{"a":[{"b":1,"b":2}]},"name"'), {}, 400, PARSE),
    ("params by position", BAD.replace(b'{"name": "bad"}', b'["bad"]'), {}, 400, PARAMS),
    ("name in a list", BAD.replace(b'"bad"', b'["bad"]'), {}, 400, PARAMS),
    ("a call and an answer in one", BAD[:-1] + b',"result":{}}', {}, 400, INVALID),
    ("a call and an error in one", BAD[:-1] + b',"error":{}}', {}, 400, INVALID),
    ("no version", BAD.replace(b'"2.0"', b'"1.0"'), {}, 400, INVALID),
    ("an unknown member", BAD[:-1] + b',"extra":1}', {}, 400, INVALID),
    ("id null", json.dumps(call("bad", None)).encode(), {}, 400, INVALID),
    ("id true", json.dumps(call("bad", True)).encode(), {}, 400, INVALID),
    ("id a fraction", json.dumps(call("bad", 1.5)).encode(), {}, 400, INVALID),
    ("id an object", json.dumps(call("bad", {})).encode(), {}, 400, INVALID),
    ("a nested batch", b"[[" + BAD + b"]]", {}, 400, INVALID),
    ("a batch with something else", b"[" + BAD + b",7]", {}, 400, INVALID),
    ("an id twice in a batch", b"[" + BAD + b"," + BAD + b"]", {}, 400, INVALID),
    ("a byte order mark", b"\xef\xbb\xbf" + BAD, {}, 400, PARSE),
    ("UTF-16", BAD.decode().encode("utf-16"), {}, 400, PARSE),
    ("UTF-16 without a mark", BAD.decode().encode("utf-16-le"), {}, 400, PARSE),
    ("UTF-32", BAD.decode().encode("utf-32-be"), {}, 400, PARSE),
    ("NaN in the arguments", BAD.replace(b'"name"', b'"arguments":NaN,"name"'), {}, 400, PARSE),
    ("infinity by its size", BAD.replace(b'"name"', b'"_meta":1e999,"name"'), {}, 400, PARSE),
    ("a lone surrogate", BAD.replace(b'"name"', b'"_meta":"\\ud800","name"'), {}, 400, PARSE),
    ("a lone surrogate as a key", BAD.replace(b'"name"', b'"\\udfff":1,"name"'), {}, 400, PARSE),
    ("too deep", BAD.replace(b'"name"', b'"_meta":' + b"[" * DEPTH + b"]" * DEPTH + b',"name"'), {}, 400, PARSE),
    ("too many values", BAD.replace(b'"name"', b'"_meta":[1' + b",1" * VALUES + b'],"name"'), {}, 400, PARSE),
    ("too long", BAD + b" " * 1_048_576, {}, 413, INVALID),
    ("gzip", _gzipped(BAD), {"content-encoding": "gzip"}, 415, INVALID),
    ("gzip in capitals", _gzipped(BAD), {"content-encoding": "GZIP"}, 415, INVALID),
    ("gzip after identity", _gzipped(BAD), {"content-encoding": "identity, gzip"}, 415, INVALID),
    ("text", BAD, {"content-type": "text/plain"}, 415, INVALID),
    ("a form", BAD, {"content-type": "application/x-www-form-urlencoded"}, 415, INVALID),
    ("no type", BAD, {"content-type": ""}, 415, INVALID),
    ("two types", BAD, {"content-type": f"text/plain, {JSON}"}, 415, INVALID),
    ("a character set", BAD.decode().encode("utf-16"), {"content-type": f"{JSON}; charset=utf-16"}, 415, INVALID),
    ("the header says something harmless", BAD, {"mcp-method": "tools/list"}, 400, MISMATCH),
    ("the header names another tool", BAD, {"mcp-method": "tools/call", "mcp-name": "good"}, 400, MISMATCH),
    ("the header names it encoded", BAD, {"mcp-name": "=?base64?Z29vZA==?="}, 400, MISMATCH),
    ("the header for a batch", b"[" + BAD + b"]", {"mcp-method": "tools/list"}, 400, MISMATCH),
]  # fmt: skip


# The client's transport leaves its generator of a body where it is once nobody reads on, and trio says so.
@pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning")
@pytest.mark.parametrize(
    ("body", "headers", "status", "code"), [one[1:] for one in ATTEMPTS], ids=[one[0] for one in ATTEMPTS]
)
async def test_attempts_to_get_round_it(body: bytes, headers: dict[str, str], status: int, code: int) -> None:
    bare = Careless()
    request = http_scope(method="POST", headers={"content-type": "application/json", **headers}.items())
    await Call(request, [{"type": "http.request", "body": body}]).to(bare)
    assert "bad" in bare.ran  # else this is no attempt

    server, checker = Careless(), Recording(make_checker("local", POLICY))
    answer = await post(gated(server, checker), body, **headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.json()["jsonrpc"] == "2.0"
    assert server.requests == []
    assert checker.questions == ([("tool.modify", "bad")] if code == DENIED else [])


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b"null", b'"tools/call"', b"{}", b"\xff", b"[" * 100_000])
async def test_what_is_no_message_goes_nowhere(body: bytes) -> None:
    server = Careless()
    answer = await post(gated(server), body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] in (PARSE, INVALID)
    assert (answer.json()["id"], server.requests) == (None, [])


async def test_a_header_twice_is_refused() -> None:
    server = Careless()
    for name in ("content-type", "content-encoding", "mcp-method", "mcp-name"):
        value = {"content-type": "application/json", "content-encoding": "identity", "mcp-method": "tools/call"}
        headers = [(name, value.get(name, "good"))] * 2 + ([] if name == "content-type" else [*value.items()][:1])
        request = http_scope(method="POST", headers=headers)
        sent = await Call(request, [{"type": "http.request", "body": GOOD}]).to(
            GatedMCP(server, capabilities=capabilities_for(make_checker("local", POLICY), Anonymous()))
        )
        assert sent.status in (400, 415)
    assert server.requests == []


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/json"},
        {"content-type": "Application/JSON ; Charset=UTF-8"},
        {"content-encoding": "identity"},
        {"mcp-method": "tools/call", "mcp-name": "good"},
        {"mcp-name": "=?base64?Z29vZA==?="},
    ],
)
async def test_headers_that_agree_are_no_hindrance(headers: dict[str, str]) -> None:
    server = Careless()
    assert (await post(gated(server), call("good"), **headers)).status_code == 200
    assert server.ran == ["good"]


@pytest.mark.parametrize("header", ["=?base64?Z29vZA?=", "=?base64?Z29vZB==?=", "=?base64?/w==?=", "GOOD", ""])
async def test_a_name_in_the_header_has_one_form(header: str) -> None:
    server = Careless()
    answer = await post(gated(server), call("good"), mcp_name=header)
    assert answer.json()["error"]["code"] == MISMATCH
    assert (answer.json()["id"], server.requests) == (1, [])


async def test_a_body_in_pieces_is_judged_whole() -> None:
    server, checker = Careless(), make_checker("local", POLICY)
    app = GatedMCP(server, capabilities=capabilities_for(checker, Anonymous()))
    for name in ("good", "bad"):
        body = json.dumps(call(name)).encode()
        pieces = [{"type": "http.request", "body": body[i : i + 3], "more_body": True} for i in range(0, len(body), 3)]
        request = http_scope(method="POST", headers=[("content-type", "application/json")])
        await Call(request, [*pieces, {"type": "http.request"}]).to(app)
    assert server.ran == ["good"]
    assert server.requests == [("POST", GOOD)]


async def test_a_body_that_does_not_end_goes_nowhere() -> None:
    server = Careless()
    pieces: list[Message] = [{"type": "http.request", "body": BAD, "more_body": True}, {"type": "http.disconnect"}]
    request = http_scope(method="POST", headers=[("content-type", "application/json")])
    sent = await Call(request, pieces).to(GatedMCP(server))
    assert (sent.status, server.requests) == (400, [])


async def test_no_more_of_a_long_body_is_read_than_the_limit() -> None:
    piece = {"type": "http.request", "body": b" " * 1_000, "more_body": True}
    request = http_scope(method="POST", headers=[("content-type", "application/json")])
    sent = Call(request, [piece] * 100)
    await sent.to(GatedMCP(Careless(), body_bytes=4_000))
    assert (sent.status, sent.received) == (413, 5)


@pytest.mark.parametrize("arguments", [{"n": 2**53}, {"deep": [{"n": -(2**60)}]}])
async def test_arguments_without_a_canonical_form_are_denied(arguments: dict[str, Any]) -> None:
    for checker in (make_checker("local", POLICY), Answering(ALLOW)):
        server = Careless()
        with events() as denials:
            answer = await post(gated(server, checker), call("good", 1, arguments))
        assert answer.json()["error"]["code"] == DENIED
        assert [event["reason"] for event in denials] == [Reason.MALFORMED_INPUT]
        assert server.requests == []


# -- batches


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


# -- what tools do, and for whom


def _who(scope: Scope) -> Actor:
    return CompilerTool(dict(scope["headers"])[b"x-agent"].decode())


async def _who_later(scope: Scope) -> Actor:
    await anyio.lowlevel.checkpoint()
    return _who(scope)


class Nested:
    """A server whose tool asks for more, with the capabilities that are current."""

    def __init__(self, resource: str) -> None:
        self.resource = resource
        self.effects = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = json.loads((await receive())["body"])
        await current().require("fs.read", self.resource)
        self.effects += 1
        await JSONResponse({"jsonrpc": "2.0", "id": body.get("id"), "result": {}})(scope, receive, send)


@pytest.mark.parametrize("actor", [_who, _who_later])
async def test_the_actor_may_be_another_one_also_for_what_the_tool_does(actor: Callable[[Scope], Any]) -> None:
    checker = Recording(make_checker("local", POLICY))
    server = Nested("path:file:///open")
    for message in (call("good"), [call("good")]):
        answer = await post(gated(server, checker, actor=actor), message, x_agent="agent-7")
        assert answer.status_code == 200
    assert server.effects == 2
    assert checker.questions == [("tool.modify", "good"), ("fs.read", "file:///open")] * 2
    assert {input.actor for input, _ in checker.asked} == {CompilerTool("agent-7")}


async def test_an_actor_that_nobody_knows_is_denied() -> None:
    server = Careless()
    with events() as denials:
        answer = await post(gated(server, actor=_who), call("good"))  # without the header
    assert answer.json()["error"]["code"] == DENIED
    assert [event["reason"] for event in denials] == [Reason.INTERNAL_ERROR]
    assert server.requests == []


async def test_a_denial_inside_of_the_tool_is_the_same_error() -> None:
    server = Nested("path:file:///closed")
    for message in (call("good"), [call("good")]):
        with events() as denials:
            answer = await post(gated(server), message)
        error = (answer.json() if isinstance(message, dict) else answer.json()[0])["error"]
        assert (answer.status_code, error["code"]) == (200, DENIED)
        assert error["data"]["decision_id"] == denials[0]["decision_id"]
    assert server.effects == 0
    answer = await post(gated(server), call("good", ...))
    assert (answer.status_code, server.effects) == (202, 0)


async def test_what_the_server_raises_passes_untouched() -> None:
    with pytest.raises(LookupError):
        await post(gated(_fails), call("good"))


async def test_a_denial_after_the_answer_began_passes_untouched() -> None:
    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await current().require("fs.read", "path:file:///closed")

    app = GatedMCP(late, capabilities=capabilities_for(make_checker("local", POLICY), Anonymous()))
    request = http_scope(method="POST", headers=[("content-type", "application/json")])
    sent = Call(request, [{"type": "http.request", "body": GOOD}])
    with pytest.raises(CapabilityDenied):
        await sent.to(app)
    assert len(sent.starts) == 1


async def test_without_a_gate_around_it_every_call_is_denied() -> None:
    server = Careless()
    async with client_of(GatedMCP(server)) as client:
        headers = {"content-type": "application/json"}
        answer = await client.post("", content=GOOD, headers=headers)
        assert answer.json()["error"]["code"] == DENIED
        answer = await client.post("", content=json.dumps([call("good")]).encode(), headers=headers)
        assert answer.json()[0]["error"]["code"] == DENIED
        assert server.requests == []
        listing = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        await client.post("", content=json.dumps(listing).encode(), headers=headers)
    assert server.ran == ["tools/list"]


async def test_explicit_capabilities_are_asked_and_in_force() -> None:
    checker = Recording(make_checker("local", POLICY))
    server = Nested("path:file:///open")
    app = GatedMCP(server, capabilities=capabilities_for(checker, User("ada")))
    with using(capabilities_for(make_checker("local", {}), User("eve"))):
        answer = await post(app, call("good"))
    assert (answer.json()["result"], server.effects) == ({}, 1)
    assert [input.actor for input, _ in checker.asked] == [User("ada")] * 2


async def test_reasons_are_told_where_that_is_wanted() -> None:
    answer = await post(gated(Careless(), expose_reasons=True), call("bad"))
    assert answer.json()["error"]["data"]["reason"] == Reason.NOT_IN_ALLOWLIST
    answer = await post(gated(Careless()), call("bad"))
    assert set(answer.json()["error"]["data"]) == {"decision_id"}


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
        ("resources/read", {"uri": "file:///open/../x"}, ("fs.read", "path", "file:///open/../x")),
        ("prompts/get", {"name": "good", "arguments": {"a": "b"}}, ("tool.inspect", "tool", "good")),
        ("logging/setLevel", {"level": "debug"}, ("runtime.config.write", "config_key", "logging/setLevel")),
    ],
)
async def test_other_methods_are_gated_where_that_is_wanted(
    method: str, params: dict[str, Any], question: tuple[str, str, str]
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
