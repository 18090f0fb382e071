"""Writes values as Go and OPA do: quoted strings (``strconv.Quote``), Rego terms, shortest floats."""

from __future__ import annotations

from typing import Final

from .terms import Number, Object, Set, Value

#: What ``strconv`` writes with a letter; the two quotes are escaped where they would end the literal.
_LETTERS: Final = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
}


def quote(text: str, mark: str = '"', *, ascii_only: bool = False) -> str:
    """Write ``text`` as a Go literal between ``mark``: ``strconv.Quote``, ``QuoteToASCII``, and ``QuoteRune`` with
    ``'``.

    What is printable is so by Python's Unicode tables, which differ from Go's in the newest characters only.
    """
    return mark + "".join(_escaped(char, mark, ascii_only) for char in text) + mark


def _escaped(char: str, mark: str, ascii_only: bool) -> str:
    if char in _LETTERS:
        return _LETTERS[char]
    if char == mark:
        return "\\" + char
    if char.isprintable() and (char.isascii() or not ascii_only):
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def term(value: Value) -> str:
    """Write ``value`` as OPA shows it in text: ``[1, {"a": {1, 2}}]``, members in Rego's order."""
    if isinstance(value, str):
        return quote(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Number):
        return value.text
    if isinstance(value, int):
        return str(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(map(term, value)) + "]"
    if isinstance(value, Object):
        return "{" + ", ".join(f"{term(key)}: {term(item)}" for key, item in value.items) + "}"
    if isinstance(value, Set):
        return "{" + ", ".join(map(term, value)) + "}" if value else "set()"
    raise TypeError(f"{type(value)!r} is no Rego value")


def shortest(value: float) -> tuple[str, str, int]:
    """Return sign, digits and decimal exponent of the shortest decimal that reads back as ``value``: 0.015 is ``15``,
    -2."""
    mantissa, _, exponent = f"{value!r}".partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    digits = (whole + fraction).lstrip("0")
    first = len(whole) - 1 - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    return (sign, digits, int(exponent or 0) + first) if digits else (sign, "0", 0)


def general(value: float) -> str:
    """Write as Go's ``%g`` of the fewest digits: with an exponent below 1e-4, and from 1e6 on
    (``strconv.FormatFloat``)."""
    sign, digits, exponent = shortest(value)
    if exponent < -4 or exponent >= 6:
        fraction = "." + digits[1:] if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{fraction}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    whole = digits[: exponent + 1].ljust(exponent + 1, "0")
    fraction = digits[exponent + 1 :]
    return f"{sign}{whole}.{fraction}" if fraction else sign + whole
