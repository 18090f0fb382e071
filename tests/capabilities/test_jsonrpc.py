"""Reading messages: either a body is refused, or everybody who reads it sees what was judged."""

from __future__ import annotations

import json

import pydantic_core
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.types import Scope

from capgate.capabilities.mcp.jsonrpc import Message, ProtocolError, encode, read_body
from capgate.capabilities.mcp.message_questions import MessageQuestions

from ..support.tools import examples
from .rpc_server import Careless, call

_PIECES = [
    b'"method"', b'"Method"', b'"m\\u0065thod"', b'"tools/call"', b'"Tools/Call"', b'"ping"', b'"params"', b'"name"',
    b'"NAME"', b'"bad"', b'"good"', b'"arguments"', b'"id"', b'"jsonrpc"', b'"2.0"', b'"result"', b'"error"', b"{}",
    b"[]", b"null", b"1", b"1.0", b"-0", b"1e999", b"NaN", b"true", b'"\\ud800"', b"\xed\xa0\x80", b"\xff", b"\x00",
    b"\xef\xbb\xbf", b":", b",", b"{", b"}", b"[", b"]", b" ", b"\n", b"\\", b'"',
]  # fmt: skip
_BODIES = [
    json.dumps(call("good", 1, {"a": [1, {"b": None}]})).encode(),
    json.dumps([call("good", 1), call("bad", ...), {"jsonrpc": "2.0", "id": "x", "method": "ping"}]).encode(),
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"good"}}',
    b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"name":"bad"}}',
    b'{"jsonrpc":"2.0","id":1,"result":{"method":"tools/call"}}',
]
_WHOLE = [
    b',"method":"tools/call"', b',"params":{"name":"bad"}', b',"name":"bad"', b',"id":2', b',"result":{}',
    b',"Params":{"name":"bad"}', b',"METHOD":"tools/call"', b',{"jsonrpc":"2.0","method":"tools/call","params":{}}',
]  # fmt: skip


@st.composite
def _edited(draw: st.DrawFn) -> bytes:
    body = draw(st.sampled_from(_BODIES))
    for _ in range(draw(st.integers(0, 2))):  # one more member, or one more message
        ends = [place for place, byte in enumerate(body) if byte in b"}]"]
        place = draw(st.sampled_from(ends)) if ends else 0
        body = body[:place] + draw(st.sampled_from(_WHOLE)) + body[place:]
    for _ in range(draw(st.integers(0, 2))):
        start = draw(st.integers(0, len(body)))
        end = min(len(body), start + draw(st.sampled_from([0, 0, 0, 1, 2, 6, 12])))
        body = body[:start] + draw(st.sampled_from(_PIECES)) + body[end:]
    return body


@pytest.mark.sampled
@given(_edited() | st.lists(st.sampled_from(_PIECES), max_size=12).map(b"".join) | st.binary(max_size=40))
@example(_BODIES[1])
@settings(max_examples=examples(1_000))
def test_whoever_reads_what_was_accepted_calls_no_other_tool(body: bytes) -> None:
    questions = MessageQuestions("tool.modify", {})
    try:
        found = read_body(body)
        messages = found if isinstance(found, list) else [found]
        asked = [question.resource.id for question in map(questions.of, messages) if question is not None]
    except ProtocolError:
        return
    scope: Scope = {"headers": []}
    server = Careless()
    for message in server._messages(scope, body):
        server._answer(message)
    assert server.called == asked
    raw = [one.raw for one in messages]
    assert pydantic_core.from_json(body) == (raw if isinstance(found, list) else raw[0])
    for one in messages:  # what is passed on of a batch is the same again
        again = read_body(encode(one.raw))
        assert isinstance(again, Message)
        assert again.raw == one.raw


@pytest.mark.parametrize("id", [1, 0, -1, 2**70, "", "1", "ü"])
def test_an_id_stays_what_it_is(id: int | str) -> None:
    message = read_body(json.dumps(call("good", id)).encode())
    assert isinstance(message, Message)
    assert (type(message.id), message.id) == (type(id), id)


def test_ids_of_different_types_are_different() -> None:
    found = read_body(json.dumps([call("good", 1), call("good", "1")]).encode())
    assert isinstance(found, list)
    assert [one.id for one in found] == [1, "1"]


@pytest.mark.parametrize("digits", [400, 4_000, 400_000])
def test_long_numbers_are_no_way_to_keep_it_busy(digits: int) -> None:
    for number in ("1" * digits, "1." + "1" * digits, "0." + "0" * digits + "1", "1e" + "0" * digits + "1"):
        body = f'{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"a":[{number}]}}}}'.encode()
        try:
            message = read_body(body)
        except ProtocolError:
            continue
        assert isinstance(message, Message)
