"""Writes one value by a verb of Go's ``fmt``, with :class:`Flags` such as width and precision."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from .gotext import general, quote

_BASES: Final = {"b": 2, "o": 8, "O": 8, "x": 16, "X": 16}
_FORMATS: Final = {2: "b", 8: "o", 10: "d", 16: "x"}
_MAX_RUNE: Final = 0x10FFFF


class Flags(msgspec.Struct):
    """What stands between ``%`` and the verb; ``sharp_v`` and ``plus_v`` are those of ``%#v`` and ``%+v``."""

    sharp: bool = False
    zero: bool = False
    plus: bool = False
    minus: bool = False
    space: bool = False
    sharp_v: bool = False
    plus_v: bool = False
    width: int | None = None
    precision: int | None = None


def pad(text: str, flags: Flags, *, zero: bool | None = None) -> str:
    """Return ``text`` in the width of ``flags``; zeros are only ever on the left."""
    missing = (flags.width or 0) - len(text)
    if missing <= 0:
        return text
    if flags.minus:
        return text + " " * missing
    return ("0" if (flags.zero if zero is None else zero) else " ") * missing + text


def string_text(text: str, flags: Flags) -> str:
    """Write ``%s``: cut to the precision, in characters."""
    return pad(text[: flags.precision], flags)


def quoted(text: str, flags: Flags, mark: str = '"') -> str:
    """Write ``%q``: between back quotes with ``#`` where those can hold it, in ASCII with ``+``."""
    if mark == '"':
        text = text[: flags.precision]
        if flags.sharp and all(_back_quotable(char) for char in text):
            return f"`{text}`"
    return quote(text, mark, ascii_only=flags.plus)


def _back_quotable(char: str) -> bool:
    return char == "\t" or (char >= " " and char not in "`\x7f\ufeff")


def rune(code: int) -> str:
    """Return the character with this code, or U+FFFD where there is none."""
    return chr(code) if 0 <= code <= _MAX_RUNE and not 0xD800 <= code <= 0xDFFF else "\ufffd"


def unicode_text(code: int, flags: Flags) -> str:
    """Write ``%U``: U+0078, and with ``#`` also 'x'."""
    unsigned = code % 2**64
    text = f"U+{unsigned:0{max(4, flags.precision or 0)}X}"
    shown = flags.sharp and 0 <= code <= _MAX_RUNE and chr(code).isprintable()
    return f"{text} '{chr(code)}'" if shown else text


def integer_text(value: int, flags: Flags, verb: str, *, big: bool) -> str:
    """Write ``%d`` and its like. ``math/big`` has its own code in Go, which differs in what ``0`` and ``#`` do."""
    base = _BASES.get(verb, 10)
    digits = format(abs(value), _FORMATS[base])
    digits = digits.upper() if verb == "X" else digits
    plus = flags.plus or (big and flags.plus_v)
    sign = "-" if value < 0 else "+" if plus else " " if flags.space else ""
    if flags.precision is not None:
        if flags.precision == 0 and value == 0:
            return " " * (flags.width or 0)
        digits = digits.rjust(flags.precision, "0")
    elif flags.zero and not flags.minus and flags.width is not None and not big:
        digits = digits.rjust(flags.width - len(sign), "0")
    prefix = "0o" if verb == "O" else ""
    if flags.sharp and verb != "O":
        prefix = {"b": "0b", "x": "0x", "X": "0X"}.get(verb, "")
        if verb == "o" and (big or not digits.startswith("0")):
            prefix = "0"
    zero = big and flags.zero and flags.precision is None and not flags.minus
    if zero and flags.width is not None:
        digits = digits.rjust(flags.width - len(sign + prefix), "0")
    return pad(sign + prefix + digits, flags, zero=False)


def float_text(value: float, flags: Flags, verb: str) -> str | None:
    """Write ``%g`` and its like, or ``None`` where ``verb`` is none for floats. ``value`` is finite."""
    if verb not in "bgGxXfFeE":
        return None
    number = _float_digits(value, "f" if verb == "F" else verb, flags.precision)
    sign, number = ("-", number[1:]) if number.startswith("-") else ("+", number)
    if flags.space and sign == "+" and not flags.plus:
        sign = " "
    if flags.sharp and verb != "b":
        number = _with_point(number, verb, flags.precision)
    if not flags.plus and sign == "+":
        return pad(number, flags)
    missing = (flags.width or 0) - len(sign + number)
    if flags.zero and not flags.minus and missing > 0:
        return sign + "0" * missing + number
    return pad(sign + number, flags)


def _float_digits(value: float, verb: str, precision: int | None) -> str:
    if verb == "b":
        mantissa, exponent = _binary(value)
        return f"{'-' if math.copysign(1, value) < 0 else ''}{mantissa}p{exponent:+d}"
    if verb in "xX":
        text = _hexadecimal(value, precision)
        return text.upper() if verb == "X" else text
    if verb in "gG" and precision is None:
        text = general(value)
        return text.upper() if verb == "G" else text
    return f"%.{6 if precision is None else precision}{verb}" % value


def _binary(value: float) -> tuple[int, int]:
    """Return the magnitude of ``value`` as an integer of up to 53 bits and a power of two, as IEEE 754 keeps it."""
    fraction, exponent = math.frexp(abs(value))
    exponent = max(exponent, -1021) if fraction else -1021
    return int(math.ldexp(abs(value), 53 - exponent)) if exponent > -1021 else _denormal(value), exponent - 53


def _denormal(value: float) -> int:
    return int(math.ldexp(math.ldexp(abs(value), 537), 537))


def _hexadecimal(value: float, precision: int | None) -> str:
    """Write ``%x``: -0x1.8p+01, rounded half to even where there is a precision."""
    sign = "-" if math.copysign(1, value) < 0 else ""
    mantissa, exponent = _binary(value)
    if not mantissa:
        return sign + "0x0" + ("." + "0" * precision if precision else "") + "p+00"
    shift = 53 - mantissa.bit_length()
    mantissa, exponent = mantissa << shift, exponent - shift + 52
    if precision is not None and precision < 13:
        drop = 4 * (13 - precision)
        mantissa, rest = divmod(mantissa, 1 << drop)
        half = 1 << (drop - 1)
        mantissa += rest > half or (rest == half and mantissa & 1)
        mantissa <<= drop
        if mantissa >> 53:
            mantissa, exponent = mantissa >> 1, exponent + 1
    digits = f"{mantissa & ((1 << 52) - 1):013x}"
    digits = digits.rstrip("0") if precision is None else digits.ljust(precision, "0")[:precision]
    return f"{sign}0x1{'.' + digits if digits else ''}p{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


def _with_point(number: str, verb: str, precision: int | None) -> str:
    """Write ``#``: always a decimal point, and for ``%g`` the zeros at the end as well."""
    end = number.find("p") if verb in "xX" else max(number.find("e"), number.find("E"))
    if verb == "X":
        end = number.find("P")
    body, tail = (number, "") if end < 0 else (number[:end], number[end:])
    digits = 0
    if verb in "gGx":  # not X
        digits = 6 if precision is None else precision
    significant = "".join(body.split(".")).lstrip("0") if verb not in "xX" else body.replace(".", "").lstrip("0")
    digits -= len(significant)
    if "." not in body:
        digits -= body == "0"
        body += "."
    return body + "0" * max(0, digits) + tail
