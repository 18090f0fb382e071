"""What a checker that is asked without a gate reports: each denial once, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from capgate.artifact.build import build_policy
from capgate.checker.local import LocalPolicyChecker
from capgate.checker.wasm import WasmPolicyChecker
from capgate.events import DecisionEvent, add_sink, remove_sink
from capgate.limits import Limits
from capgate.model import Allow, Deny, PolicyInput, Resource, User
from capgate.policy import RuntimePolicy
from capgate.runtime.pool import WasmPool

from ..support.guests import artifact
from ..support.pool_guests import PATIENT, make_pool, order

DOCUMENT = {"name": "shop", "version": "3", "env": ["TZ"]}
ALLOWED = PolicyInput("env.read", resource=Resource("env_var", "TZ"))
DENIED = PolicyInput("env.read", User("u-1"), Resource("env_var", "PATH"))


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[DecisionEvent] = []

    def emit(self, event: DecisionEvent) -> None:
        self.events.append(event)


@pytest.fixture
def kept() -> Iterator[Kept]:
    sink = Kept()
    add_sink(sink)
    try:
        yield sink
    finally:
        remove_sink(sink)


def checkers(engine: str) -> list[LocalPolicyChecker | WasmPolicyChecker]:
    pool = WasmPool(artifact(build_policy(DOCUMENT)), 1, engine, PATIENT)
    return [LocalPolicyChecker(RuntimePolicy.from_document(DOCUMENT)), WasmPolicyChecker(pool)]


async def test_a_denial_is_one_event_and_an_allow_none(engine_name: str, kept: Kept) -> None:
    for checker in checkers(engine_name):
        kept.events.clear()
        assert await checker.check(ALLOWED) == Allow()
        assert kept.events == []
        assert await checker.check(DENIED) == Deny("not_in_allowlist")
        (event,) = kept.events
        assert (event.decision, event.reason) == ("deny", "not_in_allowlist")
        assert (event.action, event.resource_kind, event.resource_id) == ("env.read", "env_var", "PATH")
        assert (event.actor_kind, event.actor_id) == ("user", "u-1")
        assert (event.policy, event.policy_version) == ("shop", "3")
        assert (event.policy_sha256, event.engine) == (checker.policy.sha256, checker.policy.engine)
        assert await checker.check(DENIED) == Deny("not_in_allowlist")
        assert len({event.decision_id for event in kept.events}) == len(kept.events) == 2


async def test_evaluating_is_no_event(engine_name: str, kept: Kept) -> None:
    for checker in checkers(engine_name):
        for question in (ALLOWED, DENIED, None):
            await checker.evaluate(question)  # type: ignore[arg-type]
            checker.evaluate_now(question)  # type: ignore[arg-type]
            checker.answer_now(question)  # type: ignore[arg-type]
    assert kept.events == []


async def test_a_denial_of_who_waited_is_one_event(engine_name: str, kept: Kept) -> None:
    async with make_pool(engine_name, 1, Limits(deadline=0.01)) as pool, pool.acquire():
        assert await WasmPolicyChecker(pool).check(order()) == Deny("pool_exhausted")
    assert [event.reason for event in kept.events] == ["pool_exhausted"]


class Unreadable(PolicyInput, frozen=True):
    """Raises wherever an event would look."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


@pytest.mark.parametrize("make", [lambda: None, lambda: 5, lambda: Unreadable("env.read")])
async def test_what_cannot_be_reported_is_denied_all_the_same(
    engine_name: str, make: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    question = make()
    with caplog.at_level(logging.WARNING, "capgate"):
        for checker in checkers(engine_name):
            caplog.clear()
            assert await checker.check(question) == Deny("malformed_input")
            assert len(caplog.records) == 1  # the event, or why there is none
