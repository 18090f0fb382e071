"""Has requests as bytes, hostile ones among them, and what becomes of each on servers with different parsers."""

from __future__ import annotations

import socket
from typing import Final, NamedTuple

from ..test_sockets import GET, REQUESTS, UPGRADE, request

#: Seconds to wait for a server that is known to say nothing, or to answer by itself.
SILENCE: Final = 2.0


class Answer(NamedTuple):
    """What becomes of a request.

    ``status`` is 0 where the client sees no answer. ``ran`` names the endpoint. ``decided`` says that the gate was
    asked. What a server answers by itself, before any application, is its own: the status is only written down here.
    The tests hold that nothing ran then, and that nothing was decided.
    """

    status: int
    ran: str | None = None
    decided: bool = True


class Reply(NamedTuple):
    """``status`` is 0 where there was no HTTP/1 response."""

    status: int
    body: bytes


RAN: Final = Answer(200, "good")
DENIED: Final = Answer(403)


def own(status: int) -> Answer:
    """The server's own answer."""
    return Answer(status, None, False)


def upgrade(line: str, *headers: str) -> bytes:
    return request(line, *headers).replace(b"Connection: close\r\n", b"")


_SENT: Final = {
    **{name: data for name, (data, _) in REQUESTS.items()},
    "header of 64 KiB": request(GET.format("/good"), "X-A: " + "y" * 65_536),
    "header of 64 KiB, denied": request(GET.format("/bad"), "X-A: " + "y" * 65_536),
    "nul in a header": request(GET.format("/good"), "X-A: a\0b"),
    "nul in a header, denied": request(GET.format("/bad"), "X-A: a\0b"),
    "carriage return in a header": request(GET.format("/good"), "X-A: a\rGET /bad HTTP/1.1"),
    "line feeds only": request(GET.format("/good")).replace(b"\r\n", b"\n"),
    "two hosts, allowed": request(GET.format("/good"), "Host: evil"),
    "two lengths": request("POST /good HTTP/1.1", "Content-Length: 2", "Content-Length: 5", body="hello"),
    "signed length": request("POST /good HTTP/1.1", "Content-Length: +2", body="hi"),
    "two transfer encodings": request(
        "POST /bad HTTP/1.1", "Transfer-Encoding: identity, chunked", body="2\r\nhi\r\n0\r\n\r\n"
    ),
    "absolute form with https": request(GET.format("https://testserver/good")),
    "authority after a double slash": request(GET.format("//testserver/good")),
    "put": request("PUT /good HTTP/1.1", "Content-Length: 0"),
    "trace denied": request("TRACE /bad HTTP/1.1"),
    "http/1.2": request("GET /good HTTP/1.2"),
    "http/3.0": request("GET /good HTTP/3.0"),
    "upgrade to http/2": upgrade(
        GET.format("/bad"), "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAA"
    ),
    "websocket undeclared": upgrade(GET.format("/ws-undeclared"), *UPGRADE),
    "websocket of another version": upgrade(GET.format("/ws-bad"), *UPGRADE).replace(b"Version: 13", b"Version: 8"),
    "websocket by post": upgrade("POST /ws-bad HTTP/1.1", *UPGRADE),
}

#: What becomes of those that an application decides about on every server; of all others, the gate denies them.
_BY_DEFAULT: Final = {
    **{name: Answer(200, expected[0]) for name, (_, expected) in REQUESTS.items() if expected},
    "websocket": Answer(101, "ws"),
    "empty host": RAN,
    "header of 64 KiB": RAN,
    "line feeds only": RAN,
    "two hosts, allowed": RAN,
    "http/1.2": RAN,
    "http/3.0": RAN,
    "two spaces": RAN,
    "http/0.9": RAN,
    **dict.fromkeys(
        (
            "raw nul",
            "tab",
            "space before colon",
            "nul in a header",
            "nul in a header, denied",
            "carriage return in a header",
            "two lengths",
            "signed length",
        ),
        own(400),
    ),
}

