"""Worker threads where compiled modules belong to a thread: the event loop answers, and nothing is compiled."""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from capgate.checker.wasm import WasmPolicyChecker
from capgate.errors import PolicyTrap, PolicyUnavailable, PoolExhausted
from capgate.limits import Limits
from capgate.model import ALLOW, Deny, PolicyResult, Reason
from capgate.runtime import pool as pool_module
from capgate.runtime.engine import load_engine
from capgate.runtime.interpreter import CompiledPolicy
from capgate.runtime.pool import WasmPool
from capgate.settings.settings import Settings

from ...support.asgi import Call, http_scope
from ...support.engines import EXPECTED_ENGINES
from ...support.gates import gated, make_checker, read
from ...support.pool_guests import DENY, PATIENT, TOLD, TRAP, check_balance, make_pool, order

#: Those of which a module belongs to the thread that compiled it.
BOUND = [name for name in EXPECTED_ENGINES if load_engine(name).thread_bound]
bound_engines = pytest.mark.parametrize("engine", BOUND)


class Compiled:
    """The threads on which policies were compiled, once for each time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: list[int] = []
        create = CompiledPolicy.__init__

        def count(compiled: CompiledPolicy, *arguments: Any) -> None:
            self.threads.append(threading.get_ident())
            create(compiled, *arguments)

        monkeypatch.setattr(CompiledPolicy, "__init__", count)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Compiled:
    return Compiled(monkeypatch)


class Panic(BaseException):
    """As engines have it."""


async def in_threads(work: Callable[[], Any], count: int) -> list[Any]:
    """What ``work`` returns in so many threads at once."""
    limiter, results = anyio.CapacityLimiter(count), []
    together = threading.Barrier(count)

    def run() -> None:
        together.wait(60)
        results.append(work())

    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(lambda: anyio.to_thread.run_sync(run, limiter=limiter))
    return results


@pytest.mark.parametrize("size", [1, 8])
async def test_first_requests_of_an_endpoint_in_threads(engine_name: str, size: int, compiled: Compiled) -> None:  # T-2
    """Forty at once, each of which asks in a thread that has asked nothing before."""
    together = threading.Barrier(40)

    def endpoint(request: Request) -> Response:
        together.wait(60)
        result = request.state.capabilities.check_now("db.read", "sql_query:other")
        return JSONResponse([type(result).__name__, getattr(result, "reason", None)])

    limiter = anyio.to_thread.current_default_thread_limiter()
    before, limiter.total_tokens = limiter.total_tokens, 40
    try:
        async with make_checker(engine_name, size=size) as checker:
            assert len(compiled.threads) == 1
            app = gated([Route("/", read("good")(endpoint))], checker, Settings())
            calls = [Call(http_scope()) for _ in range(40)]
            async with anyio.create_task_group() as tasks:
                for call in calls:
                    tasks.start_soon(call.to, app)
            statistics = checker.statistics()
    finally:
        limiter.total_tokens = before
    assert [(call.status, call.json) for call in calls] == [(200, ["Allow", None])] * 40
    assert len(compiled.threads) == 1
    if engine_name in BOUND:
        assert compiled.threads == [threading.get_ident()]
        assert statistics is not None
        assert statistics.made == size  # T-13


@bound_engines
async def test_what_a_thread_asks_is_answered_by_the_loop(engine: str, compiled: Compiled) -> None:
    def ask() -> list[Any]:
        results: list[Any] = [pool.call(order()), pool.call(order(DENY))]
        with pytest.raises(PolicyTrap) as caught:
            pool.call(order(TRAP))
        error = caught.value
        # No frame of the loop's thread comes along, which would keep its instance here.
        assert error.__cause__ is None
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        names = {type(value).__name__ for frame in frames for value in frame.f_locals.values()}
        assert names.isdisjoint({"WasmerInstance", "WasmInterpreter", "ThreadInstances"})
        return [*results, error.kind]

    async with make_pool(engine, 2) as pool:
        assert await in_threads(ask, 8) == [[ALLOW, TOLD, "unreachable"]] * 8
        await anyio.lowlevel.checkpoint()
        statistics = check_balance(pool.statistics())
    assert (statistics.calls, statistics.retired, statistics.spent) == (24, 8, 16)
    assert compiled.threads == [threading.get_ident()]


@bound_engines
@pytest.mark.parametrize("count", [1, 2, 50])
async def test_a_batch_of_a_thread_takes_as_many_turns_as_it_needs(engine: str, count: int) -> None:
    """Each instance answers once, and there are fewer of them than questions."""
    async with make_pool(engine, 2) as pool:
        checker = WasmPolicyChecker(pool)
        asked = [order(DENY if number % 3 else 0) for number in range(count)]
        expected = [TOLD if number % 3 else ALLOW for number in range(count)]
        assert await in_threads(lambda: checker.answer_many_now(asked), 3) == [expected] * 3
        assert check_balance(pool.statistics()).calls == 3 * count


@bound_engines
async def test_a_batch_of_a_thread_has_a_deadline(engine: str) -> None:
    async with make_pool(engine, 1, Limits(deadline=0.001), reuse=True) as pool:
        (results,) = await in_threads(lambda: WasmPolicyChecker(pool).answer_many_now([order()] * 1_000), 1)
    assert set(results) == {Deny(Reason.POLICY_TIMEOUT)}


@bound_engines
async def test_a_thread_is_denied_where_the_loop_has_nothing_idle(engine: str) -> None:
    async with make_pool(engine, 1, Limits(deadline=0.02)) as pool:
        checker = WasmPolicyChecker(pool)
        async with pool.acquire():
            assert await in_threads(lambda: checker.evaluate_now(order()), 3) == [Deny(Reason.POOL_EXHAUSTED)] * 3
            assert await in_threads(lambda: checker.answer_many_now([order()] * 2), 3) == [None] * 3
            with pytest.raises(PoolExhausted):
                await anyio.to_thread.run_sync(pool.call, order())
        assert await in_threads(lambda: checker.evaluate_now(order()), 1) == [ALLOW]


@bound_engines
async def test_a_thread_waits_for_an_instance(engine: str) -> None:
    answers: list[PolicyResult] = []
    async with make_pool(engine, 1) as pool:

        async def ask() -> None:
            answers.append(await anyio.to_thread.run_sync(WasmPolicyChecker(pool).evaluate_now, order()))

        async with anyio.create_task_group() as tasks, pool.acquire():
            tasks.start_soon(ask)
            await anyio.sleep(0.02)
            assert answers == []
    assert answers == [ALLOW]


@bound_engines
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_that_waits_for_the_thread_itself_is_found_out(
    engine: str, backend: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool_module, "STANDSTILL", 0.2)

    async def main() -> PolicyResult:
        async with make_pool(engine, 1, Limits(deadline=0.05)) as pool:
            checker = WasmPolicyChecker(pool)
            with ThreadPoolExecutor(1) as executor:
                return executor.submit(checker.evaluate_now, order()).result(60)

    with caplog.at_level(logging.ERROR, "capgate.pool"):
        assert anyio.run(main, backend=backend) == Deny(Reason.POOL_EXHAUSTED)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@bound_engines
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_thread_has_its_own_instances_once_the_loop_is_gone(engine: str, backend: str, compiled: Compiled) -> None:
    pool = make_pool(engine, 2, reuse=True)
    checker = WasmPolicyChecker(pool)

    async def main() -> None:
        await pool.start()
        assert await in_threads(lambda: checker.evaluate_now(order()), 2) == [ALLOW] * 2

    anyio.run(main, backend=backend)
    assert len(compiled.threads) == 1
    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(checker.evaluate_now, order()).result(60) == ALLOW
        assert executor.submit(checker.answer_many_now, [order()] * 3).result(60) == [ALLOW] * 3
    assert len(compiled.threads) == 2


@bound_engines
async def test_a_pool_that_was_closed_is_told_to_threads(engine: str) -> None:
    pool = make_pool(engine, 1)
    await pool.start()
    pool.close()
    with pytest.raises(PolicyUnavailable):
        await anyio.to_thread.run_sync(pool.call, order())


@bound_engines
async def test_a_panic_on_the_loop_is_the_answer_of_a_thread(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with make_pool(engine, 1) as pool:
        checker = WasmPolicyChecker(pool)
        monkeypatch.setattr(WasmPool, "_take_slowly", _panic)
        pool._local.instances.idle.clear()
        assert await in_threads(lambda: checker.evaluate_now(order()), 2) == [Deny(Reason.INTERNAL_ERROR)] * 2


def _panic(self: WasmPool) -> Any:
    raise Panic


@bound_engines
def test_threads_beside_no_loop_compile_for_themselves(engine: str, compiled: Compiled) -> None:
    checker = WasmPolicyChecker(make_pool(engine, 2))
    with ThreadPoolExecutor(2) as executor:
        assert [*executor.map(checker.evaluate_now, [order()] * 8)] == [ALLOW] * 8
    assert 1 <= len(compiled.threads) <= 2
    assert threading.get_ident() not in compiled.threads


@bound_engines
def test_another_event_loop_has_instances_of_its_own(engine: str, compiled: Compiled) -> None:
    pool = make_pool(engine, 1, PATIENT, reuse=True)

    async def main() -> None:
        await pool.start()
        await anyio.to_thread.run_sync(lambda: asyncio.run(other()))

    async def other() -> None:
        assert await WasmPolicyChecker(pool).check(order()) == ALLOW

    asyncio.run(main())
    assert len(set(compiled.threads)) == 2
