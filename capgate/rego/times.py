"""Provides ``time.*``. A time is in nanoseconds since the epoch, or in an array with a zone's name and perhaps a
layout.

The time is that of the question, zones are those of the ``tzdata`` package: nothing depends on the machine.
"""

from __future__ import annotations

import datetime
import functools
import importlib.resources
import importlib.util
import zoneinfo
from fractions import Fraction
from typing import Final

from ..errors import BuiltinError
from .base import INT_MAX, INT_MIN, Context, Undefined, builtin, integer, numeric, string
from .golayout import DAYS, LAYOUTS, Moment, write
from .goparse import read
from .numbers import round_to_64_bits
from .terms import Number, Value

_BILLION: Final = 1_000_000_000
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
#: Years, months or days to add; Go's integers overflow at some point beyond.
_MAX_STEP: Final = 1_000_000_000
_UNITS: Final = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,
    "\u03bcs": 1_000,
    "ms": 1_000_000,
    "s": _BILLION,
    "m": 60 * _BILLION,
    "h": 3_600 * _BILLION,
}
_NEEDS: Final = (("tzdata", importlib.util.find_spec("tzdata")),)
Zone = datetime.tzinfo


@builtin("time.now_ns")
def now(context: Context) -> Value:
    return context.timestamp_ns


