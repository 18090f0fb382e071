"""Figures as tables for people, and as JSON for programs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .targets import Target
from .timing import Summary


@dataclass(frozen=True)
class Row:
    """One figure: what was timed, and in which table and column it belongs."""

    name: str
    table: str
    column: str
    summary: Summary


@dataclass
class Case:
    """What one case measured. Tables show nanoseconds divided by ``scale``, which makes them ``unit``."""

    name: str
    unit: str = "µs"
    scale: float = 1e3
    rows: list[Row] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def median(self, name: str, table: str, column: str) -> float | None:
        """Of that row, in nanoseconds; ``None`` where it was not measured."""
        for row in self.rows:
            if (row.name, row.table, row.column) == (name, table, column):
                return row.summary.median
        return None


def ratio(value: float | None, base: float | None) -> float | None:
    """``value / base``; ``None`` where either was not measured, or ``base`` is not above zero."""
    return None if value is None or base is None or base <= 0 else value / base


def worst(ratios: Iterable[float | None], of: Callable[[list[float]], float] = max) -> float | None:
    """The highest of ``ratios``, or with ``of=min`` the lowest; ``None`` where one of them was not measured."""
    measured = list(ratios)
    known = [one for one in measured if one is not None]
    return of(known) if known and len(known) == len(measured) else None


def text(case: Case) -> Iterator[str]:
    """The lines that show a case: its tables, one median and one p99 per column, and its notes."""
    for table in dict.fromkeys(row.table for row in case.rows):
        rows = [row for row in case.rows if row.table == table]
        yield ""
        yield f"{table} ({case.unit})"
        yield from _table(rows, case.scale)
    yield from (f"  {note}" for note in case.notes)


def target_lines(targets: Iterable[Target]) -> Iterator[str]:
    """One line per target: verdict, value, bound and name."""
    for target in targets:
        value = "" if target.value is None else f"{target.value:.2f}"
        bound = "at least" if target.at_least else "at most"
        yield f"  {target.verdict:12} {value:>7}  {bound} {target.limit:g}  {target.name}"


def _table(rows: list[Row], scale: float) -> Iterator[str]:
    columns = list(dict.fromkeys(row.column for row in rows))
    cells = {(row.name, row.column): row.summary for row in rows}
    names = list(dict.fromkeys(row.name for row in rows))
    width = max(map(len, names)) + 2
    yield "  " + " " * width + "".join(f"{column:>20}" for column in columns)
    yield "  " + " " * width + f"{'median':>11}{'p99':>9}" * len(columns)
    for name in names:
        line = "".join(_cell(cells.get((name, column)), scale) for column in columns)
        yield f"  {name:{width}}{line}".rstrip()


def _cell(summary: Summary | None, scale: float) -> str:
    if summary is None:
        return " " * 20
    return f"{figure(summary.median / scale):>11}{figure(summary.p99 / scale):>9}"


def figure(value: float) -> str:
    """Three significant digits, never in exponents."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def as_json(facts: dict[str, Any], cases: Iterable[Case]) -> str:
    """Everything that was measured; times are nanoseconds per call."""
    found = {}
    for case in cases:
        targets = [{**dataclasses.asdict(target), "verdict": target.verdict} for target in case.targets]
        rows = [dataclasses.asdict(row) for row in case.rows]
        found[case.name] = {"rows": rows, "targets": targets, "notes": case.notes}
    return json.dumps({**facts, "unit": "nanoseconds per call", "cases": found}, indent=1)
