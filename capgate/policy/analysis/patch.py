"""Carries out edits of a policy document, as operations of a JSON Patch (RFC 6902)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

#: ``op`` is ``add`` (to the end of a list, or a key), ``replace`` or ``remove``.
Operation = dict[str, Any]


def apply(document: Mapping[str, Any], patch: Iterable[Operation]) -> dict[str, Any]:
    """Return a copy of ``document`` with these operations carried out.

    All their paths are those of ``document`` as it is, so what is removed is removed last, and from the end.
    """
    changed = copy.deepcopy(dict(document))
    patch = list(patch)
    removals = [operation for operation in patch if operation["op"] == "remove"]
    for operation in (
        *(operation for operation in patch if operation["op"] != "remove"),
        *sorted(removals, key=_place, reverse=True),
    ):
        *way, last = _place(operation)
        parent: Any = changed
        for number, name in way:
            parent = parent[name if isinstance(parent, dict) else number]
        _carry_out(operation, parent, last[1] if isinstance(parent, dict) else last[0])
    return changed


def pointer(path: Iterable[str | int]) -> str:
    """Return the JSON Pointer (RFC 6901) to what stands at ``path``."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def _carry_out(operation: Operation, parent: Any, key: str | int) -> None:
    if operation["op"] == "remove":
        del parent[key]
    elif operation["op"] == "add" and isinstance(parent, list):
        parent.append(operation["value"])
    else:
        parent[key] = operation["value"]


def _place(operation: Operation) -> list[tuple[int, str]]:
    """Return each step of the path as a number (-1: it is none) and as text, so that places compare."""
    steps = [step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")[1:]]
    return [(int(step) if step.isdecimal() and step.isascii() else -1, step) for step in steps]
