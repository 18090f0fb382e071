"""Says of a class of questions which facts are certain in it, and finds a question of it with facts that are wished."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Final, Literal

import msgspec

from ...conditions import (
    FALSE,
    TRUE,
    Constant,
    Fact,
    Has,
    Node,
    Operation,
    Plain,
    Together,
    Wish,
    together,
    with_constants,
)
from ...errors import ConfigError
from ...model import Actor, Anonymous, CompilerTool, PolicyInput, Resource, Service, User
from ..rules import ACTOR_KINDS
from ..wellformed import is_well_formed
from ..wildcards import BEGINNING, EXACT
from .space import Atom, Space

#: In place of a question: there is none.
IMPOSSIBLE: Final[Literal["impossible"]] = "impossible"

#: Regions of facts that are decided for one comparison.
DECIDED_LIMIT: Final = 20_000

_TYPES: Final[Mapping[str, type[User | Service | CompilerTool]]] = dict(
    zip(ACTOR_KINDS[1:], (User, Service, CompilerTool), strict=True)
)
_BEHALF: Final = "actor.on_behalf_of."
_LISTS: Final = ("roles", "scopes")


class Decided:
    """What wishes can be fulfilled together, each decided once: most classes have the same.

    Raises :class:`ConfigError` for more of them than :data:`DECIDED_LIMIT`.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Wish, ...], Together] = {}

    def together(self, wishes: tuple[Wish, ...]) -> Together:
        """Return whether ``wishes`` can be fulfilled together."""
        seen = self._known.get(wishes)
        if seen is None:
            if len(self._known) >= DECIDED_LIMIT:
                what = f"more than {DECIDED_LIMIT} regions of facts"
                raise ConfigError(
                    "documents", what, "fewer conditions that differ; else recorded questions, with --replay"
                )
            seen = self._known[wishes] = together(wishes)
        return seen


class AskedClass:
    """Questions about one action, by actors, in modes and on resources that are each in one of these atoms.

    ``spaces`` are of actors, modes and resources, and ``numbers`` those of the atoms. ``asked`` is one of the
    questions, and ``names`` are the facts that matter. ``decided`` has what was decided before.
    """

    def __init__(
        self,
        asked: PolicyInput,
        spaces: Sequence[Space],
        numbers: Sequence[Sequence[int]],
        names: Collection[str],
        decided: Decided,
    ) -> None:
        self._decided = decided
        #: The same of each kind of actor, where there are several: what is certain of one is not of the others.
        self._parts = _of_each_kind(asked, spaces, numbers, names, decided)
        self._asked = asked
        self._spaces = spaces
        self._numbers = numbers
        self._names = names
        actors, modes, resources = (
            [space.atoms[number] for number in chosen] for space, chosen in zip(spaces, numbers, strict=True)
        )
        of_actors, of_modes, of_resources = (space.atoms for space in spaces)
        self._constants: dict[str, Plain] = {"action": asked.action}
        self._wishes: list[Wish] = []
        self._other_kind = ""
        if "now" in names:
            self._wish(Operation("bool", "ge", (Fact("timestamp", "now"), Constant("timestamp", 0))))
        self._know_actor(actors, of_actors)
        self._know_id("env.mode", modes, of_modes)
        mentioned = {atom.id for atom in of_modes}
        self._other_mode = next(name for name in _names("prod", "mode") if name not in mentioned)
        self._know_resource(resources, of_resources)

    def example(
        self, wishes: Sequence[Wish], is_wanted: Callable[[PolicyInput], bool]
    ) -> PolicyInput | Literal["impossible"] | None:
        """Return a question of the class that fulfils ``wishes`` and is wanted; ``None`` where none is found.

        Return :data:`IMPOSSIBLE` where it is certain that there is none that fulfils ``wishes``. Raises as
        :class:`Decided`.
        """
        if self._parts:
            return self._example_of_parts(wishes, is_wanted)
        known = [Wish(with_constants(node, self._constants), states) for node, states in wishes]
        seen = self._decided.together((*self._wishes, *known))
        if seen.possible is False:
            return IMPOSSIBLE
        question = None if seen.facts is None else self._with(seen.facts)
        if question is None or not is_well_formed(question) or not self._has(question):
            return None
        return question if is_wanted(question) else None

    def _example_of_parts(
        self, wishes: Sequence[Wish], is_wanted: Callable[[PolicyInput], bool]
    ) -> PolicyInput | Literal["impossible"] | None:
        is_certain = True
        for part in self._parts:
            example = part.example(wishes, is_wanted)
            if isinstance(example, PolicyInput):
                return example
            is_certain = is_certain and example is not None
        return IMPOSSIBLE if is_certain else None

    def _has(self, question: PolicyInput) -> bool:
        """Say whether a question is of the class."""
        actor, resource = question.actor, question.resource
        parts: tuple[tuple[str | None, str | None], ...] = (
            (str(type(actor).__struct_config__.tag), getattr(actor, "id", None)),
            (None, question.env.mode),
            (None, None) if resource is None else (resource.kind, resource.id),
        )
        return all(
            (number := space.atom_of(kind, id)) is not None and number in numbers
            for space, numbers, (kind, id) in zip(self._spaces, self._numbers, parts, strict=True)
        )

    # -- what is certain

    def _wish(self, node: Node, states: int = TRUE) -> None:
        self._wishes.append(Wish(node, states))

    def _know_actor(self, actors: Sequence[Atom], others: Sequence[Atom]) -> None:
        kind = str(actors[0].kind)
        self._constants["actor.kind"] = kind
        if kind == ACTOR_KINDS[0]:
            self._constants.update({f"actor.{name}": () for name in _LISTS})
            self._lack("actor.", {"actor.kind", *(f"actor.{name}" for name in _LISTS)})
        else:
            self._know_id("actor.id", actors, others)

    def _know_resource(self, resources: Sequence[Atom], others: Sequence[Atom]) -> None:
        kinds = {atom.kind for atom in resources}
        if len(kinds) > 1:
            return
        (kind,) = kinds
        if kind is None:
            self._lack("resource.", ())
        elif kind:
            self._constants["resource.kind"] = kind
        else:  # of whatever kind that is not mentioned
            mentioned = {each.kind for each in others if each.kind}
            self._other_kind = next(name for name in _names("thing", "thing") if name not in mentioned)
            if "resource.kind" in self._names and mentioned:
                self._wish(_one_of("resource.kind", sorted(mentioned)), FALSE)
        if all(atom.id is None for atom in resources):
            self._lack("resource.id", ())
        else:
            self._know_id("resource.id", resources, others)

    def _know_id(self, name: str, atoms: Sequence[Atom], others: Sequence[Atom]) -> None:
        if len(atoms) != 1 or name not in self._names:
            return
        (atom,) = atoms
        if atom.selector.match == EXACT:
            self._constants[name] = atom.selector.text
            return
        if atom.selector.match == BEGINNING:
            self._wish(Operation("bool", "starts", (Fact("string", name), Constant("string", atom.selector.text))))
        mentioned = {each.selector.text for each in others if each.selector.match == EXACT and each.kind == atom.kind}
        if mentioned:
            self._wish(_one_of(name, sorted(mentioned)), FALSE)

    def _lack(self, beginning: str, but: Collection[str]) -> None:
        for name in self._names:
            if name.startswith(beginning) and name not in but:
                self._wish(Has(name), FALSE)

    # -- a question

    def _with(self, facts: Mapping[str, object]) -> PolicyInput | None:
        values = {**self._constants, **facts}
        asked = self._asked
        changes: dict[str, Any] = {
            "args": _attributes("args.", facts),
            "context": _attributes("context.", facts),
            "timestamp": facts.get("now", asked.timestamp),
            "actor": _actor("actor.", values, asked.actor),
        }
        mode = values.get("env.mode", asked.env.mode or self._other_mode)
        service = values.get("env.service", asked.env.service)
        changes["env"] = msgspec.structs.replace(asked.env, mode=mode, service=service)
        if asked.resource is not None:
            kind = values.get("resource.kind", asked.resource.kind or self._other_kind)
            id = values.get("resource.id", asked.resource.id)
            if not isinstance(kind, str) or not (id is None or isinstance(id, str)):
                return None
            changes["resource"] = Resource(kind, id, _attributes("resource.", facts))
        return msgspec.structs.replace(asked, **changes)


