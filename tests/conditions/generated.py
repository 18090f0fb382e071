"""Generated conditions of the whole subset, and facts for them: absent ones, and of other types, among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hypothesis import strategies as st

from capgate.conditions import Declaration

DECLARATION: Final = Declaration(
    {
        "actor": {"tenant": "string", "level": "int"},
        "resource": {"owner": "string", "total": "int", "price": "float", "tags": "list", "open": "bool"},
        "args": {"amount": "int", "note": "string", "rate": "float", "until": "string"},
        "context": {"mfa": "bool", "ip": "string"},
    }
)
_BY_TYPE: Final = {
    "bool": ("resource.open", "context.mfa"),
    "int": ("actor.level", "resource.total", "args.amount"),
    "float": ("resource.price", "args.rate"),
    "string": ("actor.id", "actor.tenant", "resource.owner", "args.note", "action", "actor.on_behalf_of.id"),
    "list": ("actor.roles", "resource.tags", "actor.on_behalf_of.roles"),
}
WORDS: Final = ("", "a", "b", "ab", "aba", "editor", "eu-west", "Zoë", "😀b", "acme")
INTS: Final = (0, 1, -1, 2, 7, 1000, 2**31, 2**53, 2**53 + 1, 2**62, 2**63 - 1, -(2**63))
FLOATS: Final = (0.0, -0.0, 0.5, 1.0, -1.5, 7.0, 1e18, 9007199254740992.0, 9223372036854775808.0, 1e300, 5e-324)
TIMES: Final = (
    "1970-01-01T00:00:00Z",
    "2026-12-31T23:59:59.999999999Z",
    "2027-01-01T00:00:00+02:00",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
)
DURATIONS: Final = ("0s", "1h30m", "-1ns", "2562047h", "720h")


def quoted(word: str) -> str:
    return f"'{word}'"


def _facts(type: str) -> st.SearchStrategy[str]:
    return st.sampled_from(_BY_TYPE[type])


def _pairs(form: str, *parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map(lambda values: form.format(*values))


def _listed(elements: st.SearchStrategy[str], least: int = 0) -> st.SearchStrategy[str]:
    return st.lists(elements, min_size=least, max_size=4).map(lambda values: f"[{', '.join(values)}]")


def _strings(elements: Sequence[str]) -> st.SearchStrategy[str]:
    return st.one_of(_facts("string"), st.sampled_from(WORDS).map(quoted), *map(st.just, elements))


def _lists() -> st.SearchStrategy[str]:
    return st.one_of(_facts("list"), _facts("list"), _listed(st.sampled_from(WORDS).map(quoted)))


def _ints(depth: int, mixed: bool) -> st.SearchStrategy[str]:
    leaves = st.one_of(_facts("int"), st.sampled_from(INTS).map(str), st.integers(-5, 5).map(str))
    sizes = _pairs("size({})", st.one_of(_strings(()), _lists()))
    if depth <= 0:
        return st.one_of(leaves, sizes)
    inner = _ints(depth - 1, mixed)
    return st.one_of(
        leaves,
        sizes,
        _pairs("({} {} {})", inner, st.sampled_from("+-*"), inner),
        _pairs("-({})", inner),
        _pairs("({} ? {} : {})", _bools(depth - 1, (), mixed), inner, inner),
    )


def _floats() -> st.SearchStrategy[str]:
    return st.one_of(_facts("float"), st.sampled_from(FLOATS).map(repr))


def _times(depth: int) -> st.SearchStrategy[str]:
    durations = st.sampled_from(DURATIONS).map(lambda text: f"duration('{text}')")
    leaves = st.one_of(
        st.just("now"),
        st.sampled_from(TIMES).map(lambda text: f"timestamp('{text}')"),
        st.just("timestamp(args.until)"),
    )
    return st.one_of(leaves, _pairs("({} {} {})", leaves, st.sampled_from("+-"), durations))


_ORDER: Final = st.sampled_from(("==", "!=", "<", "<=", ">", ">="))


def _bools(depth: int, elements: Sequence[str], mixed: bool) -> st.SearchStrategy[str]:
    strings = _strings(elements)
    ints, floats = _ints(min(depth, 1) - 1, mixed), _floats()
    numbers = [(ints, ints), (floats, floats), *([(ints, floats), (floats, ints)] if mixed else [])]
    everything = [name for names in _BY_TYPE.values() for name in names if name.count(".") == 1]
    atoms = [
        _facts("bool"),
        st.sampled_from(("true", "false")),
        _pairs("has({})", st.sampled_from([*everything, "actor.on_behalf_of"])),
        st.one_of([_pairs("{} {} {}", left, _ORDER, right) for left, right in numbers]),
        _pairs("{} {} {}", strings, _ORDER, strings),
        _pairs("{} {} {}", _times(depth), _ORDER, _times(depth)),
        _pairs("{} in {}", strings, _lists()),
        _pairs("{} in {}", st.one_of(ints, floats) if mixed else ints, _listed(st.sampled_from(INTS).map(str))),
        _pairs("{}.{}({})", strings, st.sampled_from(("startsWith", "endsWith", "contains")), strings),
        _pairs("{} {} {}", _lists(), st.sampled_from(("==", "!=")), _lists()),
    ]
    if depth <= 0:
        return st.one_of(atoms)
    inner = st.deferred(lambda: _bools(depth - 1, elements, mixed))
    composed = [
        _pairs("({} && {})", inner, inner),
        _pairs("({} || {})", inner, inner),
        _pairs("({} || {} || {})", inner, inner, inner),
        _pairs("!({})", inner),
        _pairs("({} ? {} : {})", inner, inner, inner),
    ]
    if len(elements) < 2:
        element = f"e{len(elements)}"
        body = st.deferred(lambda: _bools(depth - 1, (*elements, element), mixed))
        composed.append(_pairs(f"{{}}.{{}}({element}, {{}})", _lists(), st.sampled_from(("exists", "all")), body))
    return st.one_of(*atoms, *composed, *composed)


def conditions(depth: int = 3, *, mixed: bool = True) -> st.SearchStrategy[str]:
    """Texts of conditions over :data:`DECLARATION`; with ``mixed``, ints are compared with floats, too."""
    return _bools(depth, (), mixed)


_VALUES: Final = {
    "bool": st.booleans(),
    "int": st.one_of(st.sampled_from(INTS), st.integers(-5, 1_001)),
    "float": st.one_of(st.sampled_from(FLOATS), st.floats(width=64)),
    "string": st.one_of(st.sampled_from(WORDS), st.text(max_size=6)),
    "list": st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=3)), max_size=4),
}
#: What no attribute may be: of no type, too big, no Unicode, lists in lists.
HOSTILE: Final = st.sampled_from(
    [None, 2**63, -(2**70), "\ud800", ["a", "\udfff"], [["a"]], {"a": 1}, b"a", ["a", 1], 1]
)


@st.composite
def facts(draw: st.DrawFn, hostile: bool = True) -> dict[str, object]:
    """Facts by their dotted names; each may be absent, and with ``hostile`` of another type."""
    drawn: dict[str, object] = {"now": draw(st.integers(0, 2**62)), "action": draw(st.sampled_from(WORDS))}
    if draw(st.booleans()):
        drawn["args.until"] = draw(st.sampled_from((*TIMES, "soon", "2027-02-30T00:00:00Z")))
    for type, names in _BY_TYPE.items():
        for name in names:
            wanted = draw(st.integers(0, 7))
            if wanted == 0 and hostile:
                drawn[name] = draw(HOSTILE)
            elif wanted > 1:
                drawn[name] = draw(_VALUES[type])
    if any(name.startswith("actor.on_behalf_of") for name in drawn):
        drawn["actor.on_behalf_of.kind"] = "user"
    return drawn
