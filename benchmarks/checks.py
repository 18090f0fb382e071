"""One check of a document policy, next to what else could answer the same question."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from capgate import Allow, LocalPolicyChecker, RuntimePolicy, WasmArtifact, WasmPolicyChecker, WasmPool, build_policy
from capgate.runtime.engine import available_engines

from .questions import SIZES, STREAMS, arguments, document, policy_input
from .report import Case, Row, ratio, worst
from .rivals import Asked, RawCall, all_rivals, missing, raw_calls
from .targets import Target
from .timing import Contender, interleave

#: A check is at most so many raw i32 calls of its engine, where nothing but the time is new and where everything is,
RAW_CALLS = {"same": {"wasmer": 5.0, "wasmtime": 3.5}, "fresh": {"wasmer": 6.5, "wasmtime": 5.5}}
#: takes with the largest document at most so many times what it takes with the smallest,
GROWTH = 1.2
#: and is at least so many times faster than cedarpy, in whichever form cedarpy is faster.
CEDARPY = 3.0
CEDARPY_FORMS = ("cedarpy, a group", "cedarpy, a policy each")

RAW_COLUMN = "per call"

Checker = LocalPolicyChecker | WasmPolicyChecker


@asynccontextmanager
async def checkers(size: int) -> AsyncIterator[dict[str, Checker]]:
    """The local checker and one on each engine that imports here, by name, over the document of ``size`` entries."""
    policy = document(size)
    artifact = WasmArtifact.from_bytes(build_policy(policy))
    async with AsyncExitStack() as stack:
        found: dict[str, Checker] = {"local": LocalPolicyChecker(RuntimePolicy.from_document(policy))}
        for engine in available_engines():
            found[engine] = WasmPolicyChecker(WasmPool(artifact, engine=engine))
        for checker in found.values():
            await stack.enter_async_context(checker)
        yield found


async def run(rounds: int, seed: int, sizes: Sequence[int] = SIZES) -> Case:
    """Both streams, each with all sizes and contenders in one interleaving; then denials, each of which is an event,
    here for a logger that drops it."""
    logging.getLogger("capgate.decisions").addHandler(logging.NullHandler())  # or they would be printed
    case = Case("checks")
    case.notes += [f"{module} is not installed; the extra 'bench' has it" for module in missing()]
    async with AsyncExitStack() as stack:
        own = {size: list(_capgate(await stack.enter_async_context(checkers(size)))) for size in sizes}
        asked = {size: [*own[size], *all_rivals(size)] for size in sizes}
        for size in sizes:
            for one in asked[size]:
                await one.require_right_answers(size)
        raw = list(raw_calls())
        for stream in STREAMS:
            case.rows += await _time(stream, asked, raw, rounds, seed)
            case.targets += _targets(case, stream, sizes, raw)
        case.rows += await _time("denied", {size: own[size] for size in sizes[-1:]}, [], rounds, seed)
    return case


def _capgate(checkers: dict[str, Checker]) -> Iterator[Asked]:
    for name, checker in checkers.items():
        yield Asked(f"check, {name}", policy_input, checker.check, _is_allow, awaits=True)
        yield Asked(f"evaluate_now, {name}", policy_input, checker.evaluate_now, _is_allow)


def _is_allow(result: Any) -> bool:
    return type(result) is Allow


async def _time(
    stream: str, asked: dict[int, list[Asked]], raw: Sequence[RawCall], rounds: int, seed: int
) -> list[Row]:
    contenders, places = [], {}
    for size, several in asked.items():
        for one in several:
            name = f"{one.name} {size}"
            places[name] = (one.name, table(stream), column(size))
            questions = arguments(stream, size, seed, one.form)
            contenders.append(Contender(name, one.call, questions, one.awaits))
    for call in raw:
        places[call.name] = (call.name, raw_table(stream), RAW_COLUMN)
        contenders.append(Contender(call.name, call.call, range))
    found = await interleave(contenders, rounds=rounds, seed=seed)
    return [Row(*places[name], samples.summary()) for name, samples in found.items()]


def table(stream: str) -> str:
    return f"One check, {stream} questions"


def raw_table(stream: str) -> str:
    return f"A raw i32 call, beside {stream} questions"


def column(size: int) -> str:
    return f"{size:,} entries"


def _targets(case: Case, stream: str, sizes: Sequence[int], raw: Sequence[RawCall]) -> Iterator[Target]:
    def check(name: str, size: int) -> float | None:
        return case.median(f"check, {name}", table(stream), column(size))

    for call in raw:
        base = case.median(call.name, raw_table(stream), RAW_COLUMN)
        highest = worst(ratio(check(call.engine, size), base) for size in sizes)
        yield Target(f"check on {call.engine}, {stream}, to {call.name}", highest, RAW_CALLS[stream][call.engine])
    names = ["local", *available_engines()]
    for name in names:
        growth = ratio(check(name, sizes[-1]), check(name, sizes[0]))
        yield Target(f"check, {name}, {stream}, {sizes[-1]:,} entries to {sizes[0]}", growth, GROWTH)
    for name in names:
        faster = []
        for size in sizes:
            forms = [case.median(form, table(stream), column(size)) for form in CEDARPY_FORMS]
            measured = [value for value in forms if value is not None]
            faster.append(ratio(min(measured, default=None), check(name, size)))
        yield Target(f"cedarpy to check, {name}, {stream}", worst(faster, min), CEDARPY, at_least=True)
