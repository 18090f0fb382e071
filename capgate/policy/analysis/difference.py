"""Says what changes from one policy document to another: exactly, for every question there is.

Both documents together tell apart finitely many classes of questions (see :mod:`~capgate.policy.analysis.space`), so
one question of each class is enough. Only classes that something matches on one side and not on the other are asked
about. So two large documents with a small difference are quickly compared. Where that leaves more than :data:`LIMIT`
classes, the comparison is rejected.

Questions that both documents deny before they look any further are in no class. Those are about an action that neither
knows, without a resource that both require, about another kind than a built-in action acts on, or malformed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any, Final, Literal

import msgspec

from ...errors import ConfigError
from ...model import (
    Actor,
    Allow,
    Anonymous,
    CompilerTool,
    Environment,
    PolicyInput,
    PolicyResult,
    Reason,
    Resource,
    Service,
    User,
)
from ..evaluate import ActionEntry, RuntimePolicy
from ..rules import ACTOR_KINDS, Pattern, Rule
from .regions import Cell, Region, boxes, region
from .space import ANYTHING, NOTHING, Atom, Matcher, Mentions, Selector, Signature, Space, add_kind, of_builtin, of_own

#: Classes of questions that are asked about, at most; each takes some microseconds.
LIMIT: Final = 500_000

#: Classes that a rule matches, up to which there is no looking for those that another one matches too.
SMALL: Final = 4_096

#: A rule, by side and number; and what it says of one action.
By = tuple[int, int]
Shape = tuple[Any, ...]

Effect = Literal["allowed", "denied", "reason"]

_OLD, _NEW = 0, 1
_ACTORS: Final[dict[str, type[User | Service | CompilerTool]]] = dict(
    zip(ACTOR_KINDS[1:], (User, Service, CompilerTool), strict=True)
)
_SECTION: Final = "section"


class AnswerChange(msgspec.Struct, frozen=True):
    """Questions whose answer changed: those about one of ``actions`` which are in all three regions. ``effect`` is what
    became of them: ``allowed``, ``denied``, or (denied before as well) another ``reason``."""

    effect: Effect
    before: PolicyResult
    after: PolicyResult
    actions: tuple[str, ...]
    actors: Region
    modes: Region
    resources: Region


class Difference(msgspec.Struct, frozen=True):
    """All changes, none of which overlap, and how many classes of questions were asked about.

    ``recorded`` are the changes that there would be if all rules counted that only monitor, on both sides. It is empty
    where no such rule is on either side.
    """

    changes: tuple[AnswerChange, ...]
    classes: int
    recorded: tuple[AnswerChange, ...] = ()


def difference(old: RuntimePolicy, new: RuntimePolicy, *, limit: int = LIMIT) -> Difference:
    """Return what changes from ``old`` to ``new``. Raises :class:`ConfigError` above ``limit`` classes."""
    if old.conditions is not None or new.conditions is not None:
        raise ConfigError(
            "documents", "rules with conditions", "documents without; else recorded questions, with --replay"
        )
    changes, classes = _changes(old, new, limit)
    if old.monitored is None and new.monitored is None:
        return Difference(changes, classes)
    recorded, more = _changes(old.counting_all(), new.counting_all(), limit - classes)
    return Difference(changes, classes + more, recorded)


def _changes(old: RuntimePolicy, new: RuntimePolicy, limit: int) -> tuple[tuple[AnswerChange, ...], int]:
    """Return the changes and how many classes of questions were asked about."""
    names_by_change: dict[tuple[PolicyResult, PolicyResult, Region, Region, Region], list[str]] = {}
    classes = 0
    for name in sorted({*old.actions, *new.actions}):
        compared = _Action(name, (old, new))
        cells = compared.cells(limit - classes)
        classes += len(cells)
        for change in compared.changes(cells):
            names_by_change.setdefault(change, []).append(name)
    changes = [
        AnswerChange(_effect(before, after), before, after, tuple(names), *regions)
        for (before, after, *regions), names in names_by_change.items()
    ]
    order = ("allowed", "denied", "reason")
    return tuple(sorted(changes, key=lambda change: order.index(change.effect))), classes


def _effect(before: PolicyResult, after: PolicyResult) -> Effect:
    if isinstance(before, Allow) == isinstance(after, Allow):
        return "reason"
    return "allowed" if isinstance(after, Allow) else "denied"


class _Action:
    """One action, and what the two sides' rules and sections tell apart of questions about it."""

    def __init__(self, name: str, sides: tuple[RuntimePolicy, RuntimePolicy]) -> None:
        self.name = name
        self._sides = sides
        self._entries = [side.actions.get(name) for side in sides]
        self._rules = {
            (side, number): rule
            for side, policy in enumerate(sides)
            for number, rule in enumerate(policy.rules)
            if name in rule.covers and not rule.monitor
        }
        self._spaces = (self._actors(), self._modes(), self._resources())
        self._classes = [list(space.classes().items()) for space in self._spaces]
        self._index = [_by_rule(classes) for classes in self._classes]

    # -- what is told apart

    def _actors(self) -> Space:
        mentions = {kind: Mentions() for kind in ACTOR_KINDS}
        for by, rule in self._rules.items():
            for pattern in rule.actors or ():
                mentions[pattern.kind].note(pattern, by)
        space = Space()
        for kind, mentioned in mentions.items():
            if kind == ACTOR_KINDS[0]:
                space.add(Atom(Selector("any", kind), kind, None, frozenset(mentioned.any)))
            else:
                add_kind(space, kind, mentioned)
        return space

    def _modes(self) -> Space:
        mentions: dict[str, set[Matcher]] = {}
        for by, rule in self._rules.items():
            for mode in rule.modes or ():
                mentions.setdefault(mode, set()).add(by)
        space = Space()
        root = space.add(Atom(ANYTHING, None, "", NOTHING))
        for mode, rules in mentions.items():
            space.add(Atom(Selector("exact", None, mode), None, mode, frozenset(rules)), root)
        return space

    def _resources(self) -> Space:
        known = [entry for entry in self._entries if entry is not None]
        kinds: dict[str, Mentions] = {} if known[0].kind is None else {known[0].kind: Mentions()}
        for by, rule in self._rules.items():
            for pattern in rule.resources or ():
                if known[0].kind in (None, pattern.kind):
                    kinds.setdefault(pattern.kind, Mentions()).note(pattern, by)
        admitted: dict[Pattern, set[Matcher]] = {}
        for side, entry in enumerate(self._entries):
            if entry is None or entry.section is None:
                continue
            for pattern, bits in entry.section.patterns(entry.kind or ""):
                if bits & entry.operations:
                    admitted.setdefault(pattern, set()).add((side, _SECTION))
        optional = len(known) < 2 or not all(entry.required for entry in known)
        return of_builtin(kinds, admitted, optional) if known[0].kind else of_own(kinds, admitted, optional)

    # -- what can have changed

    def cells(self, limit: int) -> set[Cell]:
        """Return the classes of questions whose answer can have changed.

        Raises :class:`ConfigError` above ``limit``.
        """
        cells: set[Cell] = set()

        def add(actors: Iterable[int], modes: Iterable[int], resources: Iterable[int]) -> None:
            for cell in product(actors, modes, resources):
                cells.add(cell)
                if len(cells) > limit:
                    raise self._too_many(limit)

        every = [frozenset(range(len(classes))) for classes in self._classes]
        if None in self._entries:
            add(*every)
            return cells
        shapes = {by: _shape(rule) for by, rule in self._rules.items()}
        boxes = {by: self._box(by, every) for by in shapes}
        listed = frozenset(number for number in every[2] if any(self._admitted(number)))
        differing, common = _differing(shapes)
        if len(differing) * len(shapes) > 100 * limit:
            raise self._too_many(limit)
        for by in differing:
            actors, modes, resources = boxes[by]
            denies, *_, reason = shapes[by]
            is_loud = shapes[by] not in common and not (denies and reason == Reason.NOT_IN_ALLOWLIST)
            if is_loud or len(actors) * len(modes) * len(resources) <= SMALL:
                add(actors, modes, resources)
                continue
            # Where nothing else matches, it answers as its equal or as nothing would; so only where something does.
            for other, box in boxes.items():
                if shapes[other] != shapes[by]:
                    add(*(numbers & another for numbers, another in zip(boxes[by], box, strict=True)))
            add(actors, modes, resources & listed)
        add(every[0], every[1], [number for number in every[2] if self._is_changed(number)])
        return cells

    def _too_many(self, limit: int) -> ConfigError:
        valid = f"documents of which at most {LIMIT} classes of questions have to be compared; else recorded questions"
        return ConfigError("documents", f"more than {limit} classes about {self.name!r}", f"{valid}, with --replay")

    def _box(self, by: By, every: list[frozenset[int]]) -> list[frozenset[int]]:
        """Return the classes of actors, of modes and of resources that a rule matches."""
        rule = self._rules[by]
        lists = (rule.actors, rule.modes, rule.resources)
        return [
            everything if entries is None else frozenset(index.get(by, ()))
            for entries, index, everything in zip(lists, self._index, every, strict=True)
        ]

    def _admitted(self, number: int) -> list[bool]:
        """Say for each side whether its section admits this class of resources."""
        signature, _ = self._classes[2][number]
        return [_admits(entry, (side, _SECTION) in signature) for side, entry in enumerate(self._entries)]

    def _is_changed(self, number: int) -> bool:
        """Say whether the section, or that a resource is required, makes a difference to this class of resources."""
        before, after = self._admitted(number)
        required = [entry is not None and entry.required for entry in self._entries]
        atom = self._spaces[2].atoms[self._classes[2][number][1][0]]
        return before != after or (atom.id is None and required[_OLD] != required[_NEW])

    # -- what has changed

    def changes(self, cells: set[Cell]) -> Iterator[tuple[PolicyResult, PolicyResult, Region, Region, Region]]:
        """Yield both answers and the three regions of each change."""
        changed: dict[tuple[PolicyResult, PolicyResult], set[Cell]] = {}
        for cell in sorted(cells):
            asked = self._question(cell)
            before, after = (side.evaluate(asked) for side in self._sides)
            if before != after:
                changed.setdefault((before, after), set()).add(cell)
        for answers, cells_of_answers in changed.items():
            for box in boxes(cells_of_answers):
                actors, modes, resources = (
                    region(space, frozenset(atom for number in numbers for atom in classes[number][1]))
                    for space, classes, numbers in zip(self._spaces, self._classes, box, strict=True)
                )
                yield (*answers, actors, modes, resources)

    def _question(self, cell: Cell) -> PolicyInput:
        actor, mode, about = (
            space.atoms[classes[number][1][0]]
            for space, classes, number in zip(self._spaces, self._classes, cell, strict=True)
        )
        who: Actor = Anonymous() if actor.id is None else _ACTORS[str(actor.kind)](actor.id)
        resource = None if about.kind is None else Resource(about.kind, about.id)
        return PolicyInput(self.name, who, resource, env=Environment(mode=mode.id or ""))


