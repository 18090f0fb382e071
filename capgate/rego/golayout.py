"""Writes times by Go's layouts, such as ``2006-01-02T15:04:05Z07:00``: the reference time written as times shall be.

See https://pkg.go.dev/time#pkg-constants. For reading times with them see :mod:`capgate.rego.goparse`.
"""

from __future__ import annotations

import datetime
import re
from typing import Final

import msgspec

#: OPA's names for layouts.
LAYOUTS: Final = {
    "ANSIC": "Mon Jan _2 15:04:05 2006",
    "UnixDate": "Mon Jan _2 15:04:05 MST 2006",
    "RubyDate": "Mon Jan 02 15:04:05 -0700 2006",
    "RFC822": "02 Jan 06 15:04 MST",
    "RFC822Z": "02 Jan 06 15:04 -0700",
    "RFC850": "Monday, 02-Jan-06 15:04:05 MST",
    "RFC1123": "Mon, 02 Jan 2006 15:04:05 MST",
    "RFC1123Z": "Mon, 02 Jan 2006 15:04:05 -0700",
    "RFC3339": "2006-01-02T15:04:05Z07:00",
    "RFC3339Nano": "2006-01-02T15:04:05.999999999Z07:00",
}
MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

#: The elements of a layout, longest first where one begins another. Months and days are none where the word goes on.
_ELEMENT: Final = re.compile(
    r"January|Jan(?![a-z])|Monday|Mon(?![a-z])|MST|0[1-6]|002|15|1|2006|2|_(?=2006)|_2|__2|3|4|5|PM|pm"
    r"|[-Z](?:070000|07:00:00|0700|07:00|07)|[.,](?:0+|9+)(?![0-9])"
)


class Moment(msgspec.Struct):
    """A time in a zone: local year to nanosecond, the offset from UTC in seconds, the zone's abbreviation."""

    year: int
    month: int
    day: int
    hour: int
    minute: int
    second: int
    nanosecond: int
    offset: int
    zone: str

    def date(self) -> datetime.date:
        return datetime.date(self.year, self.month, self.day)


def elements(layout: str) -> list[tuple[str, str]]:
    """Return the layout in pairs of the text before an element, and the element; the last has the empty one."""
    pairs: list[tuple[str, str]] = []
    at = literal = 0
    while True:
        match = _ELEMENT.search(layout, at)
        if match is None:
            return [*pairs, (layout[literal:], "")]
        at = match.end()
        if match[0] == "_":  # stands for itself before a year
            continue
        pairs.append((layout[literal : match.start()], match[0]))
        literal = at


def write(moment: Moment, layout: str) -> str:
    """Write as ``Time.Format``."""
    texts = _texts(moment)
    return "".join(text + (_written(moment, element, texts) if element else "") for text, element in elements(layout))


def _written(moment: Moment, element: str, texts: dict[str, str]) -> str:
    if element[0] in "-Z":
        return _offset_text(moment.offset, element)
    if element[0] in ".,":
        return _fraction_text(moment.nanosecond, element)
    return texts[element]


def _texts(moment: Moment) -> dict[str, str]:
    hour = moment.hour % 12 or 12
    half = "PM" if moment.hour >= 12 else "AM"
    day_of_year = moment.date().timetuple().tm_yday
    return {
        "2006": f"{moment.year:04d}",
        "06": f"{moment.year % 100:02d}",
        "January": MONTHS[moment.month - 1],
        "Jan": MONTHS[moment.month - 1][:3],
        "01": f"{moment.month:02d}",
        "1": f"{moment.month}",
        "Monday": DAYS[moment.date().weekday()],
        "Mon": DAYS[moment.date().weekday()][:3],
        "2": f"{moment.day}",
        "_2": f"{moment.day:2d}",
        "02": f"{moment.day:02d}",
        "__2": f"{day_of_year:3d}",
        "002": f"{day_of_year:03d}",
        "15": f"{moment.hour:02d}",
        "3": f"{hour}",
        "03": f"{hour:02d}",
        "4": f"{moment.minute}",
        "04": f"{moment.minute:02d}",
        "5": f"{moment.second}",
        "05": f"{moment.second:02d}",
        "PM": half,
        "pm": half.lower(),
        "MST": moment.zone,
    }


def _offset_text(offset: int, element: str) -> str:
    if element[0] == "Z" and offset == 0:
        return "Z"
    minutes = abs(offset) // 60
    sign = "-" if offset < 0 and minutes else "+"
    colon = ":" if ":" in element else ""
    parts = [f"{minutes // 60:02d}", f"{minutes % 60:02d}", f"{abs(offset) % 60:02d}"]
    return sign + colon.join(parts[: sum(char.isdigit() for char in element) // 2])


def _fraction_text(nanosecond: int, element: str) -> str:
    digits = f"{nanosecond:09d}"[: len(element) - 1]
    if element[1] == "9":
        digits = digits.rstrip("0")
        return element[0] + digits if digits else ""
    return element[0] + digits
