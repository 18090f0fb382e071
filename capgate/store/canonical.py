"""Reads and writes the one form of a store's JSON files: indented by two, keys sorted, UTF-8, a newline at the end.

A file in another form is rejected even where it would mean the same, so that nothing is in it which nobody looked at.
So no key is there twice, there is no byte order mark, and no second way to write a number. That is why this does not
read by :mod:`capgate.policy.strict`, which lets people write as they like.
"""

from __future__ import annotations

import json
from typing import TypeVar

import msgspec

_Value = TypeVar("_Value", bound=msgspec.Struct)


class MalformedFile(ValueError):
    """Bytes that are not the canonical form of the expected structure."""


def encode(value: msgspec.Struct) -> bytes:
    """Return ``value`` in canonical form."""
    plain = msgspec.to_builtins(value)
    return json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def decode(data: bytes, struct: type[_Value]) -> _Value:
    """Return the value whose canonical form is ``data``. Raises :class:`MalformedFile`, and what ``struct`` raises."""
    try:
        value = msgspec.json.decode(data, type=struct)
        canonical = encode(value)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise MalformedFile(str(error)) from error
    if canonical != data:
        raise MalformedFile("it is not in canonical form: sorted keys, two spaces, each key once, a newline at the end")
    return value