def _by_rule(classes: list[tuple[Signature, list[int]]]) -> dict[Matcher, list[int]]:
    """Return the numbers of the classes that each rule matches."""
    numbers: dict[Matcher, list[int]] = {}
    for number, (signature, _) in enumerate(classes):
        for by in signature:
            numbers.setdefault(by, []).append(number)
    return numbers


def _differing(shapes: dict[By, Shape]) -> tuple[list[By], set[Shape]]:
    """Return the rules that make a difference, and the shapes that both sides have.

    Those are the rules that have no equal on the other side. Where the denials stand in another order, they are all
    denials as well, because the first one gives the reason.
    """
    sides = [[shape for (side, _), shape in shapes.items() if side == wanted] for wanted in (_OLD, _NEW)]
    common = {*sides[_OLD]} & {*sides[_NEW]}
    orders = [list(dict.fromkeys(shape for shape in side if shape in common and shape[0])) for side in sides]
    is_sorted = orders[_OLD] == orders[_NEW]
    return [by for by, shape in shapes.items() if shape not in common or (shape[0] and not is_sorted)], common


def _shape(rule: Rule) -> Shape:
    """Return what a rule says of one action, whatever the order in its lists; first whether it denies."""
    lists = (None if entries is None else frozenset(entries) for entries in (rule.actors, rule.modes, rule.resources))
    return (rule.denies, *lists, rule.reason if rule.denies else None)


def _admits(entry: ActionEntry | None, is_listed: bool) -> bool:
    if entry is None or entry.section is None:
        return False
    return entry.section.entries is None or is_listed
