"""Plugs into pytest: golden fixtures as tests, and a gate for the tests of an application. Off unless it is asked for:

::

    [tool.pytest.ini_options]
    addopts = ["-p", "capgate.testing.plugin"]
    capgate_policy = "policy.json"
    capgate_fixtures = ["fixtures/policy"]

Then each fixture is a test on each runtime, with the limits of ``CAPGATE_FUEL`` and the others. Where the command line
names no tests, the folders of ``capgate_fixtures`` are collected besides those that are collected anyway. Without
``capgate_policy``, each fixture brings its own document. Paths are relative to the file with the configuration.

Fixtures of pytest's that it brings: ``capgate_gate``, a new :class:`~capgate.testing.RecordedGate`, and
``capgate_checker``, which is :func:`~capgate.testing.make_checker`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from ..checker.local import LocalPolicyChecker
from ..checker.wasm import WasmPolicyChecker
from ..errors import CapgateError
from ..model import canonical
from ..settings.settings import Settings
from .golden import Fixture, Outcome, PolicyUnderTest, Runner
from .golden.fixture_files import find_files, read_file
from .golden.policy_under_test import ALL
from .golden.report import details, title
from .golden.run import own_policy, require_policies
from .recorded_gate import RecordedGate, make_checker

_KEY: Final = pytest.StashKey["GoldenFixtures"]()


class WrongAnswer(AssertionError):
    """A runtime answered otherwise than a fixture expects. ``lines`` say how."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class GoldenFixtures:
    """What is configured: the files with fixtures, and whom to ask. The policy is read once, at the first question."""

    def __init__(self, policy: Path | None, folders: list[Path], engines: tuple[str, ...], settings: Settings) -> None:
        self.limits = limits = settings.limits
        self.engines = engines
        self.names = {os.path.realpath(file.path): file.name for file in find_files(folders)}
        self.collected: set[str] = set()
        self.policy = None if policy is None else PolicyUnderTest.load(policy, limits, settings.entry)
        self._runner: tuple[object, Runner] | None = None

    def name_of(self, path: Path) -> str | None:
        """Return what the fixtures of that file are called, if it is one of those."""
        return self.names.get(os.path.realpath(path))

    def read(self, path: Path) -> Iterator[tuple[Fixture, str]]:
        """Yield the fixtures of a file, each with each runtime. Raises :class:`CapgateError` where there are none."""
        fixtures = read_file(os.fspath(path), self.name_of(path) or path.stem, limits=self.limits)
        require_policies(fixtures, own=self.policy is None)
        if not fixtures:
            raise CapgateError(f"{path}: has no fixtures")
        for fixture in fixtures:
            for runtime in (self.policy or own_policy(fixture, self.limits)).runtimes(self.engines):
                yield fixture, runtime

    def judge(self, fixture: Fixture, runtime: str) -> Outcome:
        """Return what comes of ``fixture`` there."""
        return self._runner_of(fixture).judge_on(runtime, fixture)

    def _runner_of(self, fixture: Fixture) -> Runner:
        """Return one for all fixtures of a policy.

        Of fixtures that bring their own, those that follow each other share one.
        """
        key = None if self.policy is not None else repr(fixture.policy)
        if self._runner is None or self._runner[0] != key:
            self._runner = key, Runner(self.policy or own_policy(fixture, self.limits), self.engines)
        return self._runner[1]


class GoldenFile(pytest.File):
    """A file with golden fixtures."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yield one test for each fixture and runtime."""
        golden = self.config.stash[_KEY]
        try:
            fixtures = list(golden.read(self.path))
        except CapgateError as error:
            raise self.CollectError(str(error)) from error
        for fixture, runtime in fixtures:
            name = f"{fixture.name.rpartition('/')[2]}[{runtime}]"
            yield FixtureItem.from_parent(self, name=name, fixture=fixture, runtime=runtime)


