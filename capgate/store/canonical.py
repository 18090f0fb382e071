"""The one form of the JSON files of a store: two spaces of indentation, keys sorted, UTF-8, a newline at the end.

A file in another form is refused even where it would mean the same, so that nothing is in it which nobody looked at:
no key twice, no byte order mark, no second way to write a number.
"""

from __future__ import annotations

import json
from typing import TypeVar

import msgspec

_Value = TypeVar("_Value", bound=msgspec.Struct)


class MalformedFile(ValueError):
    """Bytes that are not the canonical form of the expected structure."""


def encode(value: msgspec.Struct) -> bytes:
    """``value`` in canonical form."""
    plain = msgspec.to_builtins(value)
    return json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def decode(data: bytes, kind: type[_Value]) -> _Value:
    """The value whose canonical form is ``data``. Raises :class:`MalformedFile`, and what ``kind`` itself raises."""
    try:
        value = msgspec.json.decode(data, type=kind)
        canonical = encode(value)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise MalformedFile(str(error)) from error
    if canonical != data:
        raise MalformedFile("it is not in canonical form: sorted keys, two spaces, each key once, a newline at the end")
    return value
