"""Gives the facts of a question, by their dotted names, to the conditions that are answered in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from ..model import PolicyInput
from .rules import ACTOR_KINDS
from .wellformed import actor_of, exact

_ABSENT: Final = object()
_BEHALF: Final = "on_behalf_of"


class FactReader:
    """Reads the facts of these dotted ``names``."""

    def __init__(self, names: Iterable[str]) -> None:
        split = [(name, name.split(".")) for name in names]
        self._readers = [(name, _READERS[root], tuple(path)) for name, (root, *path) in split]

    def facts_of(self, input: PolicyInput) -> dict[str, object]:
        """Return those that ``input`` has. Raises nothing, whatever there is in it."""
        facts = {}
        for name, read, path in self._readers:
            value = read(input, path)
            if value is not _ABSENT:
                facts[name] = value
        return facts


def _of_actor(input: PolicyInput, path: tuple[str, ...]) -> object:
    actor: Any = input.actor
    while len(path) > 1 and path[0] == _BEHALF:
        actor, path = getattr(actor, _BEHALF, None), path[1:]
    who = actor_of(actor)
    if who is None:
        return _ABSENT
    name = path[0]
    if name == "kind":
        return who[0]
    if who[0] == ACTOR_KINDS[0]:
        return [] if name in ("roles", "scopes") else _ABSENT
    if name == "id":
        return who[1]
    return getattr(actor, name) if name in ("roles", "scopes") else _member(actor.attributes, name)


def _of_resource(input: PolicyInput, path: tuple[str, ...]) -> object:
    resource = input.resource
    if resource is None:
        return _ABSENT
    name = path[0]
    if name not in ("id", "kind"):
        return _member(resource.attributes, name)
    value = getattr(resource, name)
    return _ABSENT if value is None else _text(value)


def _of_env(input: PolicyInput, path: tuple[str, ...]) -> object:
    return _text(getattr(input.env, path[0], _ABSENT))


def _member(attributes: object, name: str) -> object:
    return attributes.get(name, _ABSENT) if type(attributes) is dict else _ABSENT


def _text(value: object) -> object:
    return exact(value) if isinstance(value, str) else value


_READERS: Final[dict[str, Callable[[PolicyInput, tuple[str, ...]], object]]] = {
    "action": lambda input, path: _text(input.action),
    "actor": _of_actor,
    "args": lambda input, path: _member(input.args, path[0]),
    "context": lambda input, path: _member(input.context, path[0]),
    "env": _of_env,
    "now": lambda input, path: input.timestamp,
    "resource": _of_resource,
}
