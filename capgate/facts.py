"""Checks the facts of a question: roles, scopes, attributes, arguments, context, and whom an actor acts for.

What is no fact makes a question malformed, whichever policy is asked, and whether or not it looks at facts.
"""

from __future__ import annotations

import re
from typing import Any, Final, NoReturn

from .model import Anonymous, CompilerTool, PolicyInput, Service, User

#: Most attributes of one actor or resource, most arguments, most of the context.
FACTS_LIMIT: Final = 128
#: Most characters of a name.
NAME_LIMIT: Final = 64
#: How many actors deep a delegation may be.
DELEGATIONS_LIMIT: Final = 4
#: What an actor and a resource have besides their attributes, which therefore none of these can be called.
ACTOR_FACTS: Final = frozenset({"id", "kind", "on_behalf_of", "roles", "scopes"})
RESOURCE_FACTS: Final = frozenset({"id", "kind"})
_NO_NAMES: Final[frozenset[str]] = frozenset()

#: Whole numbers are those of 64 bits with a sign.
INT_LOWEST, INT_HIGHEST = -(2**63), 2**63 - 1
#: Bytes that count for a value besides its text.
_VALUE: Final = 8

_NAME: Final = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
#: Names that were looked at before, which spares an expression each time. Bounded, since a request may bring its own.
_known: Final[set[str]] = set()
_KNOWN_LIMIT: Final = 4_096

_ACTING: Final = frozenset({User, Service, CompilerTool})


def has_facts(input: PolicyInput) -> bool:
    """Say whether there is any fact to check. What is empty is none, whatever its type, but for a resource's."""
    if input.args or input.context:
        return True
    actor, resource = input.actor, input.resource
    if resource is not None and (resource.attributes or type(resource.attributes) is not dict):
        return True
    return type(actor) is not Anonymous and has_actor_facts(actor)


def has_actor_facts(actor: Any) -> bool:
    """Say whether an actor who has an id has anything else."""
    return bool(actor.roles or actor.scopes or actor.attributes or actor.on_behalf_of is not None)


def weigh_facts(input: PolicyInput) -> int:
    """Return how much the facts of ``input`` count against ``Limits.input_bytes``: their text and 8 bytes a value.

    Raises ``TypeError`` or ``ValueError`` (``UnicodeEncodeError`` among these) for what is no fact.
    """
    size = 0
    for holder, attributes in (("args", input.args), ("context", input.context)):
        size += weigh_attributes(holder, attributes, _NO_NAMES) if attributes else 0
    if input.resource is not None:
        size += weigh_attributes("resource", input.resource.attributes, RESOURCE_FACTS)
    return size if type(input.actor) is Anonymous else size + weigh_actor(input.actor)


def weigh_actor(actor: Any) -> int:
    """Return how much counts of the facts of an actor, and of all that it acts for. Raises as :func:`weigh_facts`."""
    size = depth = 0
    while True:
        for name, texts in (("roles", actor.roles), ("scopes", actor.scopes)):
            size += _weigh_texts(name, texts, distinct=True) if texts else 0
        size += weigh_attributes("actor", actor.attributes, ACTOR_FACTS) if actor.attributes else 0
        actor = actor.on_behalf_of
        if actor is None:
            return size
        depth += 1
        if depth > DELEGATIONS_LIMIT:
            raise ValueError(f"an actor acts for another, more than {DELEGATIONS_LIMIT} deep")
        if type(actor) is Anonymous:
            return size + _VALUE
        if type(actor) not in _ACTING:
            _raise_type("on_behalf_of", actor)
        size += _VALUE + _weigh_text("id", actor.id)


def weigh_attributes(holder: str, attributes: Any, taken: frozenset[str]) -> int:
    """Return how much counts of ``attributes``, none of which may be one of ``taken``. Raises as
    :func:`weigh_facts`."""
    if type(attributes) is not dict:
        _raise_type(holder, attributes)
    if not attributes:
        return 0
    if len(attributes) > FACTS_LIMIT:
        raise ValueError(f"{holder}: {len(attributes)} attributes, the limit is {FACTS_LIMIT}")
    size = 0
    for name, value in attributes.items():
        if type(name) is not str or name not in _known:
            _check_name(holder, name)
        if name in taken:
            raise ValueError(f"{holder}: {name!r} is not the name of an attribute, because every {holder} has one")
        seen = type(value)
        size += len(name) + _VALUE
        if seen is str:
            size += len(value) if value.isascii() else len(value.encode())
        elif seen is int:
            if not INT_LOWEST <= value <= INT_HIGHEST:
                raise ValueError(f"{holder}.{name}: a whole number of more than 64 bits")
        elif seen is float:
            if value - value != 0.0:  # of an infinity and of a NaN it is a NaN
                raise ValueError(f"{holder}.{name}: {value} is no number that JSON has")
        elif seen is list or seen is tuple:
            size += _weigh_texts(name, value)
        elif seen is not bool:
            _raise_type(f"{holder}.{name}", value)
    return size


def is_argument_name(name: object) -> bool:
    """Say whether an argument can be called ``name``."""
    return type(name) is str and len(name) <= NAME_LIMIT and _NAME.fullmatch(name) is not None


def _weigh_texts(name: str, values: Any, *, distinct: bool = False) -> int:
    if type(values) is not tuple and type(values) is not list:
        _raise_type(name, values)
    size = _VALUE * len(values)
    for value in values:
        if type(value) is not str:
            _raise_type(name, value)
        size += len(value) if value.isascii() else len(value.encode())
    if distinct and len(set(values)) != len(values):
        raise ValueError(f"{name}: the same text twice")
    return size


def _weigh_text(name: str, value: Any) -> int:
    if type(value) is not str:
        _raise_type(name, value)
    return len(value) if value.isascii() else len(value.encode())


def _check_name(holder: str, name: Any) -> None:
    if type(name) is not str:
        _raise_type(holder, name)
    if len(name) > NAME_LIMIT or _NAME.fullmatch(name) is None:
        raise ValueError(f"{holder}: a name is a to z, then a to z, 0 to 9 and _, {NAME_LIMIT} characters at most")
    if len(_known) < _KNOWN_LIMIT:
        _known.add(name)


def _raise_type(part: str, seen: object) -> NoReturn:
    """Raise ``TypeError``. It does not say what was seen, which may be anything."""
    raise TypeError(f"{part}: {type(seen).__name__} is not the type of a fact")
