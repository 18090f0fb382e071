"""Denials that are recorded and do not count, where an application only monitors."""

from __future__ import annotations

import datetime
import gc
import logging
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Request

from capgate.enforcement.capabilities import Capabilities
from capgate.enforcement.point import EnforcementPoint, deny_unasked
from capgate.errors import CapabilityDenied, PoolExhausted
from capgate.events import MonitorPeriod, RequestFacts, monitoring
from capgate.fastapi import Requires
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.model import ALLOW, REASONS, Allow, Decision, Deny, Reason, User
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope
from ..support.gates import Answering, events, make_checker
from ..support.lifespan import serving

BAD = ("db.read", "sql_query:bad")
GOOD = ("db.read", "sql_query:good")

#: Ways to be denied, and the reason that the event gives.
DENIALS: dict[str, tuple[Any, Any, str]] = {
    "by the policy": (None, BAD, "not_in_allowlist"),
    "no such action": (None, ("no.such", None), "unknown_action"),
    "no question": (None, ("db.read", "no resource"), "malformed_input"),
    "no question at all": (None, (5, object()), "malformed_input"),
    "words of its own": (Answering(Deny("not today")), GOOD, "not today"),
    "a checker that raises": (Answering(ValueError("x")), GOOD, "internal_error"),
    "no decision": (Answering("allow"), GOOD, "malformed_result"),
}


def gate(checker: Any = None, period: MonitorPeriod | None = None) -> Capabilities:
    return Capabilities(EnforcementPoint(checker or make_checker(), deadline=20.0, period=period), User("ada"))


async def answers(capabilities: Capabilities, question: Any) -> list[Any]:
    """What each way of asking gives; a denial that is raised as the decision in it."""
    given: list[Any] = [
        await capabilities.check(*question),
        *await capabilities.check_many([question]),
    ]
    if not isinstance(capabilities._point.checker.policy, type(None)):
        given += [capabilities.check_now(*question), *capabilities.check_many_now([question])]
    return given + [
        await required(ask) for ask in (capabilities.require(*question), capabilities.require_all([question]))
    ]


async def required(asking: Awaitable[None]) -> Any:
    try:
        await asking
    except CapabilityDenied as denied:
        return denied.decision.result
    return ALLOW


@pytest.mark.parametrize(("checker", "question", "reason"), DENIALS.values(), ids=DENIALS)
async def test_what_would_be_denied_is_recorded_and_goes_on(checker: Any, question: Any, reason: str) -> None:
    with events() as found:
        given = await answers(gate(checker, MonitorPeriod(None)), question)
    assert given == [ALLOW] * len(given)
    assert [event["would_deny"] for event in found] == [reason] * len(given)
    for event in found:
        assert (event["decision"], event["reason"], event["enforce"]) == ("allow", None, "monitor")
        assert len(event["decision_id"]) == 32


@pytest.mark.parametrize(("checker", "question", "reason"), DENIALS.values(), ids=DENIALS)
@pytest.mark.parametrize("period", [None, MonitorPeriod(0.0)], ids=["never", "over"])
async def test_without_it_and_after_it_denials_count(
    checker: Any, question: Any, reason: str, period: MonitorPeriod | None
) -> None:
    with events() as found:
        given = await answers(gate(checker, period), question)
    assert given == [Deny(reason)] * len(given)
    assert {(event["decision"], event["reason"], event["would_deny"], event["enforce"]) for event in found} == {
        ("deny", reason, None, "always")
    }


async def test_what_is_denied_on_purpose_is_denied_all_the_same() -> None:
    for action in (None, "compute.long"):
        with events() as found, pytest.raises(CapabilityDenied):
            gate(None, MonitorPeriod(None)).deny(PoolExhausted("so many"), action)
        assert [(event["decision"], event["enforce"]) for event in found] == [("deny", "monitor")]
    point = EnforcementPoint(make_checker(), period=MonitorPeriod(None))
    assert deny_unasked(ValueError("x"), point, {}).result == Deny(Reason.INTERNAL_ERROR)


# -- how long


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def test_at_its_end_denials_begin_to_count_and_go_on_to() -> None:
    clock = Clock()
    capabilities = gate(None, MonitorPeriod(2_000.0, clock))
    for now, answer in ((1_999.9, ALLOW), (2_000.0, Deny(Reason.NOT_IN_ALLOWLIST))):
        clock.now = now
        assert await capabilities.check(*BAD) == answer
    clock.now = 0.0  # whoever sets the clock back does not open anything
    assert await capabilities.check(*BAD) == Deny(Reason.NOT_IN_ALLOWLIST)


