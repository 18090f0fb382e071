"""Fixtures of the WebAssembly tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import suite


@pytest.fixture(scope="session")
def suite_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The official test suite as JSON and binaries."""
    return suite.convert(tmp_path_factory.mktemp("suite"))
