"""Bytes are read back only if they were written, and say the same in Python and in the guest; others never hang."""

from __future__ import annotations

import contextlib
import struct
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capgate.conditions import Conditions, compile_conditions, condition_table
from capgate.conditions.condition_table import CONDITIONS_LIMIT, FACTS_LIMIT, code_size, read_table, write_table
from capgate.conditions.declaration import ATTRIBUTES_LIMIT, BUILTIN, DELEGATIONS
from capgate.conditions.fact_table import pack_facts
from capgate.conditions.nodes import Constant, Has, Junction, Operation
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


@pytest.mark.sampled
def test_a_code_is_as_long_as_is_said() -> None:
    @settings(max_examples=examples(500))
    @given(conditions(3))
    def check(text: str) -> None:
        compiled = compile_conditions([text], DECLARATION)
        (_, length) = struct.unpack("<II", compiled.data[codes_at(compiled.data) :][:8])
        assert code_size(compiled.nodes[0]) == length

    check()


def codes_at(data: bytes) -> int:
    facts, constants = struct.unpack_from("<II", data, 8)
    return 20 + 12 * int(facts) + 16 * int(constants)


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


def test_a_table_speaks_of_all_that_can_be_declared_and_of_no_more() -> None:
    assert ATTRIBUTES_LIMIT * (DELEGATIONS + 1) + len(BUILTIN) * (DELEGATIONS + 1) <= FACTS_LIMIT
    conditions = [Has(f"args.a{number}") for number in range(FACTS_LIMIT)]
    assert len(read_table(write_table(conditions)).facts) == FACTS_LIMIT
    with pytest.raises(ConfigError) as raised:
        write_table([*conditions, Has("args.b")])
    assert str(FACTS_LIMIT) in raised.value.valid


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
    heads = st.sampled_from((0x80, 0x90, 0x9A, 0xA0, 0xC0, 0xC1, 0xCA, 0xCB, 0xCF, 0xD9, 0xDB, 0xDC, 0xDD, 0xDE, 0xFF))
    changes = st.tuples(st.integers(0, 400), st.one_of(heads, st.integers(0, 255)))
    outcomes: Counter[str] = Counter()

    @settings(max_examples=examples(600, quick=200))
    @given(facts(), st.lists(changes, max_size=6), st.integers(0, 400), st.integers(0, len(TEXTS) - 1))
    def check(facts: dict[str, object], changes: list[tuple[int, int]], cut: int, number: int) -> None:
        packed = bytearray(pack_facts(compiled.facts, facts))
        for at, value in changes:
            packed[at % len(packed)] = value
        if cut < 200:
            del packed[cut % len(packed) :]
        try:
            code = counted.answer_packed(compiled.data, number, bytes(packed))
            assert code & 0xFF <= 6
            outcomes["answer"] += 1
        except GuestTrap:
            outcomes["trap"] += 1
        assert counted.spent < 200_000

    check()
    assert set(outcomes) == {"answer", "trap"}


@pytest.mark.sampled
def test_any_bytes_for_facts_trap_or_answer_within_their_fuel(counted: CountedConditionsGuest) -> None:
    compiled = compile_conditions(TEXTS, DECLARATION)
    header = pack_facts(compiled.facts, {})[:1]

    @settings(max_examples=examples(2_000))
    @given(st.binary(max_size=200), st.booleans(), st.integers(0, len(TEXTS) - 1))
    def check(content: bytes, is_array: bool, number: int) -> None:
        with contextlib.suppress(GuestTrap):
            counted.answer_packed(compiled.data, number, header + content if is_array else content)
        assert counted.spent < 200_000

    check()


