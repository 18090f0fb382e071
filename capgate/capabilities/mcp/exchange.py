"""Reads and writes the HTTP of MCP: headers, bodies, and one message of a batch as a request."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Final

import anyio
import anyio.lowlevel
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as Event

from . import jsonrpc as rpc

_JSON: Final = re.compile(r'application/json(\s*;\s*charset="?utf-?8"?)?\s*', re.ASCII | re.IGNORECASE)
_END_OF_EVENT: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_BASE64: Final = re.compile(r"=\?base64\?(.*)\?=", re.ASCII)
_LENGTH: Final = frozenset({b"content-length", b"transfer-encoding"})


def check_headers(scope: Scope) -> None:
    """Raise :class:`~.jsonrpc.ProtocolError` unless the body is said to be plain JSON in UTF-8."""
    if not _JSON.fullmatch(_header(scope, b"content-type") or ""):
        raise rpc.ProtocolError(rpc.INVALID_REQUEST, "the content type is application/json, in UTF-8", status=415)
    if (_header(scope, b"content-encoding") or "identity").lower() != "identity":
        raise rpc.ProtocolError(rpc.INVALID_REQUEST, "the body has no content encoding", status=415)


def check_routing(scope: Scope, message: rpc.Message | None, names: Mapping[str, str]) -> None:
    """Raise :class:`~.jsonrpc.ProtocolError` where the headers that MCP repeats the message in say something else.

    So it does not matter whether a server goes by the headers or by the body. ``message`` is ``None`` for a batch,
    which has no such headers. MCP 2026-07-28: ``Mcp-Method``, and ``Mcp-Name`` for what is in the member ``names`` of
    the params.
    """
    method, name = _header(scope, b"mcp-method"), _header(scope, b"mcp-name")
    if message is None or message.method is None:
        fits = method is None and name is None
    else:
        member = names.get(message.method)
        fits = method in (None, message.method) and (
            name is None or (member is not None and _decoded(name) == message.params.get(member, ""))
        )
    if not fits:
        id = None if message is None else message.id
        raise rpc.ProtocolError(rpc.HEADER_MISMATCH, "Mcp-Method or Mcp-Name is not what the body says", id=id)


def _header(scope: Scope, name: bytes) -> str | None:
    values = [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]
    if len(values) > 1:
        raise rpc.ProtocolError(rpc.INVALID_REQUEST, f"{name.decode()} twice")
    return values[0].strip() if values else None


def _decoded(value: str) -> str | None:
    """Return the text of an ``Mcp-Name`` header; ``None`` where it is not in the one form that it has to have."""
    encoded = _BASE64.fullmatch(value)
    if encoded is None:
        return value
    try:
        data = base64.b64decode(encoded[1], validate=True)
        return data.decode() if base64.b64encode(data).decode() == encoded[1] else None
    except (binascii.Error, ValueError):
        return None


async def read_whole(receive: Receive, limit: int) -> bytes:
    """Return the body, of at most ``limit`` bytes; else raise :class:`~.jsonrpc.ProtocolError`."""
    chunks, size, more = [], 0, True
    while more:
        event = await receive()
        if event["type"] != "http.request":
            raise rpc.ProtocolError(rpc.PARSE_ERROR, "the body has no end")
        chunks.append(event.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            raise rpc.ProtocolError(rpc.INVALID_REQUEST, f"the body has more than {limit} bytes", status=413)
        more = event.get("more_body", False)
    return b"".join(chunks)


def replay(body: bytes, receive: Receive) -> Receive:
    """Wrap ``receive``, with ``body`` before everything else."""
    events: list[Event] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Event:
        return events.pop() if events else await receive()

    return receive_again


def without_body(receive: Receive) -> Receive:
    """Wrap ``receive``, with an empty body in place of what there is."""
    first = True

    async def receive_rest() -> Event:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": b"", "more_body": False}
        while True:
            event = await receive()
            if event["type"] != "http.request":
                return event

    return receive_rest


async def respond(send: Send, status: int, body: bytes | None, *headers: tuple[bytes, bytes]) -> None:
    """Send a whole response: JSON, or nothing."""
    more = [] if body is None else [(b"content-type", b"application/json")]
    length = (b"content-length", str(len(body or b"")).encode())
    all_headers = [*more, length, (b"cache-control", b"no-store"), *headers]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": body or b""})


class BatchExchange:
    """Sends the messages of one batch to an application, each as a request of its own.

    ``room`` is in bytes, for all answers together.
    """

    def __init__(self, app: ASGIApp, scope: Scope, receive: Receive, room: int) -> None:
        self._app = app
        self._scope = scope
        self._receive = receive
        self.room = room

    async def ask(self, message: rpc.Message) -> bytes | None:
        """Return the answer to ``message`` as JSON; ``None`` for a message that gets none.

        What goes wrong is an answer too. Nothing is raised but what the application raises.
        """
        body = rpc.encode(message.raw)
        headers = [pair for pair in self._scope["headers"] if pair[0].lower() not in _LENGTH]
        headers.append((b"content-length", str(len(body)).encode()))
        with anyio.CancelScope() as bound:
            answer = _BatchAnswer(message, self, bound)
            # Without extensions, so that whatever is answered comes as bytes.
            scope = {**self._scope, "headers": headers, "extensions": {}}
            await self._app(scope, replay(body, self._receive), answer.send)
        return answer.finish() if message.wants_answer else None


class _BatchAnswer:
    """What an application sends back for one message of a batch: JSON, or the one event of a stream that is it."""

    def __init__(self, message: rpc.Message, exchange: BatchExchange, bound: anyio.CancelScope) -> None:
        self._id = message.id
        self._exchange = exchange
        self._bound = bound
        self._streams = False
        self._chunks: list[bytes] = []
        self._answer: bytes | None = None
        self._problem = "the server gave no answer"

    async def send(self, event: Event) -> None:
        if event["type"] == "http.response.start":
            types = [value for key, value in event.get("headers", ()) if key.lower() == b"content-type"]
            self._streams = any(value.lower().startswith(b"text/event-stream") for value in types)
        elif event["type"] == "http.response.body":
            chunk = event.get("body", b"")
            self._exchange.room -= len(chunk)
            if self._exchange.room < 0:
                await self._give_up("the answers to this batch are too long")
            self._chunks.append(chunk)
            if self._streams and (b"\n" in chunk or b"\r" in chunk):
                await self._read_events()

    def finish(self) -> bytes:
        """Return the answer, or an error in its place."""
        if not self._streams:
            self._take(b"".join(self._chunks))
        return self._answer or rpc.encode(rpc.error(self._id, rpc.INTERNAL_ERROR, self._problem))

    async def _read_events(self) -> None:
        *events, rest = _END_OF_EVENT.split(b"".join(self._chunks))
        self._chunks = [rest]
        for event in events:
            lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
            if self._take(b"\n".join(lines)):
                await self._give_up("the server asked its client something; send this request alone")

    def _take(self, data: bytes) -> bool:
        """Keep ``data`` if it is the answer. Say whether it is a question instead, that nobody will answer."""
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return False
        if type(value) is not dict:
            return False
        if "method" in value:
            return "id" in value
        if "result" in value and value.get("id") == self._id:
            self._answer = data
        elif "error" in value and value.get("id") in (self._id, None):
            # A server that refuses a request before it has read the id says null; here the id is known.
            self._answer = rpc.encode({**value, "id": self._id})
        return False

    async def _give_up(self, problem: str) -> None:
        if self._answer is None:
            self._problem = problem
        self._bound.cancel()
        await anyio.lowlevel.checkpoint()
