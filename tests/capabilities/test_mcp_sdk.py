"""The official SDK's server behind the gate, its client in front, over a real uvicorn on loopback."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from mcp import Client, MCPError
from mcp.server.mcpserver import Context, MCPServer
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Scope

from capgate import CapabilityMiddleware, Settings
from capgate.capabilities import current
from capgate.capabilities.mcp import GatedMCP
from capgate.capabilities.tools import canonical_hash, gated_tool
from capgate.checker.base import PolicyChecker
from capgate.model import CompilerTool, Reason

from ..support.gates import Recording, events, make_checker
from ..support.serving import served
from .kinds import KINDS
from .rpc_server import call

POLICY: dict[str, Any] = {"tools": ["write", "read", "inner"], "fs": ["open"]}
SETTINGS = Settings(service="mcp-tests", mode="test")
DENIED = -32010
#: Era of the client, and how the server answers.
ERAS = ["legacy", "auto"]
SERVERS = [
    pytest.param(
        json_response,
        stateless,
        id=f"{'json' if json_response else 'sse'}-{'stateless' if stateless else 'stateful'}",
        marks=() if json_response == stateless else pytest.mark.slow,
    )
    for json_response in (False, True)
    for stateless in (False, True)
]
HTTP = ["h11", pytest.param("httptools", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The SDK's client leaves streams to the garbage collector, of which trio warns; uvicorn is asyncio's anyway."""
    return "asyncio"


class Workshop:
    """An MCP server with tools that leave a trace in ``wrote``."""

    def __init__(
        self, checker: PolicyChecker, json_response: bool = False, stateless: bool = False, **gate: Any
    ) -> None:
        self.wrote: list[str] = []
        self.url = ""
        self.server = server = MCPServer("workshop")

        @server.tool()
        async def write(text: str, times: int = 1) -> str:
            """Write text."""
            await anyio.lowlevel.checkpoint()
            self.wrote.append(text * times)
            return text * times

        @server.tool()
        def erase() -> str:
            self.wrote.clear()
            return "erased"

        @server.tool()
        async def read(path: str) -> str:
            await current().require("fs.read", f"path:{path}")
            self.wrote.append(f"read {path}")
            return path

        @server.tool()
        @gated_tool("tool.generate", ignore=("context",))
        async def inner(text: str, context: Context) -> str:
            """Ask on its own."""
            self.wrote.append(f"inner {text}")
            return text

        @server.tool(name="outer")
        @gated_tool("tool.generate", "unlisted")
        def unlisted(text: str) -> str:
            self.wrote.append(f"unlisted {text}")
            return text

        @server.resource("note://open")
        def note() -> str:
            self.wrote.append("note")
            return "text"

        inside = server.streamable_http_app(
            streamable_http_path="/", json_response=json_response, stateless_http=stateless
        )
        self.app = Starlette(
            routes=[Mount("/mcp", GatedMCP(inside, **gate))], lifespan=lambda app: server.session_manager.run()
        )
        self.app.add_middleware(CapabilityMiddleware, settings=SETTINGS, checker=checker)


@contextmanager
def open_workshop(checker: PolicyChecker | None = None, *, http: str = "auto", **options: Any) -> Iterator[Workshop]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level  # the SDK configures logging
    try:
        workshop = Workshop(checker or make_checker("local", POLICY), **options)
        with served(workshop.app, http=http) as port:
            workshop.url = f"http://127.0.0.1:{port}/mcp/"
            yield workshop
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


async def denial_of(client: Client, name: str, arguments: dict[str, Any]) -> MCPError:
    with pytest.raises(MCPError) as error:
        await client.call_tool(name, arguments)
    return error.value


@pytest.fixture(params=[pytest.param(server.values, marks=server.marks, id=server.id) for server in SERVERS])
def workshop(request: pytest.FixtureRequest) -> Iterator[Workshop]:
    json_response, stateless = request.param
    with open_workshop(json_response=json_response, stateless=stateless) as workshop:
        yield workshop


@pytest.mark.slow
@pytest.mark.parametrize("era", ERAS)
async def test_an_allowed_call_runs_and_a_denied_one_is_an_error(workshop: Workshop, era: str) -> None:
    async with Client(workshop.url, mode=era) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert {"write", "erase"} <= set(tools)
        answer = await client.call_tool("write", {"text": "ab", "times": 2})
        assert (answer.is_error, answer.structured_content) == (False, {"result": "abab"})
        with events() as denials:
            error = await denial_of(client, "erase", {})
        assert workshop.wrote == ["abab"]
        assert (error.error.code, error.error.message) == (DENIED, "Denied by policy")
        assert error.error.data == {"decision_id": denials[0]["decision_id"]}
        assert (denials[0]["action"], denials[0]["resource_id"]) == ("tool.modify", "erase")
        assert (await client.call_tool("write", {"text": "still"})).is_error is False
    assert workshop.wrote == ["abab", "still"]


