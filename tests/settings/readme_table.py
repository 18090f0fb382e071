"""Makes the reference's table of settings from that of the package.

``python -m tests.settings.readme_table [--write]`` prints it, or writes it where it belongs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Final

from capgate.limits import Limits
from capgate.settings.settings import Settings
from capgate.settings.table import LIMITS, SETTINGS, Setting

from ..support.tools import ROOT

PAGE: Final = ROOT / "docs/reference/settings.md"
_HEAD: Final = ("| keyword | environment | default | |", "|---|---|---|---|")


def made() -> str:
    """Return the lines of the table, each with a newline."""
    return "".join(f"{line}\n" for line in (*_HEAD, *_rows()))


def written(text: str) -> str:
    """Return the table as it stands in ``text``."""
    start = text.index("\n| keyword |") + 1
    return text[start : text.rindex("|\n") + 2]


def _rows() -> Iterator[str]:
    defaults, limits = Settings(), Limits()
    for row in SETTINGS:
        if row.name != "limits":
            yield _row(row, f"`{row.name}`", getattr(defaults, row.name))
    for number, row in enumerate(LIMITS):
        yield _row(row, "" if number else "`limits`", getattr(limits, row.name))


def _row(row: Setting, keyword: str, default: Any) -> str:
    variable = "" if row.in_code else f"`{row.variable}`"
    cells = (keyword, variable, _shown(default), row.help)
    return f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in cells)}|"


def _shown(default: Any) -> str:
    if default is None or default == ():
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return f"`{default}`" if isinstance(default, str) else f"{default:.15g}"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    if "--write" in sys.argv[1:]:
        PAGE.write_text(text.replace(written(text), made()), encoding="utf-8")
    else:
        print(made(), end="")
