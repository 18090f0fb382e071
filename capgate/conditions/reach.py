"""Decides whether a condition can hold and can fail, with facts that show it, or with the parts that contradict.

A condition is taken apart at its logic into atoms, and each way in which it could hold is tried. The atoms of a way
are put to candidates: of each fact, values around every literal that it is compared with. For atoms that are exact
(:func:`_is_exact`) those stand for all values there are, so that what no candidate satisfies nothing does. Of all
others only what was met counts: facts that are shown have been answered by the condition itself.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from .answers import IS_OF, STEPS_LIMIT, Answer, Evaluate, Facts, answer, function_of
from .declaration import BOOL, FLOAT, INT, LIST, STRING, TIMESTAMP
from .instants import EARLIEST, LATEST, is_timestamp
from .literals import INT_HIGHEST, INT_LOWEST, is_int
from .nodes import COMPARISONS, Choice, Constant, Fact, Has, Junction, Loop, Node, Operation
from .text import text_of

#: Ways to hold, candidates for the facts of one way, and atoms that are answered, each with the elements of lists that
#: it looks at, before it is said to be unknown.
WAYS_LIMIT: Final = 2_000
CANDIDATES_LIMIT: Final = 4_096
CHECKS_LIMIT: Final = 500_000
SAMPLES: Final = 256
#: Checks that it costs to get ready for one atom of one way.
_READY: Final = 40
_SUBSETS_OF: Final = 6


class Reach(msgspec.Struct, frozen=True):
    """Whether a condition can hold, and can fail; ``None`` is not known.

    ``holding`` and ``failing`` are facts of which it does. ``parts`` are those that contradict one another where it
    cannot hold, and those that leave nothing out where it cannot fail.
    """

    can_hold: bool | None
    can_fail: bool | None
    holding: Mapping[str, object] | None
    failing: Mapping[str, object] | None
    parts: tuple[str, ...]


def reach_of(node: Node) -> Reach:
    """Return what a condition can be, of facts that are all there and have their types."""
    budget = Budget()
    can_hold, holding = _can_be(node, True, budget)
    can_fail, failing = _can_be(node, False, budget)
    parts: tuple[Node, ...] = ()
    if can_hold is False:
        parts = _at_fault(node, True, budget)
    elif can_fail is False:
        parts = _at_fault(node, False, budget)
    return Reach(can_hold, can_fail, holding, failing, tuple(map(text_of, parts)))


class _Wish(NamedTuple):
    """What a part is to be."""

    node: Node
    value: bool


class Budget:
    """What may still be tried for one condition. Raises :class:`TooMany` where nothing is left."""

    def __init__(self, checks: int = CHECKS_LIMIT) -> None:
        self._left = checks

    def spend(self, checks: int) -> None:
        self._left -= checks
        if self._left < 0:
            raise TooMany

    def answer(self, function: Evaluate, facts: Facts) -> Answer:
        """Return what a function says of ``facts``, and spend what that takes."""
        left = [STEPS_LIMIT]
        answered = answer(function, facts, left)
        self.spend(1 + STEPS_LIMIT - left[0])
        return answered


def _can_be(node: Node, value: bool, budget: Budget) -> tuple[bool | None, Mapping[str, object] | None]:
    facts: Mapping[str, object] | None
    is_certain = True
    function = function_of(node)
    try:
        for facts in samples(node, budget):
            if budget.answer(function, facts) is value:
                return True, facts
        for atoms in _ways((_Wish(node, value),)):
            budget.spend(_READY * len(atoms))
            is_impossible, facts = satisfy(atoms, budget)
            if facts is not None and budget.answer(function, facts) is value:
                return True, facts
            is_certain = is_certain and is_impossible
    except TooMany:
        return None, None
    return (False if is_certain else None), None


class TooMany(Exception):
    """There are more ways than are tried."""


def samples(node: Node, budget: Budget) -> Iterator[dict[str, object]]:
    """Yield facts at random, the same for the same condition: they show most of what can be."""
    types = facts_in(node)
    literals = _Literals([node], len(types))
    candidates = {name: literals.candidates(type, strict=False) for name, type in types.items()}
    choice = random.Random(0).choice  # noqa: S311 - no secret
    budget.spend(_READY * sum(1 for _ in nodes_in(node)))
    for _ in range(SAMPLES if types else 1):
        yield present({name: choice(values) for name, values in candidates.items()})


def present(values: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not _ABSENT}


def _ways(wishes: tuple[_Wish, ...]) -> Iterator[dict[Node, bool]]:
    """Yield each way to fulfil all of ``wishes``: what every atom is to be."""
    stack: list[tuple[tuple[_Wish, ...], dict[Node, bool]]] = [(wishes, {})]
    steps = 0
    while stack:
        waiting, atoms = stack.pop()
        steps += 1
        if steps > WAYS_LIMIT:
            raise TooMany
        while waiting:
            (node, value), waiting = waiting[0], waiting[1:]
            branches = _branches(node, value)
            if branches is None:
                if atoms.setdefault(node, value) is not value:
                    break
            elif len(branches) == 1:
                waiting = (*branches[0], *waiting)
            else:
                stack += [((*branch, *waiting), dict(atoms)) for branch in reversed(branches)]
                break
        else:
            yield atoms


def _branches(node: Node, value: bool) -> Sequence[tuple[_Wish, ...]] | None:
    """Return the ways in which a part can be ``value``, none where it cannot; ``None`` for an atom."""
    if isinstance(node, Constant):
        return [()] if node.value is value else []
    if isinstance(node, Operation) and node.name == "not":
        return [(_Wish(node.operands[0], not value),)]
    if isinstance(node, Choice):
        return [
            (_Wish(node.test, True), _Wish(node.then, value)),
            (_Wish(node.test, False), _Wish(node.otherwise, value)),
        ]
    if not isinstance(node, Junction):
        return None
    if (node.name == "and") is value:
        return [tuple(_Wish(part, value) for part in node.parts)]
    return [(_Wish(part, value),) for part in node.parts]


def satisfy(atoms: Mapping[Node, bool], budget: Budget) -> tuple[bool, Mapping[str, object] | None]:
    """Return whether the atoms contradict for certain, and facts that satisfy all of them, if they are found."""
    facts: dict[str, object] = {}
    is_complete = True
    for group in _groups(atoms):
        exact = {atom: atoms[atom] for atom in group if _is_exact(atom)}
        exact = _of_one_kind(exact)
        if len(exact) < len(group):
            chosen = _choose({atom: atoms[atom] for atom in group}, budget)
            if chosen is not None:
                facts.update(chosen)
                continue
            is_complete = False
        try:
            chosen = _choose(exact, budget, strict=True)
        except TooMany:
            is_complete = False
            continue
        if chosen is None:
            return True, None
        facts.update(chosen)
    return False, facts if is_complete else None


def _groups(atoms: Iterable[Node]) -> list[list[Node]]:
    """Return the atoms, those together that have a fact in common."""
    groups: list[tuple[set[str], list[Node]]] = []
    for atom in atoms:
        names, members = set(facts_in(atom)), [atom]
        apart = []
        for group in groups:
            if group[0] & names:
                names |= group[0]
                members = group[1] + members
            else:
                apart.append(group)
        groups = [*apart, (names, members)]
    return [members for _, members in groups]


def nodes_in(node: Node) -> Iterator[Node]:
    yield node
    inner: tuple[Node, ...] = ()
    if isinstance(node, Operation):
        inner = node.operands
    elif isinstance(node, Junction):
        inner = node.parts
    elif isinstance(node, Choice):
        inner = (node.test, node.then, node.otherwise)
    elif isinstance(node, Loop):
        inner = (node.over, node.body)
    for child in inner:
        yield from nodes_in(child)


def facts_in(node: Node) -> dict[str, str]:
    """Return names and types of the facts in ``node``; those that are only looked for have no type."""
    types: dict[str, str] = {}
    for part in nodes_in(node):
        if isinstance(part, Fact):
            types[part.name] = part.type
        elif isinstance(part, Has):
            types.setdefault(part.name, "")
    return types


# -- what is decided exactly


def _is_exact(atom: Node) -> bool:
    """Say whether the candidates for the facts of ``atom`` stand for all their values."""
    if isinstance(atom, (Fact, Has)) or not facts_in(atom):
        return True
    if not isinstance(atom, Operation) or len(atom.operands) != 2:
        return False
    left, right = atom.operands
    if isinstance(left, Constant) and isinstance(right, Constant):
        return True
    if isinstance(left, Fact) and isinstance(right, Fact):
        return (atom.name in ("eq", "ne") and left.type == right.type in (STRING, BOOL, INT, TIMESTAMP)) or (
            atom.name == "in"
        )
    if atom.name in COMPARISONS:
        fact, literal = (left, right) if isinstance(left, Fact) else (right, left)
        return isinstance(fact, Fact) and isinstance(literal, Constant) and fact.type != LIST
    if atom.name == "in":
        return isinstance(left, Fact) == isinstance(right, Constant) and isinstance(right, (Fact, Constant))
    return atom.name in _SEARCHES and isinstance(left, Fact) and isinstance(right, Constant)


_SEARCHES: Final = ("starts", "ends", "contains")
_ORDERS: Final = ("lt", "le", "gt", "ge")


def _of_one_kind(atoms: dict[Node, bool]) -> dict[Node, bool]:
    """Leave out what the candidates do not stand for together.

    They do for comparisons of facts with one another, for searches in texts, and for the order of texts, not for two.
    """
    operations = [atom for atom in atoms if isinstance(atom, Operation)]
    between = {atom for atom in operations if all(isinstance(operand, Fact) for operand in atom.operands)}
    searches = {atom for atom in operations if atom.name in _SEARCHES}
    orders = {atom for atom in operations if atom.name in _ORDERS and STRING in (x.type for x in atom.operands)}
    left_out = searches | orders if between else orders if searches else set()
    return {atom: value for atom, value in atoms.items() if atom not in left_out}


# -- candidates

_ABSENT: Final = object()
#: Characters that are in no literal, for texts that are like none.
_FRESH: Final = "\U0010fffd"


def _choose(atoms: Mapping[Node, bool], budget: Budget, strict: bool = False) -> dict[str, object] | None:
    """Return facts of which every atom is what it is to be, or ``None`` where no candidates are such.

    With ``strict``, raises :class:`TooMany` where not all candidates are tried; else as many are as may be.
    """
    types: dict[str, str] = {}
    for atom in atoms:
        for name, type in facts_in(atom).items():
            types[name] = type or types.get(name, "")
    literals = _Literals(atoms, len(types))
    candidates = {name: literals.candidates(type, strict) for name, type in types.items()}
    if strict and math.prod(map(len, candidates.values())) > CANDIDATES_LIMIT:
        raise TooMany
    checks = [(function_of(atom), value) for atom, value in atoms.items()]
    for values in itertools.islice(itertools.product(*candidates.values()), CANDIDATES_LIMIT):
        budget.spend(1)
        facts = present(dict(zip(candidates, values, strict=True)))
        if all(budget.answer(function, facts) is value for function, value in checks):
            return facts
    return None


def candidates_of(node: Node, facts: Mapping[str, object]) -> dict[str, list[object]]:
    """Return for each fact of ``node`` values that may compare differently, those of ``facts`` among the literals."""
    types = facts_in(node)
    literals = _Literals([node], len(types))
    for name, type in types.items():
        if name in facts and type in IS_OF and IS_OF[type](facts[name]):
            literals.add(type, facts[name])
    return {
        name: [value for value in literals.candidates(type, strict=False) if value is not _ABSENT]
        for name, type in types.items()
    }


class _Literals:
    """The literals of some atoms by type, and what facts may be that are compared with them."""

    def __init__(self, atoms: Iterable[Node], facts: int) -> None:
        self._values: dict[str, list[Any]] = {INT: [], FLOAT: [], STRING: [], TIMESTAMP: []}
        self._parts: dict[str, list[str]] = {name: [] for name in _SEARCHES}
        self._facts = facts
        for node in itertools.chain.from_iterable(map(nodes_in, atoms)):
            if isinstance(node, Constant):
                values = node.value if isinstance(node.value, tuple) else (node.value,)
                type = {bool: BOOL, int: INT, float: FLOAT, str: STRING}[values[0].__class__] if values else ""
                for value in values:
                    self._values.setdefault(node.type if node.type == TIMESTAMP else type, []).append(value)
            elif isinstance(node, Operation) and node.name in _SEARCHES:
                part = node.operands[1]
                if isinstance(part, Constant):
                    self._parts[node.name].append(str(part.value))

    def add(self, type: str, value: Any) -> None:
        """Take a value for one more literal."""
        values = value if isinstance(value, (list, tuple)) else (value,)
        self._values.setdefault(STRING if type == LIST else type, []).extend(values)

    def candidates(self, type: str, strict: bool) -> list[object]:
        """Return values of a fact of ``type``, one for each way in which it can compare, and that it is absent."""
        values: list[object]
        if type == BOOL:
            values = [True, False]
        elif type == INT:
            values = [*self._ints()]
        elif type == FLOAT:
            values = [*self._floats()]
        elif type == STRING:
            values = [*self._strings(strict)]
        elif type == LIST:
            values = [*self._lists(strict)]
        elif type == TIMESTAMP:
            values = [*self._times()]
        else:
            values = ["there"]
        if strict and len(values) > CANDIDATES_LIMIT:
            raise TooMany
        return [*values[:CANDIDATES_LIMIT], _ABSENT]

    def _ints(self) -> list[int]:
        near = {*range(self._facts + 1), INT_LOWEST, INT_HIGHEST}
        for value in (*self._values[INT], *self._values[FLOAT]):
            whole = math.floor(max(-1e19, min(1e19, value)))
            near.update(range(whole - self._facts, whole + self._facts + 2))
        return sorted(filter(is_int, near), key=abs)

    def _floats(self) -> list[float]:
        near = [0.0, math.inf, -math.inf, math.nan]
        for value in (*self._values[FLOAT], *self._values[INT]):
            number = float(value)
            near += (number, math.nextafter(number, math.inf), math.nextafter(number, -math.inf))
        return list(dict.fromkeys(near))

    def _times(self) -> list[int]:
        near = {*range(self._facts + 1), EARLIEST, LATEST}
        for value in self._values[TIMESTAMP]:
            near.update(range(value - self._facts, value + self._facts + 1))
        return sorted(filter(is_timestamp, near), key=abs)

    def _strings(self, strict: bool) -> list[str]:
        texts = dict.fromkeys([*self._values[STRING], *(f"{text}\0" for text in self._values[STRING]), ""])
        texts |= dict.fromkeys(_FRESH * count for count in range(1, self._facts + 1))
        contained = list(dict.fromkeys(self._parts["contains"]))
        if strict and len(contained) > _SUBSETS_OF:
            raise TooMany
        if any(self._parts.values()):
            for count in range(min(len(contained), _SUBSETS_OF) + 1):
                for inside in itertools.combinations(contained, count):
                    for start, end in itertools.product(("", *self._parts["starts"]), ("", *self._parts["ends"])):
                        if len(texts) > CANDIDATES_LIMIT:
                            return list(texts)
                        texts[_FRESH.join((start, *inside, end))] = None
                        texts[_FRESH.join((start, *inside, "", end))] = None
        return list(texts)

    def _lists(self, strict: bool) -> list[list[str]]:
        members = list(dict.fromkeys(self._values[STRING]))
        members += [_FRESH * count for count in range(1, self._facts)]
        if strict and len(members) > 2 * _SUBSETS_OF:
            raise TooMany
        members = members[: 2 * _SUBSETS_OF]
        sizes = range(len(members) + 1)
        return [list(chosen) for count in sizes for chosen in itertools.combinations(members, count)]


# -- what is at fault


def _at_fault(node: Node, value: bool, budget: Budget) -> tuple[Node, ...]:
    """Return the fewest parts of ``node`` that cannot all be ``value``."""
    while isinstance(node, Operation) and node.name == "not":
        node, value = node.operands[0], not value
    if not isinstance(node, Junction):
        return (node,)
    if (node.name == "and") is not value:
        return _at_fault(node.parts[0], value, budget)
    for part in node.parts:
        if _can_be(part, value, budget)[0] is False:
            return _at_fault(part, value, budget)
    for pair in itertools.combinations(node.parts, 2):
        if _can_be(Junction(node.name, pair), value, budget)[0] is False:
            return pair
    return node.parts
