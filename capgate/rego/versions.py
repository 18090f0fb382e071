"""Provides ``semver.*`` and ``uuid.parse``."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from ..errors import BuiltinError
from .base import INT_MAX, Context, Undefined, builtin, string
from .terms import Object, Value

_IDENTIFIERS: Final = re.compile(r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*", re.ASCII)
_DIGITS: Final = re.compile(r"[0-9]+", re.ASCII)
#: What https://semver.org suggests.
_STRICT: Final = re.compile(
    r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*)){2}"
    r"(?:-(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)(?:\.(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*))*)?"
    r"(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?",
    re.ASCII,
)
_UUID: Final = re.compile(
    r"([0-9a-fA-F]{8})-([0-9a-fA-F]{4})-([0-9a-fA-F]{4})-([0-9a-fA-F]{4})-([0-9a-fA-F]{12})", re.ASCII
)
_PLAIN_UUID: Final = re.compile(r"[0-9a-fA-F]{32}", re.ASCII)
#: From the start of the Gregorian calendar, from which UUIDs count, to the epoch, in units of 100 ns.
_GREGORIAN: Final = 122_192_928_000_000_000
_DOMAINS: Final = ("Person", "Group", "Org")


class _Version(msgspec.Struct, frozen=True):
    numbers: tuple[int, int, int]
    prerelease: str


def _version(text: str) -> _Version:
    """Read a version that every release of OPA takes for one, or :class:`Undefined` for what none does.

    Releases differ in a ``v`` in front, in zeros at the start of numbers, and in parts that are empty.
    """
    version = _lenient_version(text)
    if _STRICT.fullmatch(text) is None:
        raise BuiltinError("semver", "ambiguous", f"{text[:80]!r} is a version to some releases of OPA")
    return version


def _lenient_version(text: str) -> _Version:
    text, _, metadata = text.removeprefix("v").partition("+")
    text, _, prerelease = text.partition("-")
    if any(part and not _IDENTIFIERS.fullmatch(part) for part in (metadata, prerelease)):
        raise Undefined
    parts = text.split(".")
    if len(parts) != 3 or not all(_DIGITS.fullmatch(part) and len(part.lstrip("0")) <= 19 for part in parts):
        raise Undefined
    major, minor, patch = (int(part) for part in parts)
    if max(major, minor, patch) > INT_MAX:
        raise Undefined
    return _Version((major, minor, patch), prerelease)


@builtin("semver.is_valid")
def is_valid(context: Context, version: Value) -> Value:
    try:
        _version(string(version))
    except Undefined:
        return False
    return True


@builtin("semver.compare")
def compare(context: Context, first: Value, second: Value) -> Value:
    """Return -1, 0 or 1 (https://semver.org, item 11)."""
    left, right = _version(string(first)), _version(string(second))
    if left.numbers != right.numbers:
        return -1 if left.numbers < right.numbers else 1
    if left.prerelease == right.prerelease:
        return 0
    if not left.prerelease or not right.prerelease:
        return 1 if not left.prerelease else -1
    keys = [[_key(part) for part in version.prerelease.split(".")] for version in (left, right)]
    if keys[0] == keys[1]:
        raise BuiltinError(
            "semver.compare", "ambiguous", "pre-releases that differ beyond 64 bits, where OPA never ends"
        )
    return -1 if keys[0] < keys[1] else 1


def _key(identifier: str) -> tuple[int, int, str]:
    """Return what sorts numbers before words; beyond 64 bits all numbers are the same to OPA."""
    if not _DIGITS.fullmatch(identifier):
        return (1, 0, identifier)
    digits = identifier.lstrip("0") or "0"
    return (0, min(int(digits), INT_MAX) if len(digits) <= 19 else INT_MAX, "")


@builtin("uuid.parse")
def parse_uuid(context: Context, text: Value) -> Value:
    """Return version and variant of a UUID, and of versions 1 and 2 what they are made of (RFC 4122)."""
    data = _uuid_bytes(string(text))
    version = data[6] >> 4
    parts: dict[str, Value] = {"version": version, "variant": _variant(data[8])}
    if version in (1, 2):
        parts["nodeid"] = data[10:].hex("-")
        parts["macvariables"] = _scope(data[10])
        parts["clocksequence"] = int.from_bytes(data[8:10], "big") & 0x3FFF
        ticks = int.from_bytes(data[6:8] + data[4:6] + data[:4], "big") & (2**60 - 1)
        parts["time"] = (ticks - _GREGORIAN) * 100
        if version == 2:
            parts["id"] = int.from_bytes(data[:4], "big")
            parts["domain"] = _DOMAINS[data[9]] if data[9] < len(_DOMAINS) else f"Domain{data[9]}"
    return Object(parts.items())


def _uuid_bytes(text: str) -> bytes:
    """Read the four forms that Go's library reads: plain, with hyphens, that in ``urn:uuid:`` or between any two
    bytes."""
    size = len(text.encode())
    if size == 45 and text[:9].lower() == "urn:uuid:":
        text = text[9:]
    elif size == 38:
        text = text[1:37] if text.isascii() else ""
    elif size == 32:
        if _PLAIN_UUID.fullmatch(text) is None:
            raise Undefined
        return bytes.fromhex(text)
    if _UUID.fullmatch(text) is None:
        raise Undefined
    return bytes.fromhex(text.replace("-", ""))


def _variant(byte: int) -> str:
    if byte & 0xC0 == 0x80:
        return "RFC4122"
    if byte & 0xE0 == 0xC0:
        return "Microsoft"
    return "Future" if byte & 0xE0 == 0xE0 else "Reserved"


def _scope(byte: int) -> str:
    return f"{'local' if byte & 2 else 'global'}:{'multicast' if byte & 1 else 'unicast'}"
