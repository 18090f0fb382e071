"""The committed guest is what its source gives, wherever it is compiled."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from capgate.artifact import guest

from ...support.tools import require_module

pytestmark = pytest.mark.slow

SOURCES = Path(guest.__file__).parent


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "rebuild.py"), "--check"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_source_gives_the_committed_bytes_in_any_folder(tmp_path: Path) -> None:
    require_module("ziglang")
    folder = tmp_path / "somewhere else"
    shutil.copytree(SOURCES, folder)
    result = check(folder)
    assert result.returncode == 0, result.stderr
    for facts in (False, True):
        assert result.stdout.count(hashlib.sha256(guest.evaluator(facts=facts)).hexdigest()) == 2


@pytest.mark.parametrize(
    ("source", "old", "differ"),
    [("evaluator.zig", '"unknown_action"', 2), ("conditions.zig", "9223372036854775808.0", 1)],
)
def test_a_difference_is_told_with_both_digests(tmp_path: Path, source: str, old: str, differ: int) -> None:
    require_module("ziglang")
    folder = tmp_path / "changed"
    shutil.copytree(SOURCES, folder)
    text = (folder / source).read_text()
    assert old in text
    (folder / source).write_text(text.replace(old, {2: '"unknown_actioN"', 1: "1.0"}[differ]))
    result = check(folder)
    assert result.returncode == 1
    digests = [word for word in result.stdout.split() if len(word) == 64]
    assert len(set(digests)) == 2 + differ
    for facts in (False, True):
        assert hashlib.sha256(guest.evaluator(facts=facts)).hexdigest() in digests
    assert (folder / "evaluator.wasm").read_bytes() == guest.evaluator()
