"""Real HTTP servers on loopback that note what arrives, for the tests of gated HTTP."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Arrivals:
    """What arrived at one server: connections, and ``(method, target, Host)`` of each request."""

    def __init__(self) -> None:
        self.connections = 0
        self.open = 0
        self.requests: list[tuple[str, str, str | None]] = []
        self.bodies: list[bytes] = []
        self.slow = threading.Event()  # until it is set, "/slow" does not answer

    @property
    def targets(self) -> list[str]:
        return [target for _, target, _ in self.requests]


class Handler(BaseHTTPRequestHandler):
    """``/to?url=…&status=…`` redirects, ``/digest`` wants authentication, ``/parts`` answers in parts."""

    protocol_version = "HTTP/1.1"
    server: Any

    def setup(self) -> None:
        super().setup()
        self.server.arrivals.connections += 1
        self.server.arrivals.open += 1

    def finish(self) -> None:
        self.server.arrivals.open -= 1
        super().finish()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):  # any method at all, as the base class looks it up
            return self.answer
        raise AttributeError(name)

    def answer(self) -> None:
        arrivals, url = self.server.arrivals, urlsplit(self.path)
        arrivals.requests.append((self.command, self.path, self.headers.get("Host")))
        arrivals.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/to":
            self.reply(int(query.get("status", "302")), b"", Location=query["url"])
        elif url.path == "/digest" and "Authorization" not in self.headers:
            self.reply(401, b"", **{"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth", algorithm=SHA-256'})
        elif url.path == "/parts":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
        else:
            if url.path == "/slow":
                arrivals.slow.wait(60)
            self.reply(200, b"here")

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class Server:
    """A server that runs: where it is, and what arrived."""

    def __init__(self, server: Any) -> None:
        self.arrivals: Arrivals = server.arrivals
        address = server.server_address
        self.host, self.port = address[:2] if isinstance(address, tuple) else ("", 0)

    def url(self, path: str = "/") -> str:
        return f"http://{self.host}:{self.port}{path}"

    def wait_closed(self) -> None:
        """Wait until the server has seen the end of each connection; the limit of a test is that of this, too."""
        while self.arrivals.open:
            time.sleep(0.001)


@contextmanager
def serving(host: str) -> Iterator[Server]:
    """A server on a free port of ``host``, an address of loopback, until the end of the block."""
    server = ThreadingHTTPServer((host, 0), Handler)
    with _running(server) as running:
        yield running


@contextmanager
def serving_unix(path: Path) -> Iterator[Server]:
    with _running(UnixServer(str(path), Handler)) as running:
        yield running


@contextmanager
def _running(server: Any) -> Iterator[Server]:
    server.daemon_threads = True
    server.arrivals = Arrivals()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Server(server)
    finally:
        server.arrivals.slow.set()
        server.shutdown()
        thread.join()
        server.server_close()
