"""Programs and folders that a test needs and Python's package index does not have."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Final, NoReturn

import pytest

#: In continuous integration nothing may be missing: a test that was skipped there would look like one that passed.
IN_CI: Final = os.environ.get("CI") == "true"

#: Whether each test tries all of its examples, see :mod:`tests.support.selection`.
FULL: Final = os.environ.get("TEST_FULL") == "1"

#: What the examples of a full run are multiplied with: ``TEST_TIMES=20`` hunts for an afternoon.
TIMES: Final = float(os.environ.get("TEST_TIMES", "1"))

ROOT: Final = Path(__file__).resolve().parents[2]


def missing(what: str) -> NoReturn:
    """Skip the test that needs ``what``, visibly; where the environment has ``CI=true``, fail it."""
    if IN_CI:
        pytest.fail(f"{what} is missing, and CI=true", pytrace=False)
    pytest.skip(f"{what} is missing")


def require_tool(name: str) -> str:
    """The path of the program ``name`` on PATH; without it the test is skipped, or fails where ``CI=true``."""
    found = shutil.which(name)
    if found is None:
        missing(f"the program {name!r}")
    return found


def require_path(path: Path) -> Path:
    """``path``, if something is there; otherwise the test is skipped, or fails where ``CI=true``."""
    if not path.exists():
        missing(str(path))
    return path


def examples(most: int, quick: int | None = None) -> int:
    """Return ``most`` times ``TEST_TIMES`` in a full run, and ``quick``, or a tenth, in a quick one.

    Such a test is ``sampled`` or ``slow``.
    """
    if FULL:
        return max(1, round(most * TIMES))
    return max(1, most // 10) if quick is None else quick


def require_module(name: str) -> None:
    """Skip the test where the module ``name`` does not import, visibly; where ``CI=true``, fail it."""
    if importlib.util.find_spec(name) is None:
        missing(f"the module {name!r}")