def _of_each_kind(
    asked: PolicyInput,
    spaces: Sequence[Space],
    numbers: Sequence[Sequence[int]],
    names: Collection[str],
    decided: Decided,
) -> list[AskedClass]:
    """Return a class for each kind of actor; none where there is one kind. Whoever is anonymous comes last."""
    by_kind: dict[str, list[int]] = {}
    for number in numbers[0]:
        by_kind.setdefault(str(spaces[0].atoms[number].kind), []).append(number)
    if len(by_kind) < 2:
        return []
    parts = []
    for kind in sorted(by_kind, key=lambda kind: (kind == ACTOR_KINDS[0], ACTOR_KINDS.index(kind))):
        id = spaces[0].atoms[by_kind[kind][0]].id
        actor: Actor = Anonymous() if id is None else _TYPES[kind](id)
        of_kind = msgspec.structs.replace(asked, actor=actor)
        parts.append(AskedClass(of_kind, spaces, [by_kind[kind], *numbers[1:]], names, decided))
    return parts


def _names(first: str, stem: str) -> Iterator[str]:
    """Yield names of which some is mentioned nowhere."""
    yield first
    yield from (f"{stem}{number}" for number in count())


def _one_of(name: str, texts: Sequence[str]) -> Node:
    return Operation("bool", "in", (Fact("string", name), Constant("list", tuple(texts))))


def _actor(beginning: str, values: Mapping[str, object], asked: Actor) -> Actor:
    """Return an actor with these facts, and in all else as the one who was asked for."""
    id = getattr(asked, "id", "x")
    kind = values.get(f"{beginning}kind", type(asked).__struct_config__.tag)
    if kind not in _TYPES:
        return Anonymous()
    roles, scopes = (values.get(f"{beginning}{name}", ()) for name in _LISTS)
    behalf = f"{beginning}on_behalf_of."
    delegated = _actor(behalf, values, User("x")) if any(name.startswith(behalf) for name in values) else None
    made: Any = _TYPES[str(kind)]
    return made(  # type: ignore[no-any-return]
        values.get(f"{beginning}id", id),
        tuple(roles) if isinstance(roles, (list, tuple)) else (),
        tuple(scopes) if isinstance(scopes, (list, tuple)) else (),
        _attributes(beginning, values),
        delegated,
    )


def _attributes(beginning: str, facts: Mapping[str, object]) -> dict[str, Any]:
    """Return the facts of this holder that are attributes of its own."""
    own = ("id", "kind", *_LISTS)
    taken = own if beginning.startswith("actor.") else own[:2] if beginning == "resource." else ()
    cut = len(beginning)
    return {
        name[cut:]: value
        for name, value in facts.items()
        if name.startswith(beginning) and "." not in name[cut:] and name[cut:] not in taken
    }
