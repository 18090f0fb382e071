"""Documents of a given number of entries, and streams of questions about them. Everything random comes from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from capgate import PolicyInput, Resource, User

SIZES = (3, 100, 10_000)
STREAMS = ("same", "fresh")
ACTION, KIND, OPERATION = "db.write", "sql_query", "update"
EPOCH = 1_767_225_600_000_000_000


class Question(NamedTuple):
    """May ``who`` write to ``name``, at so many nanoseconds since the epoch? Each contender has a form of its own for
    it."""

    who: str
    name: str
    at: int


Form = Callable[[Question], Any]


def entry(number: int) -> str:
    return f"query_{number:06d}"


def document(size: int) -> dict[str, Any]:
    """A policy document with ``size`` entries, each of which admits one write by anybody."""
    return {"name": f"bench-{size}", "sql": [{"name": entry(n), "operation": OPERATION} for n in range(size)]}


def policy_input(question: Question) -> PolicyInput:
    """The form that capgate takes."""
    return PolicyInput(ACTION, User(question.who), Resource(KIND, question.name), timestamp=question.at)


def arguments(stream: str, size: int, seed: int, form: Form) -> Callable[[int], Sequence[Any]]:
    """A function that gives ``n`` questions in ``form`` about the document of ``size`` entries.

    ``"same"`` is one object again and again. ``"fresh"`` is each time another actor's question about another entry,
    drawn from the whole document, in new objects: the texts of its ids are new ones, too. The document admits both.
    ``"denied"`` is like ``"same"``, about something that it does not admit.
    """
    draw = random.Random(f"{seed} {stream} {size}")

    def ask() -> Any:
        who, name = f"user_{draw.randrange(10**6):06d}", entry(draw.randrange(size))
        return form(Question(who, name, EPOCH + draw.getrandbits(40)))

    if stream == "fresh":
        return lambda n: [ask() for _ in range(n)]
    one = form(denied(size)) if stream == "denied" else ask()
    return lambda n: [one] * n


def denied(size: int) -> Question:
    """A question that the document of ``size`` entries does not admit."""
    return Question("user_000001", entry(size), EPOCH)
