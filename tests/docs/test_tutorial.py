"""The tutorial, from nothing to its end, in a fresh environment: every file and command as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from ..support.tools import ROOT, require_tool
from .newcomer import Newcomer, clean_environment, is_as_shown
from .site import DOCS

INDEX: Final = DOCS / "tutorial/index.md"


def steps() -> list[Path]:
    listed = INDEX.read_text(encoding="utf-8").partition("```{toctree}")[2].partition("```")[0]
    return [INDEX.with_name(f"{name}.md") for name in re.findall(r"^(\w+)$", listed, re.MULTILINE)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_newcomer_gets_to_the_end(tmp_path: Path) -> None:
    require_tool("curl")
    wheels, bin, home = tmp_path / "wheels", tmp_path / "bin", tmp_path / "home"
    bin.mkdir()
    home.mkdir()
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(ROOT)]
    subprocess.run(build, check=True, timeout=300, capture_output=True)
    (bin / "python3").symlink_to(Path(sys.executable).resolve())
    environ = clean_environment(f"{bin}:/usr/local/bin:/usr/bin:/bin")
    links = f"{wheels} {environ.get('PIP_FIND_LINKS', '')}".strip()
    environ |= {"HOME": str(home), "PIP_FIND_LINKS": links}
    with Newcomer(home, environ) as newcomer:
        for step in steps():
            assert newcomer.follow(step) >= 4, step


def test_every_step_is_listed_in_its_order() -> None:
    assert {path.name for path in INDEX.parent.glob("*.md")} == {"index.md", *(path.name for path in steps())}
    titles = [path.read_text(encoding="utf-8").partition("\n")[0] for path in steps()]
    numbers = [int(title.removeprefix("# ").partition(".")[0]) for title in titles]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(
    ("printed", "shown", "same"),
    [
        ("a\nb\n", "a\nb", True),
        ("a\nb\n", "a\nc", False),
        ("a\nb\nc\n", "a\n...", True),
        ("a\nb\nc\n", "...\nc", True),
        ("a\nb\nc\n", "...\nb", False),
        ("took 3.1 s\n", "took ... s", True),
        ('{"id":"' + "0a" * 16 + '"}', '{"id":"' + "1b" * 16 + '"}', True),
        ('{"id":"' + "0a" * 15 + '"}', '{"id":"' + "1b" * 16 + '"}', False),
        ("", "a", False),
        ("a.b\n", "axb", False),
    ],
)
def test_what_is_printed_is_compared(printed: str, shown: str, same: bool) -> None:
    assert is_as_shown(printed, shown) is same
