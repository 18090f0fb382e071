"""The instrument: who runs when, on what, and how figures become one figure and a verdict."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from benchmarks import timing
from benchmarks.plot import svg
from benchmarks.questions import SIZES, arguments, denied, document, policy_input
from benchmarks.report import Case, Row, figure, ratio, text, worst
from benchmarks.targets import Target, exit_code
from benchmarks.timing import (
    BUDGET_NS,
    MAX_CALLS,
    MIN_BATCHES,
    Contender,
    Samples,
    Summary,
    differences,
    interleave,
    own_copy,
    rounds_of,
    summarize,
)
from capgate import Allow, Deny, LocalPolicyChecker, RuntimePolicy

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def gc_is_enabled() -> Iterator[None]:
    assert gc.isenabled()
    yield
    assert gc.isenabled()


def test_summary_is_of_batches() -> None:
    found = summarize([float(value) for value in range(200, 0, -1)], calls=50)
    assert found == Summary(median=100.5, p99=198.0, minimum=1.0, batches=200, calls=50)
    assert summarize([7.0]) == Summary(7.0, 7.0, 7.0, 1, 1)


async def _order(seed: int, rounds: int = 30) -> list[str]:
    """Who had its arguments made, one after another, without calibration."""
    made: list[str] = []
    names = ("a", "b", "c")

    def contender(name: str) -> Contender:
        def prepare(n: int) -> Sequence[Any]:
            made.append(name)
            return range(n)

        return Contender(name, lambda argument: argument, prepare)

    found = await interleave([contender(name) for name in names], rounds=rounds, seed=seed)
    assert {name: len(samples.by_round) for name, samples in found.items()} == dict.fromkeys(names, rounds)
    turns = made[-2 * rounds * len(names) :: 2]  # each turn has a warm-up before it
    assert made[1::2][-rounds * len(names) :] == turns
    return turns


async def test_each_round_has_everybody_once_in_an_order_by_seed() -> None:
    order = await _order(1)
    rounds = [tuple(order[at : at + 3]) for at in range(0, len(order), 3)]
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len(set(rounds)) > 1
    assert order == await _order(1)
    assert order != await _order(2)


async def test_batches_are_bounded_in_calls_and_awaited() -> None:
    called: list[int] = []
    sizes: set[int] = set()

    async def call(argument: int) -> None:
        called.append(argument)

    def prepare(n: int) -> Sequence[int]:
        sizes.add(n)
        return range(n)

    found = await interleave([Contender("one", call, prepare, awaits=True)], rounds=2, seed=1)
    assert max(sizes) == found["one"].calls <= MAX_CALLS
    assert set(called) == set(range(found["one"].calls))


async def test_what_is_done_before_a_call_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, done = 0, []

    def before() -> None:
        nonlocal clock
        clock += 1_000_000
        done.append("before")

    async def call(argument: int) -> None:
        nonlocal clock
        clock += 7
        done.append("call")

    monkeypatch.setattr(timing, "perf_counter_ns", lambda: clock)
    measured = await interleave([Contender("one", call, range, awaits=True, before=before)], rounds=3, seed=1)
    assert set(measured["one"].by_round.values()) == {7.0}
    assert done == ["before", "call"] * (len(done) // 2)


@pytest.mark.parametrize("awaits", [True, False])
async def test_batches_are_timed_by_the_clock_that_was_given(awaits: bool) -> None:
    clock = 0

    def call(argument: int) -> None:
        nonlocal clock
        clock += 7

    async def awaited(argument: int) -> None:
        call(argument)

    contender = Contender("one", awaited if awaits else call, range, awaits)
    measured = await interleave([contender], rounds=3, seed=1, clock=lambda: clock)
    assert set(measured["one"].by_round.values()) == {7.0}


async def test_gc_is_off_in_batches_and_on_again_after_an_error() -> None:
    seen = []

    def call(argument: int) -> None:
        seen.append(gc.isenabled())
        if not seen[-1]:
            raise LookupError

    with pytest.raises(LookupError):
        await interleave([Contender("one", call, range)], rounds=1, seed=1)
    assert seen[-1] is False


async def test_two_contenders_cannot_share_a_name() -> None:
    twice = [Contender("one", lambda argument: None, range)] * 2
    with pytest.raises(ValueError, match="one"):
        await interleave(twice, rounds=1, seed=1)


def test_slow_contenders_sit_out_rounds() -> None:
    assert rounds_of(BUDGET_NS / 1_000, 300) == frozenset(range(300))
    some = rounds_of(BUDGET_NS / 50, 300)
    assert len(some) == 50
    assert max(some) >= 290  # spread over the whole run
    assert len(rounds_of(BUDGET_NS * 2, 300)) == MIN_BATCHES
    assert rounds_of(BUDGET_NS * 2, 5) == frozenset(range(5))


def test_differences_are_of_the_same_round() -> None:
    assert differences(Samples(1, {0: 5.0, 2: 9.0}), Samples(1, {0: 1.0, 1: 100.0, 2: 2.0})) == [4.0, 7.0]


def test_own_copy_shares_no_code() -> None:
    copy = own_copy(figure)
    assert copy(12.34) == figure(12.34)
    assert copy.__code__ is not figure.__code__
    with pytest.raises(TypeError):
        own_copy(len)


@pytest.mark.parametrize("size", SIZES)
def test_streams_are_what_they_say(size: int) -> None:
    checker = LocalPolicyChecker(RuntimePolicy.from_document(document(size)))
    same = arguments("same", size, 1, policy_input)(20)
    fresh = arguments("fresh", size, 1, policy_input)(20)
    assert len({id(one) for one in same}) == 1
    for part in ("actor", "resource", "timestamp"):
        assert len({id(getattr(one, part)) for one in fresh}) == len(fresh)
    assert len({id(one.resource.id) for one in fresh}) == len(fresh)
    assert fresh == arguments("fresh", size, 1, policy_input)(20)
    assert fresh != arguments("fresh", size, 2, policy_input)(20)
    assert all(type(checker.evaluate_now(one)) is Allow for one in (*same, *fresh))
    assert type(checker.evaluate_now(policy_input(denied(size)))) is Deny


@pytest.mark.parametrize(
    ("value", "at_least", "reached", "verdict"),
    [
        (2.0, False, True, "reached"),
        (2.01, False, False, "MISSED"),
        (2.0, True, True, "reached"),
        (1.99, True, False, "MISSED"),
        (None, False, False, "not measured"),
    ],
)
def test_verdicts(value: float | None, at_least: bool, reached: bool, verdict: str) -> None:
    target = Target("one", value, 2.0, at_least)
    assert target.reached is reached
    assert target.verdict == verdict
    assert exit_code([target], strict=False) == 0
    assert exit_code([Target("other", 1.0, 2.0), target], strict=True) == (0 if reached else 1)


def test_nothing_is_concluded_from_what_was_not_measured() -> None:
    assert ratio(3.0, 2.0) == 1.5
    assert ratio(None, 2.0) is None
    assert ratio(3.0, None) is None
    assert ratio(3.0, -1.0) is None
    assert worst([1.0, 3.0, 2.0]) == 3.0
    assert worst([1.0, 3.0, 2.0], min) == 1.0
    assert worst([1.0, None]) is None
    assert worst([]) is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.1234, "0.123"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346"), (-0.5, "-0.500")],
)
def test_figures_have_three_digits(value: float, shown: str) -> None:
    assert figure(value) == shown


def test_differences_below_zero_are_shown_and_drawn() -> None:
    rows = [Row("one", "table", "added", summarize([-5.0])), Row("two", "table", "added", summarize([5_000.0]))]
    case = Case("case", rows=rows)
    assert [line for line in text(case) if "one" in line and "-0.005" in line]
    assert svg([case]).count('class="bar"') == 2
    assert svg([Case("case", rows=rows[:1])]).count('class="bar"') == 1
