"""Values and their text."""

from __future__ import annotations

import json
import sys
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capgate.errors import BuiltinError
from capgate.rego import Number, Object, Set, Value
from capgate.rego.gotext import term
from capgate.rego.terms import equal, number, order, plain
from capgate.rego.value_text import dump, parse
from tests.support.tools import examples

from .strategies import HOSTILE, SPELLED, VALUES, nested

MANY = settings(max_examples=examples(200, quick=100), deadline=None)


@pytest.mark.slow
@MANY
@given(VALUES)
def test_values_survive_their_text(value: Value) -> None:
    read = parse(dump(value))
    assert equal(read, value)
    assert dump(read) == dump(value)
    assert "\\" in term(value) or equal(parse(term(value).encode()), value)  # Go's escapes are not all JSON's


@pytest.mark.slow
@MANY
@given(VALUES, VALUES, VALUES)
def test_the_order_is_total(one: Value, two: Value, three: Value) -> None:
    a, b, c = order(one), order(two), order(three)
    assert (a < b) + (b < a) + (a == b) == 1
    assert not (a <= b <= c) or a <= c
    if a == b:
        assert hash(a) == hash(b)


@pytest.mark.slow
@MANY
@given(st.lists(VALUES, max_size=6))
def test_sets_and_objects_know_neither_order_nor_repetition(items: list[Value]) -> None:
    assert equal(Set(items), Set([*reversed(items), *items]))
    assert equal(Object((item, 1) for item in items), Object((item, 1) for item in reversed(items)))
    assert [order(item) for item in Set(items)] == sorted({order(item) for item in items})


@pytest.mark.slow
@MANY
@given(st.lists(SPELLED, max_size=6))
def test_nor_does_their_text(items: list[Value]) -> None:
    assert dump(Set(items)) == dump(Set([*reversed(items), *items]))


@pytest.mark.slow
@MANY
@given(st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.text('aé\n"\\\x7f\u2028')), st.lists))
def test_json_is_read_as_the_standard_library_reads_it(raw: Any) -> None:
    for text in (json.dumps(raw), json.dumps(raw, ensure_ascii=False, indent=2)):
        assert equal(parse(text.encode()), plain(raw))
        assert json.loads(dump(plain(raw))) == raw


ORDERED = [
    *("null", "false", "true", "-1e3", "-1", "0", "0.5", "1", "1.5", "99999999999999999999"),
    *('""', '"A"', '"a"', '"ab"', '"é"', '"\U0001f600"', "[]", "[0]", "[0, 0]", "[1]", '["a"]'),
    *("{}", '{"a": 1}', '{"a": 1, "b": 0}', '{"a": 2}', '{"b": 0}', "set()", "{1}", "{1, 2}", "{2}"),
]


def test_rego_s_order() -> None:
    values = [parse(text.encode()) for text in ORDERED]
    assert [order(value) for value in values] == sorted(order(value) for value in reversed(values))
    assert len({order(value) for value in values}) == len(values)


def test_numbers_are_exact_and_keep_their_text() -> None:
    assert parse(b"123456789012345678901234567890") == 123456789012345678901234567890
    for text in ("1.0", "1.10", "1e3", "1E+3", "0.1000000000000000055511151231257827", "-0.0", "1e-999999"):
        value = parse(text.encode())
        assert isinstance(value, Number)
        assert value == Decimal(text)
        assert dump(value) == text.encode()
    assert equal(parse(b"[1, {1.0: 2e0}]"), parse(b"[1.00, {1: 2}]"))
    assert not equal(parse(b"[1]"), parse(b"[true]"))
    assert len(Set([1, True, number("1.0"), 0, False])) == 4
    assert dump(parse(b'{"a": {1, 2.50}, 3: set(), [1]: {}}')) == b'{3:set(),"a":{1,2.50},[1]:{}}'