#: Blocks for ``args.note == 'a' && 'a' in resource.tags``, which speaks of two facts.
NO_BLOCKS = {
    "nothing": b"",
    "no array": b"\xa1a",
    "too few": b"\x91\xa1a",
    "too many": b"\x93\xa1a\x90\xc0",
    "something behind it": b"\x92\xa1a\x90\xc0",
    "cut in a text": b"\x92\xa9a\x90",
    "a text of 4 GiB": b"\x92\xdb\xff\xff\xff\xffa\x90",
    "a list of 4 GiB": b"\x92\xa1a\xdd\xff\xff\xff\xff\xa1a",
    "an array of 4 GiB": b"\xdd\xff\xff\xff\xff\xa1a\x90",
    "a list in a list": b"\x92\xa1a\x91\x91\xa1a",
    "a number in a list": b"\x92\xa1a\x91\x01",
    "nil in a list": b"\x92\xa1a\x91\xc0",
    "a map that is not empty": b"\x92\xa1a\x81\xa1a\xa1a",
    "a map in the long form": b"\x92\xa1a\xde\x00\x00",
    "a float of 4 bytes": b"\x92\xca\0\0\0\0\x90",
    "bytes": b"\x92\xc4\x01a\x90",
    "an extension": b"\x92\xd4\x01a\x90",
    "what there is not": b"\x92\xc1\x90",
    "a number cut short": b"\x92\xa1a\xcf\0\0",
    "a count cut short": b"\x92\xa1a\xdd\0",
    "nothing behind the head": b"\x92",
    "lists in lists without end": b"\x92" * 70_000,
}


@pytest.mark.parametrize("packed", NO_BLOCKS.values(), ids=NO_BLOCKS)
def test_what_is_no_block_traps(counted: CountedConditionsGuest, packed: bytes) -> None:
    table = compile_conditions(["args.note == 'a' && 'a' in resource.tags"], DECLARATION).data
    for sound in (b"\x92\xa1a\x91\xa1a", b"\xdc\0\2\xd9\1a\xdd\0\0\0\1\xdb\0\0\0\1a"):
        assert counted.answer_packed(table, 0, sound) == 1
    with pytest.raises(GuestTrap):
        counted.answer_packed(table, 0, packed)
    assert counted.spent < 2_000


@pytest.mark.parametrize(
    ("packed", "value"),
    [
        *((b"\x07", 7), (b"\xcc\x07", 7), (b"\xcd\0\x07", 7), (b"\xce\0\0\0\x07", 7), (b"\xd0\x07", 7)),
        *((b"\xcf" + bytes(7) + b"\x07", 7), (b"\xd3" + bytes(7) + b"\x07", 7), (b"\xe0", -32), (b"\xff", -1)),
        *((b"\xd0\x80", -128), (b"\xd1\x80\0", -(2**15)), (b"\xd2\x80\0\0\0", -(2**31))),
        *((b"\xd3\x80" + bytes(7), -(2**63)), (b"\xcf\x7f" + b"\xff" * 7, 2**63 - 1), (b"\xcc\xff", 255)),
        *((b"\xcd\xff\xff", 2**16 - 1), (b"\xce\xff\xff\xff\xff", 2**32 - 1), (b"\x7f", 127)),
        *((b"\xcf\x80" + bytes(7), None), (b"\xcf" + b"\xff" * 8, None), (b"\xc0", None), (b"\x80", None)),
    ],
)
def test_an_int_is_read_in_each_of_its_forms(counted: CountedConditionsGuest, packed: bytes, value: int | None) -> None:
    text = f"args.amount == {7 if value is None else value}"
    code = counted.answer_packed(compile_conditions([text], DECLARATION).data, 0, b"\x91" + packed)
    assert (code == 1) == (value is not None)
    assert code & 0xFF in (1, 2, 3)


def test_the_latest_time_of_a_question_is_read(counted: CountedConditionsGuest) -> None:
    """That is an int without a sign."""
    compiled = compile_conditions(["now > timestamp('2554-07-21T23:34:33.709551614Z')"], DECLARATION)
    for now, later in ((2**64 - 1, True), (2**64 - 2, False), (2**63, False), (-1, False)):
        assert counted.answer(compiled.data, compiled.facts, 0, {"now": now}) is later
        assert compiled.answer(0, {"now": now}) is later


def test_without_a_block_each_fact_is_absent(counted: CountedConditionsGuest) -> None:
    compiled = compile_conditions(["has(args.note)", "args.note == ''", "args.amount == 1"], DECLARATION)
    codes = [counted.call("answer", *counted.placed(compiled.data), number, 0, 0) for number in range(3)]
    assert codes == [0, 2 | 1 << 8, 2]


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
    small, big = (spent(counted, text, make(size)) for size in (500, 2_000))
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
