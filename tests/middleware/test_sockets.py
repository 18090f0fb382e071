"""The same invariant with real servers and raw sockets: whatever arrives, an endpoint ran only if it was allowed to."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount, Route, WebSocketRoute

from capgate.middleware.middleware import CapabilityMiddleware
from capgate.model import Allow
from capgate.settings.settings import Settings

from ..support.gates import KINDS, PATIENT, Ran, Recording, events, make_checker, read
from ..support.tools import ROOT
from .test_lifecycle import write_artifact

PROTOCOLS = ("h11", "httptools")


def application(ran: Ran, checker: Any, **settings: Any) -> Starlette:
    routes = [
        Route("/good", read("good")(ran.endpoint("good")), methods=["GET", "POST"]),
        Route("/bad", read("bad")(ran.endpoint("bad")), methods=["GET", "POST"]),
        Route("/undeclared", ran.endpoint("undeclared")),
        Route("/by-name/{name:path}", read("{name}")(ran.endpoint("by-name"))),
        Mount("/sub", routes=[Route("/good", read("good")(ran.endpoint("sub")))]),
        WebSocketRoute("/ws", read("good")(ran.websocket("ws"))),
        WebSocketRoute("/ws-bad", read("bad")(ran.websocket("ws-bad"))),
    ]
    app = Starlette(routes=routes)
    settings = {"limits": PATIENT, "expose_reasons": True, **settings}
    app.add_middleware(CapabilityMiddleware, settings=Settings(**settings), checker=checker)
    return app


@contextmanager
def served(app: Any, http: str = "h11", lifespan: Any = "on") -> Iterator[tuple[str, int]]:
    """A real server on a free port of loopback, in a thread, until the end of the block."""
    config = uvicorn.Config(
        app, port=0, timeout_keep_alive=1, http=http, ws="websockets-sansio", lifespan=lifespan, log_config=None
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        yield server.servers[0].sockets[0].getsockname()
    finally:
        server.should_exit = True
        thread.join()


def exchange(address: tuple[str, int], data: bytes) -> bytes:
    """Send ``data``, and take what comes until the server closes."""
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(data)
        received = b""
        try:
            while part := connection.recv(65_536):
                received += part
                if received.startswith(b"HTTP/1.1 101 ") and CLOSE_FRAME in received:
                    break  # a WebSocket: the server waits for an answer to its close frame
        except ConnectionResetError:
            pass  # the server refused to read all of it
        return received


def request(line: str, *headers: str, body: str = "", host: str | None = "Host: testserver") -> bytes:
    lines = [line, *([] if host is None else [host]), "Connection: close", *headers, "", body]
    return "\r\n".join(lines).encode("latin-1")


CLOSE_FRAME = b"\x88\x02\x03\xe8"
GET = "GET {} HTTP/1.1"
UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)

#: Each with the endpoints that run; ``None`` where that depends on the server's parser, and only the invariant is held.
REQUESTS: dict[str, tuple[bytes, list[str] | None]] = {
    "allowed": (request(GET.format("/good")), ["good"]),
    "denied": (request(GET.format("/bad")), []),
    "undeclared": (request(GET.format("/undeclared")), []),
    "head": (request("HEAD /good HTTP/1.1"), ["good"]),
    "head denied": (request("HEAD /bad HTTP/1.1"), []),
    "post": (request("POST /good HTTP/1.1", "Content-Length: 2", body="hi"), ["good"]),
    "post denied": (request("POST /bad HTTP/1.1", "Content-Length: 2", body="hi"), []),
    "chunked": (request("POST /good HTTP/1.1", "Transfer-Encoding: chunked", body="2\r\nhi\r\n0\r\n\r\n"), ["good"]),
    "both lengths": (
        request("POST /bad HTTP/1.1", "Content-Length: 5", "Transfer-Encoding: chunked", body="0\r\n\r\nGET /good"), []
    ),
    "options": (request("OPTIONS /good HTTP/1.1"), []),
    "options star": (request("OPTIONS * HTTP/1.1"), []),
    "trace": (request("TRACE /good HTTP/1.1"), []),
    "connect": (request("CONNECT testserver:80 HTTP/1.1"), []),
    "unknown method": (request("FOO /good HTTP/1.1"), []),
    "lower-case method": (request("get /good HTTP/1.1"), None),
    "long method": (request("G" * 70_000 + " /good HTTP/1.1"), []),
    "override": (request("POST /bad HTTP/1.1", "X-HTTP-Method-Override: GET", "Content-Length: 0"), []),
    "original url": (request(GET.format("/bad"), "X-Original-URL: /good", "X-Rewrite-URL: /good"), []),
    "forwarded prefix": (request(GET.format("/bad"), "X-Forwarded-Prefix: /good", "X-Script-Name: /good"), []),
    "escaped letter": (request(GET.format("/g%6fod")), ["good"]),
    "escaped letter denied": (request(GET.format("/b%61d")), []),
    "escaped twice": (request(GET.format("/g%256fod")), []),
    "escaped slash": (request(GET.format("/sub%2fgood")), ["sub"]),
    "escaped nul": (request(GET.format("/good%00")), []),
    "escaped newline": (request(GET.format("/good%0a")), []),
    "escaped not utf-8": (request(GET.format("/by-name/good%ff")), []),
    "overlong utf-8": (request(GET.format("/by-name/..%c0%af..%c0%afgood")), []),
    "raw high bytes": (request(GET.format("/g\xc3\xb6od")), []),
    "raw nul": (request(GET.format("/good\0")), []),
    "double slash": (request(GET.format("//good")), []),
    "trailing slash": (request(GET.format("/good/")), []),
    "dots": (request(GET.format("/x/../good")), []),
    "dots in a parameter": (request(GET.format("/by-name/../good")), []),
    "escaped dots": (request(GET.format("/%2e%2e/good")), []),
    "path parameters": (request(GET.format("/good;jsessionid=1")), []),
    "backslash": (request(GET.format("\\good")), []),
    "query": (request(GET.format("/bad?/good")), []),
    "fragment": (request(GET.format("/bad#/good")), None),
    "absolute form": (request(GET.format("http://testserver/good")), None),
    "absolute form denied": (request(GET.format("http://testserver/bad")), []),
    "absolute form of another host": (request(GET.format("http://evil/undeclared")), []),
    "host with a path": (request(GET.format("/bad"), host="Host: x/good?"), []),
    "host with a user": (request(GET.format("/undeclared"), host="Host: a@b"), []),
    "empty host": (request(GET.format("/good"), host="Host:"), None),
    "two hosts": (request(GET.format("/bad"), "Host: evil"), []),
    "no host": (request(GET.format("/bad"), host=None), []),
    "http/1.0": (request("GET /good HTTP/1.0", host=None), ["good"]),
    "http/1.0 denied": (request("GET /bad HTTP/1.0", host=None), []),
    "http/0.9": (b"GET /good\r\n\r\n", None),
    "http/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []),
    "two spaces": (request("GET  /good HTTP/1.1"), None),
    "tab": (request("GET\t/good\tHTTP/1.1"), []),
    "leading newline": (b"\r\n" + request(GET.format("/bad")), []),
    "obs-fold": (request(GET.format("/bad"), "X-A: 1\r\n GET /good HTTP/1.1"), []),
    "space before colon": (request(GET.format("/bad"), "X-A : 1"), []),
    "long path": (request(GET.format("/by-name/" + "x" * 60_000)), []),
    "many headers": (request(GET.format("/bad"), *[f"X-{number}: y" for number in range(500)]), []),
    "expect": (request("POST /bad HTTP/1.1", "Content-Length: 10000000000", "Expect: 100-continue"), []),
    "websocket": (request(GET.format("/ws"), *UPGRADE).replace(b"Connection: close\r\n", b""), ["ws"]),
    "websocket denied": (request(GET.format("/ws-bad"), *UPGRADE).replace(b"Connection: close\r\n", b""), []),
    "websocket to http": (request(GET.format("/good"), *UPGRADE).replace(b"Connection: close\r\n", b""), []),
    "http to websocket": (request(GET.format("/ws")), []),
}  # fmt: skip


@pytest.mark.parametrize("http", PROTOCOLS)
def test_raw_requests(http: str) -> None:  # S4, S5, S6, S11, S12, S17, S18
    ran, checker = Ran(), Recording()
    replies: dict[str, bytes] = {}
    with served(application(ran, checker), http) as address:
        for name, (data, expected) in REQUESTS.items():
            ran.names.clear()
            checker.asked.clear()
            replies[name] = exchange(address, data)
            allowed = [
                question.resource.id
                for question, result in checker.asked
                if type(result) is Allow and question.resource
            ]
            assert allowed == ["good"] * len(ran.names), name
            assert expected is None or ran.names == expected, name
            assert not set(ran.names) & {"bad", "undeclared", "ws-bad"}, name
        ran.names.clear()
        assert b" 200 " in exchange(address, request(GET.format("/good")))  # the next request is served normally
    assert replies["denied"].startswith(b"HTTP/1.1 403 ")
    assert b"content-type: application/problem+json" in replies["denied"]
    assert replies["head denied"].endswith(b"\r\n\r\n")
    assert b"100 Continue" not in replies["expect"]
    assert replies["websocket denied"].startswith(b"HTTP/1.1 403 ")
    assert replies["websocket"].startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize("http", PROTOCOLS)
def test_pipelined_requests_are_judged_one_by_one(http: str) -> None:  # S23
    ran, checker = Ran(), Recording()
    keep = b"GET /%s HTTP/1.1\r\nHost: testserver\r\n\r\n"
    names = [b"good", b"bad", b"good", b"undeclared", b"good"]
    with served(application(ran, checker), http) as address:
        data = b"".join(keep % name for name in names) + request(GET.format("/bad"))
        received = exchange(address, data)
    assert [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]] == [b"200", b"403", b"200", b"403", b"200", b"403"]
    assert ran.names == ["good"] * 3
    assert [id for _, id in checker.questions] == ["good", "bad", "good", "good", "bad"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lifespan", ["on", "off"])
def test_with_and_without_lifespan(lifespan: str, kind: str) -> None:  # P13
    ran = Ran()
    with served(application(ran, make_checker(kind)), lifespan=lifespan) as address:
        for _ in range(3):
            assert exchange(address, request(GET.format("/good"))).startswith(b"HTTP/1.1 200 ")
            assert exchange(address, request(GET.format("/bad"))).startswith(b"HTTP/1.1 403 ")
    assert ran.names == ["good"] * 3


def test_without_lifespan_a_failed_start_denies_everything(tmp_path: Path) -> None:  # C7
    path, _ = write_artifact(tmp_path)
    ran = Ran()
    app = application(ran, None, artifact=path, artifact_sha256="0" * 64)
    with events() as found, served(app, lifespan="off") as address:
        reply = exchange(address, request(GET.format("/good")))
    assert (reply[:13], ran.names, found[0]["reason"]) == (b"HTTP/1.1 403 ", [], "policy_unavailable")


SERVED = """
from starlette.applications import Starlette
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.settings.settings import Settings
app = Starlette()
app.add_middleware(CapabilityMiddleware{})
"""


@pytest.mark.slow
@pytest.mark.parametrize("lifespan", ["auto", "on"])
@pytest.mark.parametrize("case", ["mismatch", "missing", "environment"])
def test_a_server_does_not_come_up_with_a_policy_that_will_not_do(
    case: str, lifespan: str, tmp_path: Path
) -> None:  # C4, C7
    path, digest = write_artifact(tmp_path)
    environment = {
        "mismatch": {"CAPGATE_ARTIFACT": str(path), "CAPGATE_ARTIFACT_SHA256": "0" * 64},
        "missing": {"CAPGATE_ARTIFACT": str(tmp_path / "missing.wasm")},
        "environment": {"CAPGATE_ARTEFACT": str(path)},
    }[case]
    (tmp_path / "served.py").write_text(SERVED.format(""))
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "uvicorn",
            "served:app",
            "--port",
            "0",
            "--lifespan",
            lifespan,
            "--app-dir",
            str(tmp_path),
        ],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 3, process.stderr
    shown = {
        "mismatch": [digest, "0" * 64],
        "missing": ["missing.wasm"],
        "environment": ["CAPGATE_ARTEFACT", "CAPGATE_ARTIFACT"],
    }
    assert all(text in process.stderr for text in shown[case])
    assert "Traceback" not in process.stderr
