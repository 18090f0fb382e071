"""Packs the facts of a question for the guest: one array of MessagePack, with a value for each fact by its number.

``nil`` stands for a fact that is absent, and an empty map for a value which no fact can have. A timestamp is an int, of
nanoseconds since 1970. ``conditions.zig`` reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from .answers import IS_OF, Facts
from .declaration import ATTRIBUTE_TYPES

#: Stands for a value that is of none of the types.
OTHER: Final[Mapping[str, object]] = {}

#: Packs values, each as a fact may have it or one of ``None`` and :data:`OTHER`. Raises ``OverflowError`` or
#: ``UnicodeEncodeError`` for what is neither.
pack_values: Final = msgspec.msgpack.Encoder().encode


def pack_facts(spoken: Iterable[tuple[str, str]], facts: Facts) -> bytes:
    """Return the facts that are ``spoken`` of (:attr:`Conditions.facts`), packed, whatever they are."""
    return pack_values([_value(type, facts[name]) if name in facts else None for name, type in spoken])


def _value(type: str, value: object) -> object:
    types: Sequence[str] = (*ATTRIBUTE_TYPES, type) if type else ATTRIBUTE_TYPES
    return value if any(IS_OF[type](value) for type in types) else OTHER
