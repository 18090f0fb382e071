"""What every test shares: both async backends, and every engine that this Python must have."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Generator

import hypothesis
import pytest

from capgate.actions import VOCABULARY

from .tools import IN_CI

#: Engines that must import on this Python. An absent one fails the run: a skipped engine would look like a passed one.
EXPECTED_ENGINES = ("wasmer", "wasmtime") if sys.version_info < (3, 11) else ("wasmtime",)


# Continuous integration tries the same examples every time, so that a change is judged by what it changed; elsewhere
# they are new ones.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
if IN_CI:
    hypothesis.settings.load_profile("ci")


def pytest_configure(config: pytest.Config) -> None:
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
