"""What every test shares: both async backends, and every engine that this Python must have."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from collections.abc import Generator
from typing import Any

import hypothesis
import pytest

from capgate.actions import VOCABULARY

from .support.engines import EXPECTED_ENGINES
from .support.selection import Selection, add_options


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    # A shell that starts this in the background has SIGINT ignored, here and in every child that a test interrupts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in EXPECTED_ENGINES:
        _require_engine(name)
    selection = Selection(config)
    config.pluginmanager.register(selection, "selection")
    # Continuous integration tries the same examples every time, so that a change is judged by what it changed;
    # elsewhere they are new ones. No test depends on how fast the machine is: none has a deadline for an example.
    hypothesis.settings.register_profile(
        "house",
        derandomize=os.environ.get("CI") == "true",
        deadline=None,
        max_examples=selection.examples,
    )
    hypothesis.settings.load_profile("house")


def _require_engine(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError as error:
        version = sys.version.split()[0]
        raise pytest.UsageError(f"engine {name!r} must import on Python {version}: {error}") from error


def pytest_report_header(config: pytest.Config) -> str:
    return f"engines under test: {', '.join(EXPECTED_ENGINES)}"


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Leave what was collected to itself: twenty thousand tests that stay to the end are a long way for each
    collection of garbage."""
    gc.collect()
    gc.freeze()


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
