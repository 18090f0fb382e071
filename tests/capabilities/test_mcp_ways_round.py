"""Attempts to get a tool called past the gate of an MCP server."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from starlette.types import Message

from capgate.capabilities import capabilities_for
from capgate.capabilities.mcp import GatedMCP
from capgate.capabilities.mcp.jsonrpc import DEPTH, VALUES
from capgate.model import ALLOW, Anonymous, Reason

from ..support.asgi import Call, http_scope
from ..support.gates import Answering, Recording, events, make_checker
from .gated_mcp import (
    DENIED,
    GOOD,
    INVALID,
    JSON,
    MISMATCH,
    PARAMS,
    PARSE,
    POLICY,
    UNKNOWN,
    gated,
    post,
)
from .rpc_server import Careless, call


def _gzipped(body: bytes) -> bytes:
    return gzip.compress(body)


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
