"""The quick run and the rest are a full run together, whichever way pytest is started."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ..support.selection import VARIABLE
from ..support.tools import ROOT

pytestmark = pytest.mark.slow

FILES = ["tests/runtime/pool/test_waiting.py", "tests/wasm/test_budget.py", "tests/middleware/test_lifecycle.py"]


def start(*command: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, check=True, capture_output=True, text=True, timeout=120
    ).stdout


def chosen(*options: str) -> set[str]:
    said = start("-m", "pytest", "-n", "0", "--collect-only", "-q", *options, *FILES)
    return {line for line in said.splitlines() if "::" in line}


def test_quick_and_rest_leave_nothing_out() -> None:
    quick, rest, full = chosen(), chosen("--rest"), chosen("--full")
    assert quick | rest == full
    assert quick < full
    assert not [name for name in quick if "[trio" in name or "-trio" in name]
    assert [name for name in rest if "trio" in name]
    assert any("test_nothing_is_lost_in_thousands" in name for name in rest - quick)
    sampled = {name for name in full if "::test_one_less_is_not_enough[" in name}
    assert sampled
    assert sampled <= quick & rest  # a tenth in the one, all in the other


def test_one_process_tries_all_examples_as_well() -> None:
    """What the conftest of a room imports, before pytest reads its options, knows of them all the same."""
    script = """
import sys
import pytest
class Look:
    def pytest_collection_finish(self):
        print("all examples:", sys.modules["tests.support.tools"].FULL)
sys.argv.append("--rest")
pytest.main(["--rest", "--collect-only", "-q", "-n", "0", "tests/wasm/test_budget.py"], plugins=[Look()])
"""
    assert "all examples: True" in start("-c", script)
