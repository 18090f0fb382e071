"""Reads times as Go's ``time.Parse``, by layouts (:mod:`capgate.rego.golayout`).

The local zone is UTC: the abbreviation of another zone is accepted and says nothing of the offset.
"""

from __future__ import annotations

import calendar
import datetime
import re
from typing import Final

import msgspec

from .base import Undefined
from .golayout import DAYS, MONTHS, elements

_OFFSET: Final = re.compile(r"([+-])([0-9]{2}):?([0-9]{2})?:?([0-9]{2})?", re.ASCII)


class _Read(msgspec.Struct):
    """What was read so far, and the rest of the text; -1 is what was not."""

    rest: str
    year: int = 0
    month: int = -1
    day: int = -1
    day_of_year: int = -1
    hour: int = 0
    minute: int = 0
    second: int = 0
    nanosecond: int = 0
    half: str = ""
    offset: int = 0


def read(layout: str, text: str) -> int:
    """Read as ``time.Parse``: nanoseconds since the epoch, or :class:`Undefined` where the text is not of that
    layout."""
    time = _Read(text)
    parts = elements(layout)
    for index, (literal, element) in enumerate(parts):
        time.rest = _skip(time.rest, literal)
        if element:
            _take(time, element, parts[index + 1][1])
    if time.rest:
        raise Undefined
    if time.half == "PM" and time.hour < 12:
        time.hour += 12
    elif time.half == "AM" and time.hour == 12:
        time.hour = 0
    month, day = _month_and_day(time)
    if not 1 <= time.year <= 9999:  # neither is in the range of OPA's times
        raise Undefined
    days = datetime.date(time.year, month, day).toordinal() - datetime.date(1970, 1, 1).toordinal()
    seconds = ((days * 24 + time.hour) * 60 + time.minute) * 60 + time.second - time.offset
    return seconds * 1_000_000_000 + time.nanosecond


def _skip(text: str, literal: str) -> str:
    """Return ``text`` after ``literal``, in which a run of spaces stands for any number of them."""
    while literal:
        if literal[0] == " ":
            if text and text[0] != " ":
                raise Undefined
            literal, text = literal.lstrip(" "), text.lstrip(" ")
            continue
        run = literal.partition(" ")[0]
        if not text.startswith(run):
            raise Undefined
        literal, text = literal[len(run) :], text[len(run) :]
    return text


def _take(time: _Read, element: str, following: str) -> None:
    if element in _NUMBERS:
        name, fixed, low, high = _NUMBERS[element]
        if element == "_2" and time.rest.startswith(" "):
            time.rest = time.rest[1:]
        value = _digits(time, 2 if fixed else 1, 2)
        if not low <= value <= high:
            raise Undefined
        setattr(time, name, value)
        if name == "second":
            _unannounced_fraction(time, following)
    elif element in _NAMES:
        name, words = _NAMES[element]
        setattr(time, name, _word(time, words)) if name else _word(time, words)
    elif element == "2006":
        if not _is_digit(time.rest[:1]):
            raise Undefined
        time.year = _signed(time, 4)
    elif element == "06":
        year = _signed(time, 2)
        time.year = year + (1900 if year >= 69 else 2000)
    elif element in ("__2", "002"):
        if element == "__2":
            spaces = len(time.rest[:2]) - len(time.rest[:2].lstrip(" "))
            time.rest = time.rest[spaces:]
        time.day_of_year = _digits(time, 3 if element == "002" else 1, 3)
    elif element in ("PM", "pm"):
        half, time.rest = time.rest[:2], time.rest[2:]
        if half not in (("PM", "AM") if element == "PM" else ("pm", "am")):
            raise Undefined
        time.half = half.upper()
    elif element == "MST":
        time.rest = time.rest[_zone_length(time.rest) :]
    elif element[0] in ".,":
        _take_fraction(time, element)
    else:
        _take_offset(time, element)


#: element -> what it is, whether it has two digits always, and the bounds that Go checks at once.
_NUMBERS: Final = {
    "1": ("month", False, 1, 12),
    "01": ("month", True, 1, 12),
    "2": ("day", False, 0, 99),
    "_2": ("day", False, 0, 99),
    "02": ("day", True, 0, 99),
    "15": ("hour", False, 0, 23),
    "3": ("hour", False, 0, 12),
    "03": ("hour", True, 0, 12),
    "4": ("minute", False, 0, 59),
    "04": ("minute", True, 0, 59),
    "5": ("second", False, 0, 59),
    "05": ("second", True, 0, 59),
}
_NAMES: Final = {
    "January": ("month", MONTHS),
    "Jan": ("month", tuple(name[:3] for name in MONTHS)),
    "Monday": ("", DAYS),  # a weekday is read and not compared
    "Mon": ("", tuple(name[:3] for name in DAYS)),
}


