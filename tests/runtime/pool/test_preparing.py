"""A pool is made and started while another one serves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

from capgate.checker.wasm import WasmPolicyChecker
from capgate.errors import PolicyUnavailable
from capgate.limits import Limits
from capgate.model import ALLOW, Deny
from capgate.runtime import interpreter
from capgate.runtime.engine import is_small, load_engine
from capgate.runtime.pool import WasmPool
from capgate.wasm import decode, encode, meter, with_custom

from ...support.guests import artifact, denies, guest
from ...support.pool_guests import PATIENT, check_balance, make_pool, order


@lru_cache
def policy(conversions: int) -> bytes:
    """A policy that denies, with so many conversions that nobody makes, of four bytes each: the slowest to compile."""
    unused = f"(func (param i32) (result i32) (local.get 0) {'f32.convert_i32_s i32.trunc_f32_s ' * conversions})"
    return guest(extra=denies("new") + unused)


#: 10 kB of code are for a child to compile, 7 kB for a thread of this process: a third of a second for wasmtime.
LARGE, SMALL = 5_000, 3_400


def make_new(engine_name: str, conversions: int = LARGE) -> WasmPool:
    return WasmPool(artifact(policy(conversions)), 3, engine_name, PATIENT)


def test_only_the_large_policy_is_for_a_child() -> None:
    assert not is_small(meter(policy(LARGE)).data)
    assert is_small(meter(policy(SMALL)).data)


def test_names_and_debugging_information_cost_no_child(engine_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is pinned is the file; no engine gets what is not run of it.  # P-16"""
    plain = guest(extra=denies("new"))
    named = encode(with_custom(with_custom(decode(plain), "name", bytes(100_000)), ".debug_info", bytes(100_000)))
    assert not is_small(meter(named).data)

    def no_child(*_: object) -> bytes:
        raise AssertionError("a child was started")

    monkeypatch.setattr(interpreter, "compile_in_child", no_child)
    prepared = interpreter.PreparedPolicy(artifact(named), Limits())
    assert prepared.artifact.sha256 == hashlib.sha256(named).hexdigest()
    for data in (prepared.original, prepared.metered.data):
        assert not [section for section in decode(data).sections if section.id == 0]
    pool = WasmPool(artifact(named), 1, engine_name)
    try:
        assert pool.call(order()) == Deny("new")
    finally:
        pool.close()


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
@pytest.mark.parametrize("conversions", [LARGE, SMALL])
async def test_the_running_policy_goes_on_answering(engine_name: str, conversions: int) -> None:  # P13
    """A task without a turn while the new module is compiled would get one for each await below, or two."""
    async with WasmPolicyChecker(make_pool(engine_name)) as old, anyio.create_task_group() as group:
        serving = Serving(old)
        group.start_soon(serving.run)
        await checkpoint()
        # A child compiles what is large here, and gives machine code; what is small is compiled by start.
        with serving.answering(100 if conversions == LARGE else 1):
            new = await anyio.to_thread.run_sync(make_new, engine_name, conversions)
        # wasmer's modules belong to the thread that compiled them: there the loop stands still for that.
        compiles = conversions == SMALL and not load_engine(engine_name).thread_bound
        awaits = 1 + new.size
        with serving.answering(5 * awaits if compiles else 1):
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
    pool = make_new(engine_name)
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
