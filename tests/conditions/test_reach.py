"""A condition that can never hold or never fail is told with its parts; what is said holds of whatever facts."""

from __future__ import annotations

from collections import Counter
from typing import Final

import pytest
from hypothesis import example, given, settings

from capgate.conditions import compile_conditions
from capgate.conditions.reach import Reach, reach_of
from capgate.conditions.read import read_condition

from ..support.tools import examples
from .generated import DECLARATION, conditions, facts

#: A list: two of them in loops in one another are looked at 8,190 times.
NINETY: Final = str([f"a{number}" for number in range(90)])


def reach(text: str) -> Reach:
    return reach_of(read_condition(text, DECLARATION))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("context.mfa && !context.mfa", ("context.mfa", "!context.mfa")),
        ("resource.open && args.amount > 5 && args.amount < 6", ("args.amount > 5", "args.amount < 6")),
        ("args.amount > 5.5 && args.amount < 6.0", ("args.amount > 5.5", "args.amount < 6.0")),
        ("args.amount > 9223372036854775807", ("args.amount > 9223372036854775807",)),
        ("args.rate > 1.0 && args.rate < 1.0", ("args.rate > 1.0", "args.rate < 1.0")),
        ("args.note == 'a' && context.mfa && args.note == 'b'", ("args.note == 'a'", "args.note == 'b'")),
        ("args.note in ['a', 'b'] && args.note in ['c']", ("args.note in ['a', 'b']", "args.note in ['c']")),
        (
            "args.note.startsWith('ab') && args.note.startsWith('b')",
            ("args.note.startsWith('ab')", "args.note.startsWith('b')"),
        ),
        (
            "args.note.endsWith('ab') && !args.note.contains('b')",
            ("args.note.endsWith('ab')", "!args.note.contains('b')"),
        ),
        ("'a' in actor.roles && !('a' in actor.roles)", ("'a' in actor.roles", "!('a' in actor.roles)")),
        (
            "now >= timestamp('2027-01-01T00:00:00Z') && now < timestamp('2026-01-01T00:00:00Z')",
            ("now >= timestamp('2027-01-01T00:00:00Z')", "now < timestamp('2026-01-01T00:00:00Z')"),
        ),
        ("!has(args.note) && args.note == 'a'", ("!has(args.note)", "args.note == 'a'")),
        ("args.note == actor.id && args.note != actor.id", ("args.note == actor.id", "args.note != actor.id")),
        (
            "(args.amount > 5 ? context.mfa : false) && args.amount < 3",
            ("args.amount > 5 ? context.mfa : false", "args.amount < 3"),
        ),
        ("(context.mfa && !context.mfa) || args.amount != args.amount", ("context.mfa", "!context.mfa")),
        ("size(args.note) == 1 && context.mfa && !context.mfa", ("context.mfa", "!context.mfa")),
        ("size(args.note) == 1 && !(size(args.note) == 1)", ("size(args.note) == 1", "!(size(args.note) == 1)")),
        ("1 > 2", ("1 > 2",)),
        ("false", ("false",)),
    ],
)
def test_what_can_never_hold_has_the_parts_that_contradict(text: str, parts: tuple[str, ...]) -> None:
    assert (reach(text).can_hold, reach(text).parts) == (False, parts)
    turned = reach(f"!({text})")
    assert (turned.can_fail, turned.parts) == (False, parts)


@pytest.mark.parametrize(
    "text",
    [
        "'support' in actor.roles && resource.owner == actor.tenant && args.amount <= 1000",
        "now >= timestamp('2027-01-01T00:00:00Z') || !context.mfa",
        "args.amount > 5 && args.amount < 7",
        "args.rate < 1.0 || args.rate >= 1.0",  # no number is neither
        "has(args.note) && args.note == 'a'",
        "actor.roles.exists(r, r == 'a')",
        "args.amount * 2 > 10",
        "actor.on_behalf_of.id == actor.id && has(actor.on_behalf_of)",
        "args.note.contains('x') && args.note.startsWith('a') && args.note.endsWith('b')",
        "actor.id in resource.tags && actor.id.startsWith('ab')",
        " && ".join(f"actor.{left} != {right}" for left, right in (("id", "args.note"), ("tenant", "args.note"))),
    ],
)
def test_what_can_be_both_has_facts_for_each(text: str) -> None:
    seen = reach(text)
    compiled = compile_conditions([text], DECLARATION)
    assert (seen.can_hold, seen.can_fail, seen.parts) == (True, True, ())
    assert seen.holding is not None
    assert compiled.answer(0, seen.holding) is True
    assert seen.failing is not None
    assert compiled.answer(0, seen.failing) is False


@pytest.mark.parametrize(
    "text",
    ["args.amount + 1 > 5 && args.amount < 3", "args.note < 'b' && args.note > 'a' && args.note.startsWith('c')"],
)
def test_what_is_not_decided_is_said_to_be_unknown(text: str) -> None:
    assert reach(text).can_hold is None


@pytest.mark.sampled
def test_what_is_said_holds_of_whatever_facts() -> None:
    outcomes: Counter[str] = Counter()

    @settings(max_examples=examples(200, quick=150))
    @given(conditions(2), facts(), facts(hostile=False))
    @example("has(context.mfa) || !has(context.mfa)", {}, {})  # few that are made up never hold, or always
    @example("args.amount == 1 && args.amount == 2", {}, {})
    def check(text: str, hostile: dict[str, object], plain: dict[str, object]) -> None:
        seen = reach(text)
        compiled = compile_conditions([text], DECLARATION)
        for given_facts in (hostile, plain):
            answer = compiled.answer(0, given_facts)
            assert not (answer is True and seen.can_hold is False)
            assert not (answer is False and seen.can_fail is False)
        outcomes[f"{seen.can_hold} {seen.can_fail}"] += 1

    check()
    assert {"True True", "True False", "False True"} <= set(outcomes)


@pytest.mark.parametrize(
    "text",
    [
        " && ".join(f"(args.amount == {number} || context.mfa)" for number in range(200)),
        " || ".join(f"(args.amount == {number} && args.note == '{number}')" for number in range(150)),
        " && ".join(f"args.note.contains('{number}')" for number in range(200)),
        " && ".join(f"'{number}' in resource.tags" for number in range(300)),
        " && ".join(["args.note != actor.id", "actor.id != actor.tenant", "actor.tenant != resource.owner"] * 50),
        "&&".join(["(context.mfa?resource.open:!resource.open)"] * 150),
        f"{NINETY}.exists(x, {NINETY}.all(y, x == y && resource.owner != y))",
    ],
)
def test_it_is_told_in_bounded_time(text: str) -> None:
    seen = reach(text)
    assert seen.can_hold is not False


def test_elements_that_are_looked_at_count_as_checks() -> None:
    assert reach("actor.id != actor.id").can_hold is False
    assert reach(f"{NINETY}.all(x, x in {NINETY}) && actor.id != actor.id").can_hold is None
