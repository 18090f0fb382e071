"""Medians as a bar chart in SVG, on logarithmic scales, since they span five orders of magnitude."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from xml.sax.saxutils import escape

from .report import Case, Row, figure

LABEL, CHART, BAR, GAP, MARGIN = 330, 560, 13, 9, 24
COLOURS = ("#1b6ca8", "#e08e2b", "#5b9a5b", "#8a5ba6")
_WIDTH = LABEL + CHART + 110


def svg(cases: Iterable[Case]) -> str:
    """One panel per table of ``cases``; in it a group of bars per contender, a bar per column."""
    body, y = [], MARGIN
    for case in cases:
        for table in dict.fromkeys(row.table for row in case.rows):
            lines, y = _panel(case, [row for row in case.rows if row.table == table], y)
            body += lines
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}" viewBox="0 0 {_WIDTH} {y}"'
        ' font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, f'<rect width="{_WIDTH}" height="{y}" fill="white"/>', *body, "</svg>", ""])


def _panel(case: Case, rows: list[Row], y: int) -> tuple[list[str], int]:
    """The lines of one panel whose upper edge is at ``y``, and where the next one begins."""
    columns = list(dict.fromkeys(row.column for row in rows))
    # A difference may come out below zero; its bar is as short as can be.
    values = [row.summary.median / case.scale for row in rows if row.summary.median > 0] or [1.0]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values) * 1.01))
    lines = [
        _text(MARGIN, y + 12, f"{rows[0].table}, {case.unit}, median", "start", 'font-weight="bold" font-size="14"')
    ]
    lines += _legend(columns, y + 30)
    top = y + 44
    y = top + 6
    bars = []
    for name in dict.fromkeys(row.name for row in rows):
        group = [row for row in rows if row.name == name]
        middle = y + len(group) * BAR // 2 + 4
        bars.append(_text(LABEL - 8, middle, name, "end"))
        for row in group:
            value = row.summary.median / case.scale
            width = CHART * (math.log10(max(value, 10.0**low)) - low) / (high - low)
            colour = COLOURS[columns.index(row.column) % len(COLOURS)]
            bars.append(
                f'<rect class="bar" x="{LABEL}" y="{y}" width="{max(width, 1):.1f}" height="{BAR - 1}"'
                f' fill="{colour}"/>'
            )
            bars.append(_text(LABEL + max(width, 1) + 5, y + BAR - 3, figure(value), "start", 'font-size="11"'))
            y += BAR
        y += GAP
    return [*lines, *_grid(low, high, top, y), *bars], y + MARGIN + 14


def _legend(columns: list[str], y: int) -> Iterator[str]:
    for index, column in enumerate(columns):
        x = MARGIN + index * 150
        yield f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{COLOURS[index % len(COLOURS)]}"/>'
        yield _text(x + 15, y, column, "start")


def _grid(low: int, high: int, top: int, bottom: int) -> Iterator[str]:
    for power in range(low, high + 1):
        x = LABEL + CHART * (power - low) / (high - low)
        yield f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" stroke="#ddd"/>'
        yield _text(x, bottom + 12, f"{10.0**power:g}", "middle", 'font-size="10" fill="#666"')


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(text)}</text>'
