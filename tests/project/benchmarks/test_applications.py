"""What the applications of the benchmarks are, and what is sent to them: each row is about what it names."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from benchmarks import details, routes, sender, served, server
from benchmarks.asgi import http_scope, receive
from capgate import Allow, build_policy
from capgate.checker import CachedChecker
from capgate.middleware.startup import Startup

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("anyio_backend", ["asyncio"])]


async def answer(app: Any, path: str, method: str = "GET") -> tuple[int, bytes, str | None]:
    """Status, body, and the path of the route that answered."""
    messages: list[Message] = []

    async def keep(message: Message) -> None:
        messages.append(message)

    scope = http_scope(path, method)
    await app(scope, receive, keep)
    route = scope.get("route")
    body = b"".join(message.get("body", b"") for message in messages)
    return messages[0]["status"], body, getattr(route, "path", None)


@pytest.fixture
def module(tmp_path: Path, anyio_backend: str) -> str:
    path = tmp_path / "policy.wasm"
    path.write_bytes(build_policy(served.POLICY))
    return str(path)


@pytest.fixture
def startups(monkeypatch: pytest.MonkeyPatch) -> list[Startup]:
    """Every gate that is made."""
    made: list[Startup] = []
    init = Startup.__init__

    def noting(self: Startup, *args: Any, **more: Any) -> None:
        init(self, *args, **more)
        made.append(self)

    monkeypatch.setattr(Startup, "__init__", noting)
    return made


@pytest.mark.parametrize("name", served.NAMES)
async def test_served_applications_differ_in_what_stands_in_front(
    name: str, module: str, startups: list[Startup]
) -> None:
    app, kind = served.application(name, module), name.split(", ", 1)[1]
    for number in (1, 2, 2):
        status, body, _ = await answer(app, f"/queries/q{number}", "POST")
        assert status == 200
        assert (b'"rows":3' in body) is name.startswith("FastAPI")
    gates = [startup.point.checker for startup in startups if startup.point is not None]
    assert [isinstance(gate, CachedChecker) for gate in gates] == {served.GATE: [True], served.ASKING: [False]}.get(
        kind, []
    )
    if kind == served.GATE:
        assert gates[0].remembered == 2
    for gate in gates:
        await gate.aclose()


@pytest.mark.parametrize("shape", routes.SHAPES)
@pytest.mark.parametrize("count", [10, 100])
async def test_paths_reach_the_places_that_they_are_called_by(shape: str, count: int) -> None:
    app = routes.SHAPES[shape](count, lambda endpoint: endpoint)
    first, middle, last, nowhere = [await answer(app, path) for path in routes.paths(shape, count).values()]
    assert [found[0] for found in (first, middle, last, nowhere)] == [200, 200, 200, 404]
    if shape == "Starlette, flat":
        assert len(app.routes) == count
    reached = routes.paths(shape, count)
    numbers = [int(path.split("query_")[1].split("/")[0]) for path in list(reached.values())[:3]]
    assert numbers == [0, count // 2, count - 1]


async def test_a_second_declaration_is_asked_about_as_well(anyio_backend: str) -> None:
    class Asked:
        inputs: list[Any] = []

        async def check(self, input: Any) -> Any:
            self.inputs.append(input)
            return Allow()

    app = details.gated(details.application("sql_query:a", "sql_query:b"), Asked())  # type: ignore[arg-type]
    assert (await answer(app, "/queries", "POST"))[0] == 200
    assert {input.resource.id for input in Asked.inputs} == {"a", "b"}


async def test_sender_sends_so_many_and_each_new_path_once(anyio_backend: str) -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            seen.append(head.split(b" ")[1])
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
            await writer.drain()
            writer.write(b"ok")  # which arrives by itself
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with listening:
        assert await sender.send(port, 500, 1_000, None) > 0
        assert sorted(seen) == [b"/queries/query_%09d" % number for number in range(1_000, 1_500)]
        seen.clear()
        await sender.send(port, 300, 0, 100)
        assert set(Counter(seen).values()) == {3}
        assert len(set(seen)) == 100
        seen.clear()
        await sender.send(port, 1, 7, None)
        assert seen == [b"/queries/query_000000007"]


@pytest.mark.parametrize("response", [b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", b""])
async def test_sender_takes_nothing_else_for_an_answer(response: bytes, anyio_backend: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        with pytest.raises(RuntimeError):
            await sender.send(listening.sockets[0].getsockname()[1], 100, 0, None)


def test_processor_time_is_that_of_the_process_and_no_other(anyio_backend: str) -> None:
    own = server.processor_ns(os.getpid())
    assert abs(own - time.process_time_ns()) < 1_000_000_000
    spin = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    child = subprocess.Popen([sys.executable, "-c", spin], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        spent = server.processor_ns(child.pid)
        assert 200_000_000 < spent < 60_000_000_000
        assert server.processor_ns(child.pid) - spent < 100_000_000  # it waits
    finally:
        child.communicate(b"\n", timeout=60)


def test_new_questions_are_of_nobody_else(anyio_backend: str) -> None:
    lines: list[str] = []

    class Sender:
        def write(self, line: str) -> None:
            lines.append(line)

        def read(self) -> str:
            return "0.1"

    numbers = iter(range(100, 10_000))
    for _ in range(3):
        server._send(Sender(), 80, 50, server.NEW, numbers)  # type: ignore[arg-type]
        server._send(Sender(), 80, 50, server.KNOWN, numbers)  # type: ignore[arg-type]
    assert lines[0::2] == ["80 50 100", "80 50 150", "80 50 200"]
    assert set(lines[1::2]) == {"80 50 0 100"}


def test_a_server_benchmark_that_cannot_run_reaches_no_target(
    monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> None:
    monkeypatch.setattr(server, "find_spec", lambda module: None)
    case = server.run(1, 1)
    assert (case.rows, len(case.notes)) == ([], len(server.NEEDED))
    assert [target.verdict for target in case.targets] == ["not measured"] * 8
