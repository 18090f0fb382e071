"""Reckons as Go's ``math/big``, and provides ``numbers.range_step``, ``units.*``."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from ..errors import BuiltinError
from .base import Context, Undefined, builtin, numeric, string
from .terms import MAX_NUMBER, Number, Value, number

#: A greater exponent is an error in OPA, where it is in scientific notation.
_EXPONENT_DIGITS: Final = 6
#: Digits that a number from a string may have, its exponent written out.
_MAX_DIGITS: Final = 5_000
_AMOUNT: Final = re.compile(r"(?:[0-9.+-]|[eE](?=[0-9+-])[+-]?)*", re.ASCII)
_EXPONENT: Final = re.compile(r"[eE][+-]?([0-9]*)", re.ASCII)
_GO_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE]([+-]?[0-9]+))?", re.ASCII)
_LETTERS: Final = "kmgtpe"


def round_to_64_bits(value: Fraction) -> Fraction:
    """Return ``value`` with a mantissa of 64 bits, the nearest, ties to even: ``big.Float`` as OPA makes it of a
    number."""
    numerator, denominator = abs(value.numerator), value.denominator
    excess = numerator.bit_length() - denominator.bit_length() - 64
    while True:
        unit = Fraction(2) ** excess
        mantissa = round(abs(value) / unit)  # ties to even
        if mantissa.bit_length() <= 64:
            return mantissa * unit * (-1 if value < 0 else 1)
        excess += 1


@builtin("numbers.range_step")
def range_step(context: Context, start: Value, stop: Value, step: Value) -> Value:
    """Return the integers from ``start`` to ``stop``, both included, up or down by ``step``, which is positive."""
    first, last, by = _whole(start), _whole(stop), _whole(step)
    if by <= 0:
        raise Undefined
    context.spend(abs(last - first) // by + 1)
    return tuple(range(first, last + 1, by) if first <= last else range(first, last - 1, -by))


def _whole(value: Value) -> int:
    exactly = numeric(value)
    if isinstance(exactly, Number):
        if exactly and not -MAX_NUMBER < exactly.adjusted() < MAX_NUMBER:
            raise BuiltinError("number", "limit", f"{exactly.text[:80]!r} has too many digits")
        exact = round_to_64_bits(Fraction(exactly))
        if exact.denominator != 1:
            raise Undefined
        return exact.numerator
    return int(round_to_64_bits(Fraction(exactly)))


@builtin("units.parse")
def parse_units(context: Context, text: Value) -> Value:
    """Read ``10K``, ``1.5Gi``, ``100m``: a number by its unit, exact to ten digits after the point; m is a
    thousandth."""
    amount, unit = _split(string(text).replace('"', ""))
    unit = unit[:1] + unit[1:].lower()
    if unit == "m":
        factor = Fraction(0.001)  # of a float, as in OPA
    elif unit in ("k", "K"):
        factor = Fraction(1_000)
    else:
        lowered = unit[:1].lower() + unit[1:]
        known = unit == "" or unit == "M" or lowered[1:] == "i" or lowered in ("g", "t", "p", "e")
        factor = _factor(lowered if known else "?")
    exact = _rational(context, amount) * factor
    return _decimal(exact)


def _decimal(value: Fraction) -> Value:
    if value.denominator == 1:
        return number(str(value.numerator))
    scaled = abs(value.numerator) * 10**10 * 2 + value.denominator  # halves away from zero
    digits = str(scaled // (2 * value.denominator)).rjust(11, "0")
    return number(f"{'-' if value < 0 else ''}{digits[:-10]}.{digits[-10:]}")


@builtin("units.parse_bytes")
def parse_bytes(context: Context, text: Value) -> Value:
    """Read ``10KB``, ``1.5gib``: a whole number of bytes, the rest cut off; letters are the same in both cases."""
    amount, unit = _split(string(text).lower().replace('"', ""))
    factor = _factor(unit[:-1] if unit.endswith("b") and unit != "b" else unit)
    exact = round_to_64_bits(_rational(context, amount))
    return number(str(int(round_to_64_bits(exact * factor))))


def _factor(unit: str) -> Fraction:
    if unit == "":
        return Fraction(1)
    power = _LETTERS.find(unit[0]) + 1
    if not power or unit[1:] not in ("", "i"):
        raise Undefined
    return Fraction((1024 if unit[1:] else 1000) ** power)


def _split(text: str) -> tuple[str, str]:
    """Return the amount and the unit. An ``e`` belongs to the amount where digits or a sign follow."""
    if " " in text:
        raise Undefined
    leading = _AMOUNT.match(text)
    end = 0 if leading is None else leading.end()
    amount = text[:end]
    if any(len(match[1]) > _EXPONENT_DIGITS for match in _EXPONENT.finditer(amount)) or not amount:
        raise Undefined
    return amount, text[end:]


def _rational(context: Context, text: str) -> Fraction:
    match = _GO_NUMBER.fullmatch(text)
    if match is None:
        raise Undefined
    exponent = int(match[2] or 0)
    if len(text) + abs(exponent) > _MAX_DIGITS:
        raise BuiltinError("units", "limit", f"{len(text) + abs(exponent)} digits, at most {_MAX_DIGITS}")
    context.spend(len(text) + abs(exponent))
    return Fraction(text if not text.endswith(".") else text + "0")
