"""How commands say what a question was about, and which questions: in printable ASCII, since files come from
anywhere and go to terminals."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec
from rich.console import Console

from ..model import Allow, Anonymous, PolicyInput, PolicyResult
from ..policy.analysis.regions import Region
from ..policy.analysis.space import ANYTHING, Selector
from ..routes.contract import quoted

#: How many actors, modes or resources are told by name.
SOME: Final = 8

_NOUNS: Final = {"actors": "anyone", "modes": "any mode", "resources": "anything"}


def console(*, stderr: bool = False) -> Console:
    """Where people read: in colour only on a terminal, and without it where ``NO_COLOR`` says so."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """``value`` as one JSON object on standard output."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode(), flush=True)


def asked(input: PolicyInput) -> str:
    """A question: what, on what, by whom, in which mode."""
    resource, actor = input.resource, input.actor
    what = quoted(input.action)
    if resource is not None:
        what += f" on {name(resource.kind, resource.id)}"
    who = "anonymous" if isinstance(actor, Anonymous) else name(type(actor).__struct_config__.tag, actor.id)
    return f"{what}, by {who}, in mode {quoted(input.env.mode)}"


def answered(result: PolicyResult) -> str:
    """An answer in a word or two."""
    return "allowed" if isinstance(result, Allow) else f"denied, {code(result.reason)}"


def code(reason: str) -> str:
    """A reason: a code as it is, other text in quotes."""
    return reason if reason.isascii() and reason.isidentifier() else json.dumps(reason)


def name(kind: object, id: str | None) -> str:
    """Kind and id; an id that could be taken for something else is in quotes."""
    if id is None:
        return f"{quoted(str(kind))} without an id"
    plain = id.isascii() and id.isprintable() and id and not set(id) & set(' *,"\\')
    return f"{quoted(str(kind))}:{id if plain else json.dumps(id)}"


def some(region: Region, aspect: str) -> str:
    """What a region selects. ``aspect`` is ``actors``, ``modes`` or ``resources``."""
    words = _listed(region.include, aspect)
    words = f"mode {words}" if aspect == "modes" and ANYTHING not in region.include else words
    return words if not region.exclude else f"{words} but not {_listed(region.exclude, aspect)}"


def _listed(selectors: tuple[Selector, ...], aspect: str) -> str:
    told = [_selected(one, aspect) for one in selectors[:SOME]]
    if len(selectors) > SOME:
        told.append(f"{len(selectors) - SOME} more")
    return ", ".join(told)


def _selected(one: Selector, aspect: str) -> str:
    if one.match == "absent":
        return "no resource"
    if one.match == "beginning":
        return f"{quoted(str(one.kind))}:{quoted(one.text)}*"
    if one.match == "any":
        return _NOUNS[aspect] if one.kind is None else "anonymous" if one.kind == "anonymous" else f"every {one.kind}"
    if one.match == "none":
        return "a resource without an id" if one.kind is None else name(one.kind, None)
    if one.kind is None:
        return quoted(one.text) if aspect == "modes" else f"{json.dumps(one.text)} of any kind"
    return name(one.kind, one.text)