def _is_digit(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _digits(time: _Read, least: int, most: int) -> int:
    count = 0
    while count < most and _is_digit(time.rest[count : count + 1]):
        count += 1
    if count < least:
        raise Undefined
    value, time.rest = int(time.rest[:count]), time.rest[count:]
    return value


def _signed(time: _Read, count: int) -> int:
    """Read a number in the next ``count`` characters, which may begin with a sign."""
    text, time.rest = time.rest[:count], time.rest[count:]
    digits = text[1:] if text[:1] in ("+", "-") else text
    if len(text) < count or (digits and not _is_digit(digits)):
        raise Undefined
    return -int(digits or 0) if text[:1] == "-" else int(digits or 0)


def _word(time: _Read, words: tuple[str, ...]) -> int:
    for index, word in enumerate(words):
        start = time.rest[: len(word)]
        if start.isascii() and start.lower() == word.lower():
            time.rest = time.rest[len(word) :]
            return index + 1
    raise Undefined


def _unannounced_fraction(time: _Read, following: str) -> None:
    """Read a fraction after the seconds, which is accepted though the layout has none."""
    if time.rest[:1] in (".", ",") and _is_digit(time.rest[1:2]) and following[:1] not in (".", ","):
        _take_run(time)


def _take_run(time: _Read) -> None:
    count = 1
    while _is_digit(time.rest[count : count + 1]):
        count += 1
    time.nanosecond, time.rest = _nanoseconds(time.rest[:count]), time.rest[count:]


def _take_fraction(time: _Read, element: str) -> None:
    if element[1] == "0":
        text, time.rest = time.rest[: len(element)], time.rest[len(element) :]
        if len(text) < len(element):
            raise Undefined
        time.nanosecond = _nanoseconds(text)
    elif time.rest[:1] in (".", ",") and _is_digit(time.rest[1:2]):
        _take_run(time)


def _nanoseconds(text: str) -> int:
    if text[:1] not in (".", ","):
        raise Undefined
    part = _Read(text[1:10])
    value = _signed(part, len(part.rest))
    if value < 0:
        raise Undefined
    return int(value * 10 ** (9 - len(text[1:10])))


def _take_offset(time: _Read, element: str) -> None:
    if element[0] == "Z" and time.rest.startswith("Z"):
        time.rest, time.offset = time.rest[1:], 0
        return
    size = len(element)
    text, time.rest = time.rest[:size], time.rest[size:]
    match = _OFFSET.fullmatch(text)
    if (
        match is None
        or len(text) != size
        or [at for at in (3, 6) if text[at : at + 1] == ":"] != [at for at in (3, 6) if element[at : at + 1] == ":"]
    ):
        raise Undefined
    hours, minutes, seconds = (int(part or 0) for part in match.groups()[1:])
    if hours > 24 or minutes > 60 or seconds > 60:
        raise Undefined
    time.offset = ((hours * 60 + minutes) * 60 + seconds) * (-1 if match[1] == "-" else 1)


def _zone_length(text: str) -> int:
    """Return how long the abbreviation of a zone at the start of ``text`` is, by Go's rules for what looks like one."""
    if text.startswith("UTC"):
        return 3
    if len(text) >= 3 and text.startswith(("ChST", "MeST")):
        return 4
    if text.startswith("GMT"):
        return 3 + _signed_offset(text[3:])
    if len(text) >= 3 and text[0] in "+-":
        length = _signed_offset(text)
    else:
        upper = len(text[:6]) - len(text[:6].lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
        named = upper == 3 or (upper in (4, 5) and text[upper - 1] == "T") or (upper == 4 and text[:4] == "WITA")
        length = upper if named else 0
    if not length:
        raise Undefined
    return length


def _signed_offset(text: str) -> int:
    match = re.match(r"[+-]([0-9]+)", text, re.ASCII)
    if match is None or len(match[1]) > 19 or int(match[1]) > 23:
        return 0
    return match.end()


def _month_and_day(time: _Read) -> tuple[int, int]:
    month, day = max(time.month, 1) if time.month >= 0 else 1, time.day if time.day >= 0 else 1
    leap = time.year % 4 == 0 and (time.year % 100 != 0 or time.year % 400 == 0)
    if time.day_of_year >= 0:
        if not 1 <= time.day_of_year <= 365 + leap:
            raise Undefined
        that = datetime.date(2000 if leap else 2001, 1, 1) + datetime.timedelta(time.day_of_year - 1)
        if (time.month >= 0 and time.month != that.month) or (time.day >= 0 and time.day != that.day):
            raise Undefined
        month, day = that.month, that.day
    if not 1 <= day <= calendar.monthrange(2000 if leap else 2001, month)[1]:
        raise Undefined
    return month, day
