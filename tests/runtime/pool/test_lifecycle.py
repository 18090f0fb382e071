"""Starting, closing, forking, and event loops that come and go under a pool."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trio
from anyio.lowlevel import checkpoint

from capgate.checker.wasm import WasmPolicyChecker
from capgate.errors import ConfigError, PolicyUnavailable
from capgate.limits import Limits
from capgate.model import ALLOW, Allow, Deny, PolicyResult
from capgate.runtime.interpreter import CompiledPolicy
from capgate.runtime.pool import WasmPool

from ...support.pool_guests import SOON, check_balance, loop_turn, make_pool, obedient, order
from ...support.tools import ROOT

RUNNERS: dict[str, Callable[[Callable[[], Awaitable[object]]], object]] = {
    "asyncio": partial(anyio.run, backend="asyncio"),
    "trio": trio.run,
}


@pytest.mark.parametrize("size", [0, -1, 1025, True, 2.0, "2", None])
def test_a_size_that_cannot_be(size: object) -> None:
    with pytest.raises(ConfigError) as caught:
        WasmPool(obedient(), size)  # type: ignore[arg-type]
    assert (caught.value.setting, caught.value.seen) == ("pool_size", size)


async def test_started_once_and_full(engine_name: str) -> None:
    async with make_pool(engine_name, 3) as pool:
        await pool.start()
        assert (pool.statistics().made, pool.statistics().idle) == (3, 3)


@pytest.mark.parametrize("reuse", [False, True])
async def test_never_started_it_starts_with_the_first_question(engine_name: str, reuse: bool) -> None:  # P13
    pool = make_pool(engine_name, 20, reuse=reuse)
    assert pool.statistics().made == 0
    assert await WasmPolicyChecker(pool).check(order()) == Allow()
    assert pool.statistics().made == 1  # the others are made when the request has been answered
    with anyio.fail_after(SOON):
        while check_balance(pool.statistics()).idle < 20:
            await checkpoint()


async def test_it_is_compiled_once_for_each_event_loop(  # T-2
    engine_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[CompiledPolicy] = []
    create = CompiledPolicy.__init__

    def count(self: CompiledPolicy, *arguments: Any) -> None:
        compiled.append(self)
        create(self, *arguments)

    monkeypatch.setattr(CompiledPolicy, "__init__", count)

    def ask(pool: WasmPool) -> None:
        assert [pool.call(order()) for _ in range(5)] == [ALLOW] * 5

    async with make_pool(engine_name, 4) as pool:
        for _ in range(20):
            await pool.wait_and_call(order())
        assert len(compiled) == 1
        await anyio.to_thread.run_sync(ask, pool)
        assert len(compiled) == 1


async def test_never_started_it_starts_with_the_first_acquire(engine_name: str) -> None:  # P13
    pool = make_pool(engine_name, 2)
    async with pool.acquire() as interpreter, pool.acquire() as other:
        assert interpreter is not other
    assert check_balance(pool.statistics()).idle == 2


async def test_a_large_pool_is_refilled_in_parts(engine_name: str) -> None:
    """So that other tasks of the loop have their turn in between."""
    async with make_pool(engine_name, 100) as pool:
        for _ in range(100):
            pool.call(order())
        sizes = {pool.statistics().idle}
        with anyio.fail_after(SOON):
            while pool.statistics().idle < 100:
                await checkpoint()
                sizes.add(pool.statistics().idle)
        assert min(sizes) == 0
        assert len(sizes) >= 4  # trio runs tasks in random order, so some sizes may not be seen


async def test_closed_it_refuses(engine_name: str) -> None:  # P13
    pool = make_pool(engine_name)
    checker = WasmPolicyChecker(pool)
    async with checker:
        assert await checker.check(order()) == Allow()
    for _ in range(2):
        assert await checker.check(order()) == Deny("policy_unavailable")
        assert checker.evaluate_now(order()) == Deny("policy_unavailable")
        for ask in (pool.wait_and_call(order()), pool.start()):
            with pytest.raises(PolicyUnavailable):
                await ask
        with pytest.raises(PolicyUnavailable):
            async with pool.acquire():
                pytest.fail("closed")
        await checker.aclose()
    await checkpoint()
    await checkpoint()
    statistics = check_balance(pool.statistics())
    assert (statistics.idle, statistics.in_use, statistics.calls) == (0, 0, 1)


async def test_closed_before_it_started(engine_name: str) -> None:  # P13
    pool = make_pool(engine_name)
    await pool.aclose()
    with pytest.raises(PolicyUnavailable):
        pool.call(order())


async def _hold(pool: WasmPool) -> None:
    async with pool.acquire():
        await checkpoint()


async def test_closed_while_instances_are_held_and_waited_for(engine_name: str) -> None:  # P13
    told: list[str] = []

    async def wait(pool: WasmPool, acquire: bool) -> None:
        with pytest.raises(PolicyUnavailable) as caught:
            await (_hold(pool) if acquire else pool.wait_and_call(order()))
        told.append(caught.value.code)

    pool = make_pool(engine_name, 1)
    with anyio.fail_after(SOON):  # none of them waits for the deadline of 60
        async with anyio.create_task_group() as tasks, pool.acquire() as interpreter:
            for number in range(4):
                tasks.start_soon(wait, pool, number % 2 == 0)
            while pool.statistics().waiting < 4:
                await checkpoint()
            await pool.aclose()
            assert interpreter.call_policy_check(order()) == ALLOW  # who holds it finishes
    assert told == ["policy_unavailable"] * 4
    await loop_turn()
    statistics = check_balance(pool.statistics())
    assert (statistics.idle, statistics.in_use, statistics.waiting, statistics.made) == (0, 0, 0, 1)


async def test_closed_as_a_waiter_is_woken(engine_name: str) -> None:  # P13
    outcomes: list[str] = []

    async def wait(pool: WasmPool) -> None:
        try:
            await pool.wait_and_call(order())
        except PolicyUnavailable as error:
            outcomes.append(error.code)

    pool = make_pool(engine_name, 1, reuse=True)
    async with anyio.create_task_group() as tasks:
        async with pool.acquire():
            tasks.start_soon(wait, pool)
            while not pool.statistics().waiting:
                await checkpoint()
        await pool.aclose()
    assert outcomes == ["policy_unavailable"]
    assert check_balance(pool.statistics()).closed == 1


async def test_a_refill_that_was_due_at_closing_makes_nothing(engine_name: str) -> None:
    pool = make_pool(engine_name, 2)
    await pool.start()
    pool.call(order())
    await pool.aclose()
    await loop_turn()
    assert check_balance(pool.statistics()).made == 2


async def test_a_check_inside_another_decides_or_is_refused(engine_name: str) -> None:  # P19
    async with make_pool(engine_name, 1, Limits(deadline=60.0, waiters=0), reuse=True) as pool:
        outer, inner = WasmPolicyChecker(pool), WasmPolicyChecker(pool)
        assert await outer.check(order()) == Allow()
        assert await inner.check(order()) == Allow()
        async with pool.acquire():
            assert await inner.check(order()) == Deny("pool_exhausted")
        assert await inner.check(order()) == Allow()


def test_it_is_not_copied() -> None:  # P11
    pool = make_pool("auto")
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            duplicate(pool)


# -- event loops


@pytest.mark.parametrize("reuse", [False, True])
def test_one_pool_for_one_loop_after_another(engine_name: str, reuse: bool) -> None:  # P12
    pool = make_pool(engine_name, 2, reuse=reuse)
    answers: list[PolicyResult] = []

    async def ask() -> None:
        async def one() -> None:
            answers.append(await pool.wait_and_call(order()))

        async with anyio.create_task_group() as tasks, pool.acquire():
            for _ in range(10):
                tasks.start_soon(one)
            await checkpoint()

    for backend in ("asyncio", "trio", "trio", "asyncio", "asyncio", "trio"):
        RUNNERS[backend](ask)
        check_balance(pool.statistics())
    assert answers == [ALLOW] * 60
    assert pool.call(order()) == ALLOW


def _run_once(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    """Run ``function`` on ``loop``, and nothing that it has scheduled."""

    def run() -> None:
        function()
        loop.stop()

    loop.call_soon(run)
    loop.run_forever()


@pytest.mark.parametrize("waiters", [0, 1_024])
@pytest.mark.parametrize("backend", RUNNERS)
def test_a_refill_that_was_due_on_a_loop_that_ended(engine_name: str, backend: str, waiters: int) -> None:  # P12
    pool = make_pool(engine_name, 2, Limits(deadline=60.0, waiters=waiters))
    loop = asyncio.new_event_loop()
    loop.run_until_complete(pool.start())
    _run_once(loop, lambda: pool.call(order()))
    loop.close()
    assert pool.statistics().idle == 1

    async def ask() -> None:
        with anyio.fail_after(SOON):
            async with pool.acquire():
                assert await pool.wait_and_call(order()) == ALLOW  # not when the other is given back
            while pool.statistics().idle < 2:
                await loop_turn()
        check_balance(pool.statistics())

    RUNNERS[backend](ask)


@pytest.mark.slow
@pytest.mark.parametrize("backend", RUNNERS)
@pytest.mark.parametrize("close", [False, True])
def test_what_a_loop_that_ended_held_and_waited_for(engine_name: str, backend: str, close: bool) -> None:  # P12
    pool = make_pool(engine_name, 2, reuse=True)
    loop = asyncio.new_event_loop()
    outcomes: list[object] = []

    async def hold() -> None:
        async with pool.acquire():
            await asyncio.sleep(3_600)

    async def wait() -> None:
        outcomes.append(await pool.wait_and_call(order()))

    tasks: list[asyncio.Task[None]] = []

    def start(work: Callable[[], Coroutine[None, None, None]]) -> None:
        tasks.append(loop.create_task(work()))

    for work in (hold, hold, wait, wait):
        _run_once(loop, partial(start, work))
        _run_once(loop, lambda: None)
    assert (pool.statistics().in_use, pool.statistics().waiting) == (2, 2)
    if close:
        loop.close()

    async def ask() -> None:
        with anyio.fail_after(SOON):
            for _ in range(5):
                assert await pool.wait_and_call(order()) == ALLOW
            async with pool.acquire(), pool.acquire():
                pass
        statistics = check_balance(pool.statistics())
        assert (statistics.idle, statistics.in_use, statistics.waiting, statistics.closed) == (2, 0, 0, 2)

    RUNNERS[backend](ask)
    if not close:  # and the first loop runs again
        loop.run_until_complete(pool.start())
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        assert loop.run_until_complete(pool.wait_and_call(order())) == ALLOW
        loop.close()
    assert outcomes == []
    check_balance(pool.statistics())
    for task in tasks:  # they will never be finished, which asyncio would report
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    tasks.clear()
    del task
    gc.collect()
    statistics = check_balance(pool.statistics())
    assert (statistics.idle, statistics.in_use) == (2, 0)


# -- forking

#: Where the fork happens, with a pool that is in use before.
FORKS = ("main", "thread", "beside_threads", "in_asyncio", "in_trio", "never_started", "another_compiled")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="os.fork is for Linux here")
def test_a_destructor_that_asks_at_the_end_is_denied() -> None:  # S-9
    """A daemon thread is compiling, with the lock, and does not run any more."""
    code = """
