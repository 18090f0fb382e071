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

from ...conditions import Node, Wish, facts_in
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
from ..evaluate import ActionEntry, Branches, RuntimePolicy
from ..rules import ACTOR_KINDS, Pattern, Rule
from .asked_class import AskedClass, Decided
from .branching import FactRegion, Path, nodes_of, paths, region_of
from .regions import Cell, Region, boxes, region
from .space import ANYTHING, NOTHING, Atom, Matcher, Mentions, Selector, Signature, Space, add_kind, of_builtin, of_own

#: Classes of questions that are asked about, at most; each takes some microseconds.
LIMIT: Final = 500_000

#: Classes that a rule matches, up to which there is no looking for those that another one matches too.
SMALL: Final = 4_096

#: A rule, by side and number; and what it says of one action.
By = tuple[int, int]
Shape = tuple[Any, ...]

#: Answers, the facts that they are given about, and whether it is certain that there are any.
_Answers = tuple[PolicyResult, PolicyResult, tuple[FactRegion, ...], bool]
#: These, and the three regions that they are given in.
_Change = tuple[_Answers, tuple[Region, Region, Region]]

Effect = Literal["allowed", "denied", "reason"]

_OLD, _NEW = 0, 1
_ACTORS: Final[dict[str, type[User | Service | CompilerTool]]] = dict(
    zip(ACTOR_KINDS[1:], (User, Service, CompilerTool), strict=True)
)
_SECTION: Final = "section"
#: The facts by which conditions can tell apart actors, modes and resources that lists do not.
_TOLD_APART: Final = ({"actor.id", "actor.kind"}, {"env.mode"}, {"resource.id", "resource.kind"})


class AnswerChange(msgspec.Struct, frozen=True):
    """Questions whose answer changed: those about one of ``actions`` which are in all three regions.

    ``effect`` is what became of them: ``allowed``, ``denied``, or (denied before as well) another ``reason``.

    Where conditions make a difference, it is about the facts in one of the regions ``facts``. Each of these has a
    question if ``is_certain``; else it is not decided. The ``example`` is a question, if one was found.
    """

    effect: Effect
    before: PolicyResult
    after: PolicyResult
    actions: tuple[str, ...]
    actors: Region
    modes: Region
    resources: Region
    facts: tuple[FactRegion, ...] = ()
    is_certain: bool = True
    example: PolicyInput | None = None


class Difference(msgspec.Struct, frozen=True):
    """All changes, none of which overlap, and how many classes of questions were asked about.

    ``recorded`` are the changes that there would be if all rules counted that only monitor, on both sides. It is empty
    where no such rule is on either side.
    """

    changes: tuple[AnswerChange, ...]
    classes: int
    recorded: tuple[AnswerChange, ...] = ()

    @property
    def is_exact(self) -> bool:
        """Whether it is certain of each change that there is a question with it."""
        return all(change.is_certain for change in (*self.changes, *self.recorded))


def difference(old: RuntimePolicy, new: RuntimePolicy, *, limit: int = LIMIT) -> Difference:
    """Return what changes from ``old`` to ``new``. Raises :class:`ConfigError` above ``limit`` classes."""
    changes, classes = _changes(old, new, limit)
    if old.monitored is None and new.monitored is None:
        return Difference(changes, classes)
    recorded, more = _changes(old.counting_all(), new.counting_all(), limit - classes)
    return Difference(changes, classes + more, recorded)


def answer_changes(
    old: RuntimePolicy, new: RuntimePolicy, limit: int, names: Iterable[str]
) -> tuple[AnswerChange, ...]:
    """Return the changes that are about actions of these ``names``. Raises as :func:`difference`."""
    return _changes(old, new, limit, names)[0]


def _changes(
    old: RuntimePolicy, new: RuntimePolicy, limit: int, names: Iterable[str] | None = None
) -> tuple[tuple[AnswerChange, ...], int]:
    """Return the changes and how many classes of questions were asked about."""
    names_by_change: dict[_Change, list[str]] = {}
    examples: dict[_Change, PolicyInput | None] = {}
    classes, decided = 0, Decided()
    for name in sorted({*old.actions, *new.actions} if names is None else names):
        compared = _Action(name, (old, new), decided)
        cells = compared.cells(limit - classes)
        classes += len(cells)
        for change, example in compared.changes(cells):
            names_by_change.setdefault(change, []).append(name)
            examples.setdefault(change, example)
    changes = []
    for change, names in names_by_change.items():
        (before, after, facts, is_certain), (actors, modes, resources) = change
        answers = _effect(before, after), before, after, tuple(names)
        changes.append(AnswerChange(*answers, actors, modes, resources, facts, is_certain, examples[change]))
    order = ("allowed", "denied", "reason")
    return tuple(sorted(changes, key=lambda change: order.index(change.effect))), classes


def _effect(before: PolicyResult, after: PolicyResult) -> Effect:
    if isinstance(before, Allow) == isinstance(after, Allow):
        return "reason"
    return "allowed" if isinstance(after, Allow) else "denied"


