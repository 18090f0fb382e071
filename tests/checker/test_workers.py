"""Four processes of a real server under load, while policies come and go in the store that they follow."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from capgate.artifact.build import build_policy

from ..support.stores import KEY, Shelf
from ..support.tools import ROOT, examples

pytestmark = pytest.mark.slow

WORKERS = 4
#: Activations and rollbacks together.
CHANGES = examples(100, quick=40)


def policy(version: int) -> bytes:
    """Admits ``v0`` or ``v1``, by whether ``version`` is even, and never both."""
    return build_policy({"name": "orders", "version": str(version), "sql": ["always", f"v{version % 2}"]})


@contextmanager
def serving(shelf: Shelf, log: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("CAPGATE_")},
        "CAPGATE_STORE": str(shelf.path),
        "CAPGATE_POLICY_NAME": "orders",
        "CAPGATE_TRUSTED_KEYS": KEY.public.line,
        "CAPGATE_STORE_POLL": "0.05",
        "CAPGATE_DEADLINE": "20",
    }
    command = [sys.executable, "-m", "uvicorn", "--factory", "tests.checker.workers_app:create_app"]
    options = ["--workers", str(WORKERS), "--port", str(port), "--log-level", "warning"]
    with log.open("wb") as output:
        server = subprocess.Popen([*command, *options], cwd=ROOT, env=environ, stdout=output, stderr=output)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(60)


def ask(client: httpx.Client, url: str) -> dict[str, Any]:
    answer = client.get(url, headers={"connection": "close"})  # another process may be next
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def wait_for_all(url: str, expected: list[int]) -> None:
    """Until each process has answered, by that policy."""
    seen: set[int] = set()
    until = time.monotonic() + 120
    with httpx.Client(trust_env=False, timeout=30) as client:
        while len(seen) < WORKERS:
            assert time.monotonic() < until, seen
            try:
                answer = ask(client, url)
            except httpx.TransportError:
                time.sleep(0.05)
                continue
            if answer["allowed"] == expected:
                seen.add(answer["pid"])


class Load(threading.Thread):
    """Asks again and again, and keeps what was wrong and the longest that an answer took, in seconds."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.done = threading.Event()
        self.wrong: list[Any] = []
        self.answers = {0: 0, 1: 0}
        self.longest = 0.0

    def run(self) -> None:
        with httpx.Client(trust_env=False, timeout=30) as client:
            while not self.done.is_set():
                started = time.monotonic()
                try:
                    allowed = ask(client, self.url)["allowed"]
                    if len(allowed) == 1:
                        self.answers[allowed[0]] += 1
                    else:
                        self.wrong.append(allowed)
                except Exception as error:
                    self.wrong.append(error)
                self.longest = max(self.longest, time.monotonic() - started)


def test_four_workers_through_activations_and_rollbacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A19, A24: no request gets an answer of neither policy, none fails, each worker ends on the same one
    shelf = Shelf(tmp_path / "store")
    shelf.release(2, policy(2))
    with serving(shelf, tmp_path / "server.log") as url:
        wait_for_all(url, [0])
        loads = [Load(url) for _ in range(2)]
        for load in loads:
            load.start()
        for change in range(CHANGES // 2):
            version = 3 + change
            shelf.release(version, policy(2 * version + 1))
            time.sleep(0.05)
            shelf.store.rollback("orders", sequence=shelf.store.read_active("orders").sequence)
            time.sleep(0.05)
        shelf.release(10_000, policy(1))
        wait_for_all(url, [1])
        for load in loads:
            load.done.set()
        for load in loads:
            load.join(60)
            assert load.wrong == []
    answers = {kind: sum(load.answers[kind] for load in loads) for kind in (0, 1)}
    with capsys.disabled():
        longest = 1_000 * max(load.longest for load in loads)
        print(f"\n{CHANGES + 1} changes, {answers} answers by policy, the longest took {longest:.0f} ms")
    assert answers[0] > 0
    assert answers[1] > 0
    assert shelf.store.read_active("orders").sequence == CHANGES + 2
