"""``python -m benchmarks.trees PATH``: a check without facts, by this tree's capgate and by that of another tree.

Both are imported into one process and take turns, by processor time. The ratio is the median of those of each round.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from time import process_time_ns
from typing import Any

from . import machine
from .fact_questions import unconditional_document
from .questions import ACTION, KIND, STREAMS, Question, arguments, document
from .timing import Contender, Samples, interleave

#: A check without facts takes at most so many times what it took before there were any.
FACTLESS = 1.05
SIZE = 100
_OWN = Path(__file__).resolve().parents[1]
_DOCUMENTS = {"sections": document(SIZE), "rules": unconditional_document(SIZE)}


def capgate_of(tree: Path) -> Any:
    """Import the capgate of ``tree``, beside any that was imported before.

    Raises :class:`ImportError` where there is none.
    """
    for name in [name for name in sys.modules if name.partition(".")[0] == "capgate"]:
        del sys.modules[name]
    sys.path.insert(0, str(tree))
    try:
        capgate = importlib.import_module("capgate")
    finally:
        sys.path.remove(str(tree))
    if not Path(str(capgate.__file__)).resolve().is_relative_to(tree):
        raise ImportError(f"there is no capgate in {str(tree)!r}: {capgate.__file__!r} was imported")
    return capgate


async def compare(tree: Path, rounds: int, seed: int) -> dict[str, float]:
    """Return how many times as long a check takes as with the capgate of ``tree``, by what is asked."""
    contenders: list[Contender] = []
    async with AsyncExitStack() as stack:
        for label, path in (("other", tree), ("own", _OWN)):
            contenders += [
                Contender(f"{label} {name}", check, questions, awaits=True)
                for name, check, questions in await _checks(stack, capgate_of(path), seed)
            ]
        taken = await interleave(contenders, rounds=rounds, seed=seed, clock=process_time_ns)
    names = [name.removeprefix("own ") for name in taken if name.startswith("own ")]
    return {name: _ratio(taken[f"own {name}"], taken[f"other {name}"]) for name in names}


def _ratio(own: Samples, other: Samples) -> float:
    return statistics.median(
        value / other.by_round[turn] for turn, value in own.by_round.items() if turn in other.by_round
    )


async def _checks(
    stack: AsyncExitStack, capgate: Any, seed: int
) -> list[tuple[str, Callable[[Any], Any], Callable[[int], Sequence[Any]]]]:
    def form(question: Question) -> Any:
        resource = capgate.Resource(KIND, question.name)
        return capgate.PolicyInput(ACTION, capgate.User(question.who), resource, timestamp=question.at)

    engines = importlib.import_module("capgate.runtime.engine").available_engines()
    checks = []
    for about, policy in _DOCUMENTS.items():
        checkers = {"local": capgate.LocalPolicyChecker(capgate.RuntimePolicy.from_document(policy))}
        artifact = capgate.WasmArtifact.from_bytes(capgate.build_policy(policy))
        for engine in engines:
            checkers[engine] = capgate.WasmPolicyChecker(capgate.WasmPool(artifact, engine=engine))
        for kind, checker in checkers.items():
            await stack.enter_async_context(checker)
            for stream in STREAMS:
                questions = arguments(stream, SIZE, seed, form)
                if type(await checker.check(questions(1)[0])) is not capgate.Allow:
                    raise RuntimeError(f"{capgate.__file__} denies what it has to allow")
                checks.append((f"{about}, {kind}, {stream}", checker.check, questions))
    return checks


def main(command_line: Sequence[str] | None = None) -> int:
    """Run, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trees", description=__doc__)
    parser.add_argument("tree", type=Path, help="where the other capgate is, such as a worktree of an earlier commit")
    parser.add_argument("--rounds", type=int, default=400, help="batches per contender (default: 400)")
    parser.add_argument("--seed", type=int, default=1, help="of questions and of the order (default: 1)")
    options = parser.parse_args(command_line)
    logging.getLogger("capgate.decisions").addHandler(logging.NullHandler())
    for name, fact in machine.describe().items():
        print(f"{name + ':':13}{fact}")
    ratios = asyncio.run(compare(options.tree.resolve(), options.rounds, options.seed))
    print(f"\na check by this tree to one by {options.tree}; the aim is at most {FACTLESS:g}")
    for name, ratio in ratios.items():
        print(f"  {name:28}{ratio:8.3f}  {'reached' if ratio <= FACTLESS else 'MISSED'}")
    print(f"\nload average after: {machine.load_average()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
