"""A policy that expires denies from that moment on, whichever way it is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from capgate.checker.cached import CachedChecker
from capgate.checker.wasm import WasmPolicyChecker
from capgate.enforcement.capabilities import Capabilities
from capgate.enforcement.point import EnforcementPoint
from capgate.model import ALLOW, ANONYMOUS, Deny, PolicyInput, PolicyResult, Reason, Resource

from ..support.gates import make_checker

QUESTION = PolicyInput("db.read", resource=Resource("sql_query", "good"))
GONE = Deny(Reason.POLICY_UNAVAILABLE)
WHEN = 1_000.0


class Clock:
    now = WHEN - 1

    def __call__(self) -> float:
        return self.now


def expiring(engine: str, clock: Callable[[], float]) -> WasmPolicyChecker:
    made = make_checker(engine)
    assert isinstance(made, WasmPolicyChecker)
    return WasmPolicyChecker(made.pool, expires=WHEN, clock=clock)


async def _evaluate(checker: Any) -> PolicyResult:
    return await checker.evaluate(QUESTION)  # type: ignore[no-any-return]


async def _check(checker: Any) -> PolicyResult:
    return await checker.check(QUESTION)  # type: ignore[no-any-return]


async def _many(checker: Any) -> PolicyResult:
    (result,) = set(await checker.check_many([QUESTION] * 2))
    return result  # type: ignore[no-any-return]


async def _many_now(checker: Any) -> PolicyResult:
    (result,) = set(checker.answer_many_now([QUESTION] * 2))
    return result  # type: ignore[no-any-return]


async def _now(checker: Any) -> PolicyResult:
    return checker.evaluate_now(QUESTION)  # type: ignore[no-any-return]


async def _handler(checker: Any) -> PolicyResult:
    return await Capabilities(EnforcementPoint(checker), ANONYMOUS).check("db.read", "sql_query:good")


WAYS = [_evaluate, _check, _many, _many_now, _now, _handler]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("cached", [False, True])
async def test_from_that_moment_on_it_denies(way: Any, cached: bool, engine_name: str) -> None:
    clock = Clock()
    inner = expiring(engine_name, clock)
    async with CachedChecker(inner, size=10) if cached else inner as checker:
        assert (await way(checker), checker.expired, checker.expires) == (ALLOW, False, WHEN)
        clock.now = WHEN - 1e-6
        assert await way(checker) == ALLOW
        for clock.now in (WHEN, WHEN + 1, float("inf"), float("nan")):
            assert (await way(checker), checker.expired) == (GONE, True)


async def test_without_a_moment_it_never_does(engine_name: str) -> None:
    made = make_checker(engine_name)
    async with WasmPolicyChecker(made.pool, clock=lambda: float("inf")) as checker:  # type: ignore[union-attr]
        assert (await checker.evaluate(QUESTION), checker.expired, checker.expires) == (ALLOW, False, None)
