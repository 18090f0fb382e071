"""Reads what people write: the fenced blocks and the tables of a page in Markdown."""

from __future__ import annotations

import re
from pathlib import Path


class Text:
    """A page, of which ``under`` gives the part below one heading, whatever its level."""

    def __init__(self, path: Path, text: str | None = None) -> None:
        self.path = path
        self.text = path.read_text(encoding="utf-8") if text is None else text

    def under(self, heading: str) -> Text:
        start = re.search(rf"^(#+) {re.escape(heading)}\n", self.text, re.MULTILINE)
        assert start is not None, (self.path, heading)
        rest = self.text[start.end() :]
        end = re.search(rf"^#{{1,{len(start[1])}}} ", rest, re.MULTILINE)
        return Text(self.path, rest if end is None else rest[: end.start()])

    def blocks(self, language: str) -> list[str]:
        """The fenced blocks of that language."""
        fenced = re.findall(r"^```(\w*)\n(.*?)^```$", self.text, re.MULTILINE | re.DOTALL)
        return [block for name, block in fenced if name == language]

    def rows(self) -> list[list[str]]:
        """The cells of the first table, without its first two lines."""
        table = re.search(r"(?:^\|.*\n)+", self.text, re.MULTILINE)
        assert table is not None, self.path
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()[2:]]

    def headings(self, level: int) -> list[str]:
        return re.findall(rf"^#{{{level}}} (.+)$", self.text, re.MULTILINE)


def names(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)
