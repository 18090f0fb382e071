"""Decides whether several conditions can be something together: true, false, or not known.

It is proven that they cannot by taking them apart at their logic, of three values, into atoms (:mod:`.reach`). That
they can is shown by facts that were answered. What neither is done of is not decided.

A proof is of facts of which no condition would have to look at more elements than it may (:data:`.STEPS_LIMIT`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import combinations
from typing import Final, NamedTuple

import msgspec

from .answers import Evaluate, Facts, Unknown, function_of
from .nodes import Choice, Constant, Fact, Junction, Loop, Node, Operation, Plain
from .reach import Budget, TooMany, facts_in, nodes_in, samples, satisfy

#: What a condition may be. Of several, any will do.
TRUE, FALSE, UNKNOWN = 1, 2, 4
EVERY: Final = TRUE | FALSE | UNKNOWN
#: Checks for one question, and ways in which all can be as they are to be.
CHECKS: Final = 60_000
WAYS_LIMIT: Final = 500
#: Facts that each question has, with a value that each can have.
ALWAYS: Final[Mapping[str, object]] = {
    **{"action": "", "actor.kind": "user", "actor.roles": [], "actor.scopes": []},
    **{"env.mode": "prod", "env.service": "", "now": 0},
}
#: Operations that may have no value though their operands do.
_FAILING: Final = frozenset({"neg", "add", "sub", "mul", "timestamp"})
#: Facts that are left out together to have something that is not known.
_LEFT_OUT: Final = 3


class Wish(NamedTuple):
    """What a condition is to be: bits of :data:`TRUE`, :data:`FALSE` and :data:`UNKNOWN`."""

    node: Node
    states: int


class Together(msgspec.Struct, frozen=True):
    """Whether wishes can be fulfilled together: ``None`` is not decided. ``facts`` show it where they can."""

    possible: bool | None
    facts: Mapping[str, object] | None = None


def together(wishes: Sequence[Wish]) -> Together:
    """Return whether all ``wishes`` can be fulfilled by the same facts."""
    budget = Budget(CHECKS)
    checks = [(function_of(node), states) for node, states in wishes]
    is_certain = True
    try:
        if not checks:
            return Together(True, {})
        for guess in _guesses(wishes, budget):
            if _fulfils(checks, guess, budget):
                return Together(True, _smallest(checks, guess, budget))
        for way in _ways(wishes, budget):
            settled = _settled(way)
            if settled is None:
                continue
            budget.spend(1 + 40 * len(way))
            is_impossible, shown = satisfy(settled, budget)
            if shown is not None:
                for facts in _with_gaps(shown, way):
                    if _fulfils(checks, facts, budget):
                        return Together(True, _smallest(checks, facts, budget))
            is_certain = is_certain and is_impossible
    except TooMany:
        return Together(None)
    return Together(False if is_certain else None)


def _guesses(wishes: Sequence[Wish], budget: Budget) -> Iterator[dict[str, object]]:
    nodes = tuple(node for node, _ in wishes)
    spoken = {name: value for node in nodes for name in facts_in(node) if (value := ALWAYS.get(name)) is not None}
    for facts in samples(nodes[0] if len(nodes) == 1 else Junction("and", nodes), budget):
        yield {**spoken, **facts}


def _fulfils(checks: Sequence[tuple[Evaluate, int]], facts: Facts, budget: Budget) -> bool:
    for function, states in checks:
        answer = budget.answer(function, facts)
        state = UNKNOWN if isinstance(answer, Unknown) else TRUE if answer else FALSE
        if not state & states:
            return False
    return True


def _with_gaps(facts: Mapping[str, object], way: Mapping[Node, int]) -> Iterator[Mapping[str, object]]:
    """Yield ``facts``, and these without some of those that are wished not to be known."""
    spoken = {name: value for atom in way for name in facts_in(atom) if (value := ALWAYS.get(name)) is not None}
    facts = {**spoken, **facts}
    yield facts
    unknown = {name for atom, states in way.items() if states & UNKNOWN for name in facts_in(atom)}
    names = sorted(name for name in unknown if name in facts and name not in ALWAYS)
    for count in range(1, min(len(names), _LEFT_OUT) + 1):
        for gone in combinations(names, count):
            yield {name: value for name, value in facts.items() if name not in gone}


def _smallest(checks: Sequence[tuple[Evaluate, int]], facts: Facts, budget: Budget) -> Facts:
    """Return ``facts`` without those, and without those elements of lists, that it does not take."""
    for name, value in facts.items():
        smaller = [{other: kept for other, kept in facts.items() if other != name}] if name not in ALWAYS else []
        if isinstance(value, list):
            smaller += [{**facts, name: kept} for kept in ([], *([member] for member in value))]
        with suppress(TooMany):
            facts = next((each for each in smaller if _fulfils(checks, each, budget)), facts)
    return facts


def with_constants(node: Node, constants: Mapping[str, Plain]) -> Node:
    """Return ``node`` with the values of these facts in their place."""
    if isinstance(node, Fact):
        return Constant(node.type, constants[node.name]) if node.name in constants else node
    if isinstance(node, Operation):
        return Operation(node.type, node.name, tuple(with_constants(part, constants) for part in node.operands))
    if isinstance(node, Junction):
        return Junction(node.name, tuple(with_constants(part, constants) for part in node.parts))
    if isinstance(node, Choice):
        parts = (with_constants(part, constants) for part in (node.test, node.then, node.otherwise))
        return Choice(node.type, *parts)
    if isinstance(node, Loop):
        return Loop(node.name, with_constants(node.over, constants), node.loop, with_constants(node.body, constants))
    return node


# -- ways


def _ways(wishes: Sequence[Wish], budget: Budget) -> Iterator[dict[Node, int]]:
    """Yield each way to fulfil ``wishes``: what every atom is to be. Raises :class:`TooMany`."""
    stack: list[tuple[tuple[Wish, ...], dict[Node, int]]] = [(tuple(wishes), {})]
    steps = 0
    while stack:
        waiting, atoms = stack.pop()
        steps += 1
        if steps > WAYS_LIMIT:
            raise TooMany
        while waiting:
            budget.spend(1)
            (node, states), waiting = waiting[0], waiting[1:]
            if states == EVERY:
                continue
            branches = _branches(node, states)
            if branches is None:
                atoms[node] = atoms.get(node, EVERY) & states
                if not atoms[node]:
                    break
            elif len(branches) == 1:
                waiting = (*branches[0], *waiting)
            else:
                stack += [((*branch, *waiting), dict(atoms)) for branch in reversed(branches)]
                break
        else:
            yield atoms


def _branches(node: Node, states: int) -> Sequence[tuple[Wish, ...]] | None:
    """Return the ways in which a part can be one of ``states``, none where it cannot; ``None`` for an atom."""
    if isinstance(node, Constant):
        return [()] if states & (TRUE if node.value is True else FALSE) else []
    if isinstance(node, Operation) and node.name == "not":
        return [(Wish(node.operands[0], _negated(states)),)]
    if isinstance(node, Choice):
        ways = [
            (Wish(node.test, TRUE), Wish(node.then, states)),
            (Wish(node.test, FALSE), Wish(node.otherwise, states)),
        ]
        return [*ways, (Wish(node.test, UNKNOWN),)] if states & UNKNOWN else ways
    if not isinstance(node, Junction):
        return None
    if node.name == "or":  # as `and` of what is negated
        return [
            tuple(Wish(part, _negated(wished)) for part, wished in branch)
            for branch in _conjunctions(node.parts, _negated(states))
        ]
    return _conjunctions(node.parts, states)


def _negated(states: int) -> int:
    return (states & UNKNOWN) | (FALSE if states & TRUE else 0) | (TRUE if states & FALSE else 0)


def _conjunctions(parts: Sequence[Node], states: int) -> list[tuple[Wish, ...]]:
    """Return the ways in which ``&&`` of ``parts`` can be one of ``states``."""
    ways: list[tuple[Wish, ...]] = []
    if states & (TRUE | UNKNOWN) == TRUE | UNKNOWN:
        ways.append(tuple(Wish(part, TRUE | UNKNOWN) for part in parts))
    elif states & TRUE:
        ways.append(tuple(Wish(part, TRUE) for part in parts))
    if states & (FALSE | UNKNOWN) == FALSE | UNKNOWN and not states & TRUE:
        return [(Wish(part, FALSE | UNKNOWN),) for part in parts]
    if states & FALSE:
        ways += [(Wish(part, FALSE),) for part in parts]
    elif states & UNKNOWN and not states & TRUE:
        for chosen in range(len(parts)):
            ways.append(tuple(Wish(part, UNKNOWN if at == chosen else TRUE | UNKNOWN) for at, part in enumerate(parts)))
    return ways


# -- what cannot be unknown


def _settled(way: Mapping[Node, int]) -> dict[Node, bool] | None:
    """Return what the atoms of a way are that are certain, and ``None`` where one cannot be as it is to be."""
    states = dict(way)
    sure: set[tuple[str, str]] = set()
    while True:
        before = len(sure)
        for atom, wished in states.items():
            if not wished & UNKNOWN:
                sure |= _needed(atom)
        for atom, wished in states.items():
            if wished & UNKNOWN and not _may_be_unknown(atom, sure):
                states[atom] = wished & ~UNKNOWN
                if not states[atom]:
                    return None
        if len(sure) == before and all(
            not wished & UNKNOWN or _may_be_unknown(atom, sure) for atom, wished in states.items()
        ):
            return {atom: wished == TRUE for atom, wished in states.items() if wished in (TRUE, FALSE)}


def _needed(node: Node) -> set[tuple[str, str]]:
    """Return the facts, with their types, without which ``node`` has no value."""
    if isinstance(node, Fact):
        return {(node.name, node.type)}
    if isinstance(node, Operation):
        return set().union(*map(_needed, node.operands))
    if isinstance(node, Loop):
        return _needed(node.over)
    return _needed(node.test) if isinstance(node, Choice) else set()


def _may_be_unknown(atom: Node, sure: set[tuple[str, str]]) -> bool:
    for node in nodes_in(atom):
        if isinstance(node, Fact) and node.name not in ALWAYS and (node.name, node.type) not in sure:
            return True
        if isinstance(node, Operation) and node.name in _FAILING:
            return True
    return False
