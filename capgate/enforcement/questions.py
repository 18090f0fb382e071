"""What a handler asks, as it writes it: an action, a resource, perhaps a hash; and the policy inputs made of it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any, Final, Union

from ..errors import MalformedInput
from ..model import Environment, PolicyInput, Resource

#: What is asked for: ``"kind:id"``, ``"kind"``, a resource, or nothing.
ResourceLike = Union[str, Resource, None]
#: One question: ``(action, resource)``, or with the SHA-256 of the arguments as third.
Question = Union[tuple[str, ResourceLike], tuple[str, ResourceLike, Union[str, None]]]

#: Questions in one batch. More are denied: a batch is answered without a pause for other tasks.
BATCH: Final = 1_000
_KIND: Final = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)


def inputs_of(questions: Sequence[Any], actor: Any, env: Environment) -> list[PolicyInput]:
    """One input for each of ``questions``. Raises :class:`MalformedInput`, or what unpacking something else raises."""
    if len(questions) > BATCH:
        raise MalformedInput(f"{len(questions)} questions at once, the limit is {BATCH}")
    now = time.time_ns()
    return [
        PolicyInput(action, actor, _resource(resource), _hash(rest) if rest else None, env, now)
        for action, resource, *rest in questions
    ]


def _hash(rest: list[Any]) -> Any:
    """What comes after the resource, which is one thing: whatever else was meant would not have been asked."""
    if len(rest) > 1:
        raise MalformedInput(f"a question has {len(rest) + 2} parts, at most 3")
    return rest[0]


def _resource(given: ResourceLike) -> Resource | None:
    if given is None or type(given) is Resource:
        return given
    if not isinstance(given, str):
        raise MalformedInput(f"a resource is 'kind:id' or a Resource, not a {type(given).__name__}")
    kind, colon, id = given.partition(":")
    if not _KIND.fullmatch(kind) or bool(colon) != bool(id):
        raise MalformedInput(f"{given[:100]!r} is not 'kind:id'")
    return Resource(kind, id or None)
