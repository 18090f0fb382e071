"""Timing by turns: every contender runs one short batch per round, so that what disturbs the machine disturbs all.

The clock is read around a whole batch, never around one call. Arguments are made before a batch and dropped after it,
outside the timed part. The garbage collector is off while a batch runs.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns
from types import FunctionType
from typing import Any, TypeVar

#: Most calls in one batch: few enough that the arguments of a batch stay in the processor's cache.
MAX_CALLS = 200
#: Nanoseconds that a batch should last. One call that lasts longer is a batch of its own.
BATCH_NS = 500_000
#: Nanoseconds in all that one contender may take; slower ones sit out rounds, but for this many.
BUDGET_NS = 1_500_000_000
MIN_BATCHES = 20
#: Calls before each batch that are not timed: the contender before it left the caches full of other things.
WARM_UP = 16

Clock = Callable[[], int]

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Contender:
    """What is timed: ``call(argument)`` for each of ``arguments(n)``. ``awaits`` says that ``call`` gives a coroutine,
    which is awaited from one coroutine for the whole batch.

    With ``before``, that is called before each call, which is awaited. It is not timed: the clock is then read around
    each call, and not around the batch."""

    name: str
    call: Callable[[Any], Any]
    arguments: Callable[[int], Sequence[Any]]
    awaits: bool = False
    before: Callable[[], object] | None = None


@dataclass(frozen=True)
class Samples:
    """Nanoseconds per call of each batch, by round."""

    calls: int
    by_round: dict[int, float] = field(repr=False)

    def summary(self) -> Summary:
        return summarize(list(self.by_round.values()), self.calls)


@dataclass(frozen=True)
class Summary:
    """Nanoseconds per call over all batches. ``p99`` is of batches of ``calls`` calls each, not of single calls."""

    median: float
    p99: float
    minimum: float
    batches: int
    calls: int


def summarize(values: Sequence[float], calls: int = 1) -> Summary:
    """``p99`` by nearest rank: the smallest value that at least 99 % of ``values`` do not exceed."""
    ordered = sorted(values)
    rank = math.ceil(0.99 * len(ordered)) - 1
    return Summary(statistics.median(ordered), ordered[rank], ordered[0], len(ordered), calls)


def own_copy(function: _F) -> _F:
    """``function`` with a code object of its own. From Python 3.11 on, bytecode specialises itself for what it meets;
    if contenders shared one loop, each would pay for what the others are."""
    if not isinstance(function, FunctionType):
        raise TypeError(f"{function!r} is not a function written in Python")
    return FunctionType(function.__code__.replace(), function.__globals__, function.__name__)  # type: ignore[return-value]


def _run(call: Callable[[Any], Any], arguments: Sequence[Any], clock: Clock) -> int:
    start = clock()
    for argument in arguments:
        call(argument)
    return clock() - start


async def _run_awaiting(call: Callable[[Any], Awaitable[Any]], arguments: Sequence[Any], clock: Clock) -> int:
    start = clock()
    for argument in arguments:
        await call(argument)
    return clock() - start


async def _run_each_after(
    call: Callable[[Any], Awaitable[Any]], arguments: Sequence[Any], clock: Clock, before: Callable[[], object]
) -> int:
    taken = 0
    for argument in arguments:
        before()
        start = clock()
        await call(argument)
        taken += clock() - start
    return taken


class _Runner:
    """A contender with loops of its own, and its number of calls per batch."""

    def __init__(self, contender: Contender, clock: Clock) -> None:
        self.contender, self._clock = contender, clock
        self._run, self._run_awaiting = own_copy(_run), own_copy(_run_awaiting)
        self._run_each_after = own_copy(_run_each_after)
        self.calls = 1

    async def batch(self, calls: int) -> int:
        """Nanoseconds that so many calls took."""
        arguments, before = self.contender.arguments(calls), self.contender.before
        if before is not None:
            return await self._run_each_after(self.contender.call, arguments, self._clock, before)
        if self.contender.awaits:
            return await self._run_awaiting(self.contender.call, arguments, self._clock)
        return self._run(self.contender.call, arguments, self._clock)

    async def calibrate(self) -> float:
        """Set the number of calls per batch; nanoseconds that one call seems to take."""
        await self.batch(1)
        while True:
            per_call = min([await self.batch(self.calls) for _ in range(2)]) / self.calls
            if self.calls >= MAX_CALLS or per_call * self.calls * 2 > BATCH_NS:
                return per_call
            self.calls = min(self.calls * 2, MAX_CALLS)


async def interleave(
    contenders: Sequence[Contender], *, rounds: int, seed: int, clock: Clock | None = None
) -> dict[str, Samples]:
    """Time ``contenders`` by turns, in an order shuffled each round, and give their samples by name. ``clock`` counts
    nanoseconds, by default ``perf_counter_ns``."""
    order = random.Random(seed)
    runners = {contender.name: _Runner(contender, clock or perf_counter_ns) for contender in contenders}
    if len(runners) != len(contenders):
        raise ValueError(f"two contenders have the same name: {[contender.name for contender in contenders]}")
    plan = {name: rounds_of(await runner.calibrate() * runner.calls, rounds) for name, runner in runners.items()}
    found: dict[str, dict[int, float]] = {name: {} for name in runners}
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()  # what exists now is not looked at again each time
    try:
        gc.disable()
        for turn in range(rounds):
            for name in order.sample(list(runners), len(runners)):
                if turn in plan[name]:
                    runner = runners[name]
                    await runner.batch(min(runner.calls, WARM_UP))
                    found[name][turn] = await runner.batch(runner.calls) / runner.calls
            gc.collect()
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
    return {name: Samples(runners[name].calls, found[name]) for name in runners}


def rounds_of(batch_ns: float, rounds: int) -> frozenset[int]:
    """The rounds in which a contender takes part: all, or as many as its budget allows, spread evenly."""
    share = min(rounds, max(MIN_BATCHES, int(BUDGET_NS / max(batch_ns, 1.0))))
    return frozenset(turn * rounds // share for turn in range(share))


def differences(samples: Samples, base: Samples) -> list[float]:
    """``samples`` minus ``base``, in those rounds that have both."""
    return [value - base.by_round[turn] for turn, value in samples.by_round.items() if turn in base.by_round]
