"""One check of a document whose rules have conditions, next to one without and to what else could answer the same.

Processor time is measured, and not the clock.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from time import process_time_ns
from typing import Any

from capgate import Allow, LocalPolicyChecker, RuntimePolicy, WasmArtifact, WasmPolicyChecker, WasmPool, build_policy
from capgate.runtime.engine import available_engines

from .conditional_rivals import EACH_FORM, GROUP_FORM, conditional_rivals, missing
from .fact_questions import (
    arguments_with_facts,
    conditional_document,
    holds,
    probing,
    unconditional_document,
    with_facts,
    without_facts,
)
from .questions import SIZES
from .report import Case, Row, ratio, worst
from .rivals import Asked
from .targets import Target
from .timing import Contender, interleave

#: Five conditions take at most so many times what the question takes where rules have none, with its facts or without,
CONDITIONS = 2.0
#: the largest document at most so many times what the smallest does,
GROWTH = 1.2
#: and a guest is so many times faster than cedarpy, in whichever form cedarpy is faster.
CEDARPY = 8.0

TABLE = "One check, five conditions over six facts and the time; another question each time"
CHECK, UNCONDITIONAL, FACTLESS = "check, {}", "no conditions, {}", "no conditions, no facts, {}"


@asynccontextmanager
async def contenders_of(size: int) -> AsyncIterator[list[Asked]]:
    """Capgate's own, over documents of ``size`` rules with conditions and without."""
    async with AsyncExitStack() as stack:
        conditional = await _checkers(stack, conditional_document(size))
        unconditional = await _checkers(stack, unconditional_document(size))
        forms: list[tuple[str, Callable[[Any], Any], dict[str, Any]]] = [
            (CHECK, with_facts, conditional),
            (UNCONDITIONAL, with_facts, unconditional),
            (FACTLESS, without_facts, unconditional),
        ]
        yield [
            Asked(name.format(kind), form, checker.check, _is_allow, awaits=True)
            for name, form, checkers in forms
            for kind, checker in checkers.items()
        ]


async def _checkers(stack: AsyncExitStack, document: dict[str, Any]) -> dict[str, Any]:
    policy = RuntimePolicy.from_document(document)
    artifact = WasmArtifact.from_bytes(build_policy(policy))
    checkers: dict[str, Any] = {"local": LocalPolicyChecker(policy)}
    for engine in available_engines():
        checkers[engine] = WasmPolicyChecker(WasmPool(artifact, engine=engine))
    for checker in checkers.values():
        await stack.enter_async_context(checker)
    return checkers


def column(size: int) -> str:
    return f"{size:,} rules"


def _is_allow(result: Any) -> bool:
    return type(result) is Allow


async def run(rounds: int, seed: int, sizes: Sequence[int] = SIZES) -> Case:
    """All sizes and contenders in one interleaving, after all have given equal answers."""
    logging.getLogger("capgate.decisions").addHandler(logging.NullHandler())  # or denials would be printed
    case = Case("conditions")
    case.notes += [f"{module} is not installed; the extra 'bench' has it" for module in missing()]
    async with AsyncExitStack() as stack:
        contenders, places = [], {}
        for size in sizes:
            own = await stack.enter_async_context(contenders_of(size))
            asked = [*own, *conditional_rivals(size)]
            await require_equal_answers([one for one in asked if "no conditions" not in one.name], size, seed)
            for one in asked:
                name = f"{one.name} {size}"
                places[name] = (one.name, TABLE, column(size))
                questions = arguments_with_facts(size, seed, one.form)
                contenders.append(Contender(name, one.call, questions, one.awaits))
        taken = await interleave(contenders, rounds=rounds, seed=seed, clock=process_time_ns)
    case.rows += [Row(*places[name], samples.summary()) for name, samples in taken.items()]
    case.targets += _targets(case, sizes)
    return case


async def require_equal_answers(asked: Sequence[Asked], size: int, seed: int) -> None:
    """Ask each of ``asked`` what has to be allowed and what has to be denied.

    Raises:
        RuntimeError: one answers otherwise than what is written by hand; its figure would be worth nothing
    """
    for question in probing(size, seed):
        expected = holds(question, size)
        for one in asked:
            result = one.call(one.form(question))
            if inspect.isawaitable(result):
                result = await result
            if one.admits(result) is not expected:
                raise RuntimeError(f"{one.name} answers {result!r} to {question!r} about {size} rules")


def _targets(case: Case, sizes: Sequence[int]) -> Iterator[Target]:
    def median(name: str, size: int) -> float | None:
        return case.median(name, TABLE, column(size))

    engines = available_engines()
    for base in (UNCONDITIONAL, FACTLESS):
        for kind in ("local", *engines):
            check, bare = CHECK.format(kind), base.format(kind)
            highest = worst(ratio(median(check, size), median(bare, size)) for size in sizes)
            yield Target(f"five conditions to {bare}", highest, CONDITIONS)
    for kind in ("local", *engines):
        check = CHECK.format(kind)
        growth = ratio(median(check, sizes[-1]), median(check, sizes[0]))
        yield Target(f"five conditions, {kind}, {sizes[-1]:,} rules to {sizes[0]}", growth, GROWTH)
    for kind in engines:
        faster = []
        for size in sizes:
            forms = [median(form, size) for form in (GROUP_FORM, EACH_FORM)]
            measured = [value for value in forms if value is not None]
            faster.append(ratio(min(measured, default=None), median(CHECK.format(kind), size)))
        yield Target(f"cedarpy to five conditions, {kind}", worst(faster, min), CEDARPY, at_least=True)
