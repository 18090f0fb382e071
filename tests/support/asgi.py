"""Calling an ASGI application as a server would, without one: what it is sent is given, what it sends is kept."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import anyio
from starlette.types import ASGIApp, Message, Scope


class Call:
    """One call of an application: its scope, what it is to receive, and what it sent.

    ``gone`` makes every send raise, as it does where the client has disconnected. When nothing is left to receive,
    ``receive`` reports a disconnect; ``hangs`` makes it wait for ever instead.
    """

    def __init__(
        self, scope: Scope, messages: Iterable[Message] | None = None, *, gone: bool = False, hangs: bool = False
    ) -> None:
        self.scope = scope
        self.sent: list[Message] = []
        self.received = 0
        self._gone = gone
        self._hangs = hangs
        first = {"http": "http.request", "websocket": "websocket.connect", "lifespan": "lifespan.startup"}
        start = {"type": first.get(scope.get("type", ""), "http.request")}
        self._messages = [start] if messages is None else list(messages)

    async def receive(self) -> Message:
        self.received += 1
        if self._messages:
            return self._messages.pop(0)
        if self._hangs:
            await anyio.sleep_forever()
        return {"type": {"websocket": "websocket.disconnect"}.get(self.scope["type"], "http.disconnect")}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if self._gone:
            raise OSError("the client is gone")

    async def to(self, app: ASGIApp) -> Call:
        await app(self.scope, self.receive, self.send)
        return self

    @property
    def starts(self) -> list[Message]:
        return [message for message in self.sent if message["type"].endswith("response.start")]

    @property
    def status(self) -> int:
        (start,) = self.starts
        return int(start["status"])

    @property
    def headers(self) -> dict[str, str]:
        (start,) = self.starts
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]]
        assert len(dict(pairs)) == len(pairs), "a header twice"
        return dict(pairs)

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.sent if m["type"].endswith("response.body"))

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def http_scope(
    path: str = "/", method: str = "GET", headers: Iterable[tuple[str, str]] = (("host", "testserver"),), **extra: Any
) -> Scope:
    """A scope as uvicorn makes it; ``extra`` replaces or adds keys."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "surrogatepass"),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 80),
        "state": {},
        **extra,
    }


def websocket_scope(path: str = "/", **extra: Any) -> Scope:
    scope = http_scope(path, **{"type": "websocket", "scheme": "ws", "subprotocols": [], **extra})
    del scope["method"]
    return scope


def without(scope: Scope, *keys: str) -> Scope:
    return {key: value for key, value in scope.items() if key not in keys}
