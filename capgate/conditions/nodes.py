"""Describes conditions as trees, every node with its type, and says which types each operation takes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, TypeAlias, Union

import msgspec

from .declaration import BOOL, DURATION, ELEMENT, FLOAT, INT, LIST_OF, STRING, TIMESTAMP

#: Nodes that may be in one another, and loops in loops. The guest has a place for each.
DEPTH_LIMIT: Final = 64
LOOP_LIMIT: Final = 2

#: What a constant is in Python: timestamps and durations are nanoseconds, lists are tuples.
Plain: TypeAlias = Union[bool, int, float, str, tuple[Union[bool, int, float, str], ...]]


class Constant(msgspec.Struct, frozen=True):
    """A literal."""

    type: str
    value: Plain


class Fact(msgspec.Struct, frozen=True):
    """The fact with this dotted name. Absent, or of another type, it is an error."""

    type: str
    name: str


class Has(msgspec.Struct, frozen=True):
    """Whether there is a fact with this name, of whatever type."""

    name: str
    type: str = BOOL


class LoopElement(msgspec.Struct, frozen=True):
    """The element at which a loop is: of the outermost one where ``loop`` is 0."""

    type: str
    loop: int


class Operation(msgspec.Struct, frozen=True):
    """An operation of :data:`ARITIES` on its operands. An operand in error is its error, the first one's first."""

    type: str
    name: str
    operands: tuple[Node, ...]


class Junction(msgspec.Struct, frozen=True):
    """``&&`` (``name`` is ``and``) or ``||`` (``or``) of two parts or more, which absorbs errors as CEL does."""

    name: str
    parts: tuple[Node, ...]
    type: str = BOOL


class Choice(msgspec.Struct, frozen=True):
    """``test ? then : otherwise``: only one of them is looked at, and an error of the test is one of all."""

    type: str
    test: Node
    then: Node
    otherwise: Node


class Loop(msgspec.Struct, frozen=True):
    """``exists`` or ``all`` over a list; errors of elements are absorbed as in ``||`` and ``&&``."""

    name: str
    over: Node
    loop: int
    body: Node
    type: str = BOOL


Node: TypeAlias = Union[Constant, Fact, Has, LoopElement, Operation, Junction, Choice, Loop]

COMPARISONS: Final = ("eq", "ne", "lt", "le", "gt", "ge")
#: Operations, and how many operands each has.
ARITIES: Final[Mapping[str, int]] = MappingProxyType(
    {
        **dict.fromkeys(("not", "neg", "size", "timestamp"), 1),
        **dict.fromkeys(("add", "sub", "mul", *COMPARISONS, "in", "starts", "ends", "contains"), 2),
    }
)
_NUMBERS: Final = frozenset({INT, FLOAT})
_ORDERED: Final = frozenset({BOOL, INT, FLOAT, STRING, TIMESTAMP, DURATION})
_SIZED: Final = frozenset({STRING, *ELEMENT})
#: What operations other than comparisons give, by the types of their operands.
_RESULTS: Final[Mapping[tuple[str, ...], str]] = MappingProxyType(
    {
        ("not", BOOL): BOOL,
        ("neg", INT): INT,
        ("timestamp", STRING): TIMESTAMP,
        ("timestamp", INT): TIMESTAMP,
        ("add", INT, INT): INT,
        ("sub", INT, INT): INT,
        ("mul", INT, INT): INT,
        ("add", TIMESTAMP, DURATION): TIMESTAMP,
        ("add", DURATION, TIMESTAMP): TIMESTAMP,
        ("add", DURATION, DURATION): DURATION,
        ("sub", TIMESTAMP, TIMESTAMP): DURATION,
        ("sub", TIMESTAMP, DURATION): TIMESTAMP,
        ("sub", DURATION, DURATION): DURATION,
        ("starts", STRING, STRING): BOOL,
        ("ends", STRING, STRING): BOOL,
        ("contains", STRING, STRING): BOOL,
    }
)


def are_comparable(left: str, right: str) -> bool:
    """Say whether values of two types can be equal: of one type, both numbers, or lists of such."""
    if left == right or {left, right} <= _NUMBERS:
        return True
    if left not in ELEMENT or right not in ELEMENT:
        return False
    elements = ELEMENT[left], ELEMENT[right]
    return None in elements or set(elements) <= _NUMBERS


def type_of(name: str, operands: tuple[str, ...]) -> str | None:
    """Return the type of an operation on operands of these types; ``None`` where it does not take them."""
    if len(operands) != ARITIES[name]:
        return None
    if name == "size":
        return INT if operands[0] in _SIZED else None
    if name == "in":
        element, over = operands
        if over not in ELEMENT or element in ELEMENT:
            return None
        within = ELEMENT[over]
        return BOOL if within is None or are_comparable(element, within) else None
    if name in ("eq", "ne"):
        return BOOL if are_comparable(*operands) else None
    if name in COMPARISONS:
        return BOOL if _ORDERED.issuperset(operands) and are_comparable(*operands) else None
    return _RESULTS.get((name, *operands))


def common_type(left: str, right: str) -> str | None:
    """Return the type of a choice between two types; ``None`` where there is none."""
    if left == right:
        return left
    lists = {left, right} - {LIST_OF[None]}
    return lists.pop() if len(lists) == 1 and {left, right} <= set(ELEMENT) else None
