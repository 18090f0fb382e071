"""Worker threads beside the event loop: each has instances of its own, and they end with it."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import anyio
import anyio.to_thread
import psutil
import pytest

from capgate.artifact.build import build_policy
from capgate.checker.wasm import WasmPolicyChecker
from capgate.errors import PolicyTrap
from capgate.model import ALLOW, Allow, Deny, PolicyInput, PolicyResult, Resource
from capgate.runtime import instantiation
from capgate.runtime.pool import WasmPool

from ...support.guests import artifact
from ...support.pool_guests import DENY, TOLD, TRAP, TRAP_IF_USED, check_balance, make_pool, order

#: Seconds after which a thread hangs, and is not only slow.
PATIENCE = 200


@pytest.fixture
def eager_switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def run_in_threads(work: Callable[[], object], count: int = 8) -> None:
    """``work`` in ``count`` threads at once; what one of them raises is raised."""
    errors: list[BaseException] = []
    together = threading.Barrier(count)

    def run() -> None:
        together.wait(PATIENCE)
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.usefixtures("eager_switching")
async def test_checks_from_many_worker_threads_at_once(engine_name: str, reuse: bool) -> None:  # P5, P6
    limiter = anyio.CapacityLimiter(16)
    answers: list[PolicyResult] = []

    def ask(checker: WasmPolicyChecker, number: int) -> None:
        answers.extend(checker.evaluate_now(order(DENY if number % 2 else 0)) for _ in range(10))

    async with make_pool(engine_name, 2, reuse=reuse) as pool:
        checker = WasmPolicyChecker(pool)
        async with anyio.create_task_group() as tasks:
            for number in range(64):
                tasks.start_soon(partial(anyio.to_thread.run_sync, ask, checker, number, limiter=limiter))
                answers.append(await checker.evaluate(order()))
        # An engine object on a thread that is not its own would have been a trap.
        assert (answers.count(ALLOW), answers.count(TOLD), len(answers)) == (64 + 320, 320, 704)
        statistics = check_balance(pool.statistics())
        assert (statistics.retired, statistics.calls) == (0, 704)


@pytest.mark.usefixtures("eager_switching")
def test_statistics_while_threads_come_and_go(engine_name: str) -> None:
    pool = make_pool(engine_name)
    seen: list[int] = []
    finished = threading.Event()

    def look() -> None:
        while not finished.is_set():
            seen.append(pool.statistics().calls)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        for _ in range(3):
            run_in_threads(lambda: [pool.call(order()) for _ in range(5)])
    finally:
        finished.set()
        looker.join(PATIENCE)
    statistics = check_balance(pool.statistics())
    assert (statistics.calls, statistics.closed, statistics.idle) == (120, 24, 0)
    assert max(seen) <= 120


def test_what_ended_threads_did_stays_counted(engine_name: str) -> None:
    pool = make_pool(engine_name, reuse=True)
    for turn in range(1, 4):
        run_in_threads(lambda: [pool.call(order()) for _ in range(5)], 4)
        statistics = check_balance(pool.statistics())
        assert (statistics.calls, statistics.made, statistics.closed) == (20 * turn, 4 * turn, 4 * turn)
    assert not pool._of_threads


def test_instances_are_dropped_on_their_thread(engine_name: str) -> None:  # P5
    pool = make_pool(engine_name)
    dropped: list[bool] = []

    def work() -> None:
        pool.call(order())
        thread = threading.get_ident()
        weakref.finalize(pool._local.instances, lambda: dropped.append(threading.get_ident() == thread))

    run_in_threads(work)
    assert dropped == [True] * 8


def test_a_worker_thread_has_one_instance_whatever_fails(engine_name: str) -> None:
    pool = make_pool(engine_name, 4, reuse=True)

    def work() -> None:
        for _ in range(10):
            assert pool.call(order(TRAP_IF_USED)) == ALLOW
            assert len(pool._local.instances.idle) == 1
            with pytest.raises(PolicyTrap):
                pool.call(order(TRAP))
            assert len(pool._local.instances.idle) == 1

    run_in_threads(work, 2)
    check_balance(pool.statistics())


def test_without_an_event_loop_nobody_waits(engine_name: str) -> None:
    checker = WasmPolicyChecker(make_pool(engine_name, 4))
    for _ in range(20):
        assert checker.evaluate_now(order()) == Allow()
        assert checker.evaluate_now(order(TRAP)) == Deny("policy_trap")
    assert check_balance(checker.pool.statistics()).idle == 1


async def test_a_thread_gets_the_full_size_with_its_first_event_loop(engine_name: str) -> None:
    pool = make_pool(engine_name, 4, reuse=True)

    def work() -> None:
        pool.call(order())
        assert pool.statistics().idle == 1
        asyncio.run(pool.start())
        assert pool.statistics().idle == 4

    await anyio.to_thread.run_sync(work)


def test_an_event_loop_in_each_of_many_threads(engine_name: str) -> None:  # P12
    pool = make_pool(engine_name, 2)

    async def main() -> None:
        async def hold() -> None:
            async with pool.acquire() as interpreter:
                await asyncio.sleep(0)
                assert interpreter.call_policy_check(order()) == ALLOW

        await asyncio.gather(*(hold() for _ in range(10)))

    run_in_threads(lambda: asyncio.run(main()), 4)
    statistics = check_balance(pool.statistics())
    assert (statistics.spent, statistics.calls, statistics.waiting, statistics.in_use) == (40, 40, 0, 0)


@pytest.mark.slow
async def test_a_pool_that_nobody_refers_to_is_gone(engine_name: str) -> None:  # P17
    finished = threading.Event()
    asked = threading.Barrier(2)

    def work(box: list[WasmPool]) -> None:
        box.pop().call(order())
        asked.wait(PATIENCE)
        finished.wait(PATIENCE)

    for close in (True, False):
        finished.clear()
        pool = make_pool(engine_name)
        checker = WasmPolicyChecker(pool)
        await checker.start()
        assert await checker.check(order(DENY)) == TOLD
        with pytest.raises(PolicyTrap):
            pool.call(order(TRAP))
        thread = threading.Thread(target=work, args=([pool],))
        thread.start()
        await anyio.to_thread.run_sync(asked.wait, 20)
        if close:
            await checker.aclose()
        watched = weakref.ref(pool)
        del pool, checker  # the thread lives on, with an instance
        gc.collect()
        assert watched() is None
        finished.set()


def _resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


@pytest.mark.slow  # fewer of them would show nothing
def test_memory_does_not_grow_with_instances_or_calls(
    engine_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # P17, M17
    """An instance has at least a page of its own: to keep one in thirty would take eight megabytes."""
    cycles = 10_000
    monkeypatch.setattr(instantiation, "REPLACEMENTS_PER_SECOND", 1e9)
    pool = make_pool(engine_name, 2)

    def cycle(times: int) -> None:
        for number in range(times):
            with suppress(PolicyTrap):
                pool.call(order(TRAP if number % 2 else 0))

    cycle(500)
    before = _resident()
    cycle(cycles)
    assert _resident() - before < 8_000_000
    statistics = check_balance(pool.statistics())
    assert (statistics.retired, statistics.spent) == ((cycles + 500) // 2, (cycles + 500) // 2)

    policy = WasmPool(artifact(build_policy({"env": ["TZ"]})), 2, engine_name)
    asked = [PolicyInput("env.read", resource=Resource("env_var", f"TZ{n}" * 50)) for n in range(100)]
    policy.call(asked[0])
    before = _resident()
    for _ in range(500):
        for question in asked:
            policy.call(question)
    assert _resident() - before < 4_000_000
    assert policy.statistics().made == 1
