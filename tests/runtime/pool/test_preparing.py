"""A pool is made and started while another one serves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

from capgate.checker.wasm import WasmPolicyChecker
from capgate.errors import PolicyUnavailable
from capgate.model import ALLOW, Deny
from capgate.runtime.engine import is_small
from capgate.runtime.pool import WasmPool
from capgate.wasm import meter

from ...support.guests import artifact, denies, guest
from ...support.pool_guests import PATIENT, check_balance, make_pool, order


@lru_cache(maxsize=1)
def large() -> bytes:
    """A policy that denies, with 10 kB of code that nobody calls: a third of a second for wasmtime to compile."""
    unused = f"(func (param i32) (result i32) (local.get 0) {'f32.convert_i32_s i32.trunc_f32_s ' * 5_000})"
    data = guest(extra=denies("new") + unused)
    assert not is_small(meter(data).data)
    return data


def make_large(engine_name: str, size: int = 3) -> WasmPool:
    return WasmPool(artifact(large()), size, engine_name, PATIENT)


class Serving:
    """A task that asks a policy again and again, and lets others have their turn after each question."""

    def __init__(self, checker: WasmPolicyChecker) -> None:
        self.checker = checker
        self.answers = 0

    async def run(self) -> None:
        while True:
            assert await self.checker.check(order()) == ALLOW
            self.answers += 1
            await checkpoint()

    @contextmanager
    def answering(self, at_least: int) -> Iterator[None]:
        """The block goes on for so many questions."""
        before = self.answers
        yield
        assert self.answers - before >= at_least


@pytest.mark.slow
async def test_the_running_policy_goes_on_answering(engine_name: str) -> None:  # P13
    """A task without a turn while the new module is compiled would get one for each await below, or two."""
    async with WasmPolicyChecker(make_pool(engine_name)) as old, anyio.create_task_group() as group:
        serving = Serving(old)
        group.start_soon(serving.run)
        await checkpoint()
        with serving.answering(100):
            new = await anyio.to_thread.run_sync(make_large, engine_name)
        # A child has compiled it, so that starting only loads machine code: some milliseconds, and few turns. For
        # wasmer, whose modules belong to a thread, the loop stands still for that.
        with serving.answering(1):
            await new.start()
        assert check_balance(new.statistics()).idle == new.size
        async with WasmPolicyChecker(new) as checker:
            assert await checker.check(order()) == Deny("new")
        before = serving.answers
        while serving.answers == before:
            await checkpoint()
        group.cancel_scope.cancel()


async def test_instances_are_made_one_by_one(engine_name: str) -> None:
    """Other tasks have their turn in between, and see how many there are."""
    pool = make_pool(engine_name, 50)
    seen: set[int] = set()

    async def look() -> None:
        while True:
            seen.add(pool.statistics().idle)
            await checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(look)
        await checkpoint()
        await pool.start()
        group.cancel_scope.cancel()
    assert len(seen) > 10
    assert check_balance(pool.statistics()).idle == 50
    await pool.aclose()


@pytest.mark.slow
async def test_started_by_many_at_once_it_starts_once(engine_name: str) -> None:  # P13
    pool = make_large(engine_name)
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(pool.start)
    statistics = check_balance(pool.statistics())
    assert (statistics.made, statistics.idle) == (pool.size, pool.size)
    await pool.aclose()


async def test_closed_while_it_starts(engine_name: str) -> None:  # P13
    pool = make_pool(engine_name, 50)

    async def start() -> None:
        with pytest.raises(PolicyUnavailable):
            await pool.start()

    async with anyio.create_task_group() as group:
        group.start_soon(start)
        await checkpoint()
        await pool.aclose()
    assert check_balance(pool.statistics()).idle == 0


async def test_cancelled_while_it_starts(engine_name: str) -> None:  # P2
    """What was made stays, and starting again makes the rest."""
    pool = make_pool(engine_name, 50)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(pool.start)
            while not pool.statistics().idle:
                await checkpoint()
            scope.cancel()
    assert check_balance(pool.statistics()).idle < 50
    await pool.start()
    assert check_balance(pool.statistics()).idle == 50
    await pool.aclose()
