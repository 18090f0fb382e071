"""Reads what literals say: numbers of 64 bits, and strings with their escapes."""

from __future__ import annotations

import math
import re
from typing import Final

INT_LOWEST: Final = -(2**63)
INT_HIGHEST: Final = 2**63 - 1

_STRING: Final = re.compile(r"([rR]?)(\"\"\"|'''|\"|')(.*)\2", re.DOTALL)
_FLOAT: Final = re.compile(r"-?(?:[0-9]*\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][+-]?[0-9]+)?", re.ASCII)
_ESCAPE: Final = re.compile(
    r"\\(?:([abfnrtv\\?\"'`])|[xX]([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2})|)"
)
_LETTERS: Final = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def is_int(value: int) -> bool:
    """Say whether a number has 64 bits, with a sign."""
    return INT_LOWEST <= value <= INT_HIGHEST


def read_int(token: str) -> int | None:
    """Return the number, or ``None`` where it has more than 64 bits."""
    digits = token.lstrip("-")
    base = 16 if digits.lower().startswith("0x") else 10
    digits = digits[2:] if base == 16 else digits
    if len(digits.lstrip("0")) > 19:
        return None
    value = int(digits, base) * (-1 if token.startswith("-") else 1)
    return value if is_int(value) else None


def read_float(token: str) -> float | None:
    """Return the number, or ``None`` where CEL does not write one so, or it has no finite value."""
    if not _FLOAT.fullmatch(token):
        return None
    value = float(token)
    return value if math.isfinite(value) else None


def read_string(token: str) -> str | None:
    """Return what a string literal says, or ``None`` where it has an escape that there is not, or a surrogate."""
    match = _STRING.fullmatch(token)
    if match is None:
        return None
    raw, _, inside = match.groups()
    inside = inside.replace("\r\n", "\n") if "\n" in inside else inside
    if raw:
        return str(inside)
    try:
        text = _ESCAPE.sub(_character, inside)
        text.encode()
    except ValueError:  # a lone surrogate has this for a root, too
        return None
    return text


def _character(match: re.Match[str]) -> str:
    letter, *numbers, octal = match.groups()
    if letter is not None:
        return _LETTERS.get(letter, letter)
    if octal is not None:
        return chr(int(octal, 8))
    for number in numbers:
        if number is not None:
            return chr(int(number, 16))
    raise ValueError("no escape of CEL")
