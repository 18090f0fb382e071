"""Rego values for Hypothesis, and values that nothing expects."""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

from capgate.rego import Number, Object, Set, Value
from capgate.rego.terms import number

DECIMALS = st.from_regex(
    r"-?(0|[1-9][0-9]{0,8})(\.[0-9]{1,8}([eE][+-]?[0-9]{1,2})?|[eE][+-]?[0-9]{1,2})", fullmatch=True
)
NUMBERS = st.one_of(st.integers(-(10**30), 10**30), DECIMALS.map(number))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(-(10**30), 10**30), TEXTS)


def _containers(members: st.SearchStrategy[Value]) -> st.SearchStrategy[Value]:
    lists = st.lists(members, max_size=4)
    return st.one_of(lists.map(tuple), lists.map(Set), st.lists(st.tuples(members, members), max_size=4).map(Object))


#: Values that are written in one way only. Decimals have several: 0.0 and 0E0 are equal.
SPELLED: Final = st.recursive(PLAIN, _containers, max_leaves=12)
VALUES: Final = st.recursive(st.one_of(PLAIN, NUMBERS), _containers, max_leaves=12)


def nested(depth: int) -> Value:
    value: Value = 1
    for level in range(depth):
        value = (value,) if level % 3 == 0 else Set([value]) if level % 3 == 1 else Object([(level, value)])
    return value


#: Wrong types of every kind, sizes, depths, text that is no Unicode.
HOSTILE: Final[tuple[object, ...]] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**600, 10**5000, number("1.5"), number("-0.0")),
    *(number("1e999999"), number("-1e-999999"), Number("1e400")),
    *(
        "",
        " ",
        "\0",
        "%",
        "$",
        "*",
        "[",
        "(",
        "\\",
        "é",
        "\U0010ffff",
        "\ud800",
        "a\udfffb",
        "{}",
        "[]",
        "null",
        "..",
        "/",
    ),
    *("a" * 20_000, "%d" * 5_000, "%" * 5_000, "1" * 20_000, "(" * 2_000, "[" * 20_000, "{" * 20_000, "- " * 20_000),
    *("a|" * 4_000, "(a*)*" * 100, "((a{100}){100}){100}", "a{1000}{1000}", ".*" * 2_000, "\\pL{500}", "(?i)é{1000}"),
    *("&a [*a]", "a: &a [x]\nb: [*a, *a]", "9" * 700, "-" * 5_000, "00" * 5_000, "." * 5_000, ".0" * 5_000),
    *("0.0.0.0/0", "::/0", "1e999999", "1e-999999Ei", "Local", "99999999999999h", "../etc/passwd", "\u00e9" * 5_000),
    *("e30.e30.", "." * 3, "eyJjdHkiOiJKV1QifQ.e30.", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"),
    *(
        '{"keys": []}',
        '{"kty": "oct", "k": ""}',
        '{"kty": "RSA", "n": "AA", "e": "AQAB"}',
        '{"kty": "EC", "crv": "P-256"}',
    ),
    *((), ((),), (None,), ("",), (1,), tuple(range(5_000)), Object(), Set(), Set([Set()]), Object([(None, None)])),
    *(Object([("secret", "a")]), Object([("cert", "{}")]), Object([(1, 2)]), Object([("indent", " " * 20_000)])),
    *(nested(50), nested(5_000), (("", "\ud800"),), ("%s",) * 1_000, (10**18, "Asia/Tokyo", "2006" * 2_000)),
    *((Object([("op", "add"), ("path", "/-"), ("value", 1)]),) * 2_000, object(), 1.5, b"bytes", [1], {"a": 1}),
)
