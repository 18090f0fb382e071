"""Says which facts conditions may speak of, and of which type each is: what every question has, and what is declared.

A fact has a dotted name: ``actor.tenant``, ``resource.total``, ``args.amount``, ``actor.on_behalf_of.roles``, ``now``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from ..errors import ConfigError

BOOL, INT, FLOAT, STRING, LIST = "bool", "int", "float", "string", "list"
TIMESTAMP, DURATION = "timestamp", "duration"
#: Types that an attribute may be declared with. A ``list`` is one of strings.
ATTRIBUTE_TYPES: Final = (BOOL, INT, FLOAT, STRING, LIST)
#: Types that literals have besides: lists of other things, and the one that has no elements.
LIST_OF: Final = MappingProxyType(
    {BOOL: "list of bool", INT: "list of int", FLOAT: "list of float", STRING: LIST, None: "empty list"}
)
#: What the elements of a list have for a type; ``None`` where there are none.
ELEMENT: Final = MappingProxyType({listed: element for element, listed in LIST_OF.items()})

ACTOR, RESOURCE, ARGS, CONTEXT = "actor", "resource", "args", "context"
#: What has attributes of its own.
HOLDERS: Final = (ACTOR, RESOURCE, ARGS, CONTEXT)
ON_BEHALF_OF: Final = "on_behalf_of"
#: How many actors deep a delegation may be.
DELEGATIONS: Final = 4
#: Facts of every question, without the actors that another acts for.
BUILTIN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "action": STRING,
        "actor.id": STRING,
        "actor.kind": STRING,
        "actor.roles": LIST,
        "actor.scopes": LIST,
        "env.mode": STRING,
        "env.service": STRING,
        "now": TIMESTAMP,
        "resource.id": STRING,
        "resource.kind": STRING,
    }
)
#: What an expression can begin with.
ROOTS: Final = (*HOLDERS, "env", "action", "now")
#: Most attributes of one document, and most characters of a name.
ATTRIBUTES_LIMIT: Final = 1_000
NAME_LIMIT: Final = 64

_NAME: Final = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
#: Words that no expression can have behind a dot.
_UNSPEAKABLE: Final = frozenset({"true", "false", "null", "in"})
_LIKENESS: Final = 0.6
#: What has attributes, under the names that others have for it.
OTHER_HOLDERS: Final = {
    **dict.fromkeys(("user", "users", "subject", "principal", "caller", "who", "identity"), ACTOR),
    **dict.fromkeys(("object", "target", "entity", "record"), RESOURCE),
    **dict.fromkeys(("arguments", "params", "parameters", "input", "body"), ARGS),
    **dict.fromkeys(("request", "ctx", "session", "environment"), CONTEXT),
}
#: Types under the names that others have for them.
_OTHER_TYPES: Final = {
    **dict.fromkeys(("text", "str", "id", "uuid", "email"), STRING),
    **dict.fromkeys(("integer", "number", "int64", "i64", "long", "whole"), INT),
    **dict.fromkeys(("double", "real", "decimal", "float64", "f64"), FLOAT),
    **dict.fromkeys(("boolean", "flag"), BOOL),
    **dict.fromkeys(("array", "strings", "set", "tuple", "list[str]", "list[string]", "list of string"), LIST),
    **dict.fromkeys(("list of strings", "string[]", "list(string)", "list<string>"), LIST),
}


class Declaration:
    """The facts that the conditions of one document may speak of.

    ``types`` has those that are declared and those that are built in. Delegated actors have the facts of an actor.
    Raises :class:`ConfigError` for a name that is not usable or collides with a built-in one, a type that there is
    not, or more than :data:`ATTRIBUTES_LIMIT`.
    """

    def __init__(self, attributes: Mapping[str, Mapping[str, str]] | None = None) -> None:
        types = dict(BUILTIN)
        count = 0
        if attributes is not None and not isinstance(attributes, Mapping):
            raise _mistake(("attributes",), attributes, "a table for each of " + ", ".join(HOLDERS))
        for holder, declared in (attributes or {}).items():
            key = "attributes", str(holder)[:NAME_LIMIT]
            if holder not in HOLDERS:
                raise _mistake(key, holder, _or(HOLDERS), _nearest_holder(holder))
            if not isinstance(declared, Mapping):
                raise _mistake(key, declared, "a table of names and types")
            count += len(declared)
            if count > ATTRIBUTES_LIMIT:
                raise _mistake(("attributes",), f"{count} attributes", f"{ATTRIBUTES_LIMIT} at most")
            for name, type in declared.items():
                _check(holder, name, type)
                types[f"{holder}.{name}"] = type
        self.types: Mapping[str, str] = MappingProxyType(types)
        self._key = frozenset(types.items())
        self._hash = hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Declaration) and self._key == other._key

    def __hash__(self) -> int:
        return self._hash

    def type_of(self, name: str) -> str | None:
        """Return the type of the fact with this dotted name; ``None`` where there is no such fact."""
        return self.types.get(undelegated(name) or "")

    def near(self, name: str) -> str | None:
        """Return the name that was probably meant."""
        holder, dot, field = name.rpartition(".")
        prefix = ""
        if dot and undelegated(f"{holder}.id") == "actor.id":
            prefix, holder = f"{holder}.", ACTOR
        if dot and any(known.startswith(f"{holder}.") for known in self.types):
            fields = [known.partition(".")[2] for known in self.types if known.startswith(f"{holder}.")]
            close = nearest(field, fields)
            return None if close is None else f"{prefix or holder + '.'}{close}"
        return nearest(name, (*self.types, *ROOTS))


def undelegated(name: str) -> str | None:
    """Return the fact of an actor that a fact of a delegated actor is like; ``None`` where there are too many between.

    What is no fact of a delegated actor comes back as it is.
    """
    parts = name.split(".")
    depth = 0
    while len(parts) > 2 and parts[0] == ACTOR and parts[1] == ON_BEHALF_OF:
        del parts[1]
        depth += 1
    return None if depth > DELEGATIONS else ".".join(parts)


def is_fact(name: str, type: str | None) -> bool:
    """Say whether a declaration can give a fact of this name this type; ``None`` is any."""
    plain = undelegated(name) or ""
    if plain in BUILTIN:
        return type in (None, BUILTIN[plain])
    holder, _, field = plain.partition(".")
    return holder in HOLDERS and _is_name(field) and type in (None, *ATTRIBUTE_TYPES) and field != ON_BEHALF_OF


def nearest(seen: str, names: Iterable[str]) -> str | None:
    """Return the one of ``names`` that is most like ``seen``, or ``None``."""
    close = difflib.get_close_matches(seen[:128], sorted(names), 1, _LIKENESS)
    return close[0] if close else None


def unusable_names(holder: str) -> list[str]:
    """Return the names that no attribute of ``holder`` can have though they look like others, sorted."""
    own = [ON_BEHALF_OF] if holder == ACTOR else []
    taken = [name.partition(".")[2] for name in BUILTIN if name.startswith(f"{holder}.")]
    return sorted({*own, *taken, *_UNSPEAKABLE})


def _check(holder: str, name: object, type: object) -> None:
    key = ("attributes", holder, str(name)[: NAME_LIMIT + 1])
    if not isinstance(name, str) or not _is_name(name):
        raise _mistake(key, name, f"a name of a to z, 0 to 9 and _, at most {NAME_LIMIT} characters, no word of CEL")
    if f"{holder}.{name}" in BUILTIN or (holder, name) == (ACTOR, ON_BEHALF_OF):
        raise _mistake(key, name, "a name of your own: every question has this one")
    if type not in ATTRIBUTE_TYPES:
        raise _mistake(key, type, _or(ATTRIBUTE_TYPES), _nearest_type(type))


def _nearest_holder(seen: object) -> str | None:
    if not isinstance(seen, str):
        return None
    return OTHER_HOLDERS.get(seen.lower()) or nearest(seen.lower(), HOLDERS)


def _nearest_type(seen: object) -> str | None:
    if isinstance(seen, list) and len(seen) == 1:
        seen = seen[0]
    if not isinstance(seen, str):
        return None
    return _OTHER_TYPES.get(seen.strip().lower()) or nearest(seen.lower(), ATTRIBUTE_TYPES)


def _is_name(name: str) -> bool:
    return len(name) <= NAME_LIMIT and _NAME.fullmatch(name) is not None and name not in _UNSPEAKABLE


def _mistake(key: tuple[str, ...], seen: object, valid: str, near: str | None = None) -> ConfigError:
    if not isinstance(seen, (str, int, float)):  # what is nested would have to be shown
        seen = f"a {type(seen).__name__}"
    return ConfigError(".".join(key), seen, valid, key=key, nearest=near)


def _or(names: Iterable[str]) -> str:
    return " or ".join(map(repr, names))
