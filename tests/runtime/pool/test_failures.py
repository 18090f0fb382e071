"""Guests that trap, lie, never end or cannot start; and errors of every kind out of an engine."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from itertools import pairwise
from types import SimpleNamespace

import anyio
import pytest
from anyio.lowlevel import checkpoint

from capgate.artifact.build import build_policy
from capgate.checker.wasm import WasmPolicyChecker
from capgate.errors import (
    AbiError,
    MalformedInput,
    PolicyError,
    PolicyTimeout,
    PolicyTrap,
    PolicyUnavailable,
    RestrictedModule,
)
from capgate.limits import Limits
from capgate.model import ALLOW, Allow, Deny, PolicyInput, PolicyResult, Resource
from capgate.runtime import instantiation
from capgate.runtime.interpreter import CompiledPolicy
from capgate.runtime.pool import WasmPool

from ...support.guests import artifact, guest
from ...support.pool_guests import (
    BAD_DISCRIMINANT,
    COUNT,
    ENDLESS,
    OUT_OF_BOUNDS,
    PATIENT,
    REASON_NOT_UTF8,
    RECURSE,
    SOON,
    TOLD,
    TRAP,
    TRAP_IF_USED,
    TRAPS_AT_START,
    check_balance,
    loop_turn,
    make_pool,
    order,
)

FAILURES = {
    TRAP: (PolicyTrap, "kind", "unreachable"),
    RECURSE: (PolicyTrap, "kind", "stack_overflow"),
    BAD_DISCRIMINANT: (AbiError, "rule", "discriminant"),
    OUT_OF_BOUNDS: (AbiError, "rule", "result_out_of_bounds"),
    REASON_NOT_UTF8: (AbiError, "rule", "reason_not_utf8"),
    ENDLESS: (PolicyTimeout, "code", "policy_timeout"),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("reuse", [False, True])
async def test_after_a_failure_the_instance_is_replaced_and_the_next_question_answered(
    engine_name: str, failure: int, reuse: bool
) -> None:  # G19, G20, G1
    kind, attribute, fact = FAILURES[failure]
    async with make_pool(engine_name, 1, reuse=reuse) as pool:
        for turn in range(1, 4):
            with pytest.raises(kind) as caught:
                await pool.wait_and_call(order(failure))
            assert getattr(caught.value, attribute) == fact
            assert await pool.wait_and_call(order()) == ALLOW
            statistics = check_balance(pool.statistics())
            # A trap of an instance that was used before is tried once more, on a fresh one.
            assert statistics.retired == (2 * turn - 1 if reuse and kind is PolicyTrap else turn)


async def test_no_question_sees_another(engine_name: str) -> None:  # G21
    """The guest denies on every call of an instance but its tenth."""
    async with make_pool(engine_name, 2) as pool:
        assert [await pool.wait_and_call(order(COUNT)) for _ in range(40)] == [TOLD] * 40
    async with make_pool(engine_name, 1, reuse=True) as pool:
        assert [pool.call(order(COUNT)) for _ in range(12)] == [*[TOLD] * 9, ALLOW, TOLD, TOLD]
        assert pool.statistics().made == 1


async def test_what_capgate_built_is_reused(engine_name: str) -> None:
    pool = WasmPool(artifact(build_policy({"env": ["TZ"]})), 2, engine_name, PATIENT)
    async with pool:
        for _ in range(50):
            assert pool.call(PolicyInput("env.read", resource=Resource("env_var", "TZ"))) == ALLOW
        assert (pool.statistics().made, pool.statistics().calls) == (2, 50)


async def test_a_trap_of_a_reused_instance_is_tried_once_more(engine_name: str) -> None:
    async with make_pool(engine_name, 2, reuse=True) as pool:
        for _ in range(20):
            assert pool.call(order(TRAP_IF_USED)) == ALLOW
            statistics = check_balance(pool.statistics())
            assert statistics.idle == 2
        assert statistics.retired >= 18
        assert statistics.calls == 20 + statistics.retired


async def test_malformed_input_costs_no_instance(engine_name: str) -> None:
    async with make_pool(engine_name, 1, reuse=True) as pool:
        for _ in range(10):
            with pytest.raises(MalformedInput):
                pool.call(PolicyInput("db.write", timestamp=-1))
        assert pool.call(order()) == ALLOW
        assert (pool.statistics().made, pool.statistics().retired) == (1, 0)


# -- failing all the time


async def test_a_crash_loop_costs_few_instances_and_ends_by_itself(
    engine_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # P8
    monkeypatch.setattr(instantiation, "REPLACEMENTS_PER_SECOND", 0.0)
    async with make_pool(engine_name, 4) as pool:
        checker = WasmPolicyChecker(pool)
        answers = [await checker.check(order(TRAP)) for _ in range(1_000)]
        traps = 4 + instantiation.REPLACEMENT_BURST
        assert answers == [Deny("policy_trap")] * traps + [Deny("policy_unavailable")] * (1_000 - traps)
        statistics = check_balance(pool.statistics())
        assert (statistics.made, statistics.retired) == (traps, traps)
        assert statistics.denied_fast >= 1_000 - traps
        assert await checker.check(order()) == Deny("policy_unavailable")
        monkeypatch.setattr(instantiation, "REPLACEMENTS_PER_SECOND", 1e12)  # the clock moves on between two questions
        await loop_turn()
        assert [await checker.check(order()) for _ in range(20)] == [Allow()] * 20
        assert check_balance(pool.statistics()).retired == traps


async def test_without_an_instance_for_the_retry_there_is_no_policy(
    engine_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # P8
    monkeypatch.setattr(instantiation, "REPLACEMENTS_PER_SECOND", 0.0)
    monkeypatch.setattr(instantiation, "REPLACEMENT_BURST", 0)
    async with make_pool(engine_name, 1, reuse=True) as pool:
        assert pool.call(order()) == ALLOW
        with pytest.raises(PolicyUnavailable):
            pool.call(order(TRAP))
        monkeypatch.setattr(instantiation, "REPLACEMENT_BURST", 8)
        monkeypatch.setattr(instantiation, "REPLACEMENTS_PER_SECOND", 1e12)  # the clock moves on between two questions
        await loop_turn()
        assert await pool.wait_and_call(order()) == ALLOW
        assert check_balance(pool.statistics()).retired == 1


async def test_who_waits_is_told_when_no_replacement_can_be_made(
    engine_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # P9
    monkeypatch.setattr(instantiation, "REPLACEMENTS_PER_SECOND", 0.0)
    monkeypatch.setattr(instantiation, "REPLACEMENT_BURST", 0)
    told: list[str] = []

    async def wait(pool: WasmPool) -> None:
        with pytest.raises(PolicyUnavailable) as caught:
            await pool.wait_and_call(order())
        told.append(caught.value.code)

    with anyio.fail_after(SOON):  # none of them waits for the deadline of 60
        pool = make_pool(engine_name, 1)
        async with pool, anyio.create_task_group() as tasks, pool.acquire() as interpreter:
            for _ in range(3):
                tasks.start_soon(wait, pool)
            while pool.statistics().waiting < 3:
                await checkpoint()
            with pytest.raises(PolicyTrap):
                interpreter.call_policy_check(order(TRAP))
    assert told == ["policy_unavailable"] * 3


# -- never starting


async def test_a_guest_whose_start_traps_says_so_at_start_up(engine_name: str) -> None:  # P9, G2
    pool = WasmPool(artifact(TRAPS_AT_START), 2, engine_name)
    for _ in range(2):
        with pytest.raises(PolicyTrap) as caught:
            await pool.start()
        assert caught.value.kind == "unreachable"
    with pytest.raises(PolicyTrap):
        async with pool:
            pytest.fail("it did not start")
    assert pool.statistics().made == 0


async def test_a_guest_whose_start_traps_is_tried_rarely(
    engine_name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:  # P9
    monkeypatch.setattr(instantiation, "BACKOFF", (1_000.0, 1_000.0))
    pool = WasmPool(artifact(TRAPS_AT_START), 2, engine_name)
    checker = WasmPolicyChecker(pool)
    with caplog.at_level(logging.ERROR, "capgate.pool"):
        for _ in range(20):
            assert await checker.check(order()) == Deny("policy_unavailable")
            with pytest.raises(PolicyUnavailable):
                async with pool.acquire():
                    pytest.fail("there is none")
            assert checker.evaluate_now(order()) == Deny("policy_unavailable")
    assert len([record for record in caplog.records if record.name == "capgate.pool"]) == 1
    statistics = check_balance(pool.statistics())
    assert (statistics.made, statistics.denied_fast) == (0, 59)


async def test_a_module_that_the_engine_refuses_is_compiled_once(
    engine_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # P9
    monkeypatch.setattr(instantiation, "BACKOFF", (1_000.0, 1_000.0))
    compiled: list[CompiledPolicy] = []
    create = CompiledPolicy.__init__

    def count(self: CompiledPolicy, *arguments: object) -> None:
        compiled.append(self)
        create(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(CompiledPolicy, "__init__", count)
    ill_typed = guest().replace(b"\x41\x80\x08\x0b", b"\x42\x80\x08\x0b")  # its i32.const 1024 as an i64.const
    assert ill_typed != guest()
    pool = WasmPool(artifact(ill_typed), 2, engine_name)
    for _ in range(10):
        with pytest.raises(PolicyUnavailable):
            pool.call(order())
    assert len(compiled) == 1
    with pytest.raises(RestrictedModule):
        await pool.start()
    assert len(compiled) == 2


async def test_after_the_backoff_it_starts(
    engine_name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:  # P9, P8
    monkeypatch.setattr(instantiation, "BACKOFF", (0.0, 0.0))
    pool = make_pool(engine_name, 2)
    attempts = 0
    compile_now = pool._compiler

    def fail_at_first() -> CompiledPolicy:
        nonlocal attempts
        attempts += 1
        if attempts < 4:
            raise MemoryError
        return compile_now()

    monkeypatch.setattr(pool, "_compiler", fail_at_first)
    checker = WasmPolicyChecker(pool)
    answers = [await checker.check(order()) for _ in range(5)]
    assert answers == [Deny("policy_unavailable")] * 3 + [Allow()] * 2
    assert all(record.exc_info is not None for record in caplog.records if record.name == "capgate.pool")


def test_each_failure_in_a_row_doubles_the_time_to_the_next_attempt(
    engine_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # P9
    now = 0.0
    fails = True
    attempts: list[float] = []
    works = make_pool(engine_name)._compiler()

    def compile_now() -> CompiledPolicy:
        attempts.append(now)
        if fails:
            raise RestrictedModule("invalid_module", "test")
        return works

    monkeypatch.setattr(instantiation, "time", SimpleNamespace(monotonic=lambda: now))
    maker = instantiation.Maker(compile_now, instantiation.InstanceCounts())

    def attempt_for(seconds: int) -> None:
        nonlocal now
        until = now + seconds
        while now < until:
            now += 0.01
            with suppress(RestrictedModule, PolicyUnavailable):
                maker.make()

    attempt_for(30)
    gaps = [later - earlier for earlier, later in pairwise(attempts)]
    assert gaps == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, *[5.0] * (len(gaps) - 7)], abs=0.011)
    assert len(gaps) >= 9
    fails = False
    attempt_for(6)
    fails, maker._compiled = True, None
    attempts.clear()
    attempt_for(1)  # after a success they start again
    assert [later - earlier for earlier, later in pairwise(attempts)][:3] == pytest.approx([0.05, 0.1, 0.2], abs=0.011)


def test_only_what_failed_is_replaced_at_a_price(engine_name: str, monkeypatch: pytest.MonkeyPatch) -> None:  # P8
    monkeypatch.setattr(instantiation, "REPLACEMENT_BURST", 2)
    monkeypatch.setattr(instantiation, "REPLACEMENTS_PER_SECOND", 0.0)
    maker = instantiation.Maker(make_pool(engine_name)._compiler, instantiation.InstanceCounts())
    maker.make()
    for _ in range(2):
        maker.retired()
        maker.make()
        maker.make()  # not in place of one that failed
    maker.retired()
    with pytest.raises(PolicyUnavailable):
        maker.make()


async def test_a_module_that_wants_too_much_memory_is_refused(engine_name: str) -> None:
    with pytest.raises(RestrictedModule):
        WasmPool(artifact(guest(pages=100)), 1, engine_name, Limits(memory_pages=99))
    pool = WasmPool(artifact(guest(pages=100)), 1, engine_name, Limits(memory_pages=100))
    assert pool.call(order()) == ALLOW


# -- errors of every kind


class Unheard(BaseException):
    """Nobody's."""


