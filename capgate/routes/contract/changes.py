"""What changed from one contract to another, and whether more can happen afterwards, or less."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any, Final, Literal

import msgspec

from .handler import HandlerContract
from .parts import ZEROS, ContractAction, ContractRoute, ContractSection, quoted, route_key

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


class Change(msgspec.Struct, frozen=True):
    """One difference. ``field`` is where it is (``routes``, ``actions``, ``sections``, or a key that has no parts), and
    ``name`` of what in there; ``before`` and ``after`` are values, ``None`` where there is none; ``effect`` is ``None``
    where it is neither, or contracts do not tell; ``words`` say it to people, in printable ASCII."""

    field: str
    what: What
    name: str
    before: Any
    after: Any
    effect: Effect | None
    words: str


def changes(old: HandlerContract, new: HandlerContract) -> list[Change]:
    """Everything that differs from ``old`` to ``new``: nothing if and only if they are equal."""
    return [*_labels(old, new), *_routes(old, new), *_actions(old, new), *_sections(old, new)]


def _labels(old: HandlerContract, new: HandlerContract) -> Iterator[Change]:
    for field, attribute, label in _LABELS:
        before, after = getattr(old, attribute), getattr(new, attribute)
        if before != after:
            shown = ["none" if one in (None, ZEROS) else quoted(one) for one in (before, after)]
            words = f"{label} ({field}) was {shown[0]}, is {shown[1]}"
            yield Change(field, "changed", field, before, after, None, words)


# -- routes


def _routes(old: HandlerContract, new: HandlerContract) -> Iterator[Change]:
    before, after = _by_key(old.routes), _by_key(new.routes)
    for key in sorted({*before, *after}):
        for one, other in zip_longest(before.get(key, ()), after.get(key, ())):
            if one is None:
                effect: Effect | None = "widens" if _openness(other) else None
                yield Change("routes", "added", other.name, None, other, effect, f"new route {other}")
            elif other is None:
                effect = "narrows" if _openness(one) else None
                yield Change("routes", "removed", one.name, one, None, effect, f"no more route {one}")
            else:
                yield from _route(one, other)


def _by_key(routes: Iterable[ContractRoute]) -> dict[Any, list[ContractRoute]]:
    found: dict[Any, list[ContractRoute]] = {}
    for route in routes:
        found.setdefault(route_key(route), []).append(route)
    return found


def _openness(route: ContractRoute) -> int:
    return _OPENNESS.get(route.status, 1 if route.requirements else 2)


def _route(old: ContractRoute, new: ContractRoute) -> Iterator[Change]:
    name = old.name
    if old.status != new.status:
        words = f"route {name} was {quoted(old.status)}, is {quoted(new.status)}"
        effect = _direction(_openness(new) - _openness(old))
        yield Change("routes", "changed", name, old.status, new.status, effect, words)
    for one in old.requirements:
        if one not in new.requirements:  # where the route is still reached, it is with one question fewer
            effect = "widens" if _openness(new) else None
            yield Change("routes", "changed", name, one, None, effect, f"route {name} no longer needs {one}")
    for one in new.requirements:
        if one not in old.requirements:
            effect = "narrows" if _openness(old) else None
            yield Change("routes", "changed", name, None, one, effect, f"route {name} now needs {one}")


def _direction(more: int) -> Effect | None:
    return "widens" if more > 0 else "narrows" if more < 0 else None


# -- actions and sections


def _actions(old: HandlerContract, new: HandlerContract) -> Iterator[Change]:
    before, after = ({action.name: action for action in one.actions} for one in (old, new))
    for name in sorted({*before, *after}):
        if name not in before:
            yield Change("actions", "added", name, None, after[name], "widens", f"new action {name}")
        elif name not in after:
            yield Change("actions", "removed", name, before[name], None, "narrows", f"no more action {name}")
        else:
            yield from _metadata(before[name], after[name])


def _metadata(old: ContractAction, new: ContractAction) -> Iterator[Change]:
    for key in ContractAction.__struct_fields__:
        before, after = getattr(old, key), getattr(new, key)
        if before == after:
            continue
        effect: Effect | None = None
        if key == "resource_required":
            effect = "narrows" if after else "widens"
        elif key == "kind" and None in (before, after):
            effect = "widens" if after is None else "narrows"
        words = quoted(f"action {old.name}: {key} was {before!r}, is {after!r}")
        yield Change("actions", "changed", old.name, before, after, effect, words)


def _sections(old: HandlerContract, new: HandlerContract) -> Iterator[Change]:
    before, after = old.sections, new.sections
    for name in sorted({*before, *after}):
        one, other = before.get(name, _NOTHING), after.get(name, _NOTHING)
        for id in sorted({*one.static} ^ {*other.static}):
            if id in other.static:
                yield Change("sections", "added", name, None, id, "widens", quoted(f"section {name}: new entry {id}"))
            else:
                words = quoted(f"section {name}: no more entry {id}")
                yield Change("sections", "removed", name, id, None, "narrows", words)
        if one.dynamic != other.dynamic:
            words = "is dynamic: any entry, as requests tell" if other.dynamic else "is static: only the entries listed"
            effect = _direction(other.dynamic - one.dynamic)
            yield Change("sections", "changed", name, one.dynamic, other.dynamic, effect, f"section {name} {words}")
