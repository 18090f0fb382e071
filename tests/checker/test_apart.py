"""What one policy, one caller or one event loop does is no other's business; and figures that attackers cannot move."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import anyio
import anyio.lowlevel
import prometheus_client
import pytest
import uvloop
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from capgate.checker.wasm import WasmPolicyChecker
from capgate.limits import Limits
from capgate.metrics import Metrics
from capgate.model import ALLOW, Deny, PolicyInput, Reason, Resource, User
from capgate.runtime.pool import WasmPool

from ..support.asgi import Call, http_scope
from ..support.engines import EXPECTED_ENGINES
from ..support.gates import Ran, example, make_checker
from ..support.guests import artifact, guest
from ..support.pool_guests import ENDLESS, PATIENT, make_pool, order


@pytest.mark.parametrize("action", ["no.such.action", "", "DB.WRITE", "db.write ", "db.write\0"])
async def test_a_policy_that_allows_everything_knows_no_action_more(engine_name: str, action: str) -> None:  # M7
    async with WasmPool(artifact(guest()), 1, engine_name, PATIENT) as pool:
        checker = WasmPolicyChecker(pool)
        assert await checker.check(PolicyInput("db.write", resource=Resource("sql_query", "q"))) is ALLOW
        assert await checker.check(PolicyInput(action, resource=Resource("sql_query", "q"))) == Deny(
            Reason.UNKNOWN_ACTION
        )
        assert pool.statistics().calls == 1


@pytest.mark.slow
async def test_a_policy_whose_instances_are_all_held_keeps_no_other_waiting(engine_name: str) -> None:  # P20
    slow = make_pool(engine_name, 1, Limits(deadline=0.01))
    quick = make_pool(engine_name, 1)  # whose answers come in time, whatever the machine is doing
    async with slow, quick, slow.acquire():
        for _ in range(20):
            assert await WasmPolicyChecker(slow).check(order()) == Deny(Reason.POOL_EXHAUSTED)
            assert await WasmPolicyChecker(quick).check(order()) is ALLOW
            await anyio.lowlevel.checkpoint()


async def test_a_policy_that_never_ends_costs_no_other_its_answer(engine_name: str) -> None:  # P20
    slow = make_pool(engine_name, 1, Limits(deadline=20.0, fuel=100_000))
    quick = make_pool(engine_name, 1)
    async with slow, quick:
        for _ in range(20):
            first = await WasmPolicyChecker(slow).check(order(ENDLESS))
            assert first in (Deny(Reason.POLICY_TIMEOUT), Deny(Reason.POLICY_UNAVAILABLE), Deny(Reason.POOL_EXHAUSTED))
            assert await WasmPolicyChecker(quick).check(order()) is ALLOW
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("engine", EXPECTED_ENGINES)
def test_on_uvloop(engine: str) -> None:  # P18
    seen: list[object] = []

    async def main() -> None:
        seen.append(type(asyncio.get_running_loop()))
        async with make_pool(engine, 1) as pool:
            checker = WasmPolicyChecker(pool)
            app = example(Ran(), checker)
            assert (await Call(http_scope("/good")).to(app)).status == 200
            assert (await Call(http_scope("/undeclared")).to(app)).status == 403
            async with pool.acquire():
                with anyio.move_on_after(0.01):
                    await pool.wait_and_call(order())
            assert await checker.check(order()) is ALLOW
            assert pool.statistics().waiting == 0

    anyio.run(main, backend="asyncio", backend_options={"use_uvloop": True})
    assert seen == [uvloop.Loop]


@pytest.fixture
def metrics() -> Iterator[CollectorRegistry]:
    registry = CollectorRegistry()
    collector = Metrics(make_checker(), registry)
    yield registry
    collector.close()


def series(registry: CollectorRegistry) -> int:
    text = prometheus_client.generate_latest(registry).decode()
    return sum(len(family.samples) for family in text_string_to_metric_families(text))


async def test_what_clients_send_is_no_label(metrics: CollectorRegistry) -> None:  # O5
    checker = make_checker()

    async def denied(number: int) -> None:
        for action in ("db.read", f"no.such.{number}"):
            await checker.check(PolicyInput(action, User(f"u{number}"), Resource("sql_query", f"q{number}")))

    await denied(0)
    before = series(metrics)
    for number in range(1, 200):
        await denied(number)
    assert series(metrics) == before


async def test_figures_beyond_32_bits(engine_name: str) -> None:  # O6
    registry = CollectorRegistry()
    async with make_pool(engine_name, 1, reuse=True) as pool:
        collector = Metrics(WasmPolicyChecker(pool), registry)
        pool.call(order())
        pool._total_ended.calls += 2**40
        pool.call(order())
        assert pool.statistics().calls == 2**40 + 2
        assert registry.get_sample_value("capgate_pool_calls_total") == 2**40 + 2
        collector.close()
