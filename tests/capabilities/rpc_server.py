"""An MCP server that is as careless as can be: it makes a tool call of whatever could be taken for one."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

from starlette.types import Receive, Scope, Send

from capgate.capabilities.tools import canonical_hash


def _lower(value: dict[str, Any]) -> dict[str, Any]:
    return {key.casefold(): inner for key, inner in value.items()}


class Careless:
    """Tool calls are noted in ``called``, with the hash of their arguments in ``hashes``, and with everything else in
    ``ran``; requests in ``requests``, as they came.

    ``streams`` answers with an event stream that begins with a notification, ``asks`` puts a question to the client
    into it, ``status`` is that of every answer.
    """

    def __init__(self, *, streams: bool = False, asks: bool = False, status: int = 200, result: Any = None) -> None:
        self.ran: list[str] = []
        self.called: list[str] = []
        self.hashes: list[str] = []
        self.requests: list[tuple[str, bytes]] = []
        self.scopes: list[Scope] = []
        self._streams = streams or asks
        self._asks = asks
        self._status = status
        self._result = {} if result is None else result

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            self.ran.append(scope["type"])
            return
        body, more = b"", True
        while more:
            event = await receive()
            body += event.get("body", b"")
            more = event.get("more_body", False)
        self.requests.append((scope["method"], body))
        self.scopes.append(scope)
        answers = [self._answer(message) for message in self._messages(scope, body)]
        answers = [answer for answer in answers if answer is not None]
        if not answers:
            await send({"type": "http.response.start", "status": 202, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        elif self._streams:
            await self._stream(send, answers)
        else:
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": self._status, "headers": headers})
            await send({"type": "http.response.body", "body": json.dumps(answers[0]).encode()})

    async def _stream(self, send: Send, answers: list[Any]) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        first: dict[str, Any] = {"jsonrpc": "2.0", "method": "notifications/message", "params": {}}
        if self._asks:
            first = {"jsonrpc": "2.0", "id": 1, "method": "sampling/createMessage", "params": {}}
        for message in (first, *answers):
            event = f": comment\r\nid: 7\r\nevent: message\r\ndata: {json.dumps(message, indent=1)}\r\n\r\n"
            data = event.replace("\n ", "\ndata:  ").replace("\n}", "\ndata: }").encode()
            for start in range(0, len(data), 7):  # as a network would: in pieces that are no lines
                await send({"type": "http.response.body", "body": data[start : start + 7], "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def _messages(self, scope: Scope, body: bytes) -> Iterator[dict[str, Any]]:
        headers = dict(scope["headers"])
        if b"gzip" in headers.get(b"content-encoding", b"").lower():
            body = gzip.decompress(body)
        try:
            value = json.loads(body)  # UTF-16 and UTF-32 too, NaN, the last of equal keys
        except ValueError:
            return
        waiting = [value]
        while waiting:
            value = waiting.pop(0)
            if isinstance(value, list):
                waiting += value
            elif isinstance(value, dict):
                yield value

    def _answer(self, message: dict[str, Any]) -> dict[str, Any] | None:
        fields = _lower(message)
        method = str(fields.get("method")).strip().strip("\0").casefold()
        if method == "tools/call":
            given = fields.get("params")
            params = _lower(given) if isinstance(given, dict) else {"name": given[0] if given else None}
            name, arguments = params.get("name"), params.get("arguments")
            self.called.append(str(name[0] if isinstance(name, list) else name))
            self.ran.append(self.called[-1])
            self.hashes.append(canonical_hash(arguments if isinstance(arguments, dict) else {}))
        elif method != "none":
            self.ran.append(method)
        return {"jsonrpc": "2.0", "id": fields["id"], "result": self._result} if "id" in fields else None


def call(name: str, id: Any = 1, arguments: Any = None, **more: Any) -> dict[str, Any]:
    """A ``tools/call``; without an ``id`` (``...``) a notification."""
    params = {"name": name} if arguments is None else {"name": name, "arguments": arguments}
    message = {"jsonrpc": "2.0", "method": "tools/call", "params": params, **more}
    return message if id is ... else {**message, "id": id}
