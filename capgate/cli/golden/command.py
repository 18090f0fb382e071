"""Judges golden fixtures, and shows what failed: ``capgate test``. ``watch`` does so again and again."""

from __future__ import annotations

import enum
import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from ...errors import ConfigError
from ...limits import Limits
from ...model import ONLY_ENTRYPOINT, Entrypoint
from ...policy import RuntimePolicy
from ...runtime.engine import load_engine
from ...settings.settings import Settings
from ...testing.golden import Coverage, Fixture, Outcome, PolicyUnderTest, coverage_of, read_fixtures, run_fixtures
from ...testing.golden.policy_under_test import LOCAL
from ...testing.golden.report import as_data, describe_part, details, printable, title
from ...testing.golden.report import junit as junit_report
from ...testing.golden.run import DISAGREEMENT, FAILED, PASSED
from ...testing.golden.run import own_policy as policy_of
from ..files import write_output
from ..options import AskedEntrypoint, AskedEntrypointResult, EntrypointResult, Json, asked_entrypoint
from ..terminal import console

#: Fixtures from which on there is a progress bar, on a terminal.
MANY: Final = 200
#: Questions that are shown with the fuel that they take: those that take most.
DEAREST: Final = 3
#: Folder beside the policy where fixtures are looked for unless they are named.
FOLDER: Final = "fixtures"

_STYLES: Final = {"-": "green", "+": "red", " ": ""}


class Runtime(str, enum.Enum):
    """Where fixtures are judged."""

    all = "all"
    auto = "auto"
    local = "local"
    wasmer = "wasmer"
    wasmtime = "wasmtime"


class GoldenOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The command's options, for each of its runs. ``policy`` is ``None`` where each fixture brings its own."""

    policy: Path | None
    fixtures: tuple[Path, ...]
    engines: tuple[str, ...]
    keyword: str = ""
    coverage: bool = False
    min_coverage: float | None = None
    junit: Path | None = None
    as_json: bool = False
    entrypoint: Entrypoint = ONLY_ENTRYPOINT

    @property
    def sources(self) -> tuple[Path, ...]:
        """Where fixtures are."""
        if self.policy is None or self.fixtures:
            return self.fixtures
        return (self.policy.parent / FOLDER,)


class GoldenRun(msgspec.Struct):
    """One run: what was judged, and what came of it. ``policy`` is ``None`` where each fixture brings its own."""

    options: GoldenOptions
    policy: PolicyUnderTest | None
    runtimes: tuple[str, ...]
    outcomes: list[Outcome]
    coverage: Coverage | None
    left_out: int
    seconds: float
    fuel_limit: int

    @property
    def short_of_coverage(self) -> bool:
        minimum = self.options.min_coverage
        return minimum is not None and self.coverage is not None and not self.coverage.reaches(minimum)

    @property
    def exit_code(self) -> int:
        """0 where there were fixtures, all passed, and enough is covered."""
        passed = self.outcomes and all(outcome.passed for outcome in self.outcomes)
        return 0 if passed and not self.short_of_coverage else 1


