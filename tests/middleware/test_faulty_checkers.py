"""Checkers that go wrong, take too long or are cancelled, and what ends a task."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.routing import Route
from starlette.types import Scope

from capgate.checker.base import BatchResult
from capgate.checker.local import LocalPolicyChecker
from capgate.errors import PolicyTimeout, ends_task
from capgate.limits import Limits
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.model import ALLOW, Deny, PolicyInput, Reason, User
from capgate.settings.settings import Settings

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.gates import PATIENT, SETTINGS, Answering, Ran, events, example, gated, read
from ..support.late import until_cancelled
from .reasons import Sudden, reason_for

NOT_ANSWERS = (None, True, 1, "allow", {"kind": "allow"}, type(ALLOW), Deny)
ERRORS = (ValueError("secret"), KeyError(), RecursionError(), MemoryError(), StopAsyncIteration(), Sudden())
WRONG: list[tuple[str, Any, str]] = [
    *[(f"answers {answer!r}", answer, Reason.MALFORMED_RESULT) for answer in NOT_ANSWERS],
    ("denies with a number", Deny(5), Reason.MALFORMED_RESULT),  # type: ignore[arg-type]
    *[(f"raises {type(error).__name__}", error, Reason.INTERNAL_ERROR) for error in ERRORS],
    ("raises a timeout of its own", TimeoutError(), Reason.INTERNAL_ERROR),
    ("raises a policy error", PolicyTimeout(), Reason.POLICY_TIMEOUT),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "reason"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
async def test_a_checker_that_goes_wrong(answer: Any, reason: str) -> None:  # S21
    ran = Ran()
    app = example(ran, Answering(answer))
    for scope in (http_scope("/good"), websocket_scope("/ws")):
        call = Call(scope)
        with events() as found:
            await call.to(app)
        assert [event["reason"] for event in found] == [reason]
        assert b"secret" not in call.body
    assert ran.names == []


async def test_a_checker_that_is_not_async() -> None:  # S21
    class Sync:
        def check(self, input: PolicyInput) -> Any:
            return ALLOW

    ran = Ran()
    assert await reason_for(example(ran, Sync()), http_scope("/good")) == "internal_error"
    assert ran.names == []


async def test_a_checker_whose_policy_cannot_be_told() -> None:  # S21
    class Mute(Answering):
        @property
        def policy(self) -> Any:
            raise RuntimeError

    call = Call(http_scope("/good"))
    with events() as found:
        await call.to(example(Ran(), Mute(Deny("no"))))
    assert (call.status, call.json["reason"]) == (403, "no")
    assert [(event["decision_id"], event["policy"]) for event in found] == [(call.json["decision_id"], None)]


async def test_a_checker_that_never_answers_is_denied_at_the_deadline() -> None:
    class Stuck:
        async def check(self, input: PolicyInput) -> Any:
            await anyio.sleep_forever()

    ran = Ran()
    settings = Settings(limits=Limits(deadline=0.02))
    assert await reason_for(example(ran, Stuck(), settings), http_scope("/good")) == "policy_timeout"
    assert ran.names == []


async def test_an_answer_after_the_deadline_is_a_denial() -> None:  # P15
    class Late:
        async def check(self, input: PolicyInput) -> Any:
            await until_cancelled()
            return ALLOW

    ran = Ran()
    settings = Settings(limits=Limits(deadline=0.02))
    assert await reason_for(example(ran, Late(), settings), http_scope("/good")) == "policy_timeout"
    assert ran.names == []


async def test_a_cancelled_request_is_not_answered_and_not_passed_on() -> None:  # P2
    class Stuck:
        async def check(self, input: PolicyInput) -> Any:
            await anyio.sleep_forever()

    ran = Ran()
    call = Call(http_scope("/good"))
    app = example(ran, Stuck(), Settings(limits=PATIENT))
    with anyio.move_on_after(0.02) as scope:
        await call.to(app)
    assert scope.cancelled_caught
    assert (ran.names, call.sent) == ([], [])


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_what_ends_the_process_is_not_held_up(error: type[BaseException]) -> None:
    ran = Ran()
    caught: BaseException | None = None
    gate = CapabilityMiddleware(example(ran).router, settings=SETTINGS, checker=Answering(error()))
    try:  # not pytest.raises, which the runner of trio would not see through
        await gate(http_scope("/good"), Call(http_scope()).receive, Call(http_scope()).send)
    except error as raised:
        caught = raised
    assert type(caught) is error
    assert ran.names == []


def group(*errors: BaseException) -> BaseException:
    made: BaseException = BaseExceptionGroup("several", list(errors))
    return made


def test_what_ends_a_task_without_an_event_loop() -> None:
    for error in (
        asyncio.CancelledError(),
        KeyboardInterrupt(),
        SystemExit(),
        GeneratorExit(),
        group(KeyboardInterrupt(), ValueError()),
    ):
        assert ends_task(error)
    for error in (Sudden(), ValueError(), TimeoutError(), group(ValueError()), group(Sudden())):
        assert not ends_task(error)


async def test_what_ends_a_task() -> None:  # P3
    cancelled = anyio.get_cancelled_exc_class()
    assert issubclass(cancelled, BaseException)
    with anyio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(cancelled) as caught:
            await anyio.lowlevel.checkpoint()
    assert ends_task(caught.value)
    assert ends_task(group(ValueError(), caught.value))
    assert ends_task(KeyboardInterrupt())
    assert ends_task(group(Sudden(), group(KeyboardInterrupt())))
    for error in (Sudden(), group(Sudden()), group(Sudden(), group(ValueError()))):
        assert not ends_task(error)


@pytest.mark.parametrize("results", [[], [ALLOW], [ALLOW] * 3])
async def test_two_declarations_are_not_allowed_by_another_number_of_answers(
    results: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where whoever counts them before has miscounted."""

    async def ask(self: Any, inputs: Any, **options: Any) -> BatchResult:
        return BatchResult(results, None, None)

    monkeypatch.setattr(LocalPolicyChecker, "answer_many_now", lambda self, inputs: None)
    monkeypatch.setattr(LocalPolicyChecker, "ask", ask)
    ran = Ran()
    app = gated([Route("/two", read("good")(read("other")(ran.endpoint("two"))))])
    assert (await reason_for(app, http_scope("/two")), ran.names) == ("malformed_result", [])


async def test_an_actor_that_comes_too_late_is_a_denial() -> None:  # P15
    async def who(scope: Scope) -> User:
        await until_cancelled()
        return User("ada")

    ran = Ran()
    app = example(ran, settings=Settings(limits=Limits(actor_seconds=0.02)), actor=who)
    assert (await reason_for(app, http_scope("/good")), ran.names) == ("actor_timeout", [])