class FixtureItem(pytest.Item):
    """One fixture on one runtime."""

    def __init__(self, *, fixture: Fixture, runtime: str, **more: Any) -> None:
        super().__init__(**more)
        self.fixture = fixture
        self.runtime = runtime

    def runtest(self) -> None:
        """Ask, and raise :class:`WrongAnswer` unless the answer is the expected one, byte for byte."""
        golden = self.config.stash[_KEY]
        outcome = golden.judge(self.fixture, self.runtime)
        (answer,) = outcome.answers
        if canonical(answer.result) != self.fixture.answer:
            policy = golden.policy or own_policy(self.fixture, golden.limits)
            lines = [f"{sign} {text}" for sign, text in details(outcome, policy.document)]
            raise WrongAnswer([title(self.fixture), *lines])

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Tell a wrong answer without a traceback, and so a policy that does not run."""
        if isinstance(excinfo.value, WrongAnswer):
            return "\n".join(excinfo.value.lines)
        if isinstance(excinfo.value, CapgateError):
            return f"{type(excinfo.value).__name__}: {excinfo.value}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Say where the fixture is."""
        return self.path, self.fixture.line - 1, self.name


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add three settings for the configuration file."""
    parser.addini("capgate_policy", "policy document or Wasm module that golden fixtures are judged by")
    parser.addini("capgate_fixtures", "files and folders with golden fixtures", type="paths")
    parser.addini("capgate_engines", "where to judge: all, auto, local, wasmer, wasmtime", type="args", default=[ALL])


def pytest_configure(config: pytest.Config) -> None:
    """Have the fixtures collected, if there are any to be."""
    folders: list[Path] = list(config.getini("capgate_fixtures"))
    policy = str(config.getini("capgate_policy"))
    if not folders:
        if policy:
            raise pytest.UsageError("capgate_policy needs capgate_fixtures, the files and folders to judge it by")
        return
    base = config.rootpath if config.inipath is None else config.inipath.parent
    engines = tuple(config.getini("capgate_engines"))
    try:
        golden = GoldenFixtures(base / policy if policy else None, folders, engines, Settings.from_env())
        if golden.policy is not None:
            golden.policy.runtimes(engines)
    except CapgateError as error:
        raise pytest.UsageError(str(error)) from error
    if not golden.names:
        raise pytest.UsageError(f"capgate_fixtures: there are no fixtures in {', '.join(map(str, folders))}")
    config.stash[_KEY] = golden
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args += [str(folder) for folder in folders if not _is_below(folder, config)]


def _is_below(folder: Path, config: pytest.Config) -> bool:
    """Say whether ``folder`` is collected anyway."""
    args = [config.invocation_params.dir / arg for arg in config.args]
    return any(arg == folder or arg in folder.parents for arg in args)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> GoldenFile | None:
    """Collect a file of ``capgate_fixtures``."""
    golden = parent.config.stash.get(_KEY, None)
    if golden is None or golden.name_of(file_path) is None:
        return None
    golden.collected.add(os.path.realpath(file_path))
    file: GoldenFile = GoldenFile.from_parent(parent, path=file_path)
    return file


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave out nothing that is configured in silence, as where pytest does not go into a folder of that name."""
    config = session.config
    golden = config.stash.get(_KEY, None)
    asked_for_less = config.args_source is pytest.Config.ArgsSource.ARGS or any(
        config.getoption(option, None) for option in ("ignore", "ignore_glob")
    )
    if golden is None or asked_for_less:
        return
    missing = sorted(golden.names.keys() - golden.collected)
    if missing:
        raise pytest.UsageError(f"capgate_fixtures: pytest did not collect {', '.join(missing[:5])}; see norecursedirs")


@pytest.fixture
def capgate_gate() -> RecordedGate:
    """Give a checker that notes what it is asked, allows what any policy could, and denies what the test says."""
    return RecordedGate()


@pytest.fixture
def capgate_checker() -> Callable[..., LocalPolicyChecker | WasmPolicyChecker]:
    """Give what makes a checker of a policy document: :func:`capgate.testing.make_checker`."""
    return make_checker
