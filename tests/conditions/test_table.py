"""Bytes are read back only if they were written, and say the same in Python and in the guest; others never hang."""

from __future__ import annotations

import struct
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capgate.conditions import Conditions, compile_conditions, condition_table
from capgate.conditions.condition_table import CONDITIONS_LIMIT, read_table, write_table
from capgate.conditions.nodes import Constant, Junction, Operation
from capgate.errors import ConfigError

from ..artifact.guest.conditions_in_guest import CountedConditionsGuest
from ..artifact.guest.guest import GuestTrap
from ..support.tools import examples
from .edges import EDGES
from .generated import DECLARATION, conditions, facts

TEXTS = (
    "'support' in actor.roles && resource.owner == actor.id && args.amount <= 1000",
    "now >= timestamp('2027-01-01T00:00:00Z') || !context.mfa",
    "actor.roles.exists(r, resource.tags.all(t, t in ['eu', 'us'] || t == r)) ? has(args.note) : 1 < args.amount + 2",
    "args.rate < 1.5 && args.rate in [0.5, 1.0]",
)


@pytest.mark.sampled
def test_generated_conditions_are_the_same_from_their_bytes() -> None:
    @settings(max_examples=examples(200, quick=50))
    @given(st.lists(conditions(3), max_size=4))
    def check(texts: list[str]) -> None:
        compiled = compile_conditions(texts, DECLARATION)
        assert write_table(read_table(compiled.data).conditions) == compiled.data

    check()


def test_one_text_is_one_code_and_constants_are_there_once() -> None:
    once = compile_conditions(["args.note == 'a rather long text'"], DECLARATION).data
    often = compile_conditions(["args.note == 'a rather long text'"] * 1_000, DECLARATION).data
    assert len(often) - len(once) == 999 * 8
    both = compile_conditions(["args.note == 'a rather long text'", "'a rather long text' == args.note"], DECLARATION)
    assert both.data.count(b"a rather long text") == 1


def test_what_python_takes_for_equal_is_told_apart() -> None:
    texts = ["1 == 1", "1.0 == 1.0", "true", "0.0 == -0.0", "[1] == [1.0]", "[0.0] == [-0.0]"]
    compiled = compile_conditions(texts, DECLARATION)
    assert [compiled.answer(number, {}) for number in range(len(texts))] == [True] * 6
    assert compiled.data == write_table(read_table(compiled.data).conditions)