def judge_fixtures(
    policy: Annotated[Path, typer.Argument(help="Policy document, module or OPA bundle; with --own-policy: fixtures.")],
    fixtures: Annotated[
        list[Path] | None,
        typer.Argument(help="Files and folders; without any, the folder `fixtures` beside the policy."),
    ] = None,
    engine: Annotated[
        list[Runtime] | None,
        typer.Option(
            metavar="RUNTIME",
            help="Judge here: local (in Python, documents only), auto, wasmer, wasmtime, or all. May be repeated.",
        ),
    ] = None,
    keyword: Annotated[
        str, typer.Option("-k", metavar="TEXT", help="Only fixtures with this in their name or description.")
    ] = "",
    own_policy: Annotated[
        bool, typer.Option("--own-policy", help="Each fixture brings its policy document; there is no POLICY.")
    ] = False,
    coverage: Annotated[
        bool, typer.Option("--coverage", help="Say which rules and entries no fixture is about (documents only).")
    ] = False,
    min_coverage: Annotated[
        float | None,
        typer.Option(min=0, max=100, metavar="PERCENT", help="Fail below this coverage; implies --coverage."),
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the outcomes as JUnit XML, too.")] = None,
    as_json: Json = False,
    entrypoint: AskedEntrypoint = None,
    entrypoint_result: AskedEntrypointResult = EntrypointResult.decision,
    watch: Annotated[
        bool, typer.Option("--watch", help="Run again whenever the policy or a fixture changes, until Ctrl-C.")
    ] = False,
) -> None:
    """Judge golden fixtures: questions, each with the answer that the policy has to give.

    A fixture is a JSON object with an `input`, the `expected` answer and perhaps a `description`. A file holds one of
    them or a list; a .jsonl file has one on each line. A policy document is evaluated in Python, and as a module on
    each engine that imports here. Both happen by the code and under the limits (`CAPGATE_FUEL` and the others) that
    serve requests. Every answer is compared byte for byte. That no fixture was found is a failure. Those that take the
    most fuel are shown with it, and with their time.

    Exit codes: 0 every answer is the expected one; 1 one is not, or the coverage is too low; 2 usage, a file or an
    engine that cannot be used.

    Try:

    - `capgate test policy.json`
    - `capgate test policy.wasm fixtures/orders --engine wasmtime`
    - `capgate test policy.json --min-coverage 100 --junit report.xml`
    - `capgate test policy.json -k refund --watch`
    - `capgate test --own-policy fixtures/policy`
    - `capgate test policy.wasm --entrypoint orders/allow`
    """
    options = GoldenOptions(
        policy=None if own_policy else policy,
        fixtures=(*((policy,) if own_policy else ()), *(fixtures or ())),
        engines=tuple(runtime.value for runtime in engine or (Runtime.all,)),
        keyword=keyword,
        coverage=coverage or min_coverage is not None,
        min_coverage=min_coverage,
        junit=junit,
        as_json=as_json,
        entrypoint=asked_entrypoint(entrypoint, entrypoint_result),
    )
    if not watch:
        raise typer.Exit(run(options))
    from .watch import run_on_changes

    raise typer.Exit(run_on_changes(options))


def run(options: GoldenOptions) -> int:
    """Judge, show what came of it, and write the report; return the exit code.

    Raises :class:`CapgateError` where that cannot be carried out.
    """
    done = judge(options)
    if options.junit is not None:
        write_output(options.junit, junit_report(done.policy, done.runtimes, done.outcomes, done.seconds))
    if options.as_json:
        data = as_data(done.policy, done.runtimes, done.outcomes, done.coverage)
        data["fuel_limit"] = done.fuel_limit
        print(json.dumps(data, indent=2), flush=True)
    else:
        show(done)
    return done.exit_code


def judge(options: GoldenOptions) -> GoldenRun:
    """Read, judge and count. Raises what :func:`~capgate.testing.golden.run_fixtures` raises."""
    started = time.perf_counter()
    limits = Settings.from_env().limits
    policy = None if options.policy is None else PolicyUnderTest.load(options.policy, limits, options.entrypoint)
    if options.coverage and (policy is None or policy.document is None):
        seen = "--own-policy" if policy is None else f"{options.policy}"
        raise ConfigError("--coverage", seen, "a policy document: what a module consists of, nobody can tell")
    read = read_fixtures(*options.sources, limits=limits)
    fixtures = [fixture for fixture in read if _is_meant(fixture, options.keyword)]
    runtimes = _runtimes(policy, fixtures, options, limits)
    with _progress(len(fixtures), shown=not options.as_json) as advance:
        outcomes = run_fixtures(policy, fixtures, options.engines, limits, on_outcome=advance, costs=True)
    document = None if policy is None else policy.document
    inputs = (fixture.input for fixture in fixtures)
    covered = coverage_of(document, inputs) if options.coverage and document else None
    seconds = time.perf_counter() - started
    fuel = (limits if policy is None else policy.limits).call_fuel
    return GoldenRun(options, policy, runtimes, outcomes, covered, len(read) - len(fixtures), seconds, fuel)


def _is_meant(fixture: Fixture, keyword: str) -> bool:
    return keyword.casefold() in f"{fixture.name}\n{fixture.description}".casefold()


def _runtimes(
    policy: PolicyUnderTest | None, fixtures: Sequence[Fixture], options: GoldenOptions, limits: Limits
) -> tuple[str, ...]:
    """Return the runtimes that will judge, also where there is nothing to judge."""
    if policy is None:
        policy = policy_of(fixtures[0], limits) if fixtures else PolicyUnderTest({}, limits)
    return policy.runtimes(options.engines)


@contextmanager
def _progress(total: int, *, shown: bool) -> Iterator[Callable[[Outcome], None] | None]:
    """Yield what is called with each outcome: a bar on standard error, if that is a terminal and they are many."""
    bar_console = Console(stderr=True)
    if not shown or total < MANY or not bar_console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=bar_console, transient=True) as progress:
        task = progress.add_task("fixtures", total=total)
        yield lambda outcome: progress.advance(task)


