"""The door: capgate's own checkers are taken as they are, and of an application's nothing but ``check`` is asked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from capgate.checker.base import Checker, decisions
from capgate.checker.cached import CachedChecker
from capgate.checker.foreign import ForeignChecker, as_checker
from capgate.checker.local import LocalPolicyChecker
from capgate.errors import CapgateError, ConfigError, PolicyTimeout, PolicyUnavailable, PoolExhausted
from capgate.model import ALLOW, Allow, Deny, PolicyInfo, PolicyInput, PolicyResult, Reason, Resource
from capgate.policy import RuntimePolicy
from capgate.runtime.bounded_wait import BoundedWait

from ..support.gates import KINDS, POLICY, Answering, make_checker
from ..support.late import until_cancelled

QUESTION = PolicyInput("db.read", resource=Resource("sql_query", "good"))
NO = Deny("not_today")
TIMEOUT = Deny(Reason.POLICY_TIMEOUT)
LONG = 20.0


class Telling:
    """Somebody's checker: gives its answers one after the other, and counts the questions."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[PolicyInput] = []

    async def check(self, input: PolicyInput) -> Any:
        self.asked.append(input)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return await answer() if callable(answer) else answer


class Derived(LocalPolicyChecker):
    async def check(self, input: PolicyInput) -> PolicyResult:
        return NO


def derived() -> Derived:
    return Derived(RuntimePolicy.from_document(POLICY))


# -- who gets in, and as what


@pytest.mark.parametrize("kind", KINDS)
def test_capgates_own_are_taken_as_they_are(kind: str) -> None:
    own = make_checker(kind)
    cached = CachedChecker(own, size=1)
    for checker in (own, cached, as_checker(Answering(ALLOW))):
        assert as_checker(checker) is checker


def test_what_overrides_check_is_an_applications() -> None:
    for given in (derived(), Answering(ALLOW), Telling()):
        assert type(as_checker(given)) is ForeignChecker


