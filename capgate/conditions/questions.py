"""Takes the facts that conditions speak of out of questions, in the order of their numbers, for the guest.

A question has been checked by then (:mod:`capgate.facts`). What is empty there may be of any type, and what is of a
wrong one is no fact, as in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from ..model import Anonymous, CompilerTool, PolicyInput, Service, User
from .declaration import ACTOR, ARGS, CONTEXT, ON_BEHALF_OF, RESOURCE
from .fact_table import OTHER

#: What gives the value of each fact: ``None`` where it is absent, :data:`OTHER` where it is none.
Values: TypeAlias = Callable[[PolicyInput], list[Any]]

_KINDS: Final[Mapping[type, str]] = MappingProxyType(
    {Anonymous: "anonymous", User: "user", Service: "service", CompilerTool: "compiler_tool"}
)
_NONE: Final[Mapping[str, object]] = MappingProxyType({})
_LISTS: Final = frozenset({tuple, list})
_PREFIX: Final = f"{ON_BEHALF_OF}."

#: Places of facts in the list, and what each is of its holder.
_Fills: TypeAlias = list[tuple[int, Callable[[Any], object]]]


def facts_of(names: Iterable[str]) -> Values:
    """Return what gives the values of these facts, which are in the order of their bytes, of a question.

    Each root has its names in a row, then. Its attributes are looked up by one call, and the others put in between.
    """
    every = list(names)
    fields: dict[str, list[str]] = {}
    for name in every:
        root, _, field = name.partition(".")
        fields.setdefault(root, []).append(field)
    starts = {root: every.index(f"{root}.{of_root[0]}" if of_root[0] else root) for root, of_root in fields.items()}
    of_actor, of_args, of_context, of_resource = (
        tuple(fields.get(root, ())) for root in (ACTOR, ARGS, CONTEXT, RESOURCE)
    )
    actor_fills, behind = _actor_fills(of_actor, starts.get(ACTOR, 0))
    resource_fills = _fills(of_resource, starts.get(RESOURCE, 0), _RESOURCE_FACTS)
    has_action, has_now, of_env = "action" in fields, "now" in fields, tuple(fields.get("env", ()))

    def values(input: PolicyInput) -> list[Any]:
        who: Any = input.actor
        what: Any = input.resource
        of_who = _NONE if type(who) is Anonymous else who.attributes
        of_what = _NONE if what is None else what.attributes
        args, context = input.args, input.context
        listed: list[Any] = [
            *((_text(input.action),) if has_action else ()),
            *(map((of_who if type(of_who) is dict else _NONE).get, of_actor) if of_actor else ()),
            *(map((args if type(args) is dict else _NONE).get, of_args) if of_args else ()),
            *(map((context if type(context) is dict else _NONE).get, of_context) if of_context else ()),
            *([_text(getattr(input.env, field)) for field in of_env] if of_env else ()),
            *((input.timestamp if type(input.timestamp) is int else OTHER,) if has_now else ()),
            *(map((of_what if type(of_what) is dict else _NONE).get, of_resource) if of_resource else ()),
        ]
        for at, read in actor_fills:
            listed[at] = read(who)
        if behind:
            _fill_delegated(listed, who, behind)
        if resource_fills and what is not None:
            for at, read in resource_fills:
                listed[at] = read(what)
        return listed

    return values


def _text(value: object) -> object:
    if type(value) is str:
        return value
    return str.__str__(value) if isinstance(value, str) else OTHER


def _listed(values: object) -> object:
    return values if type(values) in _LISTS else OTHER


_ACTOR_FACTS: Final[Mapping[str, Callable[[Any], object]]] = MappingProxyType(
    {
        "id": lambda who: None if type(who) is Anonymous else _text(who.id),
        "kind": lambda who: _KINDS[type(who)],
        "roles": lambda who: () if type(who) is Anonymous else _listed(who.roles),
        "scopes": lambda who: () if type(who) is Anonymous else _listed(who.scopes),
    }
)
_RESOURCE_FACTS: Final[Mapping[str, Callable[[Any], object]]] = MappingProxyType(
    {
        "id": lambda resource: None if resource.id is None else _text(resource.id),
        "kind": lambda resource: _text(resource.kind),
    }
)


def _fills(fields: Iterable[str], start: int, facts: Mapping[str, Callable[[Any], object]]) -> _Fills:
    return [(at, facts[field]) for at, field in enumerate(fields, start) if field in facts]


def _actor_fills(fields: tuple[str, ...], start: int) -> tuple[_Fills, list[_Fills]]:
    """Return what is put in of the actor, and of each actor behind it, the nearest first."""
    behind: list[_Fills] = []
    for at, field in enumerate(fields, start):
        depth = 0
        while field.startswith(_PREFIX):
            field, depth = field[len(_PREFIX) :], depth + 1
        if depth:
            behind += [[] for _ in range(depth - len(behind))]
            behind[depth - 1].append((at, _ACTOR_FACTS.get(field) or _attribute(field)))
    return _fills(fields, start, _ACTOR_FACTS), behind


def _attribute(name: str) -> Callable[[Any], object]:
    def read(who: Any) -> object:
        attributes = _NONE if type(who) is Anonymous else who.attributes
        return attributes.get(name) if type(attributes) is dict else None

    return read


def _fill_delegated(listed: list[Any], who: Any, behind: list[_Fills]) -> None:
    """Put in what is known of those whom ``who`` acts for."""
    for fills in behind:
        who = None if type(who) is Anonymous else who.on_behalf_of
        if who is None:
            return
        for at, read in fills:
            listed[at] = read(who)
