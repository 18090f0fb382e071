"""Whether conditions can be something together: what is shown is so, and what is said to be impossible never is."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capgate.conditions import Unknown, compile_conditions
from capgate.conditions.answers import IS_OF
from capgate.conditions.declaration import BUILTIN
from capgate.conditions.read import read_condition
from capgate.conditions.together import ALWAYS, EVERY, FALSE, TRUE, UNKNOWN, Wish, together

from ..support.tools import examples
from .generated import DECLARATION, conditions, facts


def wishes(*pairs: tuple[str, int]) -> list[Wish]:
    return [Wish(read_condition(text, DECLARATION), states) for text, states in pairs]


def is_real(name: str, value: object) -> bool:
    """Whether a question can have this: those facts that each has are of their types."""
    return name not in ALWAYS or IS_OF[BUILTIN[name]](value)


@pytest.mark.parametrize(
    "pairs",
    [
        [("args.amount > 3", TRUE), ("args.amount > 3", FALSE)],
        [("args.amount > 3", TRUE), ("args.amount > 3", UNKNOWN)],
        [("args.amount > 5", TRUE), ("args.amount > 3", FALSE)],
        [("args.amount > 5", TRUE), ("args.amount > 3", UNKNOWN)],
        [("args.amount > 5", TRUE), ("args.amount > 3", FALSE | UNKNOWN)],
        [("'a' in actor.roles", UNKNOWN)],
        [("'a' in actor.roles", TRUE), ("'a' in actor.roles || context.mfa", FALSE | UNKNOWN)],
        [("context.mfa && args.amount > 3", TRUE), ("context.mfa", UNKNOWN | FALSE)],
        [("context.mfa ? args.amount > 3 : true", UNKNOWN), ("context.mfa", FALSE)],
        [("!(context.mfa || args.amount > 3)", TRUE), ("args.amount <= 3", FALSE | UNKNOWN)],
        [("actor.id == 'a'", TRUE), ("actor.id == 'b' || actor.id == 'c'", TRUE | UNKNOWN)],
        [("has(args.amount)", UNKNOWN)],
        [("true", FALSE)],
    ],
)
def test_what_contradicts_is_impossible(pairs: list[tuple[str, int]]) -> None:
    assert together(wishes(*pairs)).possible is False


@pytest.mark.parametrize(
    "pairs",
    [
        [("args.amount > 3", TRUE), ("args.amount > 5", FALSE)],
        [("args.amount > 3", UNKNOWN), ("has(args.amount)", FALSE)],
        [("args.amount > 3", UNKNOWN), ("has(args.amount)", TRUE)],  # of another type
        [("args.amount * args.amount > 3", UNKNOWN), ("args.amount > 3", TRUE)],
        [("context.mfa || args.amount > 3", TRUE), ("context.mfa", UNKNOWN)],
        [("context.mfa && args.amount > 3", FALSE), ("args.amount > 3", UNKNOWN)],
        [("resource.owner == actor.id", UNKNOWN), ("actor.id == 'ada'", TRUE)],
        [],
    ],
)
def test_what_is_possible_is_shown(pairs: list[tuple[str, int]]) -> None:
    seen = together(wishes(*pairs))
    assert seen.possible is True
    assert seen.facts is not None


def test_what_is_not_decided_is_not_said_to_be_impossible() -> None:
    assert together(wishes(("args.amount + 1 > 5", TRUE), ("args.amount < 3", TRUE))).possible is None


@pytest.mark.sampled
def test_what_is_said_holds_of_whatever_facts() -> None:
    outcomes: Counter[bool | None] = Counter()
    states = st.integers(1, EVERY)

    @settings(max_examples=examples(600, quick=200))
    @given(
        st.lists(st.tuples(conditions(1), states), min_size=1, max_size=3), st.lists(facts(), min_size=3, max_size=6)
    )
    def check(pairs: list[tuple[str, int]], some: list[dict[str, object]]) -> None:
        seen = together(wishes(*pairs))
        outcomes[seen.possible] += 1
        compiled = compile_conditions([text for text, _ in pairs], DECLARATION)

        def fulfilled(given_facts: dict[str, object]) -> bool:
            for number, (_, wished) in enumerate(pairs):
                answer = compiled.answer(number, given_facts)
                state = UNKNOWN if isinstance(answer, Unknown) else TRUE if answer else FALSE
                if not state & wished:
                    return False
            return True

        if seen.possible is False:
            for given_facts in some:
                assert not fulfilled(
                    {**ALWAYS, **{name: value for name, value in given_facts.items() if is_real(name, value)}}
                )
        if seen.facts is not None:
            assert fulfilled(dict(seen.facts))

    check()
    assert min(outcomes[True], outcomes[False]) > 0
