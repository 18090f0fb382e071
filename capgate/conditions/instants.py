"""Reads timestamps (RFC 3339) and durations as CEL does, into nanoseconds."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

SECOND: Final = 1_000_000_000
#: Years 1 to 9999, in nanoseconds since 1970.
EARLIEST: Final = -62_135_596_800 * SECOND
LATEST: Final = 253_402_300_800 * SECOND - 1
#: Durations have 64 bits.
LONGEST: Final = 2**63 - 1

_TIMESTAMP: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?(?:Z|([+-])([0-9]{2}):([0-9]{2}))",
    re.ASCII,
)
_EPOCH: Final = datetime(1970, 1, 1)
_PART: Final = re.compile(r"([0-9]+)(?:\.([0-9]+))?(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_DURATION: Final = re.compile(rf"[+-]?(?:{_PART.pattern})+", re.ASCII)
_UNITS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # the micro sign
    "μs": 1_000,  # the Greek letter
    "ms": 1_000_000,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3_600 * SECOND,
}
#: Most characters of a duration: what is longer has more digits than 64 bits.
_DURATION_LENGTH: Final = 128


def is_timestamp(nanoseconds: int) -> bool:
    """Say whether a time is in the years that there are."""
    return EARLIEST <= nanoseconds <= LATEST


def is_duration(nanoseconds: int) -> bool:
    """Say whether a duration has 64 bits."""
    return -LONGEST - 1 <= nanoseconds <= LONGEST


def parse_timestamp(text: str) -> int | None:
    """Return nanoseconds since 1970, or ``None`` where ``text`` is no RFC 3339 time of years 1 to 9999.

    ``T`` and ``Z`` are in upper case; seconds have at most nine digits behind the point, and there are no leap seconds.
    """
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        return None
    try:
        passed = datetime.fromisoformat(match[1]) - _EPOCH
    except ValueError:
        return None
    hours, minutes = int(match[4] or 0), int(match[5] or 0)
    if hours > 23 or minutes > 59:
        return None
    offset = (hours * 3_600 + minutes * 60) * (-1 if match[3] == "-" else 1)
    nanoseconds = (passed.days * 86_400 + passed.seconds - offset) * SECOND + int((match[2] or "").ljust(9, "0"))
    return nanoseconds if is_timestamp(nanoseconds) else None


def utc(seconds: int) -> str:
    """Return ``2027-01-01T00:00:00``, without the zone, of whole seconds since 1970 in years 1 to 9999."""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()


def timestamp_of(seconds: int) -> int | None:
    """Return the nanoseconds of ``seconds`` since 1970, or ``None`` where they are not in years 1 to 9999."""
    return seconds * SECOND if is_timestamp(seconds * SECOND) else None


def parse_duration(text: str) -> int | None:
    """Return the nanoseconds of ``1h30m`` or ``-2.5s``; ``None`` where it is no duration, or no whole nanoseconds."""
    if text.lstrip("+-") == "0" and len(text) <= 2:
        return 0
    if len(text) > _DURATION_LENGTH or not _DURATION.fullmatch(text):
        return None
    nanoseconds = 0
    for whole, fraction, unit in _PART.findall(text):
        scale = 10 ** len(fraction)
        scaled = (int(whole) * scale + int(fraction or 0)) * _UNITS[unit]
        if scaled % scale:
            return None
        nanoseconds += scaled // scale
    if text.startswith("-"):
        nanoseconds = -nanoseconds
    return nanoseconds if is_duration(nanoseconds) else None
