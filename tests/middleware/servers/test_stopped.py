"""Stops a server's process while a request waits: what did not run has let no limit pass."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ...support.servers import SERVERS, Child, running
from .policies import configure

pytestmark = pytest.mark.slow

#: Seconds, of which a request that is served in these tests waits for a fraction.
LIMIT = 0.5
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n"


@contextmanager
def waiting(folder: Path) -> Iterator[tuple[Child, Any]]:
    """A server, and a connection to it whose request has come as far as its body."""
    limits = {f"CAPGATE_{name}_SECONDS": str(LIMIT) for name in ("BODY", "BODY_IDLE", "ACTOR")}
    variables = {**configure("document", folder), **limits}
    with running(SERVERS[0], "waiting", folder, variables) as child, child.connect() as connection:
        connection.sendall(HEAD)
        answer = connection.makefile("rb")
        assert answer.readline().split()[1] == b"100"
        answer.readline()
        connection.sendall(b"01234")
        yield child, (connection, answer)


@contextmanager
def stopped(child: Child) -> Iterator[None]:
    """The process does not run, for three times the limit and more."""
    child.process.send_signal(signal.SIGSTOP)
    time.sleep(3 * LIMIT)
    try:
        yield
    finally:
        child.process.send_signal(signal.SIGCONT)


def read(answer: Any) -> tuple[int, bytes]:
    status = int(answer.readline().split()[1])
    while answer.readline().strip():
        pass
    return status, answer.read()


@pytest.mark.parametrize("times", [1, 3])
def test_what_comes_while_the_process_is_stopped_is_in_time(times: int, tmp_path: Path) -> None:  # T-1
    with waiting(tmp_path) as (child, (connection, answer)):
        for _ in range(times):
            with stopped(child):
                pass
        with stopped(child):
            connection.sendall(b"56789")
        assert read(answer) == (200, b"0123456789")


def test_what_does_not_come_once_it_goes_on_is_too_late(tmp_path: Path) -> None:  # T-1
    with waiting(tmp_path) as (child, (_, answer)):
        with stopped(child):
            pass
        status, body = read(answer)
        assert (status, json.loads(body)["reason"]) == (403, "body_timeout")
