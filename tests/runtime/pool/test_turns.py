"""A pool whose policy burns its fuel: what runs between two turns of the event loop, who waits behind whom, and who is
refused. # T-4, P20
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.lowlevel import checkpoint

from capgate.artifact.build import build_policy
from capgate.artifact.load import WasmArtifact
from capgate.checker.base import DENIED
from capgate.checker.wasm import WasmPolicyChecker
from capgate.errors import Overloaded, PolicyTimeout, PoolExhausted
from capgate.limits import Limits
from capgate.model import ALLOW, ANONYMOUS, Actor, Deny, PolicyInput, PolicyResult, Reason, Resource, User
from capgate.runtime import turns as turns_module
from capgate.runtime.event_loop import call_soon, current_loop
from capgate.runtime.pool import WasmPool
from capgate.runtime.turns import DOUBTFUL, FAMILY, MOST_KNOWN, SUSPECT, USUAL, Suspects

from ...support.pool_guests import (
    COMPUTE,
    COMPUTE_AND_TRAP_IF_USED,
    ENDLESS,
    SOON,
    TRAP_IF_USED,
    check_balance,
    loop_turn,
    make_pool,
    order,
)

#: So little fuel that a call is over soon; ten million steps are more than a tenth of what :data:`AMPLE` is.
FAST = Limits(deadline=60.0, fuel=100_000)
AMPLE = Limits(deadline=60.0, fuel=100_000_000)
TIMEOUT, EXHAUSTED = DENIED[Reason.POLICY_TIMEOUT], DENIED[Reason.POOL_EXHAUSTED]


class Watch:
    """How many calls failed or were made in each turn of the event loop."""

    def __init__(self, pool: WasmPool) -> None:
        self.pool, self.retired, self.calls, self.ended = pool, [0], [0], False

    def __call__(self) -> None:
        statistics = self.pool.statistics()
        self.retired.append(statistics.retired)
        self.calls.append(statistics.calls)
        loop = current_loop()
        if loop is not None and not self.ended:
            call_soon(loop, self)

    @property
    def most_failures(self) -> int:
        return max(after - before for before, after in zip(self.retired, self.retired[1:], strict=False))

    @property
    def most_calls(self) -> int:
        return max(after - before for before, after in zip(self.calls, self.calls[1:], strict=False))


@asynccontextmanager
async def watched(pool: WasmPool) -> AsyncIterator[Watch]:
    """Of ``pool``, once it has started."""
    watch = Watch(pool)
    watch.retired, watch.calls = [pool.statistics().retired], [pool.statistics().calls]
    watch()
    try:
        yield watch
    finally:
        watch.ended = True
        await loop_turn()
        await loop_turn()


async def ask_all(checker: WasmPolicyChecker, inputs: list[PolicyInput]) -> list[PolicyResult]:
    """All at once, each in a task of its own, and the answers in the order in which they came."""
    results: list[PolicyResult] = []

    async def ask(input: PolicyInput) -> None:
        results.append(await checker.evaluate(input))

    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as tasks:
            for input in inputs:
                tasks.start_soon(ask, input)
    return results


async def test_one_question_burns_its_fuel_between_two_turns_of_the_loop(engine_name: str) -> None:
    async with make_pool(engine_name, 8, FAST) as pool, watched(pool) as watch:
        results = await ask_all(WasmPolicyChecker(pool), [order(ENDLESS, f"{n}") for n in range(24)])
    assert results == [TIMEOUT] * 24
    assert check_balance(pool.statistics()).retired == 24
    assert watch.most_failures == 1


async def test_one_costly_answer_is_given_between_two_turns_of_the_loop(engine_name: str) -> None:
    async with make_pool(engine_name, 4, AMPLE, reuse=True) as pool, watched(pool) as watch:
        results = await ask_all(WasmPolicyChecker(pool), [order(COMPUTE, f"{n}") for n in range(6)])
        assert results == [ALLOW] * 6
        assert watch.most_calls == 1
        # What was answered is not told apart from others, however costly it was.
        assert pool.call(order(COMPUTE, "0")) is ALLOW
        assert pool.call_out_of_turn(order(0, "0")) is ALLOW


async def test_a_document_with_too_little_fuel_pauses_for_nothing(engine_name: str) -> None:
    question = PolicyInput("db.read", resource=Resource("sql_query", "q" * 300))
    document = WasmArtifact.from_bytes(build_policy({"sql": ["q" * 300]}))
    async with WasmPool(document, 2, engine_name, Limits(fuel=1_000)) as pool:
        checker = WasmPolicyChecker(pool)
        with anyio.fail_after(SOON):
            for _ in range(5):
                assert await checker.evaluate(question) == TIMEOUT
    assert pool.statistics().retired == 5


async def test_cheap_questions_share_a_turn(engine_name: str) -> None:
    async with make_pool(engine_name, 4, AMPLE, reuse=True) as pool, watched(pool) as watch:
        assert await ask_all(WasmPolicyChecker(pool), [order(0, f"{n}") for n in range(6)]) == [ALLOW] * 6
        assert not pool.takes_turns
    assert watch.most_calls > 1  # on asyncio all six; trio's loop runs callbacks among the tasks of a turn


async def test_who_asks_after_a_costly_call_is_answered_after_a_turn(engine_name: str) -> None:
    async with make_pool(engine_name, 2, FAST) as pool:
        checker = WasmPolicyChecker(pool)
        assert await checker.evaluate(order(ENDLESS)) == TIMEOUT
        assert checker.answer_now(order(0, "other")) is None
        turned = asyncio_turned()
        assert await checker.evaluate(order(0, "other")) is ALLOW
        assert turned == [True]


def asyncio_turned() -> list[bool]:
    """What gets an entry when the event loop has its next turn."""
    turned: list[bool] = []
    loop = current_loop()
    assert loop is not None
    call_soon(loop, lambda: turned.append(True))
    return turned


async def test_a_batch_burns_fuel_once_in_a_turn(engine_name: str) -> None:
    inputs = [order(ENDLESS, f"{n}") if n % 2 else order(0, f"{n}") for n in range(10)]
    async with make_pool(engine_name, 2, FAST) as pool, watched(pool) as watch:
        with anyio.fail_after(SOON):
            results = await WasmPolicyChecker(pool).check_many(inputs)
    assert results == [TIMEOUT if n % 2 else ALLOW for n in range(10)]
    assert watch.most_failures == 1


async def test_who_cannot_wait_is_answered_unless_it_burnt_fuel(engine_name: str) -> None:
    async with make_pool(engine_name, 8, FAST) as pool:
        checker = WasmPolicyChecker(pool)
        assert checker.evaluate_now(order(ENDLESS, "burns")) == TIMEOUT
        assert checker.evaluate_now(order(ENDLESS, "burns")) == EXHAUSTED
        assert checker.evaluate_now(order(0, "honest")) is ALLOW
        batch = [order(0, "honest"), order(ENDLESS, "too"), order(0, "honest"), order(0, "honest")]
        assert checker.evaluate_many_now(batch) == [ALLOW, TIMEOUT, EXHAUSTED, EXHAUSTED]
        assert pool.statistics().retired == 2


async def burn(pool: WasmPool, *ids: str) -> None:
    """Have these questions known as ones that burn their fuel, and wait until somebody may ask."""
    for id in ids:
        with pytest.raises(PolicyTimeout):
            await pool.wait_and_call(order(ENDLESS, id))
    await loop_turn()


def test_who_burnt_fuel_waits_behind_the_others(engine_name: str) -> None:
    """On asyncio alone: trio wakes tasks in any order."""
    served: list[str] = []

    async def ask(pool: WasmPool, id: str, actor: Actor) -> None:
        await pool.wait_and_call(order(0, id, actor))
        served.append(id)

    async def main() -> None:
        async with make_pool(engine_name, 1, FAST, reuse=True) as pool:
            await burn(pool, "bad", "worse", *map(str, range(FAMILY - 2)))
            async with anyio.create_task_group() as tasks, pool.acquire():
                for waiting, id in enumerate(("bad", "worse", "doubtful", "good", "better", "best")):
                    actor = ANONYMOUS if id in ("bad", "worse", "doubtful") else User("u")
                    tasks.start_soon(ask, pool, id, actor)
                    while pool.statistics().waiting <= waiting:
                        await checkpoint()

    asyncio.run(asyncio.wait_for(main(), SOON))
    assert served == ["good", "better", "best", "doubtful", "bad", "worse"]


async def test_too_many_are_refused_at_once_and_burners_take_no_place_away(engine_name: str) -> None:
    limits = Limits(deadline=60.0, waiters=2, fuel=100_000)
    async with make_pool(engine_name, 1, limits, reuse=True) as pool:
        checker, results = WasmPolicyChecker(pool), list[PolicyResult]()

        async def ask(id: str) -> None:
            results.append(await checker.evaluate(order(0, id)))

        await burn(pool, "bad")
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks, pool.acquire():
                for waiting, id in enumerate(("bad", "bad", "good", "good")):
                    assert checker.answer_now(order(0, id)) is None
                    tasks.start_soon(ask, id)
                    while pool.statistics().waiting <= waiting:
                        await checkpoint()
                for id in ("bad", "good"):
                    assert checker.answer_now(order(0, id)) == EXHAUSTED
                    with pytest.raises(Overloaded):
                        await pool.wait_and_call(order(0, id))
        assert results == [ALLOW] * 4
        assert pool.statistics().waiting == 0


async def test_who_burnt_fuel_is_refused_before_the_deadline(engine_name: str) -> None:
    """Each at a moment of its own, so that nobody has to refuse all of them in one turn."""
    limits, refused = Limits(deadline=0.05, fuel=100_000), list[type[BaseException]]()

    async def ask(pool: WasmPool, id: str) -> None:
        try:
            await pool.wait_and_call(order(0, id))
        except PoolExhausted as error:
            refused.append(type(error))

    async with make_pool(engine_name, 1, limits, reuse=True) as pool:
        await burn(pool, "bad", "worse")
        async with pool.acquire():
            with anyio.fail_after(SOON):  # as nobody else does here
                async with anyio.create_task_group() as tasks:
                    for id in ("bad", "worse"):
                        tasks.start_soon(ask, pool, id)
        assert refused == [PoolExhausted] * 2
        assert pool.statistics().waiting == 0


async def test_who_is_cancelled_while_waiting_is_passed_over(engine_name: str) -> None:  # P2
    served: list[str] = []
    scopes = {id: anyio.CancelScope() for id in ("first", "second", "third")}

    async def ask(pool: WasmPool, id: str) -> None:
        with scopes[id]:
            await pool.wait_and_call(order(0, id))
            served.append(id)

    async with make_pool(engine_name, 1, FAST, reuse=True) as pool:
        await burn(pool, "bad")
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks, pool.acquire():
                for waiting, id in enumerate(scopes):
                    tasks.start_soon(ask, pool, id)
                    while pool.statistics().waiting <= waiting:
                        await checkpoint()
                scopes["first"].cancel()
                scopes["second"].cancel()
                while pool.statistics().waiting > 1:
                    await checkpoint()
        assert served == ["third"]
        assert await pool.wait_and_call(order(0, "next")) is ALLOW
        assert check_balance(pool.statistics()).in_use == 0


async def test_who_is_cancelled_as_it_is_answered_hinders_nobody(engine_name: str) -> None:  # P2
    """By asyncio itself: anyio and trio cancel no task that is about to go on."""
    async with make_pool(engine_name, 2, FAST, reuse=True) as pool:
        await burn(pool, "bad")
        if not isinstance(current_loop(), asyncio.AbstractEventLoop):
            return
        first, second = (asyncio.ensure_future(pool.wait_and_call(order(0, id))) for id in ("first", "second"))
        calls = pool.statistics().calls
        with anyio.fail_after(SOON):
            while pool.statistics().calls < calls + 2:
                await checkpoint()
        first.cancel()
        assert await asyncio.wait_for(second, SOON) is ALLOW
        with pytest.raises(asyncio.CancelledError):
            await first
        assert check_balance(pool.statistics()).idle == 2


async def test_who_answers_cheaply_is_suspected_no_more(engine_name: str) -> None:
    async with make_pool(engine_name, 2, FAST, reuse=True) as pool:
        checker = WasmPolicyChecker(pool)
        await burn(pool, "bad")
        with anyio.fail_after(SOON):
            while checker.answer_now(order(0, "bad")) is None:
                await checkpoint()
        assert checker.evaluate_now(order(ENDLESS, "another")) == TIMEOUT
        assert checker.evaluate_now(order(0, "bad")) is ALLOW


async def test_all_is_forgotten_after_a_while(engine_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with make_pool(engine_name, 2, FAST, reuse=True) as pool:
        checker = WasmPolicyChecker(pool)
        await burn(pool, "bad")
        with anyio.fail_after(SOON):
            assert await checker.evaluate(order(0, "good")) is ALLOW
            assert pool.takes_turns
            monkeypatch.setattr(turns_module, "MEMORY", 0.0)
            while pool.takes_turns:  # until the pause for those who burn fuel is over, too
                await loop_turn()
                assert await checker.evaluate(order(0, "good")) is ALLOW


async def test_a_costly_trap_of_a_used_instance_is_tried_again_at_another_turn(engine_name: str) -> None:
    async with make_pool(engine_name, 2, AMPLE, reuse=True) as pool:
        for _ in range(2):
            async with pool.acquire() as first, pool.acquire() as second:
                for interpreter in (first, second):
                    assert interpreter.call_policy_check(order()) is ALLOW
        async with watched(pool) as watch:
            with pytest.raises(PoolExhausted):
                pool.call(order(COMPUTE_AND_TRAP_IF_USED))
            assert pool.call(order(TRAP_IF_USED)) is ALLOW  # which costs little, and is tried at once
            async with pool.acquire() as first, pool.acquire() as second:
                for interpreter in (first, second):
                    interpreter.call_policy_check(order())
            with anyio.fail_after(SOON):
                assert await WasmPolicyChecker(pool).check(order(COMPUTE_AND_TRAP_IF_USED)) is ALLOW
        assert check_balance(pool.statistics()).retired >= 3
        assert watch.most_failures <= 2


async def test_a_closed_pool_lets_nobody_wait(engine_name: str) -> None:
    results: list[PolicyResult] = []

    async def ask(checker: WasmPolicyChecker) -> None:
        results.append(await checker.evaluate(order(0, "late")))

    pool = make_pool(engine_name, 1, FAST, reuse=True)
    await pool.start()
    await burn(pool, "bad")
    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as tasks, pool.acquire():
            for waiting in range(3):
                tasks.start_soon(ask, WasmPolicyChecker(pool))
                while pool.statistics().waiting <= waiting:
                    await checkpoint()
            pool.close()
    assert results == [Deny(Reason.POLICY_UNAVAILABLE)] * 3
    assert pool.statistics().waiting == 0


def test_another_event_loop_has_turns_of_its_own(engine_name: str) -> None:  # P12
    pool = make_pool(engine_name, 2, FAST, reuse=True)
    checker = WasmPolicyChecker(pool)

    async def burns() -> None:
        assert await checker.evaluate(order(ENDLESS)) == TIMEOUT
        assert checker.answer_now(order(0, "other")) is None

    async def asks() -> None:
        assert await asyncio.wait_for(checker.evaluate(order(0, "other")), SOON) is ALLOW

    asyncio.run(burns())
    asyncio.run(asks())


def test_suspects_are_few_and_families_are_known() -> None:
    suspects = Suspects()
    for number in range(3 * MOST_KNOWN):
        suspects.add(order(0, f"{number}", User(f"{number}")))
        suspects.clear(order(0, f"cheap {number}"))
    assert len(suspects) == MOST_KNOWN
    assert suspects.rank(order(0, "0", User("0"))) == USUAL
    assert suspects.rank(order(0, f"{3 * MOST_KNOWN - 1}", User(f"{3 * MOST_KNOWN - 1}"))) == SUSPECT

    suspects.forget()
    for number in range(FAMILY):
        assert suspects.rank(order(0, "new")) == USUAL
        suspects.add(order(0, f"{number}"))
    assert suspects.rank(order(0, "new")) == DOUBTFUL
    assert suspects.rank(order(0, "new", User("u"))) == USUAL
    suspects.clear(order(0, "new"))
    assert suspects.rank(order(0, "new")) == USUAL
    assert suspects.rank(order(0, "newer")) == DOUBTFUL
    suspects.clear(order(0, "0"))
    assert suspects.rank(order(0, "newer")) == USUAL


def test_one_worker_thread_at_a_time_asks_what_burns_fuel(engine_name: str) -> None:
    pool = make_pool(engine_name, 1, FAST, reuse=True)
    checker, results = WasmPolicyChecker(pool), list[PolicyResult]()

    def burns(id: str) -> None:
        for _ in range(40):
            results.append(checker.evaluate_now(order(ENDLESS, id)))
            assert checker.evaluate_now(order(0, "good")) is ALLOW

    threads = [threading.Thread(target=burns, args=(f"{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 160
    assert set(results) == {TIMEOUT, EXHAUSTED}
    assert pool.statistics().retired == results.count(TIMEOUT)


async def test_odd_questions_are_told_apart_from_nobody(engine_name: str) -> None:
    odd = PolicyInput(["db.write"], actor={}, resource=7, args_hash=[])  # type: ignore[arg-type]
    async with make_pool(engine_name, 2, FAST) as pool:
        await burn(pool, "bad")
        assert await WasmPolicyChecker(pool).evaluate(odd) == DENIED[Reason.MALFORMED_INPUT]
