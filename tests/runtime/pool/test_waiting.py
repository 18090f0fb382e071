"""A pool with too few instances: who waits, who is refused, and that nothing and nobody is lost on the way."""

from __future__ import annotations

import asyncio
import random

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint

from capgate.errors import PolicyError, PolicyUnavailable, PoolExhausted
from capgate.limits import Limits
from capgate.model import ALLOW, Allow, PolicyInput, PolicyResult
from capgate.runtime.interpreter import WasmInterpreter
from capgate.runtime.pool import WasmPool

from ...support.pool_guests import (
    BAD_DISCRIMINANT,
    DENY,
    PATIENT,
    SOON,
    TOLD,
    TRAP,
    TRAP_IF_USED,
    check_balance,
    loop_turn,
    make_pool,
    order,
)
from ...support.tools import FULL

SHORT = Limits(deadline=0.02)


async def test_who_finds_all_held_waits_for_the_deadline_and_no_longer(engine_name: str) -> None:  # P1
    async with make_pool(engine_name, 1, SHORT) as pool, pool.acquire():
        with anyio.fail_after(SOON), pytest.raises(PoolExhausted):
            async with pool.acquire():
                pytest.fail("there is only one")
        statistics = check_balance(pool.statistics())
        assert (statistics.in_use, statistics.idle, statistics.waiting) == (1, 0, 0)


async def test_too_many_waiters_are_refused_at_once(engine_name: str) -> None:  # P1
    limits = Limits(deadline=60.0, waiters=3)
    answers: list[PolicyResult] = []

    async def ask(pool: WasmPool) -> None:
        answers.append(await pool.wait_and_call(order()))

    pool = make_pool(engine_name, 1, limits, reuse=True)
    async with pool, anyio.create_task_group() as tasks, pool.acquire():
        for _ in range(3):
            tasks.start_soon(ask, pool)
        while pool.statistics().waiting < 3:
            await checkpoint()
        with anyio.fail_after(SOON), pytest.raises(PoolExhausted):  # long before the deadline of 60
            await pool.wait_and_call(order())
        assert pool.statistics().waiting == 3
    assert answers == [ALLOW] * 3


async def test_no_instance_is_made_while_a_request_waits_for_its_answer(engine_name: str) -> None:
    async with make_pool(engine_name, 2) as pool:
        for _ in range(2):
            assert pool.call(order()) == ALLOW
        for _ in range(3):
            with pytest.raises(PoolExhausted):
                pool.call(order())  # they are made when this task gives way
        assert pool.statistics().made == 2
        await _settle(pool)
        assert pool.statistics().made == 4


async def test_without_waiters_only_the_next_one_is_refused(engine_name: str) -> None:  # P1
    async with make_pool(engine_name, 1, Limits(waiters=0)) as pool:
        for _ in range(5):
            assert await pool.wait_and_call(order()) == ALLOW
            with pytest.raises(PoolExhausted):
                await pool.wait_and_call(order())  # its instance is being replaced
            await checkpoint()
            await checkpoint()
        async with pool.acquire():
            with pytest.raises(PoolExhausted):
                async with pool.acquire():
                    pytest.fail("nobody may wait")


@pytest.mark.parametrize("reuse", [False, True])
async def test_many_more_checks_than_instances_are_all_answered(engine_name: str, reuse: bool) -> None:  # P1
    answers: dict[int, PolicyResult] = {}

    async def ask(pool: WasmPool, number: int) -> None:
        answers[number] = await pool.wait_and_call(order(DENY if number % 2 else 0))

    async with make_pool(engine_name, 4, reuse=reuse) as pool:
        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(ask, pool, number)
        assert answers == {number: TOLD if number % 2 else ALLOW for number in range(200)}
        await _settle(pool)
        statistics = check_balance(pool.statistics())
        assert (statistics.idle, statistics.in_use, statistics.waiting, statistics.calls) == (4, 0, 0, 200)
        assert statistics.spent == (0 if reuse else 200)


