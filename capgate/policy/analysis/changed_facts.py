"""Finds which change of one fact of a question would turn its answer round: each is tried through the whole policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from ...conditions import Facts, Junction, Node, Turn, candidates_of
from ...model import Allow, Anonymous, PolicyInput
from ..evaluate import RuntimePolicy
from ..rules import Rule
from ..wellformed import is_well_formed

#: Questions that are asked to find the changes for one answer.
ASKED: Final = 4_000
#: Facts that lists of rules are about, too: who asks, where, and for what.
_FIXED: Final = frozenset({"action", "env.mode", "env.service", "resource.id", "resource.kind"})
_BEHALF: Final = "on_behalf_of"


def turns_of_answer(policy: RuntimePolicy, rules: Sequence[Rule], input: PolicyInput) -> tuple[Turn, ...]:
    """Return for each fact that conditions of ``rules`` speak of a change of it alone that turns the answer round.

    Looked at are values around literals and other facts, so some may be missed. Who asks for what stays as it is.
    """
    nodes = [] if policy.conditions is None else [policy.conditions.nodes[r.when] for r in rules if r.when is not None]
    if not nodes:
        return ()
    facts = policy.facts_of(input)
    allowed = isinstance(policy.evaluate(input), Allow)
    turns = []
    left = ASKED
    for name, values in _candidates(nodes, facts).items():
        changes = [Turn(name, value) for value in values]
        if name in facts:
            changes.append(Turn(name, None, goes=True))
        for turn in changes:
            left -= 1
            asked = None if left < 0 else changed_question(input, {turn.fact: turn})
            if asked is not None and isinstance(policy.evaluate(asked), Allow) is not allowed:
                turns.append(turn)
                break
    return tuple(turns)


def _candidates(nodes: Sequence[Node], facts: Facts) -> dict[str, list[object]]:
    whole = nodes[0] if len(nodes) == 1 else Junction("or", tuple(nodes))
    candidates = candidates_of(whole, facts)
    for name, values in candidates.items():
        has = facts.get(name)
        if isinstance(has, (int, float)):  # the nearest first
            values.sort(key=lambda value: _distance(value, has))
        if isinstance(has, (list, tuple)):  # one more, or one less, before all others
            members = dict.fromkeys(member for value in values if isinstance(value, list) for member in value)
            one_more = [[*has, member] for member in members if member not in has]
            values[:0] = [*one_more, *([other for other in has if other != member] for member in has)]
    return candidates


def _distance(value: object, other: float) -> float:
    return abs(value - other) if isinstance(value, (int, float)) else 0


def changed_question(input: PolicyInput, turns: Mapping[str, Turn]) -> PolicyInput | None:
    """Return ``input`` with other facts; ``None`` where one of these cannot be changed, or the question be asked."""
    changed: PolicyInput | None = input
    for name, turn in turns.items():
        changed = None if changed is None else _changed(changed, name.split("."), turn)
    return changed if changed is not None and is_well_formed(changed) else None


def _changed(input: PolicyInput, path: list[str], turn: Turn) -> PolicyInput | None:
    root, name = path[0], path[-1]
    field, value = root, None
    if root == "now":
        field, value = "timestamp", None if turn.goes else turn.value
    elif ".".join(path) in _FIXED or (root == "actor" and name in ("id", "kind")):
        return None
    elif root == "actor":
        value = _changed_actor(input.actor, path[1:], turn)
    elif root != "resource":
        value = _less(getattr(input, root), name, turn)
    elif input.resource is not None:
        value = _with(input.resource, "attributes", _less(input.resource.attributes, name, turn))
    changed: PolicyInput | None = None if value is None else _with(input, field, value)
    return changed


def _changed_actor(actor: Any, path: list[str], turn: Turn) -> Any:
    if actor is None or isinstance(actor, Anonymous):
        return None
    if path[0] == _BEHALF:
        inner = _changed_actor(getattr(actor, _BEHALF), path[1:], turn)
        return None if inner is None else _with(actor, _BEHALF, inner)
    if path[0] not in ("roles", "scopes"):
        return _with(actor, "attributes", _less(actor.attributes, path[0], turn))
    if turn.goes or not isinstance(turn.value, (list, tuple)) or len(set(turn.value)) < len(turn.value):
        return None
    return _with(actor, path[0], tuple(turn.value))


def _with(value: Any, field: str, changed: object) -> Any:
    return msgspec.structs.replace(value, **{field: changed})


def _less(attributes: Mapping[str, Any], name: str, turn: Turn) -> dict[str, Any]:
    others = {key: value for key, value in attributes.items() if key != name}
    return others if turn.goes else {**others, name: turn.value}
