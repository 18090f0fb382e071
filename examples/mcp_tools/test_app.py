"""What each mode allows, through the official client, with the policy as a WebAssembly module; and what came of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from mcp import Client, MCPError

from capgate import Settings, build_policy
from capgate.capabilities.mcp.jsonrpc import DENIED

from .app import create_app

POLICY = Path(__file__).with_name("policy.json")
#: Mode, and which of generating, modifying and inspecting it allows.
MODES = {
    "dev": {"generate_module", "modify_module", "inspect_module"},
    "compiler_author": {"generate_module", "inspect_module"},
    "prod": {"inspect_module"},
    "another": set[str](),
}
CALLS = {
    "generate_module": {"name": "new", "source": "made"},
    "modify_module": {"name": "old", "source": "changed"},
    "inspect_module": {"name": "old"},
    "forget_everything": {},
}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The client leaves streams to the garbage collector, of which trio warns."""
    return "asyncio"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("workshop") / "policy.wasm"
    path.write_bytes(build_policy(POLICY.read_bytes()))
    return path


@contextmanager
def served(settings: Settings, modules: dict[str, str]) -> Iterator[str]:
    """The application on loopback, and its address."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level  # the SDK configures logging
    config = uvicorn.Config(create_app(settings, modules), port=0, log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until = time.monotonic() + 20
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < until
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/mcp/"
    finally:
        server.should_exit = True
        thread.join(20)
        root.handlers[:] = handlers
        root.setLevel(level)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
async def test_each_mode_allows_what_it_should(artifact: Path, mode: str) -> None:
    modules, allowed, denials = {"old": "as it was"}, set[str](), list[int]()
    with served(Settings(artifact=artifact, mode=mode), modules) as url:
        async with Client(url) as client:
            assert {tool.name for tool in (await client.list_tools()).tools} == set(CALLS)
            for name, arguments in CALLS.items():
                try:
                    answer = await client.call_tool(name, arguments)
                except MCPError as error:  # noqa: PERF203
                    denials.append(error.error.code)
                else:
                    allowed.add(name)
                    assert not answer.is_error
    assert allowed == MODES[mode]
    assert denials == [DENIED] * (len(CALLS) - len(allowed))
    assert ("new" in modules) == ("generate_module" in allowed)
    assert (modules["old"] == "changed") == ("modify_module" in allowed)


async def test_what_a_tool_itself_refuses_is_its_own_error(artifact: Path) -> None:
    with served(Settings(artifact=artifact, mode="prod"), {}) as url:
        async with Client(url) as client:
            answer = await client.call_tool("inspect_module", {"name": "none"})
            assert answer.is_error
