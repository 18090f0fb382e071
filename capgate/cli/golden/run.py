"""What ``capgate test`` does: judge the fixtures, and show what failed. To do so again and again: ``golden_watch``."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
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
from ...testing.golden.report import as_data, describe_part, details, junit, printable, title
from ...testing.golden.run import DISAGREEMENT, FAILED, PASSED, own_policy
from ..policy.build import write

#: Fixtures from which on there is a progress bar, on a terminal.
MANY: Final = 200
#: Folder beside the policy where fixtures are looked for unless they are named.
FOLDER: Final = "fixtures"

_STYLES: Final = {"-": "green", "+": "red", " ": ""}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The command's options. ``policy`` is ``None`` where each fixture brings its own."""

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


class Run(msgspec.Struct):
    """One run: what was judged, and what came of it. ``policy`` is ``None`` where each fixture brings its own."""

    options: Options
    policy: PolicyUnderTest | None
    runtimes: tuple[str, ...]
    outcomes: list[Outcome]
    coverage: Coverage | None
    left_out: int
    seconds: float

    @property
    def short_of_coverage(self) -> bool:
        minimum = self.options.min_coverage
        return minimum is not None and self.coverage is not None and not self.coverage.reaches(minimum)

    @property
    def exit_code(self) -> int:
        """0 where there were fixtures, all passed, and enough is covered."""
        passed = self.outcomes and all(outcome.passed for outcome in self.outcomes)
        return 0 if passed and not self.short_of_coverage else 1


def run(options: Options) -> int:
    """Judge, show what came of it, and write the report; the exit code. Raises :class:`CapgateError` where that cannot
    be carried out."""
    done = judge(options)
    if options.junit is not None:
        write(options.junit, junit(done.policy, done.runtimes, done.outcomes, done.seconds))
    if options.as_json:
        data = as_data(done.policy, done.runtimes, done.outcomes, done.coverage)
        print(json.dumps(data, indent=2), flush=True)
    else:
        show(done)
    return done.exit_code


def judge(options: Options) -> Run:
    """Read, judge and count. Raises what :func:`~capgate.testing.golden.run_fixtures` raises."""
    started = time.perf_counter()
    limits = Settings.from_env().limits
    policy = None if options.policy is None else PolicyUnderTest.load(options.policy, limits, options.entrypoint)
    if options.coverage and (policy is None or policy.document is None):
        seen = "--own-policy" if policy is None else f"{options.policy}"
        raise ConfigError("--coverage", seen, "a policy document: what a module consists of, nobody can tell")
    found = read_fixtures(*options.sources, limits=limits)
    fixtures = [fixture for fixture in found if _is_meant(fixture, options.keyword)]
    runtimes = _runtimes(policy, fixtures, options, limits)
    with _progress(len(fixtures), shown=not options.as_json) as advance:
        outcomes = run_fixtures(policy, fixtures, options.engines, limits, on_outcome=advance)
    document = None if policy is None else policy.document
    covered = coverage_of(document, (one.input for one in fixtures)) if options.coverage and document else None
    seconds = time.perf_counter() - started
    return Run(options, policy, runtimes, outcomes, covered, len(found) - len(fixtures), seconds)


def _is_meant(fixture: Fixture, keyword: str) -> bool:
    return keyword.casefold() in f"{fixture.name}\n{fixture.description}".casefold()


def _runtimes(
    policy: PolicyUnderTest | None, fixtures: Sequence[Fixture], options: Options, limits: Limits
) -> tuple[str, ...]:
    """The runtimes that will judge, also where there is nothing to judge."""
    if policy is None:
        policy = own_policy(fixtures[0], limits) if fixtures else PolicyUnderTest({}, limits)
    return policy.runtimes(options.engines)


@contextmanager
def _progress(total: int, *, shown: bool) -> Iterator[Any]:
    """A function to be called with each outcome: a bar on standard error, if that is a terminal and they are many."""
    console = Console(stderr=True)
    if not shown or total < MANY or not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("fixtures", total=total)
        yield lambda outcome: progress.advance(task)


# -- for people


def show(done: Run) -> None:
    """What was judged and where, what failed and why, and the figures."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # fixtures are in any language, and terminals are not
    console = plain_console()
    on = ", ".join(name if name == LOCAL else f"{name} {load_engine(name).version}" for name in done.runtimes)
    console.print(f"{_about(done)}, on {on}")
    for outcome in done.outcomes:
        if not outcome.passed:
            show_failure(console, outcome, (done.policy or own_policy(outcome.fixture)).document)
    if done.coverage is not None:
        _show_coverage(console, done)
    console.print(Text(_figures(done), "red" if done.exit_code else "green"))


def plain_console(*, stderr: bool = False) -> Console:
    """One that shows text as it is, in colour only on a terminal."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


def _about(done: Run) -> str:
    if done.policy is None:
        return "each fixture with its own policy document"
    kind = "module" if done.policy.document is None else "document"
    return printable(f"{done.policy.name} {done.policy.version} ({kind}, sha256 {done.policy.sha256[:12]})")


def show_failure(console: Console, outcome: Outcome, document: RuntimePolicy | None = None) -> None:
    """Which fixture failed, and the difference between what was expected and what came."""
    word = "disagree" if outcome.kind == DISAGREEMENT else "failed"
    console.print(Text.assemble("\n", (word, "bold red"), "  ", (title(outcome.fixture), "bold")))
    for sign, text in details(outcome, document):
        console.print(Text(f"  {sign} {text}", _STYLES[sign]))


def _show_coverage(console: Console, done: Run) -> None:
    found, policy = done.coverage, None if done.policy is None else done.policy.document
    if found is None or policy is None:
        return
    if found.missing:
        console.print("\nno fixture is decided by")
    for part in found.missing:
        console.print(f"  {describe_part(part, policy)}")
    minimum = done.options.min_coverage
    wanted = "" if minimum is None else f", at least {minimum:g}% wanted"
    style = "red" if done.short_of_coverage else ""
    words = f"coverage {found.percent:g}%: {found.covered} of {len(found.parts)} rules and entries{wanted}"
    console.print(Text(f"\n{words}" if not found.missing else words, style))


def _figures(done: Run) -> str:
    left_out = f", {done.left_out} left out" if done.left_out else ""
    if not done.outcomes:
        return f"\nno fixtures, so nothing was tested{left_out}"
    counts = {kind: sum(outcome.kind == kind for outcome in done.outcomes) for kind in (PASSED, FAILED, DISAGREEMENT)}
    words = [f"{counts[PASSED]} passed"]
    words += [f"{counts[FAILED]} failed"] if counts[FAILED] else []
    words += [f"in {counts[DISAGREEMENT]} the runtimes disagree"] if counts[DISAGREEMENT] else []
    noun = "fixture" if len(done.outcomes) == 1 else "fixtures"
    return f"\n{len(done.outcomes)} {noun}: {', '.join(words)}{left_out} ({done.seconds:.2f} s)"
