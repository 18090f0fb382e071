"""Each reason code that a checker can give, forced on each engine; and that a checker gives nothing else."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from capgate.actions import Vocabulary
from capgate.artifact.build import build_policy
from capgate.checker.local import LocalPolicyChecker
from capgate.checker.wasm import WasmPolicyChecker
from capgate.limits import Limits
from capgate.model import REASONS, Allow, Deny, PolicyInput, PolicyResult, Reason, Resource
from capgate.policy import RuntimePolicy
from capgate.runtime.pool import WasmPool

from ..support.guests import artifact
from ..support.pool_guests import (
    BAD_DISCRIMINANT,
    COMPUTE,
    DENY,
    ENDLESS,
    OUT_OF_BOUNDS,
    PATIENT,
    REASON_NOT_UTF8,
    RECURSE,
    TOLD,
    TRAP,
    TRAPS_AT_START,
    loop_turn,
    make_pool,
    order,
)

DOCUMENT = {"env": ["TZ"]}
ALLOWED = PolicyInput("env.read", resource=Resource("env_var", "TZ"))
#: What is asked of the document, and the answer.
QUESTIONS = {
    "allow": (ALLOWED, Allow()),
    Reason.UNKNOWN_ACTION: (PolicyInput("env.reed"), Deny(Reason.UNKNOWN_ACTION)),
    Reason.MISSING_RESOURCE: (PolicyInput("env.read"), Deny(Reason.MISSING_RESOURCE)),
    Reason.NOT_IN_ALLOWLIST: (
        PolicyInput("env.read", resource=Resource("env_var", "tz")),
        Deny(Reason.NOT_IN_ALLOWLIST),
    ),
    Reason.MALFORMED_INPUT: (PolicyInput("env.read", timestamp=-1), Deny(Reason.MALFORMED_INPUT)),
}
#: What the obedient guest is told, and the answer.
ORDERS = {
    "allow": (0, Allow()),
    "its own text": (DENY, TOLD),
    "trap": (TRAP, Deny(Reason.POLICY_TRAP)),
    "recursion": (RECURSE, Deny(Reason.POLICY_TRAP)),
    "endless": (ENDLESS, Deny(Reason.POLICY_TIMEOUT)),
    "discriminant": (BAD_DISCRIMINANT, Deny(Reason.MALFORMED_RESULT)),
    "out of bounds": (OUT_OF_BOUNDS, Deny(Reason.MALFORMED_RESULT)),
    "not UTF-8": (REASON_NOT_UTF8, Deny(Reason.MALFORMED_RESULT)),
}
#: Forced by tests of their own below.
ELSEWHERE = {Reason.POLICY_UNAVAILABLE, Reason.POOL_EXHAUSTED, Reason.INTERNAL_ERROR, Reason.MISSING_FACT}


@cache  # pools are for every event loop
def document_checkers(engine: str) -> tuple[LocalPolicyChecker | WasmPolicyChecker, ...]:
    pool = WasmPool(artifact(build_policy(DOCUMENT)), 1, engine, PATIENT)
    return LocalPolicyChecker(RuntimePolicy.from_document(DOCUMENT)), WasmPolicyChecker(pool)


async def every_way(checker: LocalPolicyChecker | WasmPolicyChecker, input: Any) -> list[PolicyResult]:
    results = [await checker.check(input)]
    await checkpoint()  # so that what the question cost is replaced
    await checkpoint()
    results.append(await checker.evaluate(input))
    await checkpoint()
    await checkpoint()
    return [*results, checker.evaluate_now(input)]


def test_every_code_is_forced() -> None:  # A11, O8
    given = {answer.reason for _, answer in (*QUESTIONS.values(), *ORDERS.values()) if isinstance(answer, Deny)}
    assert given - {TOLD.reason} | ELSEWHERE == REASONS - {
        Reason.UNDECLARED_ROUTE,
        Reason.UNASKED_RESPONSE,
        Reason.REQUEST_ENDED,
        Reason.ACTOR_TIMEOUT,
        Reason.BODY_TIMEOUT,
        Reason.FACTS_UNAVAILABLE,
        Reason.START_TIMEOUT,
    }  # which only a gate gives


async def test_the_code_of_a_fact_that_is_missing() -> None:
    rule = {"effect": "deny", "actions": ["env.read"], "when": "args.amount > 1", "reason": "much"}
    document = {"env": ["TZ"], "attributes": {"args": {"amount": "int"}}, "rules": [rule]}
    checker = LocalPolicyChecker(RuntimePolicy.from_document(document))
    assert await every_way(checker, ALLOWED) == [Deny(Reason.MISSING_FACT)] * 3


@pytest.mark.parametrize("case", QUESTIONS)
async def test_codes_of_a_document(engine_name: str, case: str) -> None:  # A11
    question, answer = QUESTIONS[case]
    for checker in document_checkers(engine_name):
        assert await every_way(checker, question) == [answer] * 3


@pytest.mark.parametrize("case", ORDERS)
async def test_codes_of_a_guest(engine_name: str, case: str) -> None:  # A11, G1, G4, G19
    what, answer = ORDERS[case]
    async with make_pool(engine_name, 2) as pool:
        checker = WasmPolicyChecker(pool)
        *awaited, at_once = await every_way(checker, order(what))
        with anyio.fail_after(20):
            while what == ENDLESS and at_once == Deny(Reason.POOL_EXHAUSTED):  # who burns fuel has to wait for a turn
                await checkpoint()
                at_once = checker.evaluate_now(order(what))
        assert [*awaited, at_once] == [answer] * 3
        assert await checker.check(order()) == Allow()


async def test_unavailable(engine_name: str) -> None:  # A11, P9
    checker = WasmPolicyChecker(WasmPool(artifact(TRAPS_AT_START), 1, engine_name))
    assert await every_way(checker, order()) == [Deny(Reason.POLICY_UNAVAILABLE)] * 3


async def test_exhausted(engine_name: str) -> None:  # A11, P1
    async with make_pool(engine_name, 1, Limits(deadline=0.01)) as pool, pool.acquire():
        assert await every_way(WasmPolicyChecker(pool), order()) == [Deny(Reason.POOL_EXHAUSTED)] * 3


async def test_exhausted_by_those_who_wait(engine_name: str) -> None:  # P1
    async with make_pool(engine_name, 1, Limits(deadline=20.0, waiters=0)) as pool, pool.acquire():
        with anyio.fail_after(10):
            assert await every_way(WasmPolicyChecker(pool), order()) == [Deny(Reason.POOL_EXHAUSTED)] * 3


class Fault(BaseException):
    """Nobody's."""