@pytest.mark.parametrize("reuse", [False, True])
async def test_who_waits_is_served_before_who_comes_later(engine_name: str, reuse: bool) -> None:
    """Others come at every turn of the loop, before those who wait have theirs: they must not push in."""
    served: list[str] = []

    async def wait(pool: WasmPool, name: str) -> None:
        async with pool.acquire() as interpreter:
            interpreter.call_policy_check(order())
            served.append(name)
            await checkpoint()

    async def push_in(pool: WasmPool) -> None:
        while len(served) < 6:
            try:
                pool.call(order())
                served.append("pushed in")
            except PoolExhausted:
                pass
            await checkpoint()

    async with make_pool(engine_name, 1, reuse=reuse) as pool, anyio.create_task_group() as tasks, pool.acquire():
        for number in range(6):
            tasks.start_soon(wait, pool, str(number))
            while pool.statistics().waiting <= number:
                await checkpoint()
        tasks.start_soon(push_in, pool)
        await checkpoint()
    in_order = [name for name in served if name != "pushed in"]
    assert in_order == [str(number) for number in range(6)]
    assert served[:6] == in_order, served


async def test_an_instance_is_held_by_one_task_only(engine_name: str) -> None:  # P4
    owners: dict[WasmInterpreter, int] = {}

    async def hold(pool: WasmPool, token: int) -> None:
        for _ in range(10):
            async with pool.acquire() as interpreter:
                assert owners.setdefault(interpreter, token) == token
                await checkpoint()
                assert interpreter.call_policy_check(order()) == ALLOW
                await checkpoint()
                assert owners.pop(interpreter) == token

    async with make_pool(engine_name, 3, reuse=True) as pool:
        async with anyio.create_task_group() as tasks:
            for token in range(12):
                tasks.start_soon(hold, pool, token)
        assert check_balance(pool.statistics()).idle == 3
        assert pool.statistics().made == 3


async def test_what_was_held_and_not_used_is_not_replaced(engine_name: str) -> None:
    async with make_pool(engine_name, 1) as pool:
        async with pool.acquire() as first:
            pass
        async with pool.acquire() as second:
            assert second is first
            second.call_policy_check(order())
        async with pool.acquire() as third:
            assert third is not first
        assert (pool.statistics().made, pool.statistics().spent) == (2, 1)


async def test_a_cancelled_waiter_is_passed_over(engine_name: str) -> None:  # P2
    got: list[int] = []
    scopes = [anyio.CancelScope() for _ in range(3)]

    async def wait(pool: WasmPool, number: int) -> None:
        with scopes[number]:
            async with pool.acquire() as interpreter:
                interpreter.call_policy_check(order())
                got.append(number)

    async with make_pool(engine_name, 1, reuse=True) as pool:
        async with anyio.create_task_group() as tasks, pool.acquire():
            for number in range(3):
                tasks.start_soon(wait, pool, number)
                while pool.statistics().waiting <= number:
                    await checkpoint()
            scopes[0].cancel()
            scopes[1].cancel()
            while pool.statistics().waiting > 1:
                await checkpoint()
        assert got == [2]
        statistics = check_balance(pool.statistics())
        assert (statistics.idle, statistics.in_use, statistics.made, statistics.waiting) == (1, 0, 1, 0)


def test_a_waiter_cancelled_as_it_is_woken_passes_the_instance_on(engine_name: str) -> None:  # P2
    """By asyncio itself: anyio and trio cancel no task that is about to go on."""

    async def wait(pool: WasmPool) -> PolicyResult:
        return await pool.wait_and_call(order())

    async def main() -> None:
        async with make_pool(engine_name, 1, reuse=True) as pool:
            async with pool.acquire():
                first, second, third = (asyncio.ensure_future(wait(pool)) for _ in range(3))
                await asyncio.sleep(0)
                assert pool.statistics().waiting == 3
            # The first has the instance by now, and has not run yet.
            assert (pool.statistics().in_use, pool.statistics().waiting) == (1, 2)
            first.cancel()
            second.cancel()
            outcomes = await asyncio.wait_for(asyncio.gather(first, second, third, return_exceptions=True), 10)
            assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2 + [Allow]
            statistics = check_balance(pool.statistics())
            assert (statistics.idle, statistics.in_use, statistics.made, statistics.waiting) == (1, 0, 1, 0)

    asyncio.run(main())


