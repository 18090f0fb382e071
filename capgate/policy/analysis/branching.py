"""Divides the facts of a class of questions into the parts that conditions of policies tell apart.

A part is a path through the conditions, in the order in which they are looked at, with what each of them is. What no
facts are in is left out; where that is not decided, the part stays and has no example.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from ...conditions import FALSE, TRUE, UNKNOWN, Node, Wish, text_of
from ...errors import ConfigError
from ...model import ALLOW, Deny, PolicyResult, Reason
from ..evaluate import Branches

#: Paths through the conditions of one class of questions, at most, and conditions on one path.
PATHS_LIMIT: Final = 2_000
LENGTH_LIMIT: Final = 200
_MISSING: Final = Deny(Reason.MISSING_FACT)
_NOT_TRUE: Final = FALSE | UNKNOWN

#: What conditions are, in the order in which they were looked at, and the answer of each policy.
Path = tuple[tuple[Wish, ...], tuple[PolicyResult, ...]]


class FactRegion(msgspec.Struct, frozen=True, omit_defaults=True):
    """Facts of which the conditions ``true`` are so, the conditions ``false`` too, and so on, as text.

    ``unknown`` are those that are neither, and ``not_true`` those that are false or unknown.
    """

    true: tuple[str, ...] = ()
    false: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    not_true: tuple[str, ...] = ()


class _Needed(NamedTuple):
    """The condition on which an answer depends next."""

    node: Node


def paths(sides: Sequence[Branches]) -> list[Path]:
    """Return all paths through the conditions of ``sides``. No two of them have a question in common.

    Raises :class:`ConfigError` where there are more than :data:`PATHS_LIMIT`, or longer ones than :data:`LENGTH_LIMIT`.
    """
    denying = {node for side in sides for node, _ in side.denials}
    left = [PATHS_LIMIT]
    seen = f"{PATHS_LIMIT} ways and more through the conditions about one action, or {LENGTH_LIMIT} conditions"
    too_many = ConfigError("documents", seen, "fewer rules with conditions about the same questions; else --replay")

    def walk(states: Mapping[Node, int]) -> list[Path]:
        if len(states) > LENGTH_LIMIT:
            raise too_many
        answers = []
        for side in sides:
            answer = _answer(side, states)
            if isinstance(answer, _Needed):
                return split(answer.node, states)
            answers.append(answer)
        left[0] -= 1
        if left[0] < 0:
            raise too_many
        return [((), tuple(answers))]

    def split(node: Node, states: Mapping[Node, int]) -> list[Path]:
        parts = (TRUE, FALSE, UNKNOWN) if node in denying else (TRUE, _NOT_TRUE)
        below = [walk({**states, node: part}) for part in parts]
        if all(each == below[0] for each in below):
            return below[0]  # it makes no difference
        return [
            ((Wish(node, part), *wishes), answers)
            for part, inner in zip(parts, below, strict=True)
            for wishes, answers in inner
        ]

    return walk({})


def region_of(wishes: Sequence[Wish]) -> FactRegion:
    """Return what ``wishes`` say as text."""

    def texts(states: int) -> tuple[str, ...]:
        return tuple(text_of(node) for node, each in wishes if each == states)

    return FactRegion(texts(TRUE), texts(FALSE), texts(UNKNOWN), texts(_NOT_TRUE))


def nodes_of(sides: Sequence[Branches]) -> Iterator[Node]:
    """Yield every condition that the answers depend on."""
    for side in sides:
        yield from (node for node, _ in side.denials)
        yield from side.allows


def _answer(side: Branches, states: Mapping[Node, int]) -> PolicyResult | _Needed:
    for node, denial in side.denials:
        state = states.get(node)
        if state is None:
            return _Needed(node)
        if state != FALSE:
            return denial if state == TRUE else _MISSING
    for node in side.allows:
        state = states.get(node)
        if state is None:
            return _Needed(node)
        if state == TRUE:
            return ALLOW
    return side.otherwise
