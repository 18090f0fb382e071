"""Answers a condition from facts: true, false, or what keeps it from being known.

A tree becomes one function, made of one function for each node. An error is an exception on its way to the next ``&&``,
``||`` or loop that may absorb it.

What an answer costs is bounded by :data:`STEPS_LIMIT`: whoever asks chooses how long lists and texts are, and loops may
be in one another. Steps are counted before they are taken, here as in the guest. What would be above the limit is an
error like others::

    exists all      for each element 1, or a 16th of 8 and the bytes of the code that is asked of it
    in              for each element 1, and 1 for every 32 bytes of the text that is looked for
    == != of lists  for each element of the left one 1; where both are as long, 1 for every 32 bytes of its texts
    other == < ...  1 for every 32 bytes of the shorter text; of startsWith and endsWith, of what is looked for
    contains        1 for every 8 bytes of both texts
    size            1 for every 32 bytes of a text
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import eq, ge, gt, le, lt
from typing import Any, Final, TypeAlias

import msgspec

from .condition_table import code_size
from .declaration import BOOL, DURATION, ELEMENT, FLOAT, INT, LIST, STRING, TIMESTAMP
from .instants import is_duration, is_timestamp, parse_timestamp, timestamp_of
from .literals import is_int
from .nodes import Choice, Constant, Fact, Has, Junction, Loop, LoopElement, Node, Operation

#: Why a condition is neither true nor false: a fact is absent, or of another type than declared; a number or a
#: duration has more than 64 bits; a time is none of years 1 to 9999; its lists have too many elements.
MISSING_FACT, WRONG_TYPE, OVERFLOW, OUT_OF_RANGE = "missing_fact", "wrong_type", "overflow", "out_of_range"
TOO_LONG: Final = "too_long"
#: Steps of one answer: elements of lists that it looks at, most of all.
STEPS_LIMIT: Final = 2_500
#: Bytes that are one step, as powers of two; and characters fewer than which are none.
_UNIT, _SEARCHED, _SHORT = 5, 3, 8


class Unknown(msgspec.Struct, frozen=True):
    """A condition is neither true nor false.

    ``reason`` is one of the five above, ``fact`` the name of the fact at fault, if one is.

    It has no truth value, so that it is mistaken for neither. An allow does not match then, a denial does.
    """

    reason: str
    fact: str | None = None

    def __bool__(self) -> bool:
        raise TypeError("an unknown condition is neither true nor false")


Answer: TypeAlias = "bool | Unknown"
Facts: TypeAlias = Mapping[str, object]
#: Gives the value of a node from the facts, and from the steps that are left with the elements of the loops around.
Evaluate: TypeAlias = Callable[[Facts, tuple[Any, ...]], Any]


class UnknownError(Exception):
    """What an operation has no value for, on its way to what absorbs it."""

    def __init__(self, unknown: Unknown) -> None:
        super().__init__(unknown)
        self.unknown = unknown


def answer(function: Evaluate, facts: Facts, left: list[int] | None = None) -> Answer:
    """Return what a condition's function says of ``facts``, under their dotted names.

    ``left`` is one number, the steps that are left; it is counted down.
    """
    try:
        return function(facts, ([STEPS_LIMIT] if left is None else left,)) is True
    except UnknownError as error:
        return error.unknown


def function_of(node: Node) -> Evaluate:
    """Return the function that gives the value of ``node``, or raises :class:`UnknownError`."""
    if isinstance(node, Constant):
        value = node.value
        return lambda facts, elements: value
    if isinstance(node, Fact):
        return _fact(node.name, node.type)
    if isinstance(node, Has):
        name = node.name
        return lambda facts, elements: name in facts
    if isinstance(node, LoopElement):
        place = node.loop + 1
        return lambda facts, elements: elements[place]
    if isinstance(node, Junction):
        return _junction(node.name == "or", tuple(map(function_of, node.parts)))
    if isinstance(node, Loop):
        weight = max(1, (code_size(node.body) + 9) >> 4)  # the guest sees the instruction that ends it, too
        return _loop(node.name == "exists", weight, function_of(node.over), function_of(node.body))
    if isinstance(node, Choice):
        return _choice(function_of(node.test), function_of(node.then), function_of(node.otherwise))
    return _operation(node)


def _error(reason: str, fact: str | None = None) -> UnknownError:
    return UnknownError(Unknown(reason, fact))


def _count(elements: tuple[Any, ...], steps: int) -> None:
    """Count steps that are about to be taken."""
    left = elements[0]
    left[0] -= steps
    if left[0] < 0:
        raise _error(TOO_LONG)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


# -- facts

_ABSENT: Final = object()


def _is_text(value: object) -> bool:
    if type(value) is not str:
        return False
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


#: Whether a value in Python is one of a type. Booleans are no numbers, and ints no floats.
IS_OF: Final[Mapping[str, Callable[[Any], bool]]] = {
    BOOL: lambda value: type(value) is bool,
    INT: lambda value: type(value) is int and is_int(value),
    FLOAT: lambda value: type(value) is float,
    STRING: _is_text,
    LIST: lambda value: type(value) in (list, tuple) and all(map(_is_text, value)),
    TIMESTAMP: lambda value: type(value) is int and is_timestamp(value),
}


def _fact(name: str, type: str) -> Evaluate:
    is_of = IS_OF[type]

    def value(facts: Facts, elements: tuple[Any, ...]) -> Any:
        value = facts.get(name, _ABSENT)
        if is_of(value):
            return value
        raise _error(MISSING_FACT if value is _ABSENT else WRONG_TYPE, name)

    return value


# -- logic


def _junction(decisive: bool, parts: tuple[Evaluate, ...]) -> Evaluate:
    def value(facts: Facts, elements: tuple[Any, ...]) -> Any:
        first: UnknownError | None = None
        for part in parts:
            try:  # in the loop, since each part may fail
                if part(facts, elements) is decisive:
                    return decisive
            except UnknownError as error:  # noqa: PERF203
                first = first or error
        if first is not None:
            raise first
        return not decisive

    return value


def _loop(decisive: bool, weight: int, over: Evaluate, body: Evaluate) -> Evaluate:
    def value(facts: Facts, elements: tuple[Any, ...]) -> Any:
        first: UnknownError | None = None
        values = over(facts, elements)
        _count(elements, weight * len(values))
        for element in values:
            try:  # in the loop, since each element may fail
                if body(facts, (*elements, element)) is decisive:
                    return decisive
            except UnknownError as error:  # noqa: PERF203
                first = first or error
        if first is not None:
            raise first
        return not decisive

    return value


def _choice(test: Evaluate, then: Evaluate, otherwise: Evaluate) -> Evaluate:
    return lambda facts, elements: (then if test(facts, elements) is True else otherwise)(facts, elements)


# -- operations


def _operation(node: Operation) -> Evaluate:
    functions = tuple(map(function_of, node.operands))
    compute = _COMPUTE[node.name]
    steps_of = _steps_of(node)
    if steps_of is not None:
        return _counting(functions, compute, steps_of)
    if len(functions) == 2:
        left, right = functions
        computed: Evaluate = lambda facts, elements: compute(left(facts, elements), right(facts, elements))  # noqa: E731
    else:
        (operand,) = functions
        computed = lambda facts, elements: compute(operand(facts, elements))  # noqa: E731
    holds, reason = _HOLDS.get(node.type, (None, "")) if node.name in _BOUNDED else (None, "")
    if holds is None:
        return computed

    def value(facts: Facts, elements: tuple[Any, ...]) -> int:
        value: int = computed(facts, elements)
        if holds(value):
            return value
        raise _error(reason)

    return value


def _counting(
    functions: tuple[Evaluate, ...], compute: Callable[..., Any], steps_of: Callable[..., int | None]
) -> Evaluate:
    """Return the function of an operation that takes steps by the size of its operands; ``None`` is none to count."""

    def value(facts: Facts, elements: tuple[Any, ...]) -> Any:
        operands = [function(facts, elements) for function in functions]
        steps = steps_of(*operands)
        if steps is not None:
            _count(elements, steps)
        return compute(*operands)

    return value


def _steps_of(node: Operation) -> Callable[..., int | None] | None:
    types = [operand.type for operand in node.operands]
    if node.name == "in":
        return _steps_of_in
    if types[0] in ELEMENT:
        return None if node.name == "size" else _steps_of_lists
    return _STEPS_OF.get(node.name, _steps_of_order) if types[0] == STRING and node.name != "timestamp" else None


def _steps_of_in(value: Any, values: Any) -> int:
    return len(values) * (1 + (_bytes(value) >> _UNIT if isinstance(value, str) else 0))


def _steps_of_lists(left: Any, right: Any) -> int:
    texts = left if len(left) == len(right) and left and isinstance(left[0], str) else ()
    return len(left) + (sum(map(_bytes, texts)) >> _UNIT)


def _steps_of_order(left: str, right: str) -> int | None:
    # A character has four bytes at most.
    if len(left) < _SHORT or len(right) < _SHORT:
        return None
    return min(_bytes(left), _bytes(right)) >> _UNIT or None


_STEPS_OF: Final[Mapping[str, Callable[..., int | None]]] = {
    "starts": lambda text, part: _bytes(part) >> _UNIT or None,
    "ends": lambda text, part: _bytes(part) >> _UNIT or None,
    "contains": lambda text, part: _bytes(text) + _bytes(part) >> _SEARCHED or None,
    "size": lambda text: _bytes(text) >> _UNIT or None,
}


def _timestamp(value: Any) -> int:
    time = parse_timestamp(value) if isinstance(value, str) else timestamp_of(value)
    if time is None:
        raise _error(OUT_OF_RANGE)
    return time


def _is_in(value: Any, values: Any) -> bool:
    return any(value == element for element in values)  # `in` takes a NaN for itself


def _equal(left: Any, right: Any) -> bool:
    """Compare as CEL does: facts may be lists where literals are tuples."""
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(eq, left, right))
    return bool(left == right)


_COMPUTE: Final[Mapping[str, Callable[..., Any]]] = {
    "not": lambda value: not value,
    "neg": lambda value: -value,
    "add": lambda left, right: left + right,
    "sub": lambda left, right: left - right,
    "mul": lambda left, right: left * right,
    "eq": _equal,
    "ne": lambda left, right: not _equal(left, right),
    "lt": lt,
    "le": le,
    "gt": gt,
    "ge": ge,
    "in": _is_in,
    "starts": str.startswith,
    "ends": str.endswith,
    "contains": str.__contains__,
    "size": len,
    "timestamp": _timestamp,
}
_BOUNDED: Final = frozenset({"neg", "add", "sub", "mul"})
_HOLDS: Final[Mapping[str, tuple[Callable[[int], bool] | None, str]]] = {
    INT: (is_int, OVERFLOW),
    DURATION: (is_duration, OVERFLOW),
    TIMESTAMP: (is_timestamp, OUT_OF_RANGE),
}
