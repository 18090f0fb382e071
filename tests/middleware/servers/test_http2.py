"""Speaks HTTP/2 without TLS, as a proxy would: what runs was allowed, whatever the pseudo-headers say."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from ...support.servers import PATIENCE, SERVERS, Child, Server, running
from ...support.tools import require_module
from ..test_sockets import GET
from .policies import configure
from .raw_requests import DENIED, RAN, SILENCE, Answer, Reply, own, upgrade

if TYPE_CHECKING:
    from h2.connection import H2Connection

pytestmark = pytest.mark.slow

Headers = list[tuple[str, str]]


def fields(path: str | None = "/good", method: str | None = "GET", *more: tuple[str, str]) -> Headers:
    pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "testserver")]
    return [(name, value) for name, value in pseudo if value is not None] + list(more)


def websocket(path: str, method: str = "CONNECT") -> Headers:
    """Return the headers of a websocket (RFC 8441)."""
    return fields(path, method, (":protocol", "websocket"), ("sec-websocket-version", "13"))


#: Each with the answer where the server asks an application; most are denied.
_SENT: Final[dict[str, Headers | tuple[Headers, Answer]]] = {
    "allowed": (fields(), RAN),
    "denied": fields("/bad"),
    "undeclared": fields("/undeclared"),
    "head": (fields(method="HEAD"), RAN),
    "head denied": fields("/bad", "HEAD"),
    "options": fields(method="OPTIONS"),
    "options star": fields("*", "OPTIONS"),
    "trace": fields(method="TRACE"),
    "unknown method": fields(method="FOO"),
    "lower-case method": fields(method="get"),
    "connect": [(":method", "CONNECT"), (":authority", "testserver:80")],
    "connect with a path": (fields(method="CONNECT"), own(0)),
    "escaped slash": (fields("/sub%2fgood"), Answer(200, "sub")),
    "escaped letter": fields("/b%61d"),
    "escaped nul": fields("/good%00"),
    "double slash": fields("//good"),
    "authority after a double slash": fields("//testserver/good"),
    "absolute form": fields("http://testserver/good"),
    "absolute form denied": fields("http://testserver/bad"),
    "no slash": fields("good"),
    "empty path": (fields(""), own(0)),
    "nul": (fields("/good\0"), own(0)),
    "newline": (fields("/bad\r\nX-A: 1"), own(0)),
    "space": fields("/bad HTTP/1.1"),
    "query": fields("/bad?/good"),
    "fragment": fields("/bad#/good"),
    "dots": fields("/x/../good"),
    "two paths": (fields("/bad", "GET", (":path", "/good")), own(0)),
    "two paths, the other way round": (fields("/good", "GET", (":path", "/bad")), own(0)),
    "two methods": (fields("/bad", "GET", (":method", "POST")), own(0)),
    "no path": (fields(None), own(0)),
    "no method": (fields("/bad", None), own(0)),
    "another host": fields("/bad", "GET", ("host", "evil")),
    "late pseudo-header": (fields(None, "GET", ("x-a", "1"), (":path", "/bad")), own(0)),
    "unknown pseudo-header": (fields("/bad", "GET", (":foo", "x")), own(0)),
    "capital letters": (fields("/bad", "GET", ("X-A", "1")), own(0)),
    "connection header": (fields("/bad", "GET", ("connection", "close")), own(0)),
    "transfer encoding": (fields("/bad", "GET", ("transfer-encoding", "chunked")), own(0)),
    "newline in a header": (fields("/bad", "GET", ("x-a", "1\r\nx-b: 2")), own(0)),
    "nul in a header": (fields("/bad", "GET", ("x-a", "1\0")), own(0)),
    "header of 60 kB": (fields("/good", "GET", ("x-a", "y" * 60_000)), RAN),
    "header of 60 kB, denied": fields("/bad", "GET", ("x-a", "y" * 60_000)),
    "long path": fields("/by-name/" + "x" * 50_000),
    "body that does not come": fields("/bad", "POST", ("content-length", "10")),
    "websocket": (websocket("/ws"), Answer(200, "ws")),
    "websocket denied": websocket("/ws-bad"),
    "websocket to http": websocket("/good"),
    "websocket by get": (websocket("/ws-bad", "GET"), own(0)),
}

#: Where a server differs; ``None`` is not sent to it. As seen with hypercorn 0.18 (h2 4.4) and granian 2.8.
_BY_SERVER: Final[dict[str, dict[str, Answer | None]]] = {
    # An UnboundLocalError in hypercorn, which on asyncio ends the connection, and on trio all of the server.
    "connect": {"hypercorn-asyncio": own(0), "hypercorn-trio": None},
    "lower-case method": {"hypercorn-asyncio": RAN, "hypercorn-trio": RAN},  # made GET
    "another host": {"hypercorn-asyncio": own(0), "hypercorn-trio": own(0)},
    "absolute form": {"granian": own(0)},
    "absolute form denied": {"granian": own(0)},
    "no slash": {"granian": own(0)},
    "space": {"granian": own(0)},
    "body that does not come": {"granian": own(0)},
    "websocket": {"granian": own(0)},  # granian has websockets over HTTP/1.1 only
    "websocket denied": {"granian": own(0)},
    "websocket to http": {"granian": own(0)},
}

SPEAKING: Final = [server for server in SERVERS if server.parser in ("hypercorn", "granian")]


def client() -> H2Connection:
    """Return a client that sends whatever it is told to."""
    from h2.config import H2Configuration
    from h2.connection import H2Connection

    return H2Connection(
        H2Configuration(
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
            header_encoding=None,
        )
    )


def read_reply(connection: socket.socket, http: H2Connection, *, head_only: bool) -> Reply:
    """Return the response on stream 1, with status 0 where the stream or the connection ends without one."""
    from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamEnded, StreamReset

    status, body = 0, b""
    try:
        # Byte by byte, so that what comes before a mistake of the server is seen: granian gives HEAD a body.
        while data := connection.recv(1):
            for event in http.receive_data(data):
                if isinstance(event, ResponseReceived):
                    status = int(dict(event.headers)[b":status"])
                    if head_only:
                        return Reply(status, b"")
                elif isinstance(event, DataReceived):
                    body += event.data
                elif isinstance(event, StreamEnded | StreamReset | ConnectionTerminated):
                    return Reply(status, body)
            connection.sendall(http.data_to_send())
    except (TimeoutError, ConnectionError):
        pass
    return Reply(status, body)


def exchange(child: Child, headers: Headers, expected: Answer) -> Reply:
    method = dict(headers).get(":method")
    http = client()
    with child.connect(PATIENCE if expected.decided else SILENCE) as connection:
        http.initiate_connection()
        http.send_headers(1, headers, end_stream=not any(name == ":protocol" for name, _ in headers))
        connection.sendall(http.data_to_send())
        return read_reply(connection, http, head_only=method in ("HEAD", "CONNECT"))


def check(child: Child, name: str, headers: Headers, expected: Answer, asked: Answer) -> None:
    """Hold the answer to ``expected`` or ``asked``, as :mod:`.test_raw_requests` does."""
    reply = exchange(child, headers, expected)
    lines = child.journal.read()
    if lines.decisions and not expected.decided:
        expected = asked if asked.decided else DENIED
    seen = (name, reply, lines.lines)
    assert lines.ran == ([expected.ran] if expected.ran else []), seen
    assert lines.allowed == ["good"] * len(lines.ran), seen
    if not expected.decided:
        assert not lines.decisions, seen
        assert reply.status == 0 or reply.status >= 400, seen
        assert b"decision_id" not in reply.body, seen
        return
    assert (reply.status, len(lines.denied)) == (expected.status, not expected.ran), seen
    if lines.denied and reply.body:
        assert json.loads(reply.body)["decision_id"] == lines.denied[0]["decision_id"], seen


@pytest.mark.parametrize("app", ["starlette", "fastapi"])
@pytest.mark.parametrize("server", SPEAKING, ids=str)
def test_http2(server: Server, app: str, tmp_path: Path) -> None:
    require_module("h2")
    assert not _BY_SERVER.keys() - _SENT.keys()
    with running(server, app, tmp_path, configure("document", tmp_path)) as child:
        child.ask("/good")
        child.journal.read()
        for name, case in _SENT.items():
            headers, asked = case if isinstance(case, tuple) else (case, DENIED)
            expected = _BY_SERVER.get(name, {}).get(server.name, asked)
            if expected is not None:
                check(child, name, headers, expected, asked)
        assert child.ask("/good")[0] == 200
        assert child.stop() == server.stops_with, child.output
        assert child.journal.read().ran == ["good"]


@pytest.mark.parametrize("path", ["/good", "/bad"])
@pytest.mark.parametrize("server", [server for server in SPEAKING if server.parser == "hypercorn"], ids=str)
def test_a_request_that_is_upgraded_to_http2(server: Server, path: str, tmp_path: Path) -> None:
    require_module("h2")
    with running(server, "starlette", tmp_path, configure("document", tmp_path)) as child:
        http = client()
        settings = (http.initiate_upgrade_connection() or b"").decode("ascii")
        with child.connect() as connection:
            hop = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", f"HTTP2-Settings: {settings}")
            connection.sendall(upgrade(GET.format(path), *hop))
            received = b""
            while b"\r\n\r\n" not in received:
                received += connection.recv(1)
            assert received.startswith(b"HTTP/1.1 101 ")
            connection.sendall(http.data_to_send())
            reply = read_reply(connection, http, head_only=False)
        lines = child.journal.read()
        allowed = path == "/good"
        assert reply.status == (200 if allowed else 403)
        assert lines.ran == (["good"] if allowed else [])
        assert len(lines.decisions) == 1
