"""Lays the facts of a question out for the guest: a record for each that the conditions speak of, and their texts.

``conditions.zig`` describes the records. Numbers are little-endian::

    0 number of records   then 16 bytes each: 0 type | number of the fact << 8   4 n   8 a
    behind them the elements of lists, 16 bytes each (type, n, a), then the texts
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from .answers import IS_OF, Facts
from .condition_table import TYPES, VALUE
from .declaration import LIST, STRING, TIMESTAMP
from .instants import SECOND

#: The type of a value that no fact may have, and that is there all the same.
OTHER: Final = 0xFF

_COUNT: Final = struct.Struct("<I")
_DOUBLE: Final = struct.Struct("<d")
_U64: Final = struct.Struct("<Q")
_MASK: Final = 2**64 - 1


def pack_facts(spoken: Sequence[tuple[str, str]], facts: Facts, address: int) -> bytes:
    """Return the facts that are ``spoken`` of (:attr:`Conditions.facts`), as they lie at ``address`` in memory."""
    present = [(number, type, facts[name]) for number, (name, type) in enumerate(spoken) if name in facts]
    lists = [value for _, type, value in present if type == LIST and isinstance(value, (list, tuple))]
    at = address + _COUNT.size + VALUE.size * len(present)
    texts = _Behind(at + VALUE.size * sum(len(value) for value in lists if IS_OF[LIST](value)))
    records: list[bytes] = []
    elements = bytearray()
    for number, type, value in present:
        n = a = 0
        is_of = IS_OF.get(type)
        if is_of is None or not is_of(value):
            kind = OTHER
        else:
            kind = TYPES[type]
            if isinstance(value, (list, tuple)):
                n, a = len(value), at + len(elements)
                for text in value:
                    elements += VALUE.pack(TYPES[STRING], *texts.add(text))
            else:
                n, a = _scalar(type, value, texts)
        records.append(VALUE.pack(kind | number << 8, n, a))
    return b"".join((_COUNT.pack(len(present)), *records, elements, *texts.parts))


def _scalar(type: str, value: object, texts: _Behind) -> tuple[int, int]:
    if isinstance(value, str):
        return texts.add(value)
    if isinstance(value, float):
        return 0, int(_U64.unpack(_DOUBLE.pack(value))[0])
    number = value if isinstance(value, int) else 0
    if type == TIMESTAMP:
        return number % SECOND, number // SECOND & _MASK
    return 0, number & _MASK


class _Behind:
    """Texts, one behind the other."""

    def __init__(self, address: int) -> None:
        self.parts: list[bytes] = []
        self._end = address

    def add(self, text: str) -> tuple[int, int]:
        """Return length and address of ``text``, which lies behind those before."""
        content = text.encode()
        self.parts.append(content)
        self._end += len(content)
        return len(content), self._end - len(content)
