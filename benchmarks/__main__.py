"""``python -m benchmarks``: run, print, and say which targets were reached. README.md says how to read it."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from . import checks, conditions, details, loading, machine, plot, requests, routes, server
from .report import Case, as_json, target_lines, text
from .targets import exit_code
from .timing import BATCH_NS, MAX_CALLS, WARM_UP

CASES = ("checks", "conditions", "requests", "details", "routes", "server", "loading")
METHOD = (
    f"every contender runs one batch per round, in an order shuffled each round; a batch is at most {MAX_CALLS} calls"
    f" or about {BATCH_NS / 1e6:g} ms, after {WARM_UP} untimed calls; its arguments are made before; gc is off; median"
    " and p99 are those of batches"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what ``arguments`` say (by default those of the process) and give the exit code."""
    options = _parser().parse_args(arguments)
    rounds = options.rounds or (12 if options.quick else 300)
    facts = {**machine.describe(), "seed": str(options.seed), "rounds": str(rounds), "method": METHOD}
    for name, fact in facts.items():
        print(f"{name + ':':13}{fact}")
    cases = [_run(name, rounds, options) for name in options.only or CASES]
    facts["load average after"] = machine.load_average()
    print(f"\nload average after: {facts['load average after']}")
    if options.json:
        options.json.write_text(as_json(facts, cases) + "\n")
    if options.plot:
        options.plot.write_text(plot.svg(cases))
    targets = [target for case in cases for target in case.targets]
    print(f"\ntargets: {sum(target.reached for target in targets)} of {len(targets)} reached")
    print("\n".join(target_lines(targets)))
    return exit_code(targets, options.strict)


def _run(name: str, rounds: int, options: argparse.Namespace) -> Case:
    start = perf_counter()
    if name == "checks":
        case = asyncio.run(checks.run(rounds, options.seed))
    elif name == "conditions":
        case = asyncio.run(conditions.run(rounds, options.seed))
    elif name == "requests":
        case = asyncio.run(requests.run(rounds, options.seed))
    elif name == "details":
        case = asyncio.run(details.run(rounds, options.seed))
    elif name == "routes":
        sizes = routes.SIZES[:2] if options.quick else routes.SIZES
        case = asyncio.run(routes.run(rounds, options.seed, sizes))
    elif name == "server":
        sent = server.QUICK_REQUESTS if options.quick else server.REQUESTS
        case = server.run(2 if options.quick else rounds, options.seed, sent)
    elif options.quick:
        case = asyncio.run(loading.run(2, loading.SIZES[:-1]))
    else:
        case = asyncio.run(loading.run(7))
    print("\n".join(text(case)))
    print(f"\n  {name} took {perf_counter() - start:.1f} s", flush=True)
    return case


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="under a minute in all; shows that it runs, proves no figure"
    )
    parser.add_argument("--only", choices=CASES, action="append", help="this case; may be given several times")
    parser.add_argument("--rounds", type=int, help="batches per contender (default: 300, quick: 12)")
    parser.add_argument("--seed", type=int, default=1, help="of questions and of the order (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure, in nanoseconds")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="write a bar chart of medians")
    parser.add_argument("--strict", action="store_true", help="exit with 1 unless every target was reached")
    return parser


if __name__ == "__main__":
    sys.exit(main())