import sys, threading, time, types
from capgate import PolicyInput, WasmPolicyChecker
from capgate.runtime import instantiation
from tests.support.pool_guests import make_pool

compiling = threading.Event()


def compile_for_ever(prepared, engine):
    compiling.set()
    time.sleep(1_000_000)


pool = make_pool("wasmtime", 1)


class Late:
    def __del__(self, finalizing=sys.is_finalizing, checker=WasmPolicyChecker(pool), PolicyInput=PolicyInput):
        print(finalizing(), checker.evaluate_now(PolicyInput("db.read")).reason, flush=True)


instantiation.CompiledPolicy = compile_for_ever
sys.modules["later"] = types.ModuleType("later")
sys.modules["later"].late = Late()  # destroyed when modules are, with nothing of capgate taken apart yet
threading.Thread(target=pool.prepare, daemon=True).start()
compiling.wait()
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout == "True policy_unavailable\n"


@pytest.mark.parametrize("where", [*FORKS[:2], *(pytest.param(where, marks=pytest.mark.slow) for where in FORKS[2:])])
def test_after_a_fork_the_child_answers_by_itself(engine_name: str, where: str) -> None:  # P10
    command = [sys.executable, "-W", "error", "-m", "tests.runtime.pool.forking", engine_name, where]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout.splitlines()[-1] == "both as expected"
