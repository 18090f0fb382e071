"""Reads those facts of a question that somebody listed by their names, for the log, which has no others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from .facts import DELEGATIONS_LIMIT, NAME_LIMIT
from .model import Anonymous

#: Most facts that can be listed.
LISTED_LIMIT: Final = 32
VALID: Final = (
    "actor, resource, args or context, with a dot and the name of a fact, such as 'actor.roles' or 'resource.total'"
)
_HOLDERS: Final = ("actor", "args", "context", "resource")
_BEHIND: Final = rf"((?:\.on_behalf_of){{0,{DELEGATIONS_LIMIT}}})"
_NAME: Final = re.compile(rf"({'|'.join(_HOLDERS)}){_BEHIND}\.([a-z][a-z0-9_]{{0,{NAME_LIMIT - 1}}})", re.ASCII)
#: What has a field of its own in every event.
_FIELDS: Final = {f"{holder}.{name}": f"{holder}_{name}" for holder in ("actor", "resource") for name in ("id", "kind")}

#: Returns the listed facts of anything that is asked, each by its name, and ``None`` for what is not there.
FactsReader = Callable[[Any], dict[str, Any]]


def is_fact_name(name: object) -> bool:
    """Say whether ``name`` can be listed: a fact, and none that every event has in a field of its own."""
    return isinstance(name, str) and name not in _FIELDS and fact_parts(name) is not None


def nearest_fact_name(name: object) -> str | None:
    """Return what was probably meant by a ``name`` that is none, if anything."""
    if not isinstance(name, str) or name.lower() in _HOLDERS:
        return None
    near = (name.lower(), f"actor.{name.lower()}", re.sub(r"^(?:user|subject|principal)\.", "actor.", name.lower()))
    return next((each for each in near if each != name and is_fact_name(each)), None)


def field_of(name: object) -> str | None:
    """Return the field that every event has for ``name``, if there is one."""
    return _FIELDS.get(name) if isinstance(name, str) else None


def facts_reader(names: Iterable[str]) -> FactsReader | None:
    """Return what reads these facts, ``None`` where there are none. It raises nothing, whatever it is given.

    Raises ``ValueError`` for a name that :func:`is_fact_name` does not take.
    """
    wanted: list[tuple[str, str, int, str]] = []
    for name in names:
        parts = fact_parts(name)
        if parts is None or not is_fact_name(name):
            raise ValueError(f"{name!r} is not {VALID}")
        wanted.append((name, *parts))
    if not wanted:
        return None

    def read(input: Any) -> dict[str, Any]:
        return {listed: _fact(input, holder, behind, name) for listed, holder, behind, name in wanted}

    return read


def fact_parts(name: str) -> tuple[str, int, str] | None:
    """Return the holder of a fact, how far behind the actor they are, and its name with them; ``None`` for no fact."""
    match = _NAME.fullmatch(name)
    if match is None or (match[2] and match[1] != "actor"):
        return None
    return match[1], match[2].count("."), match[3]


def _fact(input: Any, holder: str, behind: int, name: str) -> Any:
    try:
        if holder != "actor":
            facts = getattr(input, holder)
            facts = facts.attributes if holder == "resource" else facts
            return facts.get(name) if type(facts) is dict else None
        somebody = input.actor
        for _ in range(behind):
            somebody = somebody.on_behalf_of
        if name == "on_behalf_of":
            return _behind(somebody)
        if name == "kind":
            return somebody.__struct_config__.tag
        if name in ("id", "roles", "scopes"):
            return getattr(somebody, name)
        facts = somebody.attributes
        return facts.get(name) if type(facts) is dict else None
    except Exception:  # of what is not there, or no question at all
        return None


def _behind(somebody: Any) -> list[str] | None:
    """Return for whom somebody acts, the nearest first, each with kind and id."""
    texts: list[str] = []
    while type(somebody) is not Anonymous and somebody.on_behalf_of is not None and len(texts) <= DELEGATIONS_LIMIT:
        somebody = somebody.on_behalf_of
        kind, id = str(somebody.__struct_config__.tag), getattr(somebody, "id", None)
        known = id if isinstance(id, str) else f"<{type(id).__name__}>"
        texts.append(kind if type(somebody) is Anonymous else f"{kind}:{known}")
    return texts or None
