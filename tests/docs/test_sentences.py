"""README and the tutorial are read by people whose second language is English: their sentences are short."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from ..support.tools import ROOT
from .site import DOCS

MOST_WORDS: Final = 30
MOST_LINES_OF_README: Final = 150
PAGES: Final = [
    ROOT / "README.md",
    DOCS / "index.md",
    *sorted(path for folder in ("tutorial", "how_to") for path in DOCS.glob(f"{folder}/*.md")),
]


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a page: of paragraphs, items of lists, headings and cells of tables, without blocks."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"\]\([^)]*\)", "]", prose)
    for part in re.split(r"\n\s*\n|\n(?=[-#|] ?|\d+\. )|\|", prose):
        yield from re.split(r"(?<=[.!?:])[)*_]*\s+(?=[A-Z`\[*])|(?<=:)\s*$", " ".join(part.split()))


def too_long(text: str) -> list[str]:
    return [part for part in sentences(text) if len(re.findall(r"[\w'`]+(?:[-./:][\w'`]+)*", part)) > MOST_WORDS]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_sentence_is_long(path: Path) -> None:
    assert too_long(path.read_text(encoding="utf-8")) == []


def test_a_long_sentence_is_seen() -> None:
    words = "word " * MOST_WORDS
    assert too_long(f"Short.\n\n- {words}more.\n") == [f"- {words}more."]
    assert too_long(f"{words.strip()}.") == []
    assert too_long(f"# One\n\nW{words.strip()}. W{words.strip()}.\n\n```\n{words}{words}\n```\n") == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_LINES_OF_README
