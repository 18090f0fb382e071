"""Conditions at the edges of numbers, times, texts and types, each with its answer, for Python and for the guest."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final, NamedTuple

from capgate.conditions import MISSING_FACT, OUT_OF_RANGE, OVERFLOW, TOO_LONG, WRONG_TYPE, Answer, Facts, Unknown

_MISSING: Final = Unknown(MISSING_FACT, "context.mfa")
_TRUE: Final = {"context.mfa": True}
_NOW: Final = 1_798_761_600_000_000_000  # 2027-01-01
_MAX, _MIN = 2**63 - 1, -(2**63)


class Edge(NamedTuple):
    """The answer of one condition."""

    text: str
    answer: Answer
    facts: Facts = MappingProxyType({})


def _amount(text: str, amount: object, answer: Answer) -> Edge:
    return Edge(text, answer, {"args.amount": amount})


def _until(until: str, answer: Answer) -> Edge:
    return Edge("now < timestamp(args.until)", answer, {"now": _NOW, "args.until": until})


EDGES: Final = (
    # errors are absorbed by what decides without them, on either side
    Edge("context.mfa && false", False),
    Edge("false && context.mfa", False),
    Edge("context.mfa && true", _MISSING),
    Edge("true && context.mfa", _MISSING),
    Edge("context.mfa || true", True),
    Edge("true || context.mfa", True),
    Edge("context.mfa || false", _MISSING),
    Edge("context.mfa || context.mfa || true", True),
    Edge("!context.mfa", _MISSING),
    Edge("context.mfa && args.amount == 1 && false", False),
    Edge("context.mfa && args.amount == 1", _MISSING),
    Edge("args.amount == 1 || context.mfa", Unknown(MISSING_FACT, "args.amount")),
    Edge("context.mfa ? true : true", _MISSING),
    Edge("true ? true : context.mfa", True),
    Edge("false ? context.mfa : false", False),
    Edge("(context.mfa ? true : false) || true", True),
    Edge("['a', 'b'].exists(e, e == 'b' || context.mfa)", True),
    Edge("['b', 'a'].exists(e, e == 'a' && context.mfa)", _MISSING),
    Edge("['b', 'a'].all(e, e == 'b' && context.mfa)", False),
    Edge("['b'].all(e, e == 'b' && context.mfa)", _MISSING),
    Edge("[].exists(e, context.mfa)", False),
    Edge("[].all(e, context.mfa)", True),
    Edge("actor.roles.all(e, true)", Unknown(MISSING_FACT, "actor.roles")),
    Edge(
        "actor.roles.exists(r, resource.tags.exists(t, t == r))",
        True,
        {"actor.roles": ["a", "b"], "resource.tags": ["b"]},
    ),
    Edge(
        "actor.roles.all(r, resource.tags.exists(t, t == r))",
        False,
        {"actor.roles": ["a", "b"], "resource.tags": ["b"]},
    ),
    # presence
    Edge("has(context.mfa)", False),
    Edge("has(context.mfa) && context.mfa", False),
    Edge("has(context.mfa) && context.mfa", True, _TRUE),
    Edge("has(context.mfa)", True, {"context.mfa": "of another type"}),
    Edge("has(actor.on_behalf_of)", False),
    Edge("has(actor.on_behalf_of)", True, {"actor.on_behalf_of.kind": "user"}),
    # types are exact
    Edge("context.mfa", Unknown(WRONG_TYPE, "context.mfa"), {"context.mfa": 1}),
    _amount("args.amount == 1", True, Unknown(WRONG_TYPE, "args.amount")),
    _amount("args.amount == 1", 1.0, Unknown(WRONG_TYPE, "args.amount")),
    _amount("args.amount == 1", _MAX + 1, Unknown(WRONG_TYPE, "args.amount")),
    _amount("args.amount == 1", 10**400, Unknown(WRONG_TYPE, "args.amount")),
    _amount("args.amount == 1", None, Unknown(WRONG_TYPE, "args.amount")),
    Edge("args.rate == 1.0", Unknown(WRONG_TYPE, "args.rate"), {"args.rate": 1}),
    Edge("args.note == ''", Unknown(WRONG_TYPE, "args.note"), {"args.note": "\ud800"}),
    Edge("args.note == ''", Unknown(WRONG_TYPE, "args.note"), {"args.note": b""}),
    Edge("'a' in resource.tags", Unknown(WRONG_TYPE, "resource.tags"), {"resource.tags": ["a", 1]}),
    Edge("'a' in resource.tags", Unknown(WRONG_TYPE, "resource.tags"), {"resource.tags": ["a", "\udfff"]}),
    Edge("'a' in resource.tags", Unknown(WRONG_TYPE, "resource.tags"), {"resource.tags": [["a"]]}),
    Edge("'a' in resource.tags", Unknown(WRONG_TYPE, "resource.tags"), {"resource.tags": "a"}),
    # 64 bits
    _amount("args.amount + 1 > 0", _MAX, Unknown(OVERFLOW)),
    _amount("args.amount - 1 < 0", _MIN, Unknown(OVERFLOW)),
    _amount("-args.amount > 0", _MIN, Unknown(OVERFLOW)),
    _amount("args.amount * -1 > 0", _MIN, Unknown(OVERFLOW)),
    _amount("-1 * args.amount > 0", _MIN, Unknown(OVERFLOW)),
    _amount("args.amount * 2 > 0", 2**62, Unknown(OVERFLOW)),
    _amount("args.amount * 2 < 0", -(2**62), True),
    _amount("args.amount * args.amount == 9223372030926249001", 3_037_000_499, True),
    _amount("args.amount * args.amount > 0", 3_037_000_500, Unknown(OVERFLOW)),
    _amount("args.amount + 1 > 0 || true", _MAX, True),
    # ints and floats are compared as numbers are
    _amount("args.amount == 9007199254740992.0", 2**53 + 1, False),
    _amount("args.amount > 9007199254740992.0", 2**53 + 1, True),
    _amount("args.amount < 9223372036854775808.0", _MAX, True),
    _amount("args.amount == -9223372036854775808.0", _MIN, True),
    _amount("args.amount < -0.5", 0, False),
    _amount("args.amount > -0.5", 0, True),
    _amount("args.amount < -0.5", -1, True),
    _amount("args.amount == -0.0", 0, True),
    _amount("1e300 > args.amount", _MAX, True),
    _amount("-1e300 < args.amount", _MIN, True),
    Edge("args.rate == args.rate", False, {"args.rate": float("nan")}),
    Edge("args.rate != args.rate", True, {"args.rate": float("nan")}),
    Edge("args.rate < 1 || args.rate >= 1", False, {"args.rate": float("nan")}),
    Edge("args.rate in [1.0, 2.0]", False, {"args.rate": float("nan")}),
    Edge("args.rate > 9223372036854775807", True, {"args.rate": float("inf")}),
    Edge("args.rate < -9223372036854775808", True, {"args.rate": float("-inf")}),
    Edge("args.rate in [1, 2]", True, {"args.rate": 2.0}),
    Edge("[1, 2] == [1.0, 2.0]", True),
    Edge("[1, 2] == []", False),
    Edge("resource.tags == []", True, {"resource.tags": []}),
    Edge("resource.tags == ['a', 'b']", False, {"resource.tags": ["b", "a"]}),
    # text is in code points
    Edge("size(args.note) == 2", True, {"args.note": "é😀"}),
    Edge("args.note < '\U0001f600'", True, {"args.note": "\uffff"}),
    Edge("args.note > 'ab'", True, {"args.note": "abc"}),
    Edge("args.note < 'ab'", True, {"args.note": "a"}),
    Edge("args.note == 'a\\u0000b'", True, {"args.note": "a\0b"}),
    Edge("args.note.contains('aab')", True, {"args.note": "aaaaaaaaaaaab"}),
    Edge("args.note.contains('')", True, {"args.note": ""}),
    Edge("false < true", True),
    # times
    _until("2027-01-01T00:00:00.000000001Z", True),
    _until("2027-01-01T00:00:00Z", False),
    _until("2027-01-01T00:00:00-00:01", True),
    _until("2027-01-01T01:00:00+02:00", False),
    _until("2028-02-29T00:00:00Z", True),
    _until("9999-12-31T23:59:59.999999999Z", True),
    *(
        _until(text, Unknown(OUT_OF_RANGE))
        for text in (
            *("", "soon", "2027-01-01", "2027-01-01T00:00:00", "2027-01-01t00:00:00Z", "2027-01-01T00:00:00z"),
            *("2027-02-29T00:00:00Z", "2027-13-01T00:00:00Z", "2027-00-01T00:00:00Z", "2027-01-00T00:00:00Z"),
            *("2027-01-01T24:00:00Z", "2027-01-01T00:60:00Z", "2027-01-01T00:00:60Z", "0000-01-01T00:00:00Z"),
            *("2027-01-01T00:00:00.Z", "2027-01-01T00:00:00.1234567890Z", "2027-01-01T00:00:00+24:00"),
            *(
                "2027-01-01T00:00:00+01:60",
                "2027-01-01T00:00:00+0100",
                "2027-01-01T00:00:00Z ",
                " 2027-01-01T00:00:00Z",
            ),
            *(
                "0001-01-01T00:00:00+00:01",
                "9999-12-31T23:59:59-00:01",
                "2100-02-29T00:00:00Z",
                "\uff12027-01-01T00:00:00Z",
            ),
            *("2027-01-01T00:00:00.123456789+01:00x", "2027-01-01T00:00:00.1", "2027-01-01 00:00:00Z"),
        )
    ),
    Edge("timestamp(args.amount) == timestamp('1970-01-01T00:00:01Z')", True, {"args.amount": 1}),
    Edge("timestamp(args.amount) > now", Unknown(OUT_OF_RANGE), {"args.amount": 253402300800, "now": 0}),
    Edge("now + duration('1ns') > now", True, {"now": _NOW}),
    Edge("now - duration('-1ns') > now", True, {"now": _NOW}),
    Edge("timestamp(args.until) - now == duration('-1ns')", True, {"now": 1, "args.until": "1970-01-01T00:00:00Z"}),
    Edge(
        "now - timestamp(args.until) > duration('1h')",
        Unknown(OVERFLOW),
        {"now": 0, "args.until": "0001-01-01T00:00:00Z"},
    ),
    Edge(
        "timestamp(args.until) - now < duration('1h')",
        Unknown(OVERFLOW),
        {"now": 0, "args.until": "9999-01-01T00:00:00Z"},
    ),
    Edge(
        "timestamp('1677-09-21T00:12:43.145224192Z') - timestamp(args.until) == duration('-9223372036854775808ns')",
        True,
        {"args.until": "1970-01-01T00:00:00Z"},
    ),
    Edge(
        "timestamp('1677-09-21T00:12:43.145224191Z') - timestamp(args.until) < duration('0s')",
        Unknown(OVERFLOW),
        {"args.until": "1970-01-01T00:00:00Z"},
    ),
    Edge(
        "timestamp('2262-04-11T23:47:16.854775807Z') - timestamp(args.until) == duration('9223372036854775807ns')",
        True,
        {"args.until": "1970-01-01T00:00:00Z"},
    ),
    Edge("timestamp('9999-12-31T23:59:59Z') + duration('1s') > now", Unknown(OUT_OF_RANGE), {"now": 0}),
    Edge("duration('2562047h') + duration('2562047h') > duration('0s')", Unknown(OVERFLOW)),
    Edge("duration('1.5h') == duration('90m')", True),
)

_LONG: Final = Unknown(TOO_LONG)
_FIFTY: Final = [f"r{number}" for number in range(50)]


def _roles(text: str, answer: Answer, count: int = 50) -> Edge:
    """A condition on a list of fifty roles, and one of so many tags, which are alike."""
    return Edge(text, answer, {"actor.roles": _FIFTY, "resource.tags": (_FIFTY * 51)[:count]})


#: How many elements of lists one answer may look at: 2,500.
STEPS: Final = (
    _roles("actor.roles.all(r, actor.roles.exists(t, t == r))", _LONG),  # 50 * 50, and the 50 outside
    _roles("actor.roles.all(r, resource.tags.exists(t, t == 'r0'))", True, 49),
    _roles("actor.roles.all(r, r in actor.roles)", _LONG),
    _roles("actor.roles.all(r, r in resource.tags || true)", True, 49),
    _roles("actor.roles.all(r, actor.roles != resource.tags)", _LONG, 49),  # of the left one
    _roles("actor.roles.all(r, resource.tags != actor.roles)", True, 49),
    _roles("actor.roles.all(r, resource.tags == actor.roles || r != 'r49')", _LONG),
    _roles("'r1' in resource.tags", True, 2_500),
    _roles("'r1' in resource.tags", _LONG, 2_501),
    _roles("'r1' in resource.tags || true", True, 2_501),  # absorbed as other errors are
    _roles("'r1' in resource.tags || [].exists(e, true) || true", True, 2_501),
    _roles("'r1' in resource.tags || [].all(e, true)", _LONG, 2_501),  # what is spent stays spent
    _roles("resource.tags.all(t, true) && 'r1' in actor.roles", True, 2_450),
    _roles("resource.tags.all(t, true) && 'r1' in actor.roles", _LONG, 2_451),
    _roles("size(resource.tags) == 2501", True, 2_501),  # which looks at no element
)
