"""Compares two contracts: says what changed, and whether more can happen afterwards, or less."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any, Final, Literal

import msgspec

from .handler_contract import (
    ZEROS,
    ContractAction,
    ContractRoute,
    ContractSection,
    HandlerContract,
    quoted,
    route_key,
)

What = Literal["added", "removed", "changed"]
#: ``widens``: afterwards more can happen, or the same with fewer questions; ``narrows``: the reverse.
Effect = Literal["widens", "narrows"]

_LABELS: Final = (
    ("policyHash", "policy_hash", "the action vocabulary"),
    ("wasmPolicyHash", "wasm_policy_hash", "the Wasm policy"),
    ("artifactSha256", "artifact_sha256", "the policy in force"),
    ("service", "service", "the service"),
)
#: What passes at a route of that status: nothing (0), or what a policy allows (1). Of any other everything (2), unless
#: something is known to be asked there.
_OPENNESS: Final = {"undeclared": 0, "unresolvable": 0, "declared": 1}
_NOTHING: Final = ContractSection((), False)


class ContractChange(msgspec.Struct, frozen=True, rename={"sentence": "words"}):
    """One difference.

    ``field`` is where it is: ``routes``, ``actions``, ``sections``, or a key that has no parts. ``name`` is that of the
    part. Of the values ``before`` and ``after``, one is ``None`` where there is none. The ``effect`` is ``None`` where
    it is neither, or contracts do not tell. The ``sentence`` says it to people, in printable ASCII.
    """

    field: str
    what: What
    name: str
    before: Any
    after: Any
    effect: Effect | None
    sentence: str


def changes(old: HandlerContract, new: HandlerContract) -> list[ContractChange]:
    """Return everything that differs from ``old`` to ``new``: nothing if and only if they are equal."""
    return [*_labels(old, new), *_routes(old, new), *_actions(old, new), *_sections(old, new)]


def _labels(old: HandlerContract, new: HandlerContract) -> Iterator[ContractChange]:
    for field, attribute, label in _LABELS:
        before, after = getattr(old, attribute), getattr(new, attribute)
        if before != after:
            was, now = ("none" if value in (None, ZEROS) else quoted(value) for value in (before, after))
            sentence = f"{label} ({field}) was {was}, is {now}"
            yield ContractChange(field, "changed", field, before, after, None, sentence)


# -- routes


def _routes(old: HandlerContract, new: HandlerContract) -> Iterator[ContractChange]:
    before, after = _by_key(old.routes), _by_key(new.routes)
    for key in sorted({*before, *after}):
        for route, successor in zip_longest(before.get(key, ()), after.get(key, ())):
            if route is None:
                effect: Effect | None = "widens" if _openness(successor) else None
                yield ContractChange(
                    "routes", "added", successor.name, None, successor, effect, f"new route {successor}"
                )
            elif successor is None:
                effect = "narrows" if _openness(route) else None
                yield ContractChange("routes", "removed", route.name, route, None, effect, f"no more route {route}")
            else:
                yield from _route(route, successor)


def _by_key(routes: Iterable[ContractRoute]) -> dict[Any, list[ContractRoute]]:
    by_key: dict[Any, list[ContractRoute]] = {}
    for route in routes:
        by_key.setdefault(route_key(route), []).append(route)
    return by_key


def _openness(route: ContractRoute) -> int:
    return _OPENNESS.get(route.status, 1 if route.requirements else 2)


def _route(old: ContractRoute, new: ContractRoute) -> Iterator[ContractChange]:
    name = old.name
    if old.status != new.status:
        sentence = f"route {name} was {quoted(old.status)}, is {quoted(new.status)}"
        effect = _direction(_openness(new) - _openness(old))
        yield ContractChange("routes", "changed", name, old.status, new.status, effect, sentence)
    for need in old.requirements:
        if need not in new.requirements:  # where the route is still reached, it is with one question fewer
            effect = "widens" if _openness(new) else None
            yield ContractChange("routes", "changed", name, need, None, effect, f"route {name} no longer needs {need}")
    for need in new.requirements:
        if need not in old.requirements:
            effect = "narrows" if _openness(old) else None
            yield ContractChange("routes", "changed", name, None, need, effect, f"route {name} now needs {need}")


def _direction(more: int) -> Effect | None:
    return "widens" if more > 0 else "narrows" if more < 0 else None


# -- actions and sections


def _actions(old: HandlerContract, new: HandlerContract) -> Iterator[ContractChange]:
    before, after = ({action.name: action for action in contract.actions} for contract in (old, new))
    for name in sorted({*before, *after}):
        if name not in before:
            yield ContractChange("actions", "added", name, None, after[name], "widens", f"new action {name}")
        elif name not in after:
            yield ContractChange("actions", "removed", name, before[name], None, "narrows", f"no more action {name}")
        else:
            yield from _metadata(before[name], after[name])


def _metadata(old: ContractAction, new: ContractAction) -> Iterator[ContractChange]:
    for key in ContractAction.__struct_fields__:
        before, after = getattr(old, key), getattr(new, key)
        if before == after:
            continue
        effect: Effect | None = None
        if key == "resource_required":
            effect = "narrows" if after else "widens"
        elif key == "kind" and None in (before, after):
            effect = "widens" if after is None else "narrows"
        sentence = quoted(f"action {old.name}: {key} was {before!r}, is {after!r}")
        yield ContractChange("actions", "changed", old.name, before, after, effect, sentence)


def _sections(old: HandlerContract, new: HandlerContract) -> Iterator[ContractChange]:
    before, after = old.sections, new.sections
    for name in sorted({*before, *after}):
        was, now = before.get(name, _NOTHING), after.get(name, _NOTHING)
        for id in sorted({*was.static} ^ {*now.static}):
            if id in now.static:
                sentence = quoted(f"section {name}: new entry {id}")
                yield ContractChange("sections", "added", name, None, id, "widens", sentence)
            else:
                sentence = quoted(f"section {name}: no more entry {id}")
                yield ContractChange("sections", "removed", name, id, None, "narrows", sentence)
        if was.dynamic != now.dynamic:
            kept = "is dynamic: any entry, as requests tell" if now.dynamic else "is static: only the entries listed"
            effect = _direction(now.dynamic - was.dynamic)
            yield ContractChange(
                "sections", "changed", name, was.dynamic, now.dynamic, effect, f"section {name} {kept}"
            )