class _Action:
    """One action, and what the two sides' rules and sections tell apart of questions about it."""

    def __init__(self, name: str, sides: tuple[RuntimePolicy, RuntimePolicy], decided: Decided) -> None:
        self._decided = decided
        self._paths: dict[tuple[Branches, ...], list[Path]] = {}
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
        names = self._spoken()
        self._classes = [
            list(space.classes().items()) if names.isdisjoint(told) else space.singles()
            for space, told in zip(self._spaces, _TOLD_APART, strict=True)
        ]
        self._index = [_by_rule(classes) for classes in self._classes]

    def _spoken(self) -> set[str]:
        """Return the facts that conditions of the rules speak of."""
        names: set[str] = set()
        for (side, _), rule in self._rules.items():
            conditions = self._sides[side].conditions
            if conditions is not None and rule.when is not None:
                names |= set(facts_in(conditions.nodes[rule.when]))
        return names

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
        shapes = {by: _shape(self._sides[by[0]], rule) for by, rule in self._rules.items()}
        boxes = {by: self._box(by, every) for by in shapes}
        listed = frozenset(number for number in every[2] if any(self._admitted(number)))
        differing, common = _differing(shapes)
        if len(differing) * len(shapes) > 100 * limit:
            raise self._too_many(limit)
        for by in differing:
            actors, modes, resources = boxes[by]
            denies, *_, reason, _ = shapes[by]
            is_quiet = denies and reason == Reason.NOT_IN_ALLOWLIST and self._rules[by].when is None
            is_loud = shapes[by] not in common and not is_quiet
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

    def changes(self, cells: set[Cell]) -> Iterator[tuple[_Change, PolicyInput | None]]:
        """Yield what each change is, with a question, where facts make a difference."""
        changed: dict[_Answers, set[Cell]] = {}
        examples: dict[tuple[_Answers, Cell], PolicyInput | None] = {}
        for cell in sorted(cells):
            asked = self._question(cell)
            sides = tuple(side.branches(asked) for side in self._sides)
            if not any(side.denials or side.allows for side in sides):
                before, after = (side.otherwise for side in sides)
                if before != after:
                    changed.setdefault((before, after, (), True), set()).add(cell)
                continue
            for answers, example in self._changes_of_facts(cell, sides):
                changed.setdefault(answers, set()).add(cell)
                examples[answers, cell] = example
        for answers, cells_of_answers in changed.items():
            for box in boxes(cells_of_answers):
                actors, modes, resources = (
                    region(space, frozenset(atom for number in numbers for atom in classes[number][1]))
                    for space, classes, numbers in zip(self._spaces, self._classes, box, strict=True)
                )
                cell = min(product(*box))
                example = examples[answers, cell] if answers[2] else self._plain(cell)
                yield (answers, (actors, modes, resources)), example

    def _changes_of_facts(
        self, cell: Cell, sides: tuple[Branches, ...]
    ) -> Iterator[tuple[_Answers, PolicyInput | None]]:
        """Yield the changes of one class that depend on facts."""
        differing: dict[tuple[PolicyResult, ...], list[tuple[Wish, ...]]] = {}
        if sides not in self._paths:
            self._paths[sides] = paths(sides)
        for wishes, answers in self._paths[sides]:
            if answers[_OLD] != answers[_NEW]:
                differing.setdefault(answers, []).append(wishes)
        if not differing:
            return
        asking = self._asked(cell, *nodes_of(sides))
        for (before, after), ways in differing.items():
            regions: list[FactRegion] = []
            examples: list[PolicyInput | None] = []
            for wishes in ways:
                example = asking.example(wishes, lambda question: self._answers(question) == (before, after))  # noqa: B023
                if not isinstance(example, str):
                    regions.append(region_of(wishes))
                    examples.append(example)
            if regions:
                shown = next((each for each in examples if each is not None), None)
                yield (before, after, tuple(regions), None not in examples), shown

    def _plain(self, cell: Cell) -> PolicyInput | None:
        """Return a question of a class in which facts make no difference."""
        question = self._asked(cell).example((), lambda _: True)
        return None if isinstance(question, str) else question

    def _asked(self, cell: Cell, *nodes: Node) -> AskedClass:
        atoms = [classes[at][1] for classes, at in zip(self._classes, cell, strict=True)]
        names = set().union(*map(facts_in, nodes))
        return AskedClass(self._question(cell), self._spaces, atoms, names, self._decided)

    def _answers(self, question: PolicyInput) -> tuple[PolicyResult, ...]:
        return tuple(side.evaluate(question) for side in self._sides)

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


def _shape(policy: RuntimePolicy, rule: Rule) -> Shape:
    """Return what a rule says of one action, whatever the order in its lists; first whether it denies."""
    when = None if policy.conditions is None or rule.when is None else policy.conditions.nodes[rule.when]
    lists = (None if entries is None else frozenset(entries) for entries in (rule.actors, rule.modes, rule.resources))
    return (rule.denies, *lists, rule.reason if rule.denies else None, when)


def _admits(entry: ActionEntry | None, is_listed: bool) -> bool:
    if entry is None or entry.section is None:
        return False
    return entry.section.entries is None or is_listed