@builtin("time.parse_rfc3339_ns")
def parse_rfc3339(context: Context, text: Value) -> Value:
    context.spend(len(string(text)) // 2)
    return _in_range(read(LAYOUTS["RFC3339"], string(text)))


@builtin("time.parse_ns")
def parse(context: Context, layout: Value, text: Value) -> Value:
    name = string(layout)
    context.spend(10 * len(name) + len(name) * len(string(text)) // 64)  # what is left of it is copied for each element
    return _in_range(read(LAYOUTS.get(name, name), string(text)))


@builtin("time.parse_duration_ns")
def parse_duration(context: Context, text: Value) -> Value:
    """Read as Go's ``time.ParseDuration``: ``1h15m30.918s``."""
    rest = string(text)
    context.spend(len(rest) ** 2 // 64)
    negative = rest.startswith("-")
    if rest[:1] in ("-", "+"):
        rest = rest[1:]
    if rest == "0":
        return 0
    total = 0
    if not rest:
        raise Undefined
    while rest:
        amount, rest = _duration_part(rest)
        total += amount
        if total > 2**63:
            raise Undefined
    if negative:
        return -total
    if total > INT_MAX:
        raise Undefined
    return total


def _duration_part(text: str) -> tuple[int, str]:
    whole, rest = _leading_digits(text)
    fraction = ""
    if rest.startswith("."):
        fraction, rest = _leading_digits(rest[1:])
    end = 0
    while end < len(rest) and rest[end] not in ".0123456789":
        end += 1
    unit = _UNITS.get(rest[:end])
    if unit is None or not whole + fraction or len(whole.lstrip("0")) > 19:
        raise Undefined
    amount = int(whole or "0")
    if amount > 2**63 // unit:
        raise Undefined
    return _with_fraction(amount * unit, fraction, unit), rest[end:]


def _with_fraction(amount: int, fraction: str, unit: int) -> int:
    """Add a fraction as Go has it: digits that no integer of 63 bits can take are left out, and the rest is a float's
    arithmetic."""
    value, scale = 0, 1.0
    for digit in fraction:
        if value > INT_MAX // 10 or value * 10 + int(digit) > 2**63:
            break
        value, scale = value * 10 + int(digit), scale * 10
    amount += int(value * (unit / scale)) if value else 0
    if amount > 2**63:
        raise Undefined
    return amount


def _leading_digits(text: str) -> tuple[str, str]:
    rest = text.lstrip("0123456789")
    return text[: len(text) - len(rest)], rest


@builtin("time.date", needs=_NEEDS)
def date(context: Context, time: Value) -> Value:
    moment, _, _ = _moment(time)
    return (moment.year, moment.month, moment.day)


@builtin("time.clock", needs=_NEEDS)
def clock(context: Context, time: Value) -> Value:
    moment, _, _ = _moment(time)
    return (moment.hour, moment.minute, moment.second)


@builtin("time.weekday", needs=_NEEDS)
def weekday(context: Context, time: Value) -> Value:
    moment, _, _ = _moment(time)
    return DAYS[moment.date().weekday()]


@builtin("time.format", needs=_NEEDS)
def format_time(context: Context, time: Value) -> Value:
    moment, _, layout = _moment(time)
    context.spend(10 * len(layout))
    return write(moment, LAYOUTS.get(layout or "RFC3339Nano", layout))


@builtin("time.add_date", needs=_NEEDS)
def add_date(context: Context, time: Value, years: Value, months: Value, days: Value) -> Value:
    """Add to a date. One that does not exist is that many days later, as October 32 is November 1."""
    moment, zone, _ = _moment(time)
    steps = [integer(value) for value in (years, months, days)]
    if max(map(abs, steps)) > _MAX_STEP:
        raise BuiltinError("time", "limit", f"a step of {max(map(abs, steps))}, at most {_MAX_STEP}")
    carried, month = divmod(moment.month - 1 + steps[1], 12)
    year = moment.year + steps[0] + carried
    if not 1 <= year <= 9999 or abs(steps[2]) > 9_999 * 366:
        # Too far away, unless years and days are opposites of the same size.
        year, month, first = _far_first(year, month)
    else:
        first = datetime.date(year, month + 1, 1).toordinal() - _EPOCH.toordinal()
    local = ((first + moment.day - 1 + steps[2]) * 86_400) + (moment.hour * 60 + moment.minute) * 60 + moment.second
    offset = _offset(local, zone)
    if offset:
        offset = _offset(local - offset, zone)
    return _in_range((local - offset) * _BILLION + moment.nanosecond)


def _far_first(year: int, month: int) -> tuple[int, int, int]:
    """Return the first day of a month in any year, in days since the epoch: the calendar repeats every 400 years."""
    cycles, rest = divmod(year - 2000, 400)
    first = datetime.date(2000 + rest, month + 1, 1).toordinal() - _EPOCH.toordinal()
    return year, month, first + cycles * 146_097


@builtin("time.diff", needs=_NEEDS)
def diff(context: Context, first: Value, second: Value) -> Value:
    """Return years, months, days, hours, minutes, seconds between the two, in the zone of the first."""
    _, zone, _ = _moment(first)
    earlier, later = sorted((_nanoseconds(first), _nanoseconds(second)))
    _moment(second)  # whose zone has to exist
    a, b = _local(earlier, zone), _local(later, zone)
    years, months, days = b.year - a.year, b.month - a.month, b.day - a.day
    hours, minutes, seconds = b.hour - a.hour, b.minute - a.minute, b.second - a.second
    if seconds < 0:
        seconds, minutes = seconds + 60, minutes - 1
    if minutes < 0:
        minutes, hours = minutes + 60, hours - 1
    if hours < 0:
        hours, days = hours + 24, days - 1
    if days < 0:
        following = datetime.date(a.year + a.month // 12, a.month % 12 + 1, 1)
        days, months = days + (following - datetime.date(a.year, a.month, 1)).days, months - 1
    if months < 0:
        months, years = months + 12, years - 1
    return (years, months, days, hours, minutes, seconds)


def _in_range(nanoseconds: int) -> int:
    if not INT_MIN <= nanoseconds <= INT_MAX:
        raise Undefined
    return nanoseconds


def _nanoseconds(value: Value) -> int:
    number = numeric(value[0] if isinstance(value, tuple) and value else value)
    if isinstance(number, Number):
        if number and not -20 < number.adjusted() < 20:
            raise Undefined
        exact = round_to_64_bits(Fraction(number))
        if exact.denominator != 1:
            raise Undefined
        number = exact.numerator
    return _in_range(number)


def _moment(value: Value) -> tuple[Moment, Zone, str]:
    """Read a time, or an array of a time, perhaps a zone, perhaps a layout."""
    nanoseconds = _nanoseconds(value)
    parts = value if isinstance(value, tuple) else ()
    zone = _zone(string(parts[1])) if len(parts) > 1 else datetime.timezone.utc
    layout = string(parts[2]) if len(parts) > 2 else ""
    return _local(nanoseconds, zone), zone, layout


def _zone(name: str) -> Zone:
    if name in ("", "UTC"):
        return datetime.timezone.utc
    if name == "Local":
        raise BuiltinError("time", "ambiguous", "the zone 'Local' is that of the machine")
    return _load(name)


@functools.cache
def _names() -> frozenset[str]:
    return frozenset(importlib.resources.files("tzdata").joinpath("zones").read_text(encoding="utf-8").split())


def _load(name: str) -> Zone:
    if name not in _names():
        raise Undefined
    return _load_known(name)


@functools.cache
def _load_known(name: str) -> Zone:
    path = importlib.resources.files("tzdata").joinpath("zoneinfo")
    for part in name.split("/"):
        path = path.joinpath(part)
    with path.open("rb") as file:
        return zoneinfo.ZoneInfo.from_file(file, key=name)


def _offset(seconds: int, zone: Zone) -> int:
    """Return the seconds that ``zone`` is ahead of UTC, ``seconds`` after the epoch."""
    if not -(2**34) < seconds < 2**34:  # out of the range of OPA's times, so it will not matter
        return 0
    ahead = (_EPOCH + datetime.timedelta(seconds=seconds)).astimezone(zone).utcoffset()
    return 0 if ahead is None else int(ahead.total_seconds())


def _local(nanoseconds: int, zone: Zone) -> Moment:
    seconds, nanosecond = divmod(nanoseconds, _BILLION)
    at = (_EPOCH + datetime.timedelta(seconds=seconds)).astimezone(zone)
    offset, name = _offset(seconds, zone), at.tzname() or ""
    return Moment(at.year, at.month, at.day, at.hour, at.minute, at.second, nanosecond, offset, name)