class FaultyVocabulary(Vocabulary):
    """Of which nobody knows what happens when it is looked into."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def __getattribute__(self, name: str) -> Any:
        if name == "names":
            raise self.error
        return super().__getattribute__(name)


@pytest.mark.parametrize("error", [RuntimeError("x"), MemoryError(), RecursionError(), TimeoutError(), OSError()])
async def test_a_fault_of_its_own(engine_name: str, error: Exception, caplog: pytest.LogCaptureFixture) -> None:  # A11
    vocabulary = FaultyVocabulary(error)
    checkers = (
        LocalPolicyChecker(RuntimePolicy.from_document(DOCUMENT), vocabulary=vocabulary),
        WasmPolicyChecker(make_pool(engine_name), vocabulary=vocabulary),
    )
    with caplog.at_level(logging.ERROR, "capgate"):
        for checker in checkers:
            caplog.clear()
            assert await every_way(checker, ALLOWED) == [Deny(Reason.INTERNAL_ERROR)] * 3
            logged = [record.exc_info for record in caplog.records if record.name == "capgate"]
            assert [info[1] for info in logged if info] == [error] * 3  # and each one is seen


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
async def test_what_ends_a_program_is_no_answer(engine_name: str, error: BaseException) -> None:  # P3
    checker = WasmPolicyChecker(make_pool(engine_name), vocabulary=FaultyVocabulary(error))
    with pytest.raises(type(error)):
        await checker.check(ALLOWED)


async def test_a_panic_of_the_engine_is_a_deny(engine_name: str) -> None:  # P3
    checker = WasmPolicyChecker(make_pool(engine_name), vocabulary=FaultyVocabulary(Fault()))
    assert await every_way(checker, ALLOWED) == [Deny(Reason.INTERNAL_ERROR)] * 3


class OtherDeny(Deny, frozen=True, tag="other"):
    """A subclass."""


@pytest.mark.parametrize("odd", [True, None, "allow", 1, object(), Allow, OtherDeny("x"), {"kind": "allow"}])
async def test_an_answer_of_another_type_is_a_deny(odd: object, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = RuntimePolicy.from_document(DOCUMENT)
    monkeypatch.setattr(policy, "evaluate", lambda input: odd)
    assert await every_way(LocalPolicyChecker(policy), ALLOWED) == [Deny(Reason.INTERNAL_ERROR)] * 3


# -- the deadline


async def test_a_late_answer_within_its_fuel_counts(engine_name: str) -> None:  # T-2
    """The guest computes for longer than the deadline, and then allows: the deadline is for waiting."""
    for fuel, answer in ((10_000_000_000, Allow()), (1_000_000, Deny(Reason.POLICY_TIMEOUT))):
        async with make_pool(engine_name, 1, Limits(deadline=0.001, fuel=fuel)) as pool:
            checker = WasmPolicyChecker(pool)
            assert await checker.check(order(COMPUTE)) == answer
            if answer == Allow():  # what ran out of fuel may have to wait for longer than that deadline
                await loop_turn()
                assert await checker.check_many([order(COMPUTE)]) == [answer]


async def test_a_late_answer_counts_for_who_waited(engine_name: str) -> None:
    answers: list[PolicyResult] = []

    async def ask(checker: WasmPolicyChecker) -> None:
        answers.append(await checker.check(order(COMPUTE)))

    limits = Limits(deadline=20.0, fuel=10_000_000_000)
    async with make_pool(engine_name, 1, limits, reuse=True) as pool:
        checker = WasmPolicyChecker(pool)
        async with anyio.create_task_group() as tasks, pool.acquire():
            tasks.start_soon(ask, checker)
            while not pool.statistics().waiting:
                await checkpoint()
            checker._deadline = 0.001  # that of the waiting has been set by now
        assert answers == [Allow()]


async def test_the_time_of_waiting_counts(engine_name: str) -> None:
    async with make_pool(engine_name, 1, Limits(deadline=0.05)) as pool:
        checker = WasmPolicyChecker(pool)
        async with pool.acquire():
            assert await checker.check(order()) == Deny(Reason.POOL_EXHAUSTED)
        checker._deadline = 20.0  # whatever the machine is doing
        assert await checker.check(order()) == Allow()


async def test_cancellation_is_not_answered(engine_name: str) -> None:
    async with make_pool(engine_name, 1) as pool, pool.acquire():
        with anyio.move_on_after(0.01) as scope:
            await WasmPolicyChecker(pool).check(order())
            pytest.fail("cancelled")
        assert scope.cancelled_caught
        assert pool.statistics().waiting == 0


# -- whatever is asked


class Hostile:
    """Raises wherever it is looked at."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class HostileText(str):
    """Text that cannot be looked up, compared, measured or printed."""

    __slots__ = ()

    def _fail(self, *arguments: object) -> Any:
        raise RuntimeError

    __hash__ = __eq__ = __len__ = __str__ = __repr__ = __getitem__ = __format__ = encode = _fail  # type: ignore[assignment]


