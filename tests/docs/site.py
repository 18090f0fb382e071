"""Builds the site as ``.ci/run`` does, and reads its pages."""

from __future__ import annotations

import subprocess
import sys
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

from ..support.command import environment
from ..support.tools import ROOT

DOCS: Final = ROOT / "docs"


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the site into ``folder``; a warning is an error."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", f"{folder}.doctrees"]
    return subprocess.run(
        [*command, str(DOCS), str(folder)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


class Page(HTMLParser):
    """What a page of the site loads, where it leads, and which places it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.text = path.read_text(encoding="utf-8")
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.images: list[dict[str, str | None]] = []
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors.update(value for name in ("id", "name") if (value := given.get(name)))
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        elif tag == "link" and given.get("href"):
            self.loads.append(str(given["href"]))
        if given.get("src"):
            self.loads.append(str(given["src"]))
        if tag == "img":
            self.images.append(given)


class Site:
    """The pages below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def pages(self) -> dict[Path, Page]:
        return {path: Page(path) for path in sorted(self.folder.rglob("*.html")) if "_static" not in path.parts}