@pytest.mark.slow
@pytest.mark.parametrize("era", ERAS)
async def test_calls_at_the_same_time_each_get_their_answer(workshop: Workshop, era: str) -> None:
    answers: dict[int, str] = {}

    async with Client(workshop.url, mode=era) as client:

        async def one(number: int) -> None:
            if number % 3:
                answers[number] = str((await client.call_tool("write", {"text": f"{number},"})).structured_content)
            else:
                answers[number] = str((await denial_of(client, "erase", {"number": number})).error.code)

        async with anyio.create_task_group() as tasks:
            for number in range(12):
                tasks.start_soon(one, number)
    for number in range(12):
        assert answers[number] == (str({"result": f"{number},"}) if number % 3 else str(DENIED))
    assert sorted(workshop.wrote) == sorted(f"{number}," for number in range(12) if number % 3)


@pytest.mark.slow
@pytest.mark.parametrize("engine", KINDS)
async def test_the_policy_may_be_a_module(engine: str) -> None:
    checker = Recording(make_checker(engine, POLICY))
    with open_workshop(checker) as workshop:
        async with Client(workshop.url) as client:
            await client.call_tool("write", {"text": "a"})
            await denial_of(client, "erase", {})
        assert workshop.wrote == ["a"]
    assert checker.questions == [("tool.modify", "write"), ("tool.modify", "erase")]
    assert checker.asked[0][0].args_hash == canonical_hash({"text": "a"})


async def test_a_gated_tool_keeps_its_schema_and_is_denied_inside(workshop: Workshop) -> None:
    # The gate outside knows the tool as "outer", which its policy does not list; "inner" is listed for both.
    async with Client(workshop.url) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert tools["inner"].description == "Ask on its own."
        assert set(tools["inner"].input_schema["properties"]) == {"text"}
        assert (await client.call_tool("inner", {"text": "x"})).structured_content == {"result": "x"}
        assert (await denial_of(client, "outer", {"text": "x"})).error.code == DENIED
    assert workshop.wrote == ["inner x"]


async def test_a_tool_that_is_denied_something_fails_and_the_client_is_not_told_why() -> None:
    policy = {"tools": ["outer", "read"], "fs": ["open"]}
    with open_workshop(make_checker("local", policy)) as workshop:
        async with Client(workshop.url) as client:
            for name, arguments in (("outer", {"text": "x"}), ("read", {"path": "closed"})):
                with events() as denials:
                    answer = await client.call_tool(name, arguments)
                assert answer.is_error
                assert Reason.NOT_IN_ALLOWLIST not in str(answer.content)
                assert [event["reason"] for event in denials] == [Reason.NOT_IN_ALLOWLIST]
            assert not (await client.call_tool("read", {"path": "open"})).is_error
        assert workshop.wrote == ["read open"]


async def test_other_methods_are_gated_where_that_is_wanted() -> None:
    checker = Recording(make_checker("local", POLICY))
    with open_workshop(checker, methods={"resources/read": "fs.read"}) as workshop:
        async with Client(workshop.url) as client:
            assert [str(one.uri) for one in (await client.list_resources()).resources] == ["note://open"]
            with pytest.raises(MCPError) as error:
                await client.read_resource("note://open")
        assert error.value.error.code == DENIED
        assert workshop.wrote == []
    assert checker.questions == [("fs.read", "note://open")]


def agent_of(scope: Scope) -> CompilerTool:
    return CompilerTool(dict(scope["headers"])[b"x-agent"].decode())


HEADERS = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


async def open_session(client: httpx.AsyncClient, url: str, **headers: str) -> dict[str, str]:
    """The headers of a session of its own."""
    answer = await client.post(url, json=INITIALIZE, headers={**HEADERS, **headers})
    session = {**HEADERS, **headers, "mcp-protocol-version": "2025-11-25"}
    if "mcp-session-id" in answer.headers:
        session["mcp-session-id"] = answer.headers["mcp-session-id"]
    await client.post(url, json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=session)
    return session


@pytest.mark.parametrize(("json_response", "stateless"), SERVERS)
async def test_each_call_of_a_session_is_that_of_whoever_makes_it(json_response: bool, stateless: bool) -> None:
    checker = Recording(make_checker("local", POLICY))
    options: dict[str, Any] = {"json_response": json_response, "stateless": stateless, "actor": agent_of}
    with open_workshop(checker, **options) as workshop:
        async with httpx.AsyncClient(timeout=200) as client:
            session = await open_session(client, workshop.url, **{"x-agent": "first"})
            for agent in ("first", "second", "first", "third"):
                message = call("read", f"by {agent}", {"path": "open"})
                answer = await client.post(workshop.url, json=message, headers={**session, "x-agent": agent})
                assert answer.status_code == 200
    by = [(input.action, input.actor) for input, _ in checker.asked]
    agents = [CompilerTool(name) for name in ("first", "second", "first", "third")]
    assert by == [(action, agent) for agent in agents for action in ("tool.modify", "fs.read")]