def test_a_constant_that_is_spoken_of_often_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else bytes of 60 kB take ten seconds to be read, and four times as long where there are twice as many."""
    looked_at: list[Constant] = []
    key = condition_table._key

    def counted(constant: Constant) -> tuple[int, bytes]:
        looked_at.append(constant)
        return key(constant)

    monkeypatch.setattr(condition_table, "_key", counted)
    numbers = Constant("list of int", (1, 2, 3))
    data = write_table([Junction("and", (Operation("bool", "eq", (numbers, numbers)),) * 20)])
    assert looked_at.count(numbers) == 1
    looked_at.clear()
    read_table(data)
    assert looked_at.count(numbers) == 1


def test_a_table_has_so_many_conditions_and_no_more() -> None:
    with pytest.raises(ConfigError) as raised:
        write_table([Constant("bool", True)] * (CONDITIONS_LIMIT + 1))
    assert str(CONDITIONS_LIMIT) in raised.value.valid


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"CGW1",
        b"CGW1" + bytes(16),
        struct.pack("<4s4I", b"CGW1", 20, 2**32 - 1, 0, 0),
        struct.pack("<4s4I", b"CGW1", 20, 0, 2**32 - 1, 0),
        struct.pack("<4s4I", b"CGW1", 20, 0, 0, 2**32 - 1),
        compile_conditions(["true"], DECLARATION).data + b"\0",
        compile_conditions(["true"], DECLARATION).data[:-1],
    ],
)
def test_what_was_not_written_is_not_read(data: bytes) -> None:
    with pytest.raises(ConfigError):
        Conditions(data)


def test_conditions_of_a_table_give_bools() -> None:
    with pytest.raises(ConfigError):
        Conditions(write_table([Constant("int", 1)]))


@pytest.fixture(scope="module")
def counted() -> CountedConditionsGuest:
    return CountedConditionsGuest()


@pytest.mark.sampled
def test_changed_bytes_are_no_table_or_one_that_both_answer_alike(counted: CountedConditionsGuest) -> None:
    outcomes: Counter[str] = Counter()
    original = compile_conditions(TEXTS, DECLARATION).data

    @settings(max_examples=examples(400, quick=100))
    @given(
        st.lists(st.tuples(st.integers(0, len(original) - 1), st.integers(0, 255)), min_size=1, max_size=4),
        facts(),
        st.integers(0, len(TEXTS)),
    )
    def check(changes: list[tuple[int, int]], facts: dict[str, object], number: int) -> None:
        data = bytearray(original)
        for at, value in changes:
            data[at] = value
        try:
            compiled = Conditions(bytes(data))
        except ConfigError:
            spoken = read_table(original).facts
            outcomes["no table"] += 1
            try:
                counted.answer(bytes(data), spoken, number, facts)
            except (GuestTrap, KeyError, IndexError):  # or an answer that nobody would make of it
                outcomes["trap"] += 1
            assert counted.spent < 200_000
            return
        outcomes["table"] += 1
        if number < len(compiled):
            answer = counted.answer(compiled.data, compiled.facts, number, facts)
            assert answer == compiled.answer(number, facts)

    check()
    assert set(outcomes) == {"no table", "trap", "table"}


@pytest.mark.sampled
def test_changed_facts_trap_or_answer_within_their_fuel(counted: CountedConditionsGuest) -> None:
    compiled = compile_conditions(TEXTS, DECLARATION)
    outcomes: Counter[str] = Counter()

    @settings(max_examples=examples(600, quick=200))
    @given(st.binary(max_size=200), st.integers(0, 30), st.integers(0, len(TEXTS) - 1))
    def check(content: bytes, count: int, number: int) -> None:
        packed = struct.pack("<I", count) + content
        try:
            counted.answer_packed(compiled.data, number, packed)
            outcomes["answer"] += 1
        except GuestTrap:
            outcomes["trap"] += 1
        assert counted.spent < 200_000

    check()
    assert set(outcomes) == {"answer", "trap"}


def spent(counted: CountedConditionsGuest, text: str, facts: dict[str, object], others: int = 0) -> int:
    texts = [text, *(f"args.amount == {number}" for number in range(others))]
    compiled = compile_conditions(texts, DECLARATION)
    counted.answer(compiled.data, compiled.facts, 0, facts)
    return counted.spent


@pytest.mark.parametrize(
    ("text", "make"),
    [
        (
            "args.note.contains(resource.owner)",
            lambda n: {"args.note": "a" * n, "resource.owner": "a" * (n // 2) + "b"},
        ),
        (
            "args.note.contains(resource.owner)",
            lambda n: {"args.note": "ab" * n, "resource.owner": "b" + "ab" * (n // 2)},
        ),
        ("args.note.contains('aab')", lambda n: {"args.note": "a" * n}),
        ("size(args.note) == 1", lambda n: {"args.note": "é" * n}),
        ("args.note == resource.owner", lambda n: {"args.note": "a" * n, "resource.owner": "a" * n}),
        ("'b' in resource.tags", lambda n: {"resource.tags": ["a"] * n}),
        ("resource.tags.all(t, t != 'b')", lambda n: {"resource.tags": ["a"] * n}),
    ],
)
def test_fuel_is_linear_in_the_facts_that_are_looked_at(
    counted: CountedConditionsGuest, text: str, make: object
) -> None:
    assert callable(make)
    small, big = (spent(counted, text, make(size)) for size in (2_000, 8_000))
    assert 2 < big / small < 4.5


def test_fuel_is_not_that_of_other_conditions_and_facts(counted: CountedConditionsGuest) -> None:
    text, one_fact = "args.amount == -1", {"args.amount": 7}
    alone = spent(counted, text, dict(one_fact))
    assert spent(counted, text, dict(one_fact), others=1_000) == alone
    others = {f"args.a{number}": "x" * 50 for number in range(10_000)}
    assert spent(counted, text, {**others, **one_fact}) == alone


def test_ten_thousand_attributes_are_as_none(counted: CountedConditionsGuest) -> None:
    others: dict[str, object] = {f"args.a{number}": number for number in range(10_000)}
    for edge in EDGES:
        compiled = compile_conditions([edge.text], DECLARATION)
        assert compiled.answer(0, {**others, **edge.facts}) == edge.answer
        assert counted.answer(compiled.data, compiled.facts, 0, {**others, **edge.facts}) == edge.answer
