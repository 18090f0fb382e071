"""Sends raw and hostile requests to each server: an endpoint ran only if the policy was asked, and allowed it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ...support.servers import PATIENCE, SERVERS, Child, Server, running
from ..test_sockets import GET, request
from .policies import configure
from .raw_requests import SILENCE, Answer, Reply, exchange, own, requests_for

pytestmark = pytest.mark.slow


def check(child: Child, name: str, data: bytes, expected: Answer, asked: Answer) -> None:
    """Send ``data``, and hold the answer to ``expected``.

    It is held to ``asked`` where the server passes on what it answered by itself when the table was written.
    """
    with child.connect(PATIENCE if expected.decided else SILENCE) as connection:
        reply = exchange(connection, data, head_only=data.startswith(b"HEAD "))
    lines = child.journal.read()
    if lines.decisions and not expected.decided:
        expected = asked
    if (name, reply.status) == ("long method", 400) and expected.decided and not lines.decisions:
        expected = own(400)  # h11 gives up on a line that it has not seen the end of, by how it is cut into packets
    seen = (name, reply, lines.lines)
    assert lines.ran == ([expected.ran] if expected.ran else []), seen
    assert lines.allowed == ["good"] * len(lines.ran), seen
    if not expected.decided:
        assert not lines.decisions, seen
        assert reply.status == 0 or reply.status >= 400, seen
        assert not is_refusal(reply), seen
        return
    assert reply.status == expected.status, seen
    assert len(lines.denied) == (not expected.ran), seen
    if lines.denied and reply.body:
        assert json.loads(reply.body)["decision_id"] == lines.denied[0]["decision_id"], seen


def is_refusal(reply: Reply) -> bool:
    return b"decision_id" in reply.body


@pytest.mark.parametrize("app", ["starlette", "fastapi"])
@pytest.mark.parametrize("server", SERVERS, ids=str)
def test_raw_requests(server: Server, app: str, tmp_path: Path) -> None:
    with running(server, app, tmp_path, configure("document", tmp_path)) as child:
        child.ask("/good")
        child.journal.read()
        for name, (data, expected, asked) in requests_for(server.parser).items():
            check(child, name, data, expected, asked)
        assert child.ask("/good")[0] == 200  # the next request is served normally
        assert child.stop() == server.stops_with, child.output
        assert child.journal.read().ran == ["good"]


@pytest.mark.parametrize("server", SERVERS, ids=str)
def test_pipelined_requests_are_decided_each_by_itself(server: Server, tmp_path: Path) -> None:
    keep = b"GET /%s HTTP/1.1\r\nHost: testserver\r\n\r\n"
    names = [b"good", b"bad", b"good", b"undeclared", b"good"]
    with running(server, "starlette", tmp_path, configure("document", tmp_path)) as child:
        received = b""
        with child.connect() as connection:
            connection.sendall(b"".join(keep % name for name in names) + request(GET.format("/bad")))
            while part := connection.recv(65_536):
                received += part
        statuses = [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]]
        assert statuses == [b"200", b"403", b"200", b"403", b"200", b"403"]
        lines = child.journal.read()
        assert lines.ran == ["good"] * 3
        assert [event["path"] for event in lines.decisions] == [
            "/good",
            "/bad",
            "/good",
            "/undeclared",
            "/good",
            "/bad",
        ]