async def test_in_a_batch_the_denied_get_errors_and_the_others_go_on(workshop: Workshop) -> None:
    batch = [
        call("erase", 1),
        call("write", 2, {"text": "two"}),
        call("erase", ...),
        {"jsonrpc": "2.0", "id": "tools", "method": "tools/list"},
        call("write", "four", {"text": "four"}),
        call("nobody", 5),
    ]
    async with httpx.AsyncClient(timeout=200) as client:
        session = await open_session(client, workshop.url)
        answer = await client.post(workshop.url, json=batch, headers=session)
        found = {one["id"]: one for one in answer.json()}
        assert set(found) == {1, 2, "tools", "four", 5}
        assert [found[id]["error"]["code"] for id in (1, 5)] == [DENIED, DENIED]
        assert found[2]["result"]["structuredContent"] == {"result": "two"}
        assert found["four"]["result"]["structuredContent"] == {"result": "four"}
        assert "write" in {tool["name"] for tool in found["tools"]["result"]["tools"]}
        assert workshop.wrote == ["two", "four"]
        # And the session goes on.
        answer = await client.post(workshop.url, json=call("write", 6, {"text": "six"}), headers=session)
        assert answer.status_code == 200
    assert workshop.wrote == ["two", "four", "six"]


async def test_a_batch_for_a_session_that_is_over_says_so() -> None:
    with open_workshop() as workshop:
        async with httpx.AsyncClient(timeout=200) as client:
            headers = {**HEADERS, "mcp-session-id": "0" * 32}
            answer = await client.post(workshop.url, json=[call("write", 1, {"text": "x"})], headers=headers)
        assert answer.json()[0]["error"]["message"] == "Session not found"
        assert workshop.wrote == []


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize(("json_response", "stateless"), SERVERS)
async def test_the_server_in_the_same_event_loop(json_response: bool, stateless: bool) -> None:
    workshop = Workshop(make_checker("local", POLICY), json_response=json_response, stateless=stateless)
    transport, url = httpx.ASGITransport(app=workshop.app), "http://127.0.0.1:81/mcp/"
    async with workshop.server.session_manager.run(), httpx.AsyncClient(transport=transport) as client:
        session = await open_session(client, url)
        await client.post(url, json=call("write", 1, {"text": "one"}), headers=session)
        denied = await client.post(url, json=call("erase", 2), headers=session)
        batch = [call("erase", 3), call("write", 4, {"text": "four"})]
        answer = await client.post(url, json=batch, headers=session)
        assert denied.json()["error"]["code"] == DENIED
        assert [(one["id"], "error" in one) for one in answer.json()] == [(3, True), (4, False)]
        assert workshop.wrote == ["one", "four"]


def _request(body: bytes, *headers: str, method: str = "POST") -> bytes:
    lines = [f"{method} /mcp/ HTTP/1.1", "host: 127.0.0.1:80", *(f"{name}: {value}" for name, value in HEADERS.items())]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def _plain(message: Any, *headers: str) -> bytes:
    body = json.dumps(message).encode()
    return _request(body, f"content-length: {len(body)}", *headers)


def _chunked(message: Any) -> bytes:
    body = json.dumps(message).encode()
    pieces = [body[start : start + 5] for start in range(0, len(body), 5)]
    chunks = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces)
    return _request(chunks + b"0\r\n\r\n", "transfer-encoding: chunked")


def _exchange(url: str, data: bytes) -> bytes:
    """Send ``data``, which ends the connection; everything that comes back."""
    host, port = url.removeprefix("http://").removesuffix("/mcp/").split(":")
    found = []
    with socket.create_connection((host, int(port)), timeout=200) as connection:
        connection.sendall(data)
        while piece := connection.recv(65_536):
            found.append(piece)
    return b"".join(found)


#: The end of each exchange.
LAST = _plain(call("write", "last", {"text": "last"}), "connection: close")


@pytest.mark.parametrize("http", HTTP)
async def test_raw_requests_one_after_the_other(http: str) -> None:
    with open_workshop(json_response=True, stateless=True, http=http) as workshop:
        pipelined = _chunked(call("write", 1, {"text": "one"})) + _chunked(call("erase", 2)) + _plain(call("erase", 3))
        found = await anyio.to_thread.run_sync(_exchange, workshop.url, pipelined + LAST)
        assert found.count(b"HTTP/1.1 200") == 4
        assert found.count(b"-32010") == 2
        assert workshop.wrote == ["one", "last"]


@pytest.mark.parametrize("http", HTTP)
async def test_a_body_of_a_request_without_one_is_no_message(http: str) -> None:
    with open_workshop(json_response=True, stateless=True, http=http) as workshop:
        workshop.wrote.append("kept")
        body = json.dumps(call("erase", 1)).encode()
        for method in ("DELETE", "OPTIONS", "HEAD"):
            data = _request(body, f"content-length: {len(body)}", method=method)
            await anyio.to_thread.run_sync(_exchange, workshop.url, data + LAST)
        # Lengths that contradict each other: whatever a server makes of them, nothing is called.
        both = _request(b"0\r\n\r\n" + _plain(call("erase", 7)), "content-length: 5", "transfer-encoding: chunked")
        await anyio.to_thread.run_sync(_exchange, workshop.url, both + LAST)
        assert workshop.wrote[0] == "kept"
