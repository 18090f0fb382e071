"""Lays the facts of a question out for the guest: a record for each that the conditions speak of, and their texts.

``conditions.zig`` describes the records. Numbers are
little-endian::

    number   of records, u32
    records  16 bytes each: 0 type | number of the fact << 8   4 n   8 a
    texts    UTF-8, one behind the other
    elements of lists, 16 bytes each: 0 type   4 n   8 a
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from .answers import IS_OF, Facts
from .condition_table import TYPES, VALUE
from .declaration import LIST, STRING, TIMESTAMP
from .instants import SECOND

#: The type of a value that no fact may have, and that is there all the same.
OTHER: Final = 0xFF

_STRING: Final = TYPES[STRING]
_DOUBLE: Final = struct.Struct("<d")
_MASK: Final = 2**64 - 1


def pack_facts(spoken: Sequence[tuple[str, str]], facts: Facts, address: int) -> bytes:
    """Return the facts that are ``spoken`` of (:attr:`Conditions.facts`), as they lie at ``address`` in memory."""
    present = [(number, type, facts[name]) for number, (name, type) in enumerate(spoken) if name in facts]
    at = address + 4 + VALUE.size * len(present)
    numbers: list[int] = [len(present)]
    texts: list[bytes] = []
    elements: list[int] = []
    lists: list[tuple[int, int]] = []  # where the address of a list goes, and where its elements are
    for number, type, value in present:
        tag = number << 8
        if type not in IS_OF or not IS_OF[type](value):
            numbers += (tag | OTHER, 0, 0)
        elif isinstance(value, str):
            content = value.encode()
            numbers += (tag | _STRING, len(content), at)
            texts.append(content)
            at += len(content)
        elif isinstance(value, (list, tuple)):
            lists.append((len(numbers) + 2, len(elements) // 3 * VALUE.size))
            numbers += (tag | TYPES[LIST], len(value), 0)
            for text in value:
                content = text.encode()
                elements += (_STRING, len(content), at)
                texts.append(content)
                at += len(content)
        else:
            numbers += (tag | TYPES[type], *_scalar(type, value))
    for place, offset in lists:
        numbers[place] = at + offset
    records = _records(len(present)).pack(*numbers)
    if not lists:
        return records + b"".join(texts)
    return b"".join((records, *texts, struct.pack("<" + "IIQ" * (len(elements) // 3), *elements)))


@lru_cache(maxsize=256)
def _records(count: int) -> struct.Struct:
    return struct.Struct("<I" + "IIQ" * count)


def _scalar(type: str, value: object) -> tuple[int, int]:
    if isinstance(value, float):
        return 0, int.from_bytes(_DOUBLE.pack(value), "little")
    number = value if isinstance(value, int) else 0
    if type == TIMESTAMP:
        return number % SECOND, number // SECOND & _MASK
    return 0, number & _MASK