#: Where a server differs, by its parser; ``None`` is not sent to it. As seen with uvicorn 0.54 on h11 0.16 and on
#: httptools 0.9, hypercorn 0.18, granian 2.8, daphne 4.2.
_BY_PARSER: Final[dict[str, dict[str, Answer | None]]] = {
    # hypercorn answers 400 though the gate has denied; on trio all of the server ends then (pgjones/hypercorn#203).
    "both lengths": {"httptools": own(400), "daphne": own(400), "hypercorn": None},
    "two transfer encodings": {"h11": own(400), "daphne": own(400), "hypercorn": own(501)},
    "connect": {"httptools": own(400)},
    "unknown method": {"httptools": own(400)},
    "lower-case method": {"httptools": own(400), "hypercorn": RAN},  # hypercorn makes it GET
    "long method": {"httptools": own(400), "hypercorn": own(431), "daphne": own(0)},
    "long path": {"daphne": own(0)},
    "raw high bytes": {"h11": own(400), "httptools": own(400), "hypercorn": own(400), "daphne": own(400)},
    "backslash": {"httptools": own(400), "granian": own(400)},
    "absolute form": {"httptools": RAN, "granian": RAN},  # the others take all of it for a path
    "absolute form with https": {"httptools": RAN, "granian": RAN},
    "two hosts": {"h11": own(400), "hypercorn": own(400)},
    "two hosts, allowed": {"h11": own(400), "hypercorn": own(400)},
    "no host": {"h11": own(400), "hypercorn": own(400)},
    "leading newline": {"h11": own(400), "hypercorn": own(400)},
    "obs-fold": {"httptools": own(400), "granian": own(400)},
    "many headers": {"granian": own(431), "daphne": own(400)},
    "header of 64 KiB": {"hypercorn": own(431), "daphne": own(0)},
    "header of 64 KiB, denied": {"hypercorn": own(431), "daphne": own(0)},
    "line feeds only": {"httptools": own(400), "daphne": own(0)},
    "http/0.9": {"h11": own(400), "hypercorn": own(400), "granian": own(400), "daphne": own(400)},
    "two spaces": {"h11": own(400), "hypercorn": own(400), "granian": own(400), "daphne": own(400)},
    "http/1.2": {"httptools": own(400), "granian": own(400), "daphne": own(400)},
    "http/3.0": {"httptools": own(400), "granian": own(400), "daphne": own(400)},
    # hypercorn and granian speak HTTP/2 from here on.
    "http/2 preface": {"httptools": own(400), "daphne": own(400), "hypercorn": own(0), "granian": own(0)},
    "upgrade to http/2": {"hypercorn": None},  # see test_http2.py
    "expect": {"daphne": own(100)},  # which waits for the body before it calls an application
    "websocket of another version": {
        "h11": own(426),
        "httptools": own(400),
        "hypercorn": own(400),
        "granian": own(400),
    },
    "websocket by post": {"h11": own(400), "httptools": own(400), "daphne": own(405)},  # some say nothing
}


def requests_for(parser: str) -> dict[str, tuple[bytes, Answer, Answer]]:
    """For each request its bytes, the answer on servers with ``parser``, and the answer where the gate is asked."""
    assert not (_BY_DEFAULT.keys() | _BY_PARSER.keys()) - _SENT.keys()
    cases = {}
    for name, data in _SENT.items():
        default = _BY_DEFAULT.get(name, DENIED)
        answer = _BY_PARSER.get(name, {}).get(parser, default)
        if answer is not None:
            cases[name] = (data, answer, default)
    return cases


def exchange(connection: socket.socket, data: bytes, *, head_only: bool = False) -> Reply:
    """Send ``data``, and give the response that comes first, but for interim ones; nothing where none comes in time."""
    received = b""
    try:
        connection.sendall(data)
        while (reply := parse(received, head_only)) is None:
            part = connection.recv(65_536)
            if not part:
                break
            received += part
    except (TimeoutError, ConnectionError):  # the server is silent, or took no more of it
        reply = parse(received, head_only)
    return reply or Reply(0, b"")


def parse(received: bytes, head_only: bool) -> Reply | None:
    """The first response in ``received`` if all of it is there, interim ones left out."""
    head, found, rest = received.partition(b"\r\n\r\n")
    if received and not received.startswith(b"HTTP/1."[: len(received)]):
        return Reply(0, b"")
    if not found:
        return None
    status = int(head.split(b" ", 2)[1])
    if status < 200 and status != 101:
        return parse(rest, head_only)
    lines = head.lower().split(b"\r\n")
    sizes = [int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")]
    if head_only or status == 101:
        return Reply(status, b"")
    if not sizes:  # until the server closes: nobody looks at such a body
        return Reply(status, rest)
    return Reply(status, rest[: sizes[0]]) if len(rest) >= sizes[0] else None