ERRORS = [
    Exception("x"), Unheard("x"), MemoryError(), RecursionError(), RuntimeError("x"), OSError(5, "x"), AssertionError(),
    StopIteration(), StopAsyncIteration(), TimeoutError(), asyncio.CancelledError(), UnicodeError(), KeyError("x"),
]  # fmt: skip
ENDING = [KeyboardInterrupt(), SystemExit(3), GeneratorExit()]


def _raise_once(pool: WasmPool, error: BaseException) -> None:
    """The next call of ``pool`` raises ``error`` out of the engine."""
    (interpreter,) = pool._local.instances.idle

    def fail(input: PolicyInput) -> PolicyResult:
        raise error

    interpreter.ask = fail


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_whatever_an_engine_raises_is_a_trap(engine_name: str, error: BaseException) -> None:  # P3
    async with make_pool(engine_name, 1, reuse=True) as pool:
        _raise_once(pool, error)
        with pytest.raises(PolicyTrap) as caught:
            pool.call(order())
        assert caught.value.__cause__ is error
        assert check_balance(pool.statistics()).retired == 1
        assert await pool.wait_and_call(order()) == ALLOW
        _raise_once(pool, error)  # of an instance that was used: tried once more
        assert pool.call(order()) == ALLOW
        assert check_balance(pool.statistics()).retired == 2


