"""Represents Rego values in Python.

``null``, ``bool``  ``None``, ``bool``
``number``          ``int``, or :class:`Number`, which keeps its text, where that has a fraction or an exponent
``string``          ``str`` without lone surrogates
``array``           ``tuple``
``object``          :class:`Object`, whose keys are any values
``set``             :class:`Set`

Numbers have any precision in Rego, and ``1`` equals ``1.0``; ``true`` is not ``1``, so values are compared by
:func:`equal` and :func:`order`, not by ``==``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from typing import Any, Final, Union

from ..errors import BuiltinError

#: Arrays, objects and sets within each other.
MAX_DEPTH: Final = 100
#: Characters of a number; the least number of digits that Python can be told to refuse.
MAX_NUMBER: Final = 640
#: The greatest exponent of ten, up or down: what OPA's modules can hold is far less.
MAX_EXPONENT: Final = 999_999

_MODULUS: Final = sys.hash_info.modulus
_EXACT: Final = Context(prec=MAX_NUMBER, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class Number(Decimal):
    """A number whose text has a fraction or an exponent. ``text`` is that, kept because Rego's functions show it."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Number:
        made = super().__new__(cls, text)
        made.text = text
        return made


class Set:
    """A Rego set: its members, each once, in Rego's order."""

    __slots__ = ("items", "order")

    def __init__(self, items: Iterable[Value] = ()) -> None:
        ordered = sorted(((order(item), item) for item in items), key=_first)
        kept = [pair for index, pair in enumerate(ordered) if not index or ordered[index - 1][0] != pair[0]]
        self.items: Final = tuple(item for _, item in kept)
        self.order: Final[Order] = (6, tuple(key for key, _ in kept))

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Value]:
        return iter(self.items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Set) and self.order == other.order

    def __hash__(self) -> int:
        return hash(self.order)

    def __repr__(self) -> str:
        return f"Set({list(self.items)!r})"


class Object:
    """A Rego object: pairs of key and value, in Rego's order of the keys. Of equal keys the last counts."""

    __slots__ = ("_places", "items", "order")

    def __init__(self, items: Iterable[tuple[Value, Value]] = ()) -> None:
        by_key = {order(key): (key, value) for key, value in items}
        ordered = sorted(by_key.items(), key=_first)
        self.items: Final = tuple(pair for _, pair in ordered)
        self.order: Final[Order] = (5, tuple(part for key, (_, value) in ordered for part in (key, order(value))))
        self._places: Final = {key: index for index, (key, _) in enumerate(ordered)}

    def __len__(self) -> int:
        return len(self.items)

    def __contains__(self, key: Value) -> bool:
        return order(key) in self._places

    def get(self, key: Value, default: Value = None) -> Value:
        """Return what ``key`` maps to, or ``default``."""
        place = self._places.get(order(key))
        return default if place is None else self.items[place][1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Object) and self.order == other.order

    def __hash__(self) -> int:
        return hash(self.order)

    def __repr__(self) -> str:
        return f"Object({list(self.items)!r})"


Value = Union[None, bool, int, Number, str, tuple["Value", ...], Object, Set]
Order = tuple[int, Any]
_CONTAINERS: Final = (tuple, Object, Set)


def order(value: Value) -> Order:
    """Return what sorts as Rego does: null < false < true < numbers < strings < arrays < objects < sets.

    It is equal where the values are. Arrays and sets compare member by member, objects pair by pair, and then the
    shorter comes first (OPA's ``ast.Compare``). Strings compare by code points, which is the order of their UTF-8.
    """
    if value is None:
        return (0, 0)
    if isinstance(value, bool):
        return (1, value)
    if isinstance(value, (int, Decimal)):
        return (2, (value, _spread(value)))
    if isinstance(value, str):
        return (3, value)
    if isinstance(value, tuple):
        return (4, tuple(map(order, value)))
    if isinstance(value, (Object, Set)):
        return value.order
    raise TypeError(f"{type(value)!r} is no Rego value")


def _spread(value: int | Decimal) -> int:
    """Return the same for equal numbers, and different for different ones of the same hash.

    The hash is the number modulo a prime that everybody knows. By that alone a guest could fill a dictionary in a time
    that grows with the square of its size.
    """
    if isinstance(value, int):
        return 0 if -_MODULUS < value < _MODULUS else hash(str(value))
    if value == value.to_integral_value():
        if -_MODULUS < value < _MODULUS:
            return 0
        if value.adjusted() <= MAX_NUMBER:  # or it is greater than any integer that there is
            return hash(str(int(value)))
    return hash(str(value.normalize(_EXACT)))


def equal(left: Value, right: Value) -> bool:
    """Say whether these are the same Rego value: ``1`` and ``1.0`` are, ``1`` and ``true`` are not."""
    return order(left) == order(right)


def _first(pair: tuple[Any, Any]) -> Any:
    return pair[0]


def number(text: str) -> int | Number:
    """Return the number with this text, which is JSON's form, or raise ``BuiltinError``."""
    match = _NUMBER.fullmatch(text) if len(text) <= MAX_NUMBER else None
    if match is None:
        raise BuiltinError("value", "text", f"{text[:80]!r} is no number of up to {MAX_NUMBER} characters")
    if match[1] is None and match[2] is None:
        return int(text)
    if match[2] is not None and (len(match[2]) > 9 or abs(int(match[2][1:])) > MAX_EXPONENT):
        raise BuiltinError("value", "text", f"the exponent of {text[:80]!r} is beyond {MAX_EXPONENT}")
    return Number(text)


def plain(value: object, depth: int = MAX_DEPTH) -> Value:
    """Return the Rego value that JSON's values in Python stand for (list, dict, and the others as they are)."""
    if depth < 0:
        raise BuiltinError("value", "limit", f"more than {MAX_DEPTH} levels")
    if value is None or isinstance(value, (bool, int, Number, str, Object, Set)):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(plain(item, depth - 1) for item in value)
    if isinstance(value, dict):
        return Object((plain(key, depth - 1), plain(item, depth - 1)) for key, item in value.items())
    raise TypeError(f"{type(value)!r} stands for no Rego value")


def weigh(value: object, depth: int = MAX_DEPTH) -> int:
    """Return how big ``value`` is: its characters, and one for each value in it; ``BuiltinError`` where it is no
    value."""
    if isinstance(value, str):
        if not is_unicode(value):
            raise BuiltinError("value", "text", "a lone surrogate in a string")
        return 1 + len(value)
    if value is None or isinstance(value, bool):
        return 1
    if isinstance(value, Number):
        return 1 + len(value.text)
    if isinstance(value, int):
        if value.bit_length() > 2_000:
            raise BuiltinError("value", "limit", f"an integer of {value.bit_length()} bits")
        return 1 + value.bit_length() // 4
    if not isinstance(value, _CONTAINERS):
        raise BuiltinError("value", "text", f"{type(value)!r} is no Rego value")
    if depth <= 0:
        raise BuiltinError("value", "limit", f"more than {MAX_DEPTH} levels")
    if isinstance(value, Object):
        return 1 + sum(weigh(key, depth - 1) + weigh(item, depth - 1) for key, item in value.items)
    return 1 + sum(weigh(item, depth - 1) for item in value)


def is_unicode(text: str) -> bool:
    """Say whether ``text`` has no lone surrogates."""
    return text.isascii() or _SURROGATE.search(text) is None