async def test_cancellation_from_outside_is_not_exhaustion(engine_name: str) -> None:  # P2
    async with make_pool(engine_name, 1) as pool, pool.acquire():
        with anyio.move_on_after(0.01) as scope:
            async with pool.acquire():
                pytest.fail("there is only one")
        assert scope.cancelled_caught
        with anyio.move_on_after(0.01) as scope:
            await pool.wait_and_call(order())
        assert scope.cancelled_caught
        assert pool.statistics().waiting == 0


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
async def test_an_error_of_the_holder_gives_the_instance_back(engine_name: str, error: type[BaseException]) -> None:
    async with make_pool(engine_name, 1) as pool:
        with pytest.raises(error):
            async with pool.acquire():
                raise error
        statistics = check_balance(pool.statistics())
        assert (statistics.idle, statistics.in_use, statistics.made) == (1, 0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("reuse", [False, True])  # all eight: 20,000 operations, or 40,000
async def test_nothing_is_lost_in_thousands_of_random_operations(engine_name: str, reuse: bool) -> None:  # P2
    """Waiting, holding, failing, and being cancelled at any of it."""
    chance = random.Random(f"{engine_name} {reuse}")
    operations = 5_000 if FULL else 2_500
    limits = Limits(deadline=0.5, waiters=20)
    done = outcomes = 0

    def pick() -> PolicyInput:
        # Failures are few: too many at once are refused, which is another test.
        return order(chance.choices((0, DENY, TRAP_IF_USED, TRAP, BAD_DISCRIMINANT), (50, 40, 4, 1, 1))[0])

    async def operate(pool: WasmPool) -> None:
        nonlocal outcomes
        kind = chance.randrange(4)
        try:
            if kind == 0:
                pool.call(pick())
            elif kind == 1:
                await pool.wait_and_call(pick())
            else:
                async with pool.acquire() as interpreter:
                    for _ in range(chance.randrange(3)):
                        await checkpoint()
                    if kind == 2:
                        interpreter.call_policy_check(pick())
                        await checkpoint()
        except PolicyError:
            pass
        outcomes += 1

    async def work(pool: WasmPool) -> None:
        nonlocal done
        while done < operations:
            done += 1
            if chance.random() < 0.3:
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await operate(pool)
            elif chance.random() < 0.1:
                with anyio.move_on_after(chance.random() / 2_000):
                    await operate(pool)
            else:
                await operate(pool)
            if chance.random() < 0.01:
                check_balance(pool.statistics())
            if chance.random() < 0.5:
                await checkpoint()

    async with make_pool(engine_name, 3, limits, reuse=reuse) as pool:
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(work, pool)
        await _settle(pool)
        statistics = check_balance(pool.statistics())
        assert (statistics.idle, statistics.in_use, statistics.waiting) == (3, 0, 0)
        assert outcomes > operations / 2
        assert statistics.retired > 0
        assert pool.call(order()) == ALLOW
    with pytest.raises(PolicyUnavailable):
        pool.call(order())


async def test_statistics_are_a_snapshot(engine_name: str) -> None:
    async with make_pool(engine_name, 2) as pool:
        before = pool.statistics()
        pool.call(order())
        with pytest.raises(AttributeError):
            before.calls = 5  # type: ignore[misc]
        assert msgspec.structs.asdict(before) == {
            "size": 2, "idle": 2, "in_use": 0, "waiting": 0, "made": 2, "retired": 0, "spent": 0, "closed": 0,
            "denied_fast": 0, "calls": 0,
        }  # fmt: skip
        assert pool.statistics().calls == 1


async def test_calls_of_an_instance_that_is_held_are_counted(engine_name: str) -> None:
    async with make_pool(engine_name, 2, PATIENT, reuse=True) as pool:
        async with pool.acquire() as interpreter:
            interpreter.call_policy_check(order())
            assert pool.statistics().calls == 1
        assert pool.statistics().calls == 1
    assert pool.statistics().calls == 1  # closed, and still counted
    assert check_balance(pool.statistics()).closed == 2


async def _settle(pool: WasmPool) -> None:
    """Until every instance is back and replaced."""
    with anyio.fail_after(SOON):
        while pool.statistics().idle < pool.size:
            async with pool.acquire():
                pass
            await loop_turn()
