"""Builtins against Python's own library, where that does the same and shares no code."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
from urllib.parse import parse_qs, quote_plus

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from capgate.rego import BUILTINS, Context, Set, Value
from capgate.rego.base import INT_MAX, INT_MIN
from capgate.rego.terms import equal, number, plain
from tests.support.tools import examples

from .cases import NOW
from .strategies import TEXTS, VALUES

pytestmark = pytest.mark.slow

MANY = settings(max_examples=examples(150, quick=100), deadline=None)
INT64 = st.integers(INT_MIN, INT_MAX)


def call(name: str, *arguments: Value) -> Value:
    return BUILTINS[name].call(Context(NOW), *arguments)


@MANY
@given(st.text("-+ 0", max_size=3), st.integers(0, 30), st.none() | st.integers(0, 20), st.sampled_from("dxXo"), INT64)
def test_integers_are_printed_as_in_c(flags: str, width: int, precision: int | None, verb: str, value: int) -> None:
    assume(value != 0 or precision != 0)  # which Go prints as nothing, and Python does not
    assume("0" not in flags or precision is None)  # where Python goes on to pad with zeros
    format = f"%{flags}{width or ''}{'' if precision is None else f'.{precision}'}{verb}"
    assert call("sprintf", format, (value,)) == format % value


@MANY
@given(
    st.text("-+ 0", max_size=3),
    st.integers(0, 30),
    st.none() | st.integers(0, 20),
    st.sampled_from("eEfFgG"),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_floats_are_printed_as_in_c(flags: str, width: int, precision: int | None, verb: str, value: float) -> None:
    assume(verb in "eEfF" or precision is not None)  # Go prints the fewest digits, C six
    text = repr(value)
    format = f"%{flags}{width or ''}{'' if precision is None else f'.{precision}'}{verb}"
    assert call("sprintf", format, (number(text),)) == format % value


@MANY
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_printed_so_that_they_can_be_read(value: float) -> None:
    for verb in ("v", "g", "x", "b"):
        text = call("sprintf", f"%{verb}", (number(repr(value)),))
        assert isinstance(text, str)
        if verb == "x":
            assert float.fromhex(text) == value
        elif verb == "b":
            mantissa, exponent = map(int, text.split("p"))
            assert mantissa * 2**exponent == value if exponent >= 0 else mantissa / 2**-exponent == value
        else:
            assert float(text) == value


@MANY
@given(INT64)
def test_times_are_written_as_python_writes_them(nanoseconds: int) -> None:
    seconds, rest = divmod(nanoseconds, 10**9)
    at = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
    layout = "2006-01-02 15:04:05 Monday January Jan Mon 06 03 PM 002"
    assert call("time.format", (nanoseconds, "UTC", layout)) == at.strftime("%Y-%m-%d %H:%M:%S %A %B %b %a %y %I %p %j")
    assert call("time.date", nanoseconds) == (at.year, at.month, at.day)
    text = call("time.format", nanoseconds)
    assert call("time.parse_rfc3339_ns", text) == nanoseconds
    assert text == f"{at.isoformat()}{f'.{rest:09d}'.rstrip('0') if rest else ''}Z"


@MANY
@given(
    INT64, st.sampled_from(["America/New_York", "Asia/Kolkata", "Europe/Berlin", "Pacific/Apia", "Australia/Lord_Howe"])
)
def test_times_in_a_zone_are_read_back(nanoseconds: int, zone: str) -> None:
    for layout in ("RFC3339Nano", "Monday, 2 January 2006 3:04:05.999999999 PM Z07:00:00", "06/002"):
        text = call("time.format", (nanoseconds, zone, layout))
        if layout != "06/002" and not layout.startswith("RFC"):
            assert call("time.parse_ns", layout, text) == nanoseconds
    assert equal(call("time.diff", (nanoseconds, zone), nanoseconds), (0, 0, 0, 0, 0, 0))
    assert call("time.add_date", nanoseconds, 0, 0, 0) == nanoseconds


@MANY
@given(INT64, st.integers(-100_000, 100_000))
def test_days_are_added(nanoseconds: int, days: int) -> None:
    moved = nanoseconds + days * 86_400 * 10**9
    assume(INT_MIN <= moved <= INT_MAX)
    assert call("time.add_date", nanoseconds, 0, 0, days) == moved


@MANY
@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(20, 32)), max_size=12), st.booleans())
def test_networks_are_merged_as_python_collapses_them(pairs: list[tuple[int, int]], near: bool) -> None:
    networks = [
        ipaddress.IPv4Network((address % 2**12 if near else address, prefix), False) for address, prefix in pairs
    ]
    merged = call("net.cidr_merge", tuple(map(str, networks)))
    assert merged == Set(map(str, ipaddress.collapse_addresses(networks)))


@MANY
@given(TEXTS, st.dictionaries(TEXTS, st.lists(TEXTS, min_size=1, max_size=3), max_size=4))
def test_text_is_encoded_as_python_encodes_it(text: str, query: dict[str, list[str]]) -> None:
    assert call("urlquery.encode", text) == quote_plus(text)
    assert call("urlquery.decode", quote_plus(text)) == text
    encoded = call("urlquery.encode_object", plain(query))
    assert isinstance(encoded, str)
    assert parse_qs(encoded, keep_blank_values=True, strict_parsing=bool(encoded)) == query
    assert equal(call("urlquery.decode_object", encoded), plain(query))
    assert call("base64url.encode_no_pad", text) == base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    assert call("hex.decode", text.encode().hex()) == text


@MANY
@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text('aé"\n<&\u2028'), st.lists))
def test_json_is_read_by_others(raw: object) -> None:
    for options in ({}, {"indent": "  "}, {"pretty": True}):
        text = call("json.marshal_with_options", plain(raw), plain(options))
        assert isinstance(text, str)
        assert json.loads(text) == raw
    pretty = json.dumps(raw, ensure_ascii=False, indent="  ")
    for char in "<&\u2028":
        pretty = pretty.replace(char, f"\\u{ord(char):04x}")
    assert call("json.marshal_with_options", plain(raw), plain({"indent": "  "})) == pretty


@MANY
@given(st.lists(VALUES, max_size=5), VALUES)
def test_patches_undo_each_other(items: list[Value], value: Value) -> None:
    target = tuple(items)
    for index in range(len(items) + 1):
        steps = ({"op": "add", "path": [index], "value": value}, {"op": "remove", "path": [index]})
        assert equal(call("json.patch", target, plain(list(steps))), target)
        added = call("json.patch", target, plain([steps[0]]))
        assert equal(added, (*items[:index], value, *items[index:]))
        assert call("object.subset", added, target[:index]) is True
