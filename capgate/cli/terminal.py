"""Prints what commands have to say: one JSON object, or text for people, in colour only on a terminal.

Questions, answers and selections are in printable ASCII, since files come from anywhere and go to terminals.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..model import Allow, Anonymous, PolicyInput, PolicyResult
from ..policy.analysis.regions import Region
from ..policy.analysis.space import ANYTHING, Selector
from ..routes.contract import quoted
from .spoken_facts import facts_text

#: Characters of a line of a table where the output is not a terminal, which would say itself.
TABLE_WIDTH: Final = 160
#: How many actors, modes or resources are told by name.
MOST_NAMES: Final = 8

_NOUNS: Final = {"actors": "anyone", "modes": "any mode", "resources": "anything"}


def console(*, stderr: bool = False) -> Console:
    """Make the console that people read: in colour only on a terminal, and not where ``NO_COLOR`` says so."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


def print_json(value: object) -> None:
    """Print ``value`` as one JSON object on standard output."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode(), flush=True)


def path_text(path: Path) -> str:
    """Return ``path`` as text, which the name of a file need not be."""
    return os.fsencode(path).decode("utf-8", "replace")


# -- tables


def print_facts(facts: Mapping[str, object], *, as_json: bool) -> None:
    """Print the names and values of ``facts``, as JSON or as a table for people."""
    if as_json:
        print_json(facts)
    else:
        _print_table((), list(facts.items()))


def print_rows(
    data: Mapping[str, object], columns: Sequence[str], rows: Sequence[Sequence[object]], *, as_json: bool
) -> None:
    """Print ``data`` as JSON, or the ``rows`` under ``columns`` for people."""
    if as_json:
        print_json(data)
    else:
        _print_table(columns, rows)


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    table = Table(*columns, box=box.SIMPLE_HEAD, show_header=bool(columns), pad_edge=False)
    for row in rows:
        table.add_row(*(escape(_cell(value)) for value in row))
    Console(width=None if sys.stdout.isatty() else TABLE_WIDTH, highlight=False).print(table)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, value)) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{name}={_cell(inner)}" for name, inner in value.items()) or "-"
    return str(value)


# -- questions and answers


def question_text(input: PolicyInput) -> str:
    """Return a question in one line: what, on what, by whom, in which mode, with which facts."""
    resource, actor = input.resource, input.actor
    what = quoted(input.action)
    if resource is not None:
        what += f" on {_kind_and_id(resource.kind, resource.id)}"
    who = "anonymous" if isinstance(actor, Anonymous) else _kind_and_id(type(actor).__struct_config__.tag, actor.id)
    facts = facts_text(input)
    return f"{what}, by {who}, in mode {quoted(input.env.mode)}{facts and f', with {facts}'}"


def answer_text(result: PolicyResult) -> str:
    """Return an answer in a word or two."""
    return "allowed" if isinstance(result, Allow) else f"denied, {reason_text(result.reason)}"


def reason_text(reason: str) -> str:
    """Return a reason: a code as it is, other text in quotes."""
    return reason if reason.isascii() and reason.isidentifier() else json.dumps(reason)


def region_text(region: Region, aspect: str) -> str:
    """Say what a region selects. ``aspect`` is ``actors``, ``modes`` or ``resources``."""
    text = _selectors(region.include, aspect)
    text = f"mode {text}" if aspect == "modes" and ANYTHING not in region.include else text
    return text if not region.exclude else f"{text} but not {_selectors(region.exclude, aspect)}"


def _selectors(selectors: tuple[Selector, ...], aspect: str) -> str:
    texts = [_selector(selector, aspect) for selector in selectors[:MOST_NAMES]]
    if len(selectors) > MOST_NAMES:
        texts.append(f"{len(selectors) - MOST_NAMES} more")
    return ", ".join(texts)


def _selector(selector: Selector, aspect: str) -> str:
    kind, match = selector.kind, selector.match
    if match == "absent":
        return "no resource"
    if match == "beginning":
        return f"{quoted(str(kind))}:{quoted(selector.text)}*"
    if match in ("ending", "network"):
        return f"{quoted(str(kind))}:{'*.' * (match == 'ending')}{selector.text}"
    if match == "any":
        return _NOUNS[aspect] if kind is None else "anonymous" if kind == "anonymous" else f"every {kind}"
    if match == "none":
        return "a resource without an id" if kind is None else _kind_and_id(kind, None)
    if kind is None:
        return quoted(selector.text) if aspect == "modes" else f"{json.dumps(selector.text)} of any kind"
    return _kind_and_id(kind, selector.text)


def _kind_and_id(kind: object, id: str | None) -> str:
    """Return kind and id; an id that could be taken for something else is in quotes."""
    if id is None:
        return f"{quoted(str(kind))} without an id"
    plain = id.isascii() and id.isprintable() and id and not set(id) & set(' *,"\\')
    return f"{quoted(str(kind))}:{id if plain else json.dumps(id)}"
