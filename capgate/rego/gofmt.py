"""Formats as Go's ``fmt.Sprintf``, for the arguments that OPA passes: ``int``, ``*big.Int``, ``float64``, ``string``.

The grammar of a verb is ``%[flags][width][.precision]verb``, with ``*`` and ``[n]`` for arguments; what does not fit
becomes text such as ``%!d(string=hi)``. See https://pkg.go.dev/fmt, whose words for mistakes are used exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from ..errors import BuiltinError
from .base import INT_MAX, INT_MIN
from .goverbs import Flags, float_text, integer_text, pad, quoted, rune, string_text, unicode_text

Argument = int | float | str
Spend = Callable[[int], None]

#: A greater width or precision in the format ends the verb, and as an argument is a bad one.
_TOO_LARGE: Final = 1_000_000
_DIGITS: Final = "0123456789"


class _Parser(msgspec.Struct):
    """Where reading a format has got to. ``after_index``: the last thing read was ``[n]``."""

    format: str
    arguments: Sequence[Argument]
    spend: Spend
    at: int = 0
    argument: int = 0
    reordered: bool = False
    after_index: bool = False
    good: bool = True


def sprintf(format: str, arguments: Sequence[Argument], spend: Spend) -> str:
    """Return what Go makes of it. ``spend`` is called with the characters of each piece before that is made."""
    parser = _Parser(format, arguments, spend)
    parts: list[str] = []
    while parser.at < len(format):
        start = format.find("%", parser.at)
        parts.append(format[parser.at :] if start < 0 else format[parser.at : start])
        if start < 0:
            break
        parser.at = start + 1
        parts.append(_verb(parser))
    if not parser.reordered and parser.argument < len(arguments):
        extra = ", ".join(f"{_type(value)}={_show(value, Flags(), 'v')}" for value in arguments[parser.argument :])
        parts.append(f"%!(EXTRA {extra})")
    return "".join(parts)


def _verb(parser: _Parser) -> str:
    parser.spend(15)  # what Go says of a mistake is about as long
    format, flags, parser.good = parser.format, _flags(parser), True
    complaints = _sizes(parser, flags)
    if not parser.after_index:
        _index(parser)
    if parser.at >= len(format):
        return complaints + "%!(NOVERB)"
    verb = format[parser.at]
    parser.at += 1
    if verb == "%":  # takes no argument, and neither width nor precision
        return complaints + "%"
    if not parser.good:
        return f"{complaints}%!{verb}(BADINDEX)"
    if parser.argument >= len(parser.arguments):
        return f"{complaints}%!{verb}(MISSING)"
    if verb in "vw":
        flags.sharp_v, flags.sharp = flags.sharp, False
        flags.plus_v, flags.plus = flags.plus, False
    value = parser.arguments[parser.argument]
    parser.argument += 1
    parser.spend((flags.width or 0) + (flags.precision or 0) + _most(value))
    return complaints + _show(value, flags, verb)


def _most(value: Argument) -> int:
    """Return how many characters a verb can make of ``value`` without width and precision, or somewhat more."""
    if isinstance(value, str):
        return 10 * len(value)
    return 350 if isinstance(value, float) else 20 + value.bit_length()


def _flags(parser: _Parser) -> Flags:
    flags = Flags()
    names = {"#": "sharp", "0": "zero", "+": "plus", "-": "minus", " ": "space"}
    while parser.at < len(parser.format) and parser.format[parser.at] in names:
        setattr(flags, names[parser.format[parser.at]], True)
        parser.at += 1
    return flags


def _sizes(parser: _Parser, flags: Flags) -> str:
    """Read width and precision into ``flags``. Returns what Go complains of in them."""
    format, complaints = parser.format, ""
    _index(parser)
    if format[parser.at : parser.at + 1] == "*":
        parser.at += 1
        flags.width = _from_argument(parser)
        if flags.width is None:
            complaints += "%!(BADWIDTH)"
        elif flags.width < 0:
            flags.width, flags.minus = -flags.width, True
    else:
        flags.width, parser.at = _number(format, parser.at, len(format))
        if parser.after_index and flags.width is not None:
            parser.good = False
    if format[parser.at : parser.at + 1] != "." or parser.at + 1 == len(format):  # at the end it is the verb
        return complaints
    parser.at += 1
    if parser.after_index:
        parser.good = False
    _index(parser)
    if format[parser.at : parser.at + 1] == "*":
        parser.at += 1
        flags.precision = _from_argument(parser)
        if flags.precision is not None and flags.precision < 0:
            flags.precision = None
        if flags.precision is None:
            complaints += "%!(BADPREC)"
    else:
        precision, parser.at = _number(format, parser.at, len(format))
        flags.precision = precision or 0
    return complaints


def _from_argument(parser: _Parser) -> int | None:
    parser.after_index = False
    if parser.argument >= len(parser.arguments):
        return None
    value = parser.arguments[parser.argument]
    parser.argument += 1
    return value if type(value) is int and -_TOO_LARGE <= value <= _TOO_LARGE else None


def _number(text: str, start: int, end: int) -> tuple[int | None, int]:
    """Return the decimal number at ``start`` and where it ends; one that is too large takes the rest of the text."""
    number, at = None, start
    while at < end and text[at] in _DIGITS:
        if number is not None and number > _TOO_LARGE:
            return None, end
        number, at = (number or 0) * 10 + int(text[at]), at + 1
    return number, at


def _index(parser: _Parser) -> None:
    """Read an explicit argument index, ``[n]``, if there is one."""
    format, start = parser.format, parser.at
    parser.after_index = False
    if format[start : start + 1] != "[":
        return
    parser.reordered = True
    end = format.find("]", start)
    parser.spend(((end if end >= 0 else len(format)) - start) // 16)  # it is searched again for every one
    if len(format) - start < 3 or end < 0:
        parser.at, parser.good = start + 1, False
        return
    number, stop = _number(format, start + 1, end)
    parser.at = end + 1
    if number is None or stop != end:
        parser.good = False
        return
    parser.after_index = True
    if 1 <= number <= len(parser.arguments):
        parser.argument = number - 1
    else:
        parser.good = False


def _type(value: Argument) -> str:
    if isinstance(value, str):
        return "string"
    if isinstance(value, float):
        return "float64"
    return "int" if INT_MIN <= value <= INT_MAX else "*big.Int"


def _show(value: Argument, flags: Flags, verb: str) -> str:
    type_name = _type(value)
    if verb == "T":
        return string_text(type_name, flags)
    if type_name == "*big.Int" and verb in "pw":
        raise BuiltinError("sprintf", "ambiguous", f"%{verb} of a big integer shows how Go keeps it in memory")
    shown: str | None
    if isinstance(value, str):
        shown = _string(value, flags, verb)
    elif isinstance(value, float):
        shown = float_text(value, flags, "g" if verb == "v" else verb)
    else:
        shown = _integer(value, flags, verb, big=type_name == "*big.Int")
    if shown is None and type_name == "*big.Int":
        return f"%!{verb}(big.Int={value})"
    return f"%!{verb}({type_name}={_show(value, flags, 'v')})" if shown is None else shown


def _string(value: str, flags: Flags, verb: str) -> str | None:
    if verb == "q" or (verb == "v" and flags.sharp_v):
        return pad(quoted(value, flags), flags)
    if verb in "sv":
        return string_text(value, flags)
    if verb not in "xX":
        return None
    data = value.encode()[: flags.precision]
    prefix = f"0{verb}" if flags.sharp else ""
    pieces = [f"{byte:02x}" if verb == "x" else f"{byte:02X}" for byte in data]
    text = prefix + (f" {prefix}" if flags.space else "").join(pieces) if pieces else ""
    return pad(text, flags)


def _integer(value: int, flags: Flags, verb: str, *, big: bool) -> str | None:
    if verb in "vdboOxX" or (big and verb == "s"):
        return integer_text(value, flags, verb, big=big)
    if big or verb not in "cqU":
        return None
    if verb == "U":
        return pad(unicode_text(value, flags), flags, zero=False)
    return pad(rune(value) if verb == "c" else quoted(rune(value), flags, "'"), flags)
