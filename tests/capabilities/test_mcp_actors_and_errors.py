"""What tools of an MCP server do, for whom, and what becomes of their errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from capgate.capabilities import CapabilityDenied, capabilities_for, current, using
from capgate.capabilities.mcp import GatedMCP
from capgate.model import Actor, Anonymous, CompilerTool, Reason, User

from ..support.asgi import Call, http_scope
from ..support.gates import Recording, events, make_checker
from .gated_mcp import (
    DENIED,
    GOOD,
    POLICY,
    client_of,
    gated,
    post,
)
from .rpc_server import Careless, call

# -- batches


async def _fails(scope: Scope, receive: Receive, send: Send) -> None:
    raise LookupError("secret")


# -- what tools do, and for whom


def _who(scope: Scope) -> Actor:
    return CompilerTool(dict(scope["headers"])[b"x-agent"].decode())


async def _who_later(scope: Scope) -> Actor:
    await anyio.lowlevel.checkpoint()
    return _who(scope)


class Nested:
    """A server whose tool asks for more, with the capabilities that are current."""

    def __init__(self, resource: str) -> None:
        self.resource = resource
        self.effects = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = json.loads((await receive())["body"])
        await current().require("fs.read", self.resource)
        self.effects += 1
        await JSONResponse({"jsonrpc": "2.0", "id": body.get("id"), "result": {}})(scope, receive, send)


@pytest.mark.parametrize("actor", [_who, _who_later])
async def test_the_actor_may_be_another_one_also_for_what_the_tool_does(actor: Callable[[Scope], Any]) -> None:
    checker = Recording(make_checker("local", POLICY))
    server = Nested("path:file:///open")
    for message in (call("good"), [call("good")]):
        answer = await post(gated(server, checker, actor=actor), message, x_agent="agent-7")
        assert answer.status_code == 200
    assert server.effects == 2
    assert checker.questions == [("tool.modify", "good"), ("fs.read", "file:///open")] * 2
    assert {input.actor for input, _ in checker.asked} == {CompilerTool("agent-7")}


async def test_an_actor_that_nobody_knows_is_denied() -> None:
    server = Careless()
    with events() as denials:
        answer = await post(gated(server, actor=_who), call("good"))  # without the header
    assert answer.json()["error"]["code"] == DENIED
    assert [event["reason"] for event in denials] == [Reason.INTERNAL_ERROR]
    assert server.requests == []


async def test_a_denial_inside_of_the_tool_is_the_same_error() -> None:
    server = Nested("path:file:///closed")
    for message in (call("good"), [call("good")]):
        with events() as denials:
            answer = await post(gated(server), message)
        error = (answer.json() if isinstance(message, dict) else answer.json()[0])["error"]
        assert (answer.status_code, error["code"]) == (200, DENIED)
        assert error["data"]["decision_id"] == denials[0]["decision_id"]
    assert server.effects == 0
    answer = await post(gated(server), call("good", ...))
    assert (answer.status_code, server.effects) == (202, 0)


async def test_what_the_server_raises_passes_untouched() -> None:
    with pytest.raises(LookupError):
        await post(gated(_fails), call("good"))


async def test_a_denial_after_the_answer_began_passes_untouched() -> None:
    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await current().require("fs.read", "path:file:///closed")

    app = GatedMCP(late, capabilities=capabilities_for(make_checker("local", POLICY), Anonymous()))
    request = http_scope(method="POST", headers=[("content-type", "application/json")])
    sent = Call(request, [{"type": "http.request", "body": GOOD}])
    with pytest.raises(CapabilityDenied):
        await sent.to(app)
    assert len(sent.starts) == 1


async def test_without_a_gate_around_it_every_call_is_denied() -> None:
    server = Careless()
    async with client_of(GatedMCP(server)) as client:
        headers = {"content-type": "application/json"}
        answer = await client.post("", content=GOOD, headers=headers)
        assert answer.json()["error"]["code"] == DENIED
        answer = await client.post("", content=json.dumps([call("good")]).encode(), headers=headers)
        assert answer.json()[0]["error"]["code"] == DENIED
        assert server.requests == []
        listing = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        await client.post("", content=json.dumps(listing).encode(), headers=headers)
    assert server.ran == ["tools/list"]


async def test_explicit_capabilities_are_asked_and_in_force() -> None:
    checker = Recording(make_checker("local", POLICY))
    server = Nested("path:file:///open")
    app = GatedMCP(server, capabilities=capabilities_for(checker, User("ada")))
    with using(capabilities_for(make_checker("local", {}), User("eve"))):
        answer = await post(app, call("good"))
    assert (answer.json()["result"], server.effects) == ({}, 1)
    assert [input.actor for input, _ in checker.asked] == [User("ada")] * 2


async def test_reasons_are_told_where_that_is_wanted() -> None:
    answer = await post(gated(Careless(), expose_reasons=True), call("bad"))
    assert answer.json()["error"]["data"]["reason"] == Reason.NOT_IN_ALLOWLIST
    answer = await post(gated(Careless()), call("bad"))
    assert set(answer.json()["error"]["data"]) == {"decision_id"}
