"""Two trees are compared in one process, which is not this one: what was imported here stays as it is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ...support.engines import EXPECTED_ENGINES
from ...support.tools import ROOT

pytestmark = pytest.mark.slow


def compare(tree: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.trees", str(tree), "--rounds", "2"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)


def test_each_kind_of_check_has_a_ratio_to_that_of_the_other_tree() -> None:
    done = compare(ROOT)
    assert done.returncode == 0, done.stderr
    ratios = dict(re.findall(r"^  (\S.*?) +(\d+\.\d{3})  (?:reached|MISSED)$", done.stdout, re.MULTILINE))
    assert set(ratios) == {
        f"{about}, {kind}, {stream}"
        for about in ("sections", "rules")
        for kind in ("local", *EXPECTED_ENGINES)
        for stream in ("same", "fresh")
    }
    assert all(float(ratio) > 0 for ratio in ratios.values())


def test_a_tree_without_a_capgate_is_not_compared(tmp_path: Path) -> None:
    done = compare(tmp_path)
    assert done.returncode != 0
    assert "ImportError" in done.stderr
