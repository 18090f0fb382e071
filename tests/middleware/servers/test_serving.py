"""Runs each server with each policy: what is allowed is answered, what is not is refused and in the log."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from ...support.guests import guest
from ...support.servers import PATIENCE, SERVERS, Child, Server, running
from .policies import POLICIES, configure, release, shelf

pytestmark = pytest.mark.slow


def check_requests(child: Child) -> None:
    for path, name in (("/good", "good"), ("/sub/good", "sub"), ("/by-name/good", "by-name")):
        status, body = child.ask(path)
        assert (status, body["ran"]) == (200, name)
    lines = child.journal.read()
    assert (lines.ran, lines.allowed, lines.denied) == (["good", "sub", "by-name"], ["good"] * 3, [])
    for path in ("/bad", "/by-name/bad", "/undeclared", "/nowhere", "/ws"):
        status, body = child.ask(path)
        lines = child.journal.read()
        assert (status, lines.ran, lines.allowed) == (403, [], []), path
        assert [event["decision_id"] for event in lines.denied] == [body["decision_id"]]
        assert [event["path"] for event in lines.denied] == [path]


def check_websockets(child: Child) -> None:
    address = f"ws://127.0.0.1:{child.port}"
    with connect(f"{address}/ws", proxy=None, open_timeout=PATIENCE) as websocket:
        websocket.send("hello")
        assert websocket.recv(PATIENCE) == "ws: hello"
    lines = child.journal.read()
    assert (lines.ran, lines.allowed, lines.denied) == (["ws"], ["good"], [])
    for path in ("/ws-bad", "/ws-undeclared", "/nowhere"):
        # Each of these servers can still answer 403 before it accepts.
        with pytest.raises(InvalidStatus) as refused, connect(address + path, proxy=None, open_timeout=PATIENCE):
            pass
        lines = child.journal.read()
        assert (refused.value.response.status_code, lines.ran, lines.allowed) == (403, [], []), path
        assert [event["path"] for event in lines.denied] == [path]


def wait_for_workers(child: Child, allowed: bool) -> None:
    """Ask until each process has answered ``/bad`` as the policy now says."""
    seen: set[int] = set()
    until = time.monotonic() + PATIENCE
    while len(seen) < child.server.workers:
        assert time.monotonic() < until, seen
        status, body = child.ask("/bad")
        lines = child.journal.read()
        if status == 200:
            assert (lines.ran, lines.allowed) == (["bad"], ["bad"])
        else:
            assert (status, lines.ran) == (403, [])
        if (status == 200) is allowed:
            seen.add(body["pid"] if allowed else lines.process_of(body["decision_id"]))


def check_following(child: Child, folder: Path) -> None:
    """Activate releases while the server runs: each of its processes then answers by them."""
    release(folder, 2, "good", "bad")
    wait_for_workers(child, True)
    release(folder, 3, "good")
    wait_for_workers(child, False)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("app", ["starlette", "fastapi"])
@pytest.mark.parametrize("server", SERVERS, ids=str)
def test_serving(server: Server, app: str, policy: str, tmp_path: Path) -> None:
    with running(server, app, tmp_path, configure(policy, tmp_path)) as child:
        lines = child.journal.read_until("lifespan", server.workers if server.runs_lifespan else 0, PATIENCE)
        assert set(lines.lifespan) == ({"startup"} if server.runs_lifespan else set())
        child.ask("/good")
        lines = child.journal.read()
        expected = "local" if policy == "document" else policy
        assert policy == "store" or lines.decisions[0]["engine"] == expected
        check_requests(child)
        check_websockets(child)
        if policy == "store":
            check_following(child, tmp_path)
        assert child.stop() == server.stops_with, child.output
        assert "Traceback" not in child.output
        assert child.journal.read().lifespan == ["shutdown"] * (server.workers if server.runs_lifespan else 0)


@pytest.mark.parametrize("server", SERVERS[:2], ids=str)
def test_sigterm_while_a_large_release_is_metered(server: Server, tmp_path: Path) -> None:  # T-7
    """What follows the store stops between two functions of the module, and does not answer by it any more."""
    code = "(local i32)" + "(local.set 0 (i32.add (local.get 0) (i32.const 60)))" * 200
    module = guest(extra=f"(func {code})" * 350)
    assert len(module) > 490_000
    with running(server, "starlette", tmp_path, configure("store", tmp_path)) as child:
        assert child.ask("/good")[0] == 200
        shelf(tmp_path).release(2, module)
        child.ask("/good")
        assert child.stop() == server.stops_with, child.output
        assert "Application shutdown complete" in child.output
        assert "Traceback" not in child.output
        assert child.journal.read().lifespan == ["startup", "shutdown"]


@pytest.mark.parametrize("server", SERVERS, ids=str)
def test_sigterm_while_much_is_under_way(server: Server, tmp_path: Path) -> None:
    """Neither the gate nor what follows the store keeps a server from ending, whoever is still connected."""
    with running(server, "starlette", tmp_path, configure("store", tmp_path)) as child:
        with child.connect() as idle, child.connect() as half, ExitStack() as under_way:
            idle.sendall(b"GET /good HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in idle.recv(65_536)
            half.sendall(b"GET /good HT")
            upload = under_way.enter_context(child.connect())
            upload.sendall(b"POST /good HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
            address = f"ws://127.0.0.1:{child.port}/ws"
            websocket = under_way.enter_context(connect(address, proxy=None, open_timeout=PATIENCE))
            websocket.send("hello")
            assert websocket.recv(PATIENCE) == "ws: hello"
            ran = ["good", "ws"] if server.reads_bodies_first else ["good", "good", "ws"]
            assert sorted(child.journal.read_until("ran", len(ran), PATIENCE).ran) == ran
            if server.waits_for_clients:
                under_way.close()
            assert child.stop() == server.stops_with, child.output
        assert child.journal.read().ran == []
