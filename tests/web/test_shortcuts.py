"""Ways to an endpoint that lead past somebody's no: checkers, declarations and routes that look like the usual ones."""

from __future__ import annotations

from typing import Any

import pytest

from capgate.checker import LocalPolicyChecker, WasmPolicyChecker
from capgate.errors import ConfigError
from capgate.gated import Gate
from capgate.model import ALLOW, Deny, PolicyInput, PolicyResult
from capgate.policy import RuntimePolicy
from capgate.routing import Target

from ..asgi import Call, http_scope, websocket_scope
from .support import KINDS, POLICY, SETTINGS, Ran, events, example, make_checker

NO = Deny("not_today")


class Stricter(LocalPolicyChecker):
    async def check(self, input: PolicyInput) -> PolicyResult:
        return NO


class StricterModule(WasmPolicyChecker):
    async def check(self, input: PolicyInput) -> PolicyResult:
        return NO


class InTwoSteps:
    """Somebody's checker, in which ``evaluate`` is a step on the way to ``check``."""

    async def evaluate(self, input: PolicyInput) -> PolicyResult:
        return ALLOW

    async def check(self, input: PolicyInput) -> PolicyResult:
        return NO if await self.evaluate(input) is ALLOW else ALLOW


class Around:
    """Somebody's wrapper, which shows everything of what it wraps but ``check``."""

    def __init__(self, inner: LocalPolicyChecker | WasmPolicyChecker) -> None:
        self._inner = inner

    async def check(self, input: PolicyInput) -> PolicyResult:
        return NO

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def patched(kind: str) -> LocalPolicyChecker | WasmPolicyChecker:
    checker = make_checker(kind)
    checker.check = Around(checker).check  # type: ignore[method-assign]
    return checker


def strict_checkers(kind: str) -> list[Any]:
    inner = make_checker(kind)
    if isinstance(inner, WasmPolicyChecker):
        return [StricterModule(inner.pool), Around(inner), patched(kind)]
    return [Stricter(RuntimePolicy.from_document(POLICY)), Around(inner), patched(kind), InTwoSteps()]


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_leads_past_the_check_of_a_checker(kind: str) -> None:  # S21
    for checker in strict_checkers(kind):
        for scope in (http_scope("/good"), websocket_scope("/ws")):
            ran = Ran()
            with events() as found:
                await Call(scope).to(example(ran, checker))
            assert [event["reason"] for event in found] == ["not_today"], checker
            assert ran.names == []


@pytest.mark.parametrize("name", ["evaluate", "evaluate_now", "answer_now"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_override_that_nobody_would_ask_is_an_error(kind: str, name: str) -> None:
    base: type = LocalPolicyChecker if kind == "local" else WasmPolicyChecker
    made = make_checker(kind)
    made.__class__ = type("Sub", (base,), {name: lambda self, input: NO})
    with pytest.raises(ConfigError) as caught:
        Gate(SETTINGS, made, lambda scope: None, None, Target((), None, ""))  # type: ignore[arg-type, return-value]
    assert caught.value.setting == "checker"


def test_the_shorter_ways_of_capgates_own_checkers_are_taken() -> None:
    class Renamed(LocalPolicyChecker):
        pass

    for checker in (*map(make_checker, KINDS), Renamed(RuntimePolicy.from_document(POLICY))):
        gate = Gate(SETTINGS, checker, lambda scope: None, None, Target((), None, ""))  # type: ignore[arg-type, return-value]
        assert gate.answer_now == checker.answer_now
        assert gate.bounds_itself
