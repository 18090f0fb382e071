"""Runs a real server whose log nobody reads, or nobody any more: it goes on answering, and ends when it is told to."""

from __future__ import annotations

import os
import signal
from http.client import HTTPConnection
from pathlib import Path

import pytest

from ...support.servers import PATIENCE, SERVERS, running

pytestmark = pytest.mark.slow

#: Each is about 700 bytes of log, and a pipe holds 64 KiB.
DENIALS = 400


@pytest.mark.parametrize("reader", ["sleeps", "is gone"])
def test_a_server_answers_whoever_reads_its_log(reader: str, tmp_path: Path) -> None:  # T-6
    os.mkfifo(tmp_path / "server.log")
    reads = os.open(tmp_path / "server.log", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with running(SERVERS[0], "logging", tmp_path, {}, options="--log-level critical --no-access-log") as child:
            client = HTTPConnection("127.0.0.1", child.port, timeout=PATIENCE)
            client.sock = child.connect()
            if reader == "is gone":
                os.close(reads)
            for path, expected in (*[("/undeclared", 403)] * DENIALS, ("/health", 200)):
                client.request("GET", path)
                response = client.getresponse()
                response.read()
                assert response.status == expected
            client.close()
            child.process.send_signal(signal.SIGTERM)
            assert child.process.wait() in (0, -signal.SIGTERM)
    finally:
        if reader == "sleeps":
            os.close(reads)
