"""What a policy sees of the arguments of tools: those that are named, as they were hashed, and no others."""

from __future__ import annotations

import decimal
from collections.abc import Iterator
from typing import Any

import anyio.to_thread
import pytest

from capgate.capabilities import CapabilityDenied, capabilities_for, using
from capgate.capabilities.mcp import GatedMCP
from capgate.capabilities.tools import canonical_hash, gated_tool
from capgate.errors import ConfigError
from capgate.model import Allow, CompilerTool, Deny, PolicyInput

from ..support.gates import Recording, events, make_checker
from .gated_mcp import DENIED, POLICY, gated, post
from .rpc_server import Careless, call

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.fixture
def asked() -> Iterator[Recording]:
    recording = Recording(make_checker("local", POLICY))
    with using(capabilities_for(recording, CompilerTool("agent-7"))):
        yield recording


async def test_named_parameters_are_arguments(asked: Recording) -> None:
    @gated_tool(name="good", args=["amount", "tags", "note"])
    def refund(order: str, amount: int, tags: tuple[str, ...] = ("eu",), note: str | None = None) -> int:
        return amount

    @gated_tool(name="good", args={"total": "amount"}, default=str)
    async def refund_later(order: str, amount: decimal.Decimal) -> decimal.Decimal:
        return amount

    assert await anyio.to_thread.run_sync(refund, "o-1", 250) == 250
    assert await refund_later("o-1", decimal.Decimal("2.50")) == decimal.Decimal("2.50")
    assert [question.args for question, _ in asked.asked] == [{"amount": 250, "tags": ["eu"]}, {"total": "2.50"}]
    whole = {"order": "o-1", "amount": 250, "tags": ["eu"], "note": None}
    assert asked.asked[0][0].args_hash == canonical_hash(whole)


async def test_what_is_no_fact_is_denied_and_does_not_run(asked: Recording) -> None:
    ran = []

    @gated_tool(name="good", args=["amount"])
    async def refund(amount: Any) -> None:
        ran.append(amount)

    await refund(True)
    with pytest.raises(CapabilityDenied) as denied:
        await refund({"amount": 1})
    assert (denied.value.decision.result, ran) == (Deny("malformed_input"), [True])


@pytest.mark.parametrize(
    "options",
    [
        {"args": ["total"]},
        {"args": {"Total": "amount"}},
        {"args": "amount"},
        {"args": ["amount"], "ignore": ["amount"]},
    ],
)
def test_arguments_that_a_tool_has_not(options: dict[str, Any], anyio_backend: str) -> None:
    with pytest.raises(ConfigError) as caught:

        @gated_tool(**options)
        def refund(amount: int) -> None: ...

    assert caught.value.setting == "args"


# -- MCP


class UpTo:
    """A checker of an application: up to 1,000."""

    def __init__(self) -> None:
        self.asked: list[PolicyInput] = []

    async def check(self, input: PolicyInput) -> Allow | Deny:
        self.asked.append(input)
        amount = input.args.get("amount")
        return Allow() if type(amount) is int and amount <= 1_000 else Deny("too much")


def chosen(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"amount": arguments.pop("amount")}


WAYS: dict[str, Any] = {
    "a list": {"good": ["amount"]},
    "other names": {"good": {"amount": "amount"}},
    "a function": chosen,
}


@pytest.mark.parametrize("way", WAYS)
async def test_the_policy_sees_arguments_of_calls(way: str) -> None:
    server, checker = Careless(result={"content": []}), UpTo()
    app = gated(server, checker, args=WAYS[way])
    answers = [
        (await post(app, call("good", number, arguments={"amount": amount}))).json()
        for number, amount in enumerate((250, 1_000, 1_001, "250"))
    ]
    assert ["result" in answer for answer in answers] == [True, True, False, False]
    assert [input.args for input in checker.asked] == [{"amount": amount} for amount in (250, 1_000, 1_001, "250")]
    assert checker.asked[0].args_hash == canonical_hash({"amount": 250})
    batch = await post(app, [call("good", n, arguments={"amount": n}) for n in (1_000, 1_001)])
    assert ["result" in answer for answer in batch.json()] == [True, False]
    assert b'"amount"' in server.requests[-1][1]


async def test_what_is_not_named_is_not_seen() -> None:
    server, checker = Careless(result={"content": []}), Recording(make_checker("local", POLICY))
    app = gated(server, checker, args={"good": {"order_id": "orderId"}, "fine": []})
    for tool, arguments in (("good", {"orderId": "o-1", "amount": 3}), ("good", {}), ("fine", {"amount": 1})):
        assert "result" in (await post(app, call(tool, 1, arguments=arguments))).json()
    assert [question.args for question, _ in checker.asked] == [{"order_id": "o-1"}, {}, {}]


def failing(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    raise KeyError("t0p-secret")


@pytest.mark.parametrize(
    ("args", "arguments", "reason"),
    [
        ({"good": ["amount"]}, {"amount": 1, "Amount": 1_000}, "malformed_input"),
        ({"good": ["amount"]}, {"amount": {"of": 1}}, "malformed_input"),
        (failing, {"amount": 1}, "facts_unavailable"),
        (lambda tool, arguments: None, {"amount": 1}, "facts_unavailable"),
    ],
)
async def test_what_is_not_certain_does_not_reach_the_server(args: Any, arguments: Any, reason: str) -> None:
    server = Careless(result={"content": []})
    with events() as written:
        answer = await post(
            gated(server, make_checker("local", POLICY), args=args), call("good", 1, arguments=arguments)
        )
    assert (answer.json()["error"]["code"], server.ran) == (DENIED, [])
    assert [event["reason"] for event in written] == [reason]
    assert "t0p-secret" not in str(written)


@pytest.mark.parametrize("args", [["amount"], {"good": "amount"}, {"good": ["Amount"]}, {"good": {"amount": ""}}, 7])
def test_arguments_that_are_none(args: Any, anyio_backend: str) -> None:
    with pytest.raises(ConfigError) as caught:
        GatedMCP(Careless(), args=args)
    assert caught.value.setting in ("args", "args.good")
