"""Has a policy answer fixtures as an application would ask it: through the checkers, the pool, and their limits.

A document is judged by the evaluator in Python and, built into a module, on each engine; a module on each engine.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar, Union

import msgspec

from ...actions import VOCABULARY, Vocabulary
from ...checker.local import LocalPolicyChecker
from ...checker.wasm import WasmPolicyChecker
from ...errors import CapgateError, ConfigError, FixtureError, FixturesFailed, PolicyError
from ...limits import Limits
from ...model import ONLY_ENTRYPOINT, Allow, Deny, Entrypoint, PolicyInput, PolicyResult, Reason, canonical
from ...policy import Explanation
from ...runtime.event_loop import current_loop
from ...runtime.pool import WasmPool
from ...store.release_fixtures import Fixture
from .fixture_files import read_fixtures
from .policy_under_test import ALL, LOCAL, PolicyLike, PolicyUnderTest

PASSED, FAILED, DISAGREEMENT = "passed", "failed", "disagreement"

#: How often at most a question is asked that was not answered because of the questions before it.
AGAIN: Final = 3
#: What stands in place of an answer that the policy did not give.
_NO_ANSWERS: Final = frozenset(
    {
        Reason.POLICY_TRAP,
        Reason.POLICY_UNAVAILABLE,
        Reason.POOL_EXHAUSTED,
        Reason.MALFORMED_INPUT,
        Reason.MALFORMED_RESULT,
    }
)
#: Seconds until a pool replaces failed instances again.
REPLACING: Final = 0.01

Fixtures = Union[Sequence[Fixture], str, "os.PathLike[str]"]
_T = TypeVar("_T")


class Answer(msgspec.Struct, frozen=True):
    """What one runtime (``"local"``, or an engine's name) answered.

    ``would_deny`` is the reason of the first rule that only monitors and would have denied it, if there is one.
    """

    runtime: str
    result: PolicyResult
    would_deny: str | None = None


class Spent(msgspec.Struct, frozen=True):
    """What the answer took on an engine: fuel, and seconds of processor time; ``None`` where nobody can say."""

    runtime: str
    fuel: int | None
    seconds: float | None


class Outcome(msgspec.Struct, frozen=True):
    """What came of one fixture.

    ``kind`` is ``"passed"``, ``"failed"`` where the answer is another than expected, or ``"disagreement"`` where the
    runtimes do not even agree. ``explanation`` says where a document's answer comes from; of a module there is none.
    ``costs`` are those on engines, where they were asked for.
    """

    fixture: Fixture
    answers: tuple[Answer, ...]
    kind: str
    explanation: Explanation | None = None
    costs: tuple[Spent, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every runtime gave the expected answer, byte for byte as canonical JSON.

        And what rules that only monitor recorded is what the fixture says, if it says anything.
        """
        return self.kind == PASSED


class Runner:
    """One policy on some runtimes, each made at its first question. Belongs to the thread that uses it, which must not
    run an event loop.

    The limits are those of production. Of these only wall clock time depends on what else the machine does. So a late
    answer is not taken for the policy's at once: the question is asked again.
    """

    def __init__(
        self,
        policy: PolicyUnderTest,
        engines: str | Iterable[str] = ALL,
        vocabulary: Vocabulary = VOCABULARY,
        *,
        costs: bool = False,
    ) -> None:
        self.policy = policy
        self.runtimes = policy.runtimes(engines)
        self._vocabulary = vocabulary
        self._costs = costs
        self._known: dict[tuple[str, ...], Vocabulary] = {}
        self._pools: dict[str, tuple[WasmPool, list[int]]] = {}

    def judge(self, fixture: Fixture) -> Outcome:
        """Return what comes of ``fixture``. Raises what :class:`WasmPool` raises where the policy cannot run at all."""
        return self._outcome(fixture, self.runtimes)

    def judge_on(self, runtime: str, fixture: Fixture) -> Outcome:
        """Do the same on one of :attr:`runtimes` only."""
        return self._outcome(fixture, (runtime,))

    def _outcome(self, fixture: Fixture, runtimes: Iterable[str]) -> Outcome:
        answers = tuple(self._answer(name, fixture) for name in runtimes)
        given = {canonical(answer.result) for answer in answers}
        recorded = {answer.would_deny for answer in answers}
        is_expected = given == {fixture.answer} and (fixture.would_deny is None or recorded == {fixture.would_deny})
        kind = DISAGREEMENT if len(given) > 1 or len(recorded) > 1 else PASSED if is_expected else FAILED
        document = self.policy.document
        explanation = None if document is None else document.explain(fixture.input)
        costs = tuple(self._spent(given, fixture) for given in answers if given.runtime != LOCAL) if self._costs else ()
        return Outcome(fixture, answers, kind, explanation, costs)

    def _spent(self, given: Answer, fixture: Fixture) -> Spent:
        """Ask once more what gave an answer of its own; of what did not, a timeout alone says what it spent."""
        reason = given.result.reason if isinstance(given.result, Deny) else None
        if reason == Reason.POLICY_TIMEOUT:
            return Spent(given.runtime, self.policy.limits.call_fuel, None)
        if reason in _NO_ANSWERS:
            return Spent(given.runtime, None, None)
        try:
            cost = self._pool(given.runtime)[0].measure(fixture.input)
        except PolicyError:
            return Spent(given.runtime, None, None)
        return Spent(given.runtime, cost.fuel, cost.seconds)

    def _answer(self, runtime: str, fixture: Fixture) -> Answer:
        result = self.answer(runtime, fixture)
        document = self.policy.document
        rules = document.monitored if runtime == LOCAL and document is not None else self.policy.artifact.monitored
        watching = None if rules is None or type(result) is not Allow else rules.first(fixture.input)
        return Answer(runtime, result, None if watching is None else watching.rule.reason)

    def answer(self, runtime: str, fixture: Fixture) -> PolicyResult:
        """Return what ``runtime`` answers."""
        vocabulary = self._vocabulary_of(fixture.register)
        if runtime == LOCAL and self.policy.document is not None:
            checker = LocalPolicyChecker(self.policy.document, limits=self.policy.limits, vocabulary=vocabulary)
            return checker.evaluate_now(fixture.input)
        pool, unasked = self._pool(runtime)
        return _ask(pool, WasmPolicyChecker(pool, vocabulary=vocabulary), fixture.input, unasked)

    def _pool(self, runtime: str) -> tuple[WasmPool, list[int]]:
        made = self._pools.get(runtime)
        if made is None:
            policy = self.policy
            pool = WasmPool(policy.artifact, 1, runtime, policy.limits, entrypoint=policy.entrypoint)
            # Whatever the answer: compiling is for start-up, and no question's deadline.
            WasmPolicyChecker(pool).evaluate_now(PolicyInput("env.read"))
            self._pools[runtime] = made = pool, [0]
        return made

    def _vocabulary_of(self, register: tuple[str, ...]) -> Vocabulary:
        """Return what is known anyway, what the document knows, and what the fixture says the application brings."""
        known = self._known.get(register)
        if known is None:
            known = Vocabulary(self._vocabulary)
            for action in (*(self.policy.document.actions if self.policy.document else ()), *register):
                if action not in known:
                    known.register(action, resource_required=False)
            self._known[register] = known
        return known


def _ask(pool: WasmPool, checker: WasmPolicyChecker, input: PolicyInput, unasked: list[int]) -> PolicyResult:
    """Return the answer to ``input``, asked again where so many instances failed before it that the pool did not
    replace them as fast. ``unasked`` counts those."""
    for attempt in range(AGAIN):
        result = checker.evaluate_now(input)
        reason = result.reason if type(result) is Deny else None
        if attempt == AGAIN - 1 or not _is_due_to_haste(pool, reason, unasked):
            break
    return result


def _is_due_to_haste(pool: WasmPool, reason: str | None, unasked: list[int]) -> bool:
    if reason != Reason.POLICY_UNAVAILABLE:
        return False
    now = pool.statistics()
    before, unasked[0] = unasked[0], now.denied_fast
    if not now.made or now.denied_fast == before:
        return False
    time.sleep(REPLACING)
    return True


def run_fixtures(
    policy: PolicyLike | None,
    fixtures: Fixtures,
    engines: str | Iterable[str] = ALL,
    limits: Limits | None = None,
    *,
    vocabulary: Vocabulary = VOCABULARY,
    entrypoint: Entrypoint = ONLY_ENTRYPOINT,
    on_outcome: Callable[[Outcome], object] | None = None,
    costs: bool = False,
) -> list[Outcome]:
    """Return one outcome for each of ``fixtures`` (or of those at a path), in their order, as ``policy`` answers them.

    Without ``policy``, each fixture is judged by the document that it brings; with one, none may bring its own. See
    :meth:`PolicyUnderTest.runtimes` for ``engines``. ``entrypoint`` is for a module that OPA compiled. ``on_outcome``
    is called with each as it comes. With ``costs`` each is asked once more, to see what it spends.
    Blocks until all are done. Raises :class:`FixtureError` and what
    :class:`PolicyUnderTest` and :class:`WasmPool` raise; a policy that fails on a fixture is an outcome.
    """
    given = read_fixtures(fixtures) if isinstance(fixtures, (str, os.PathLike)) else fixtures
    engines = engines if isinstance(engines, str) else tuple(engines)
    outcomes: list[Outcome | None] = [None] * len(given)

    def run() -> list[Outcome]:
        for subject, numbers in _subjects(policy, given, limits, entrypoint):
            runner = Runner(subject, engines, vocabulary, costs=costs)
            for number in numbers:
                outcomes[number] = outcome = runner.judge(given[number])
                if on_outcome is not None:
                    on_outcome(outcome)
        return [outcome for outcome in outcomes if outcome is not None]

    return run() if current_loop() is None else _on_own_thread(run)


def _subjects(
    policy: PolicyLike | None, fixtures: Sequence[Fixture], limits: Limits | None, entrypoint: Entrypoint
) -> Iterable[tuple[PolicyUnderTest, Iterable[int]]]:
    if policy is not None:
        subject = PolicyUnderTest.load(policy, limits, entrypoint)
        require_policies(fixtures, own=False)
        yield subject, range(len(fixtures))
        return
    require_policies(fixtures, own=True)
    groups: dict[str, list[int]] = {}
    for number, fixture in enumerate(fixtures):
        groups.setdefault(repr(fixture.policy), []).append(number)
    for numbers in groups.values():
        yield own_policy(fixtures[numbers[0]], limits), numbers


def own_policy(fixture: Fixture, limits: Limits | None = None) -> PolicyUnderTest:
    """Return the document that ``fixture`` brings. Raises :class:`FixtureError` where it is a bad one."""
    require_policies((fixture,), own=True)
    try:
        return PolicyUnderTest(fixture.policy or {}, limits)
    except ConfigError as error:
        where = "policy" if error.setting == "document" else f"policy.{error.setting}"
        raise FixtureError(str(error), path=fixture.path, line=fixture.line, where=where) from error


def require_policies(fixtures: Iterable[Fixture], *, own: bool) -> None:
    """Raise :class:`FixtureError` unless each of ``fixtures`` brings its own policy, or none does."""
    for fixture in fixtures:
        if (fixture.policy is not None) is not own:
            reason = (
                "there is no policy to judge it by: it brings none, and none was given"
                if own
                else "it brings a policy of its own, so it would say nothing about the one that was given"
            )
            raise FixtureError(reason, path=fixture.path, line=fixture.line, where="policy")


def check_fixtures(
    policy: PolicyLike,
    fixtures: Fixtures,
    limits: Limits | None = None,
    *,
    engines: str | Iterable[str] = ALL,
    vocabulary: Vocabulary = VOCABULARY,
    entrypoint: Entrypoint = ONLY_ENTRYPOINT,
) -> None:
    """Raise :class:`FixturesFailed` unless ``policy`` answers every one of ``fixtures`` as expected.

    There has to be one at least: that is what has to hold before a policy is activated. Raises what
    :func:`run_fixtures` raises.
    """
    subject = PolicyUnderTest.load(policy, limits, entrypoint)
    outcomes = run_fixtures(subject, fixtures, engines, limits, vocabulary=vocabulary)
    failures = tuple(outcome for outcome in outcomes if not outcome.passed)
    if not outcomes:
        raise FixturesFailed("there are no fixtures, so nothing was tested", failures=(), total=0, path=subject.path)
    if failures:
        names = ", ".join(outcome.fixture.name for outcome in failures[:3])
        more = f" and {len(failures) - 3} more" if len(failures) > 3 else ""
        message = f"{len(failures)} of {len(outcomes)} fixtures failed: {names}{more}"
        raise FixturesFailed(message, failures=failures, total=len(outcomes), path=subject.path)


def _on_own_thread(run: Callable[[], _T]) -> _T:
    """Return ``run()``, called on a thread of its own.

    On an event loop, a pool leaves to the loop what it has to do next, and the loop has no turn before this is done.
    """
    results: list[_T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(run())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="capgate-fixtures")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    if not results:
        raise CapgateError("the thread that judged the fixtures ended without a result")
    return results[0]