BAD = [
    *(b"", b" ", b"nul", b"True", b"NaN", b"Infinity", b"-", b"+1", b"01", b"1.", b".5", b"1e", b"0x1", b"1 2", b"1,"),
    *(
        b'"',
        b'"a',
        b'"\\x"',
        b'"\n"',
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b"'a'",
        b"\xff",
        b'"\xed\xa0\x80"',
        b"\xef\xbb\xbf1",
    ),
    *(b"[", b"[1", b"[1,", b"[1,]", b"[,1]", b"[1 2]", b"]", b"{", b"{1", b"{1,", b"{1,}", b"{:1}", b'{"a"', b'{"a":'),
    *(
        b'{"a":1,}',
        b'{"a":1,"b"}',
        b'{"a","b":1}',
        b'{"a":1:2}',
        b"set",
        b"set(",
        b"set(1)",
        b"set ()",
        b"{set()",
        b"{,}",
    ),
    *(b'{"a":1,"a":2}', b"{1, 1.0}", b"{1: 2, 1.0: 3}", b"9" * 641, b"1e1000000", b"1e99999999999", b"[1]x"),
    *(b"[" * 101 + b"]" * 101, b"[" * 100_000, b'{"a":' * 5_000, b"{" * 5_000, b"{[" * 5_000),
]


@pytest.mark.parametrize("data", BAD, ids=lambda data: repr(data[:20]))
def test_other_text_is_refused(data: bytes) -> None:  # M5
    with pytest.raises(BuiltinError):
        parse(data)


@pytest.mark.sampled
@MANY
@given(st.text('[]{}(),:"\\ 0123.eE-nulltrsf\ud800é', max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        value = parse(text.encode("utf-8", "surrogatepass"))
    except BuiltinError:
        return
    assert equal(parse(dump(value)), value)


@pytest.mark.parametrize("value", [nested(101), ("\ud800",), 10**700, 1.5, [1], object(), Set(["\udfff"]), b"x"])
def test_what_is_no_value_is_not_written(value: Any) -> None:
    with pytest.raises(BuiltinError):
        dump(value)


def test_depth_has_a_bound_and_reaches_it() -> None:
    assert parse(b"[" * 100 + b"]" * 100) == parse(dump(parse(b"[" * 100 + b"]" * 100)))
    deep = nested(100)
    assert equal(parse(dump(deep)), deep)


def test_hostile_values_are_written_or_refused() -> None:
    for value in HOSTILE:
        try:
            data = dump(value)  # type: ignore[arg-type]
        except BuiltinError:
            continue
        assert dump(parse(data)) == data


MODULUS = sys.hash_info.modulus


@pytest.mark.parametrize("text", ["{}", "-{}", "{}.5", "{}e5", "{}.25e-3", "{}.0"])
def test_numbers_of_one_hash_do_not_crowd_a_dictionary(text: str) -> None:
    """Python's hash of a number is its remainder by a prime: whoever knows that has as many of one hash as he likes."""
    factor = pow(10, 5, MODULUS) if "e" in text else 1
    numbers = [number(text.format(count * MODULUS * factor)) for count in range(1, 1_000)]
    assert len({hash(order(item)) for item in numbers}) > 990
    assert len(Object((item, None) for item in numbers)) == len(numbers)


@pytest.mark.parametrize(
    "texts",
    [
        ("0", "-0", "0.0", "-0e9", "0e-999999"),
        ("1", "1.0", "10e-1", "0.1e1"),
        (str(MODULUS * 7), f"{MODULUS * 7}.00", f"{MODULUS * 70}e-1"),
        ("1" + "0" * 600, "1e600", "0.1e601"),
        ("1e700", "10e699", "0.1e701"),
        ("1.5", "1.50", "15e-1", "0.15e1"),
        ("1e-999999", "1.0e-999999"),
    ],
)
def test_equal_numbers_are_one_key(texts: tuple[str, ...]) -> None:
    numbers = [number(text) for text in texts]
    assert len({order(item) for item in numbers}) == 1
    assert len({hash(order(item)) for item in numbers}) == 1
    assert len(Object((item, None) for item in numbers)) == 1


class Late(Exception):
    """There is no more time."""


@pytest.mark.parametrize("text", ["[" + "0," * 2_000 + "0]", "[" * 80 + "{1:[]}," * 1_000, "{" + "[[]]," * 1_000])
def test_reading_is_interrupted(text: str) -> None:
    """Whoever reads a text can look at the clock meanwhile, and end it."""
    looked: list[int] = []

    def look() -> None:
        looked.append(1)
        if len(looked) == 2:
            raise Late

    with pytest.raises(Late):
        parse(text.encode(), look)
