"""Chooses which tests a run takes, and holds it to them.

The quick run, without an option, leaves out what is marked ``slow``, and the second async backend of each test that
runs on both. It gives what is marked ``sampled`` a tenth of its examples, and each property of Hypothesis fewer than
elsewhere. ``--full`` runs everything with all examples. ``--rest``
runs what a quick run leaves out or only samples: both together are a full run. A test that was chosen and did not run
fails a ``--full`` or ``--rest`` run.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Final

import pytest

#: Set for the whole run, worker processes and children included, where each test tries all of its examples.
VARIABLE: Final = "TEST_FULL"
QUICK, FULL, REST = "quick", "full", "rest"


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("which tests run")
    group.addoption("--full", action="store_true", help="run everything, with all examples")
    group.addoption("--rest", action="store_true", help="run what the quick run leaves out or only samples")
    # Here, since a conftest of a room may import the variable's reader before pytest has parsed anything.
    if {"--full", "--rest"}.intersection(sys.argv):
        os.environ[VARIABLE] = "1"


def _is_sampled(item: pytest.Item) -> bool:
    """Say whether the quick run tries only some examples of ``item``: where it is marked so, and of each property."""
    return item.get_closest_marker("sampled") is not None or hasattr(getattr(item, "obj", None), "hypothesis")


def _is_slow(item: pytest.Item) -> bool:
    """Say whether the quick run leaves ``item`` out: marked so, or its second backend."""
    callspec = getattr(item, "callspec", None)
    return item.get_closest_marker("slow") is not None or (
        callspec is not None and callspec.params.get("anyio_backend") == "trio"
    )


class Selection:
    """Chooses the tests of one run. Registered as a plugin of pytest's."""

    def __init__(self, config: pytest.Config) -> None:
        self.run = FULL if config.getoption("full") else REST if config.getoption("rest") else QUICK
        if self.run != QUICK and os.environ.get(VARIABLE) != "1":
            raise pytest.UsageError(f"--{self.run} is read from the command line only: set {VARIABLE}=1 as well")
        self._config = config
        self._counts: dict[str, int] = {}
        self._ran: set[str] = set()
        self._narrowed = bool(
            config.getoption("keyword") or config.getoption("markexpr") or config.getoption("collectonly")
        )

    @property
    def examples(self) -> int:
        """How many examples a property is tried with, where its test does not say so itself."""
        return 15 if self.run == QUICK else 100

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        slow = {item for item in items if _is_slow(item)}
        sampled = {item for item in items if _is_sampled(item)} - slow
        left_out = slow if self.run == QUICK else set(items) - slow - sampled if self.run == REST else set()
        self._counts = {
            "collected": len(items),
            "slow": len(slow),
            "sampled": len(sampled),
            "chosen": len(items) - len(left_out),
        }
        if left_out:
            config.hook.pytest_deselected(items=[item for item in items if item in left_out])
            items[:] = [item for item in items if item not in left_out]
        if hasattr(config, "workeroutput"):
            config.workeroutput["selection"] = self._counts

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what a worker process chose: all of them collect the same."""
        self._counts = getattr(node, "workeroutput", {}).get("selection") or self._counts

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or (report.when == "setup" and not report.passed):
            self._ran.add(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._forgotten and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        counts = self._counts
        if counts:
            terminalreporter.write_line(
                f"{self.run} run: {len(self._ran)} ran of {counts['chosen']} chosen of {counts['collected']} "
                f"collected; "
                f"{counts['slow']} are slow, {counts['sampled']} are sampled"
            )
        if self._forgotten:
            terminalreporter.write_line(f"{self._forgotten} chosen tests did not run", red=True)

    @property
    def _forgotten(self) -> int:
        """How many tests were chosen and did not run, in a run that promises them all."""
        if self.run == QUICK or self._narrowed or hasattr(self._config, "workerinput"):
            return 0
        return self._counts.get("chosen", 0) - len(self._ran)
