"""Results of commands: one JSON object, or a table for people, in colour only on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..store.manifest import Manifest

#: Characters of a line where the output is not a terminal, which would say itself.
WIDTH: Final = 160


class Shown(msgspec.Struct):
    """What a command has to say: ``data`` for ``--json``; for people ``plain``, or a table of ``rows`` under
    ``columns``, or else the names and values of ``data``."""

    data: dict[str, Any]
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[object]] = ()
    plain: str = ""


def show(shown: Shown, *, as_json: bool) -> None:
    """Print it on standard output."""
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(shown.data), indent=2).decode(), flush=True)
    elif shown.plain:
        print(shown.plain, flush=True)
    else:
        _print(_table(shown))


def _table(shown: Shown) -> Table:
    table = Table(*shown.columns, box=box.SIMPLE_HEAD, show_header=bool(shown.columns), pad_edge=False)
    rows = shown.rows if shown.columns else list(shown.data.items())
    for row in rows:
        table.add_row(*(escape(text(cell)) for cell in row))
    return table


def _print(table: Table) -> None:
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    console.print(table)


def text(value: object) -> str:
    """``value`` as a cell of a table."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, (list, tuple)):
        return ", ".join(map(text, value)) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{name}={text(inner)}" for name, inner in value.items()) or "-"
    return str(value)


def manifest_data(manifest: Manifest) -> dict[str, Any]:
    """A manifest as data, where ``fixtures`` is said also if there are none."""
    return {**msgspec.to_builtins(manifest), "fixtures": manifest.fixtures}


def shown(path: Path) -> str:
    """``path`` as text, which the name of a file need not be."""
    return os.fsencode(path).decode("utf-8", "replace")