# -- for people


def show(done: GoldenRun) -> None:
    """Show what was judged and where, what failed and why, and the figures."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # fixtures are in any language, and terminals are not
    out = console()
    on = ", ".join(name if name == LOCAL else f"{name} {load_engine(name).version}" for name in done.runtimes)
    out.print(f"{_about(done)}, on {on}")
    for outcome in done.outcomes:
        if not outcome.passed:
            show_failure(out, outcome, (done.policy or policy_of(outcome.fixture)).document)
    if done.coverage is not None:
        _show_coverage(out, done)
    _show_costs(out, done)
    out.print(Text(_figures(done), "red" if done.exit_code else "green"))


def _about(done: GoldenRun) -> str:
    if done.policy is None:
        return "each fixture with its own policy document"
    kind = "module" if done.policy.document is None else "document"
    return printable(f"{done.policy.name} {done.policy.version} ({kind}, sha256 {done.policy.sha256[:12]})")


def show_failure(out: Console, outcome: Outcome, document: RuntimePolicy | None = None) -> None:
    """Show which fixture failed, and the difference between what was expected and what came."""
    word = "disagree" if outcome.kind == DISAGREEMENT else "failed"
    out.print(Text.assemble("\n", (word, "bold red"), "  ", (title(outcome.fixture), "bold")))
    for sign, text in details(outcome, document):
        out.print(Text(f"  {sign} {text}", _STYLES[sign]))


def _show_coverage(out: Console, done: GoldenRun) -> None:
    covered, policy = done.coverage, None if done.policy is None else done.policy.document
    if covered is None or policy is None:
        return
    if covered.missing:
        out.print("\nno fixture is decided by")
    for part in covered.missing:
        out.print(f"  {describe_part(part, policy)}")
    minimum = done.options.min_coverage
    wanted = "" if minimum is None else f", at least {minimum:g}% wanted"
    style = "red" if done.short_of_coverage else ""
    words = f"coverage {covered.percent:g}%: {covered.covered} of {len(covered.parts)} rules and entries{wanted}"
    out.print(Text(f"\n{words}" if not covered.missing else words, style))


def _show_costs(out: Console, done: GoldenRun) -> None:
    """Show which fixtures spend most, of what there is."""
    known = [(max(spent.fuel or 0 for spent in each.costs), each) for each in done.outcomes if each.costs]
    dearest = [(fuel, outcome) for fuel, outcome in sorted(known, key=lambda item: -item[0]) if fuel][:DEAREST]
    if not dearest:
        return
    out.print(f"\nfuel of a question, the highest of {len(known)}; CAPGATE_FUEL is {done.fuel_limit:,}")
    for fuel, outcome in dearest:
        times = [f"{c.runtime} {c.seconds * 1e3:.3f} ms" for c in outcome.costs if c.seconds is not None]
        share = f"{fuel / done.fuel_limit:.2%}"
        out.print(Text(f"  {fuel:>13,} {share:>7}  {', '.join([*times, title(outcome.fixture)])}"))


def _figures(done: GoldenRun) -> str:
    left_out = f", {done.left_out} left out" if done.left_out else ""
    if not done.outcomes:
        return f"\nno fixtures, so nothing was tested{left_out}"
    counts = {kind: sum(outcome.kind == kind for outcome in done.outcomes) for kind in (PASSED, FAILED, DISAGREEMENT)}
    words = [f"{counts[PASSED]} passed"]
    words += [f"{counts[FAILED]} failed"] if counts[FAILED] else []
    words += [f"in {counts[DISAGREEMENT]} the runtimes disagree"] if counts[DISAGREEMENT] else []
    noun = "fixture" if len(done.outcomes) == 1 else "fixtures"
    return f"\n{len(done.outcomes)} {noun}: {', '.join(words)}{left_out} ({done.seconds:.2f} s)"
