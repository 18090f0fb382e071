"""The guest answers conditions as Python does, from the same bytes, on each engine."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from capgate.conditions import TOO_LONG, Unknown, compile_conditions
from capgate.conditions.condition_table import write_table
from capgate.conditions.nodes import Constant, Node, Operation, are_comparable
from capgate.errors import ConfigError

from ...conditions import suite
from ...conditions.edges import EDGES, STEPS
from ...conditions.generated import DECLARATION, conditions, facts
from ...support.tools import examples, require_module
from . import rebuild_conditions
from .conditions_in_guest import ConditionsGuest


@pytest.fixture(scope="module")
def guest(engine_name: str) -> ConditionsGuest:
    return ConditionsGuest(engine_name)


@pytest.mark.sampled
def test_generated_conditions_are_answered_as_in_python(guest: ConditionsGuest) -> None:
    outcomes: Counter[str] = Counter()

    @settings(max_examples=examples(80, quick=20))
    @given(st.lists(conditions(3), min_size=1, max_size=9), st.lists(facts(), min_size=1, max_size=9))
    def check(texts: list[str], questions: list[dict[str, object]]) -> None:
        compiled = compile_conditions(texts, DECLARATION)
        for number, question in itertools.product(range(len(texts)), questions):
            answer = compiled.answer(number, question)
            assert guest.answer(compiled.data, compiled.facts, number, question) == answer, texts[number]
            outcomes[answer.reason if isinstance(answer, Unknown) else str(answer)] += 1

    check()
    assert {"True", "False", "missing_fact", "wrong_type"} <= set(outcomes)


@pytest.mark.sampled
def test_what_takes_too_many_steps_is_unknown_at_the_same_step(guest: ConditionsGuest) -> None:
    """Long lists and texts, so that steps run out in the middle of conditions of every form."""
    outcomes: Counter[str] = Counter()
    words = st.sampled_from(("a", "é", "ab" * 16, "é" * 16, "x" * 31, "x" * 32, "x" * 400, "editor"))
    lists = st.tuples(st.lists(words, min_size=1, max_size=5), st.sampled_from((1, 10, 60, 1_000))).map(
        lambda drawn: drawn[0] * drawn[1]
    )
    texts = st.tuples(words, st.sampled_from((1, 8, 1_000, 20_000))).map(lambda drawn: (drawn[0] * drawn[1])[:40_000])

    @settings(max_examples=examples(400, quick=60))
    @example(
        ["actor.roles.exists(r, r in resource.tags)"],
        {},
        {"actor.roles": ["a"] * 51, "resource.tags": ["b"] * 51},
        {},
    )
    @given(
        st.lists(conditions(3), min_size=4, max_size=9),
        facts(),
        st.fixed_dictionaries({"actor.roles": lists, "resource.tags": lists, "actor.on_behalf_of.roles": lists}),
        st.fixed_dictionaries({"args.note": texts, "resource.owner": texts, "actor.id": texts, "actor.tenant": texts}),
    )
    def check(texts: list[str], question: dict[str, object], lists: dict[str, object], long: dict[str, object]) -> None:
        compiled = compile_conditions(texts, DECLARATION)
        given_facts = {**question, **lists, **long}
        for number, text in enumerate(texts):
            answer = compiled.answer(number, given_facts)
            assert guest.answer(compiled.data, compiled.facts, number, given_facts) == answer, text
            outcomes[answer.reason if isinstance(answer, Unknown) else str(answer)] += 1

    check()
    assert {"True", "False", "too_long"} <= set(outcomes)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("args.note == resource.owner", [(32 * n, 32 * n) for n in (2_500, 2_501)]),
        ("args.note < resource.owner", [(80_000, 80_031), (80_032, 80_032)]),
        ("args.note.contains(resource.owner)", [(19_000, 1_007), (19_000, 1_008)]),
        ("args.note.startsWith(resource.owner)", [(100_000, 80_031), (100_000, 80_032)]),
        ("args.note.endsWith(resource.owner)", [(100_000, 80_031), (100_000, 80_032)]),
        ("size(args.note) > 0 || resource.owner == ''", [(80_031, 1), (80_032, 1)]),
        ("args.note in ['a', 'b', 'c', 'd']", [(19_999, 0), (20_000, 0)]),
    ],
)
def test_texts_take_steps_by_their_bytes(guest: ConditionsGuest, text: str, steps: list[tuple[int, int]]) -> None:
    compiled = compile_conditions([text], DECLARATION)
    answers = []
    for letter, (note, owner) in itertools.product("aé", steps):
        size = len(letter.encode())
        given_facts = {
            "args.note": letter * (note // size) + "a" * (note % size),
            "resource.owner": letter * (owner // size) + "a" * (owner % size),
        }
        answer = compiled.answer(0, given_facts)
        assert guest.answer(compiled.data, compiled.facts, 0, given_facts) == answer
        answers.append(answer == Unknown(TOO_LONG))
    assert answers == [False, True] * 2


def test_edges_are_answered_as_cel_says(guest: ConditionsGuest) -> None:
    compiled = compile_conditions([edge.text for edge in (*EDGES, *STEPS)], DECLARATION)
    for number, edge in enumerate((*EDGES, *STEPS)):
        assert guest.answer(compiled.data, compiled.facts, number, edge.facts) == edge.answer, edge.text


def test_each_conformance_case_has_the_value_of_the_suite(
    guest: ConditionsGuest, capsys: pytest.CaptureFixture[str]
) -> None:
    counts: Counter[str] = Counter()
    otherwise = []
    for case in suite.cases():
        node = case.build()
        if isinstance(node, ConfigError):
            counts["refused"] += 1
            continue
        expected = None if case.expected is None else suite.constant(case.expected, node.type)
        compared = compared_with(node, expected)
        table, spoken = write_table([compared]), [(name, type) for name, type in case.spoken(node)]
        answer = guest.answer(table, tuple(spoken), 0, case.facts)
        counts["error" if expected is None else "value"] += 1
        if not (isinstance(answer, Unknown) if expected is None else answer is True):
            otherwise.append((case.name, case.text, answer))
    with capsys.disabled():
        print(f"\nCEL conformance in the guest: {dict(counts)}")
    assert otherwise == []
    assert counts == {"value": 316, "error": 14, "refused": 806}


def compared_with(node: Node, expected: Constant | None) -> Node:
    """A condition that holds where ``node`` has the value; where an error is expected, one that is the same error."""
    value = node if expected is None else expected
    assert are_comparable(node.type, value.type)
    return Operation("bool", "eq", (node, value))


@pytest.mark.sampled
def test_text_is_found_wherever_it_is(guest: ConditionsGuest) -> None:
    """Few letters, so that there are periods of every length."""
    compiled = compile_conditions(["args.note.contains(resource.owner)"], DECLARATION)
    seed = random.Random(7)
    for _ in range(examples(2_000, quick=500)):
        letters = seed.choice(("ab", "abc", "aé"))
        text = "".join(seed.choices(letters, k=seed.randrange(40)))
        part = "".join(seed.choices(letters, k=seed.randrange(9)))
        if seed.random() < 0.5 and text:
            start = seed.randrange(len(text))
            part = text[start : start + seed.randrange(20)]
        given_facts = {"args.note": text, "resource.owner": part}
        assert guest.answer(compiled.data, compiled.facts, 0, given_facts) == (part in text), (part, text)


@pytest.mark.slow
def test_the_source_gives_the_committed_bytes() -> None:
    require_module("ziglang")
    built = hashlib.sha256(rebuild_conditions.compile_guest()).hexdigest()
    assert built == hashlib.sha256(rebuild_conditions.COMMITTED.read_bytes()).hexdigest()