@pytest.mark.parametrize("now", [float("nan"), float("inf")])
async def test_a_clock_that_tells_nothing_ends_it(now: float) -> None:
    clock = Clock()
    clock.now = now
    assert await gate(None, MonitorPeriod(2_000.0, clock)).check(*BAD) == Deny(Reason.NOT_IN_ALLOWLIST)


async def test_a_clock_that_fails_allows_nothing() -> None:
    def broken() -> float:
        raise OSError("no clock")

    with pytest.raises(OSError, match="no clock"):
        await gate(None, MonitorPeriod(2_000.0, broken)).check(*BAD)


# -- what is settled


def settled(result: Any, period: MonitorPeriod | None) -> Any:
    denial = Decision(None, result, "0" * 32)
    return EnforcementPoint(make_checker(), period=period).settle_denial(denial, RequestFacts()).result


@pytest.mark.parametrize("result", [Deny("x"), Deny(""), *(Deny(reason) for reason in sorted(REASONS))])
def test_no_denial_becomes_an_allow_but_in_the_period(result: Deny) -> None:
    assert settled(result, None) is result
    assert settled(result, MonitorPeriod(0.0)) is result
    assert type(settled(result, MonitorPeriod(None))) is Allow


@pytest.mark.parametrize("result", [None, True, "allow", Deny, Allow, object()])
def test_what_is_no_denial_does_not_become_an_allow(result: Any) -> None:
    for period in (None, MonitorPeriod(0.0), MonitorPeriod(None)):
        assert settled(result, period) is result


# -- where it is switched on


def monitoring_app(settings: Settings, actor: Callable[..., Any] | None = None) -> FastAPI:
    app = FastAPI()
    app.add_middleware(CapabilityMiddleware, settings=settings, checker=make_checker())

    @app.get("/asks", dependencies=[Requires("db.read", resource="sql_query:bad", actor=actor)])
    async def asks() -> str:
        return "ran"

    @app.get("/hashes", dependencies=[Requires("db.read", resource="sql_query:good", args_hash="body", actor=actor)])
    async def hashes(request: Request) -> str:
        return "ran"

    return app


MONITOR = Settings(enforce="monitor", body_bytes=1)


async def test_a_gate_says_loudly_that_it_only_monitors(caplog: pytest.LogCaptureFixture) -> None:
    for settings, shown in (
        (MONITOR, "for ever"),
        (Settings(enforce="monitor", enforce_after=datetime.date(9999, 1, 1)), "9999-01-01"),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "capgate"):
            async with serving(monitoring_app(settings)):
                pass
        (warning,) = [record.getMessage() for record in caplog.records if "NO DENIAL COUNTS" in record.getMessage()]
        assert shown in warning


@pytest.mark.slow
async def test_gates_that_only_monitor_are_counted() -> None:
    gc.collect()  # gates that earlier tests left without closing them
    before, app = monitoring(), monitoring_app(MONITOR)
    async with serving(app):
        assert monitoring() == before + 1
    assert monitoring() == before


async def test_a_gate_that_enforces_says_nothing_of_it(caplog: pytest.LogCaptureFixture) -> None:
    over = Settings(enforce="monitor", enforce_after=datetime.date(2000, 1, 1))
    with caplog.at_level(logging.WARNING, "capgate"):
        for settings in (Settings(), over):
            async with serving(monitoring_app(settings)):
                pass
    assert not [record for record in caplog.records if "NO DENIAL" in record.getMessage()]


def unknown(user: Annotated[Any, Depends(lambda: None)]) -> Any:
    return object()


@pytest.mark.parametrize(
    ("path", "actor", "body", "reason"),
    [
        ("/asks", None, b"", "not_in_allowlist"),
        ("/asks", unknown, b"", "internal_error"),
        ("/hashes", None, b"too long", "malformed_input"),
    ],
)
async def test_dependencies_follow_the_setting(path: str, actor: Any, body: bytes, reason: str) -> None:
    for settings, status in ((MONITOR, 200), (Settings(body_bytes=1), 403)):
        message = {"type": "http.request", "body": body, "more_body": False}
        with events() as found:
            call = await Call(http_scope(path), [message]).to(monitoring_app(settings, actor))
        assert call.status == status
        (event,) = found
        assert event["would_deny" if status == 200 else "reason"] == reason