@pytest.mark.parametrize("error", ENDING, ids=lambda error: type(error).__name__)
async def test_what_ends_a_program_goes_on_up(engine_name: str, error: BaseException) -> None:  # P3
    async with make_pool(engine_name, 1, reuse=True) as pool:
        checker = WasmPolicyChecker(pool)
        for ask in (pool.call, checker.evaluate_now):
            _raise_once(pool, error)
            with pytest.raises(type(error)) as caught:
                ask(order())
            assert caught.value is error
            assert await pool.wait_and_call(order()) == ALLOW
        assert check_balance(pool.statistics()).retired == 2


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_whatever_an_engine_raises_is_a_deny(engine_name: str, error: BaseException) -> None:  # P3
    async with make_pool(engine_name, 1) as pool:
        checker = WasmPolicyChecker(pool)
        _raise_once(pool, error)
        assert await checker.check(order()) == Deny("policy_trap")
        assert await checker.check(order()) == Allow()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_a_holder_that_fails_gives_a_broken_instance_back(engine_name: str, error: BaseException) -> None:  # P3
    async with make_pool(engine_name, 1, reuse=True) as pool:
        _raise_once(pool, error)
        with pytest.raises(PolicyError):
            async with pool.acquire() as interpreter:
                interpreter.call_policy_check(order())
        assert interpreter.broken
        with pytest.raises(PolicyUnavailable):
            interpreter.call_policy_check(order())
        assert await pool.wait_and_call(order()) == ALLOW
        assert check_balance(pool.statistics()).retired == 1