_ask: Any = PolicyInput
HOSTILE: tuple[Any, ...] = (
    *(None, 5, "env.read", {}, [], object, object(), PolicyInput, Hostile()),
    *(_ask(action) for action in (None, 5, [], {}, set(), object(), Hostile(), HostileText("env.read"))),
    *(_ask("env.read", actor=odd) for odd in (None, Hostile(), HostileText("x"))),
    *(_ask("env.read", resource=odd) for odd in (5, Hostile())),
    _ask("env.read", resource=Resource(HostileText("env_var"), HostileText("x"))),
    *(_ask("env.read", args_hash=odd, env=odd, timestamp=odd) for odd in (5, Hostile(), HostileText("x"))),
)


@pytest.mark.parametrize("number", range(len(HOSTILE)))
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_no_input_makes_a_checker_raise(engine_name: str, number: int) -> None:
    logging.getLogger("capgate").setLevel(logging.CRITICAL)  # to print it is beyond what logging can
    try:
        for checker in document_checkers(engine_name):
            for result in await every_way(checker, HOSTILE[number]):
                assert type(result) is Deny
                assert result.reason in REASONS
            assert await checker.check(ALLOWED) == Allow()
    finally:
        logging.getLogger("capgate").setLevel(logging.NOTSET)


def test_the_actions_that_cannot_be_looked_up_are_malformed(engine_name: str) -> None:
    for checker in document_checkers(engine_name):
        actions: list[Any] = [[], {}, set(), bytearray(b"env.read")]
        for action in actions:
            assert checker.evaluate_now(PolicyInput(action)) == Deny(Reason.MALFORMED_INPUT)
