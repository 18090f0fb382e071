"""What every test shares: both async backends, and every engine that this Python must have."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Generator
from typing import Any, Final

import hypothesis
import pytest

from capgate.actions import VOCABULARY

from .support.engines import EXPECTED_ENGINES
from .support.tools import IN_CI

#: The files that take longest, which begin first, so that no process is left with one of them at the end.
LONGEST: Final = (
    *("attack/test_server_under_attack.py", "checker/test_equivalence.py", "store/test_follow.py"),
    *("testing/test_plugin.py", "wasm/test_budget.py", "engine/test_compile_bombs.py", "store/test_workers.py"),
    *("wasm/test_mutations.py", "engine/test_traps.py", "pool/test_waiting.py", "wasm/test_generated.py"),
)

# Continuous integration tries the same examples every time, so that a change is judged by what it changed; elsewhere
# they are new ones.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
if IN_CI:
    hypothesis.settings.load_profile("ci")


def pytest_configure(config: pytest.Config) -> None:
    # A shell that starts this in the background has SIGINT ignored, here and in every child that a test interrupts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in EXPECTED_ENGINES:
        _require_engine(name)


def _require_engine(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError as error:
        version = sys.version.split()[0]
        raise pytest.UsageError(f"engine {name!r} must import on Python {version}: {error}") from error


def pytest_report_header(config: pytest.Config) -> str:
    return f"engines under test: {', '.join(EXPECTED_ENGINES)}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Across several processes (``-n``), the longest files come first; in one, the order is that of the folders."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not item.nodeid.partition("::")[0].endswith(LONGEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Whole files go to one process, which makes what their tests share once, in the order in which they stand."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Actions that a test registers are its own: the digest of the vocabulary is in manifests and contracts."""
    before = VOCABULARY._actions
    try:
        return (yield)
    finally:
        VOCABULARY._actions = before
        VOCABULARY._index()


@pytest.fixture(params=["asyncio", "trio"], scope="session")
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=EXPECTED_ENGINES, scope="session")
def engine_name(request: pytest.FixtureRequest) -> str:
    """Each engine in turn."""
    return str(request.param)