@pytest.mark.parametrize("given", [None, 5, "checker", object(), type("Without", (), {"check": None})()])
def test_what_cannot_check_is_no_checker(given: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        as_checker(given)
    assert caught.value.setting == "checker"


def test_own_is_told_by_identity() -> None:
    class Same(type):
        def __eq__(cls, other: object) -> bool:
            return True

        def __hash__(cls) -> int:
            return 0

    class Alike(Answering, metaclass=Same):
        """Equal to every class, and derived from none of capgate's."""

    assert type(as_checker(Alike(ALLOW))) is ForeignChecker


@pytest.mark.parametrize("name", ["check", "evaluate"])
def test_what_is_replaced_is_told_by_identity(name: str) -> None:
    class Agreeing:
        """Calls itself equal to whatever it is compared with."""

        def __call__(self, input: PolicyInput) -> Any: ...

        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

        def __hash__(self) -> int:
            return 0

    class Loose(LocalPolicyChecker):
        """Derived without slots, so that an instance takes what its class does not have."""

    checker = Loose(RuntimePolicy.from_document(POLICY))
    assert as_checker(checker) is checker
    setattr(checker, name, Agreeing())
    if name == "check":
        assert type(as_checker(checker)) is ForeignChecker
    else:
        with pytest.raises(ConfigError):
            as_checker(checker)


def test_a_base_class_is_no_way_around_the_door() -> None:
    class Whole(Checker):
        """All of the interface, and none of capgate's classes that keep its promises."""

        def answer_now(self, input: PolicyInput) -> PolicyResult:
            return ALLOW

        async def check(self, input: PolicyInput) -> PolicyResult:
            return NO

    checker = as_checker(Whole())
    assert type(checker) is ForeignChecker
    assert checker.answer_now(QUESTION) is None


async def test_the_figures_of_a_derived_checker_are_shown_and_its_answers_are_its_own() -> None:
    given = derived()
    checker = as_checker(given)
    assert await checker.evaluate(QUESTION) == NO
    assert (checker.policy, checker.knows_policy) == (given.policy, True)
    assert (checker.statistics(), checker.status(), checker.remembered) == (None, None, None)


@pytest.mark.parametrize("policy", [PolicyInfo("mine", "1", "ab" * 32), None, "mine"])
def test_what_an_application_says_of_its_policy_is_not_certain(policy: Any) -> None:
    given = Answering(ALLOW)
    given.policy = policy  # type: ignore[attr-defined]
    checker = as_checker(given)
    assert checker.policy == (policy if isinstance(policy, PolicyInfo) else None)
    assert not checker.knows_policy


def test_what_is_derived_from_the_interface_alone_is_an_applications_too() -> None:
    class Whole(Checker):
        """Says of its policy what it likes."""

        @property
        def policy(self) -> PolicyInfo:
            return PolicyInfo("mine", "1", "ab" * 32)

    checker = as_checker(Whole())
    assert checker.policy == Whole().policy
    assert not checker.knows_policy


async def test_a_checker_is_started_where_it_can_be_and_closed_by_its_owner() -> None:
    class Startable(Answering):
        started = closed = 0

        async def start(self) -> None:
            self.started += 1

        async def aclose(self) -> None:
            self.closed += 1

    given = Startable(ALLOW)
    async with as_checker(given), as_checker(Answering(ALLOW)):
        pass
    assert (given.started, given.closed) == (1, 0)


# -- what it says


NO_DECISIONS = [None, True, 1, "allow", {"kind": "allow"}, [ALLOW], Allow, Deny(5)]  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", NO_DECISIONS, ids=repr)
async def test_what_is_no_decision_is_a_denial(answer: Any) -> None:
    checker = as_checker(Answering(answer))
    assert await checker.evaluate(QUESTION) == await checker.check(QUESTION) == Deny(Reason.MALFORMED_RESULT)
    assert await checker.check_many([QUESTION] * 2) == [Deny(Reason.MALFORMED_RESULT)] * 2


class Panic(BaseException):
    """Neither an exception nor the end of a task."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError(), Reason.INTERNAL_ERROR),
        (Panic(), Reason.INTERNAL_ERROR),
        (CapgateError(), Reason.INTERNAL_ERROR),
        (PoolExhausted(), Reason.POOL_EXHAUSTED),
        (PolicyUnavailable(), Reason.POLICY_UNAVAILABLE),
    ],
    ids=repr,
)
@pytest.mark.parametrize("until_denied", [False, True])
async def test_an_error_is_a_denial_of_all(error: BaseException, reason: str, until_denied: bool) -> None:
    given = Telling(ALLOW, error, ALLOW)
    results, _, cause = await as_checker(given).ask([QUESTION] * 3, until_denied=until_denied)
    assert results == ([ALLOW, Deny(reason)] if until_denied else [Deny(reason)] * 3)
    assert cause is error
    assert len(given.asked) == 2


async def test_until_denied_asks_no_further() -> None:
    given = Telling(ALLOW, NO, ALLOW)
    assert (await as_checker(given).ask([QUESTION] * 3, until_denied=True)).results == [ALLOW, NO]
    assert len(given.asked) == 2
    given = Telling(ALLOW, NO, ALLOW)
    assert (await as_checker(given).ask([QUESTION] * 3)).results == [ALLOW, NO, ALLOW]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_what_ends_the_task_is_no_answer(error: type[BaseException]) -> None:
    checker = as_checker(Telling(error(), error()))
    with pytest.raises(error):
        await checker.ask([QUESTION])
    with pytest.raises(error):
        await checker.evaluate(QUESTION)


@pytest.mark.parametrize(
    "results", [[], [ALLOW], [ALLOW] * 3, (ALLOW, ALLOW), None, ALLOW, {0: ALLOW, 1: ALLOW}], ids=repr
)
def test_a_wrong_number_of_answers_denies_all(results: Any) -> None:
    assert decisions(results, 2) == [Deny(Reason.MALFORMED_RESULT)] * 2


@pytest.mark.parametrize("results", [[], [ALLOW], [ALLOW] * 3])
@pytest.mark.parametrize("now", [False, True])
async def test_a_wrong_number_of_answers_of_a_batch_denies_all(results: list[PolicyResult], now: bool) -> None:
    checker: Checker = make_checker()
    body = {"__slots__": (), "answer_many_now": lambda self, inputs: results}
    checker.__class__ = type("Miscounting", (LocalPolicyChecker,), body)
    answers = checker.ask_now([QUESTION] * 2) if now else await checker.ask([QUESTION] * 2)
    assert answers.results == [Deny(Reason.MALFORMED_RESULT)] * 2


# -- by when


async def test_a_batch_has_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many questions are in it: what each of them takes counts together."""
    bounds: list[float] = []

    def bounded(seconds: float) -> BoundedWait:
        bounds.append(seconds)
        return BoundedWait(seconds)

    monkeypatch.setattr("capgate.checker.foreign.BoundedWait", bounded)
    given = Telling(*[ALLOW] * 5)
    assert (await as_checker(given, LONG).ask([QUESTION] * 5)).results == [ALLOW] * 5
    assert bounds == [LONG]


@pytest.mark.parametrize("until_denied", [False, True])
async def test_no_answer_counts_after_the_deadline(until_denied: bool) -> None:
    async def too_late() -> PolicyResult:
        await until_cancelled()
        return ALLOW

    checker = as_checker(Telling(ALLOW, too_late), 0.02)
    results, _, cause = await checker.ask([QUESTION] * 2, until_denied=until_denied)
    assert results == ([ALLOW, TIMEOUT] if until_denied else [TIMEOUT] * 2)
    assert isinstance(cause, PolicyTimeout)
    assert cause.limit == "deadline"


async def test_an_answer_that_never_comes_is_a_timeout_of_all() -> None:
    given = Telling(ALLOW, anyio.sleep_forever, ALLOW)
    assert (await as_checker(given, 0.01).ask([QUESTION] * 3)).results == [TIMEOUT] * 3
    assert len(given.asked) == 2


async def test_cancellation_passes() -> None:
    ended = []

    async def ask() -> None:
        await as_checker(Telling(anyio.sleep_forever), LONG).evaluate(QUESTION)
        ended.append("answered")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert ended == []


# -- where nothing can be awaited


async def test_in_a_worker_thread_the_event_loop_asks() -> None:
    checker = as_checker(Telling(ALLOW, ALLOW, NO))
    assert await anyio.to_thread.run_sync(checker.evaluate_now, QUESTION) == ALLOW
    answers = await anyio.to_thread.run_sync(checker.ask_now, [QUESTION] * 2)
    assert answers.results == [ALLOW, NO]


@pytest.mark.parametrize("ask", [lambda checker: checker.evaluate_now(QUESTION)])
def test_elsewhere_nobody_can_be_asked(ask: Callable[[Checker], PolicyResult]) -> None:
    answers: list[PolicyResult] = []
    checker = as_checker(Telling())
    thread = threading.Thread(target=lambda: answers.append(ask(checker)))
    thread.start()
    thread.join()
    assert [*answers, ask(checker)] == [Deny(Reason.POLICY_UNAVAILABLE)] * 2
