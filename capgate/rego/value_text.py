"""Reads and writes the text of Rego values, as OPA's modules write (``opa_value_dump``) and read (``opa_value_parse``).

It is JSON with two additions: sets, ``{1, 2}`` and ``set()``, and keys that are no strings. Text that is not exactly of
that form raises :class:`BuiltinError`, and nothing else. The values are those of :mod:`capgate.rego.terms`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Final

from ..errors import BuiltinError
from .terms import MAX_DEPTH, Number, Object, Set, Value, is_unicode, number, weigh

#: Values that are read between two looks at the clock.
_OFTEN: Final = 256
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_STRING: Final = re.compile(r'"([^"\\\x00-\x1f]*)"')
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)
_WORDS: Final[tuple[tuple[str, Value], ...]] = (("null", None), ("true", True), ("false", False))


def _nothing() -> None:
    """Do nothing meanwhile."""


def parse(data: bytes, meanwhile: Callable[[], object] = _nothing) -> Value:
    """Read the value that ``opa_value_dump`` wrote as ``data``.

    A text that fits the limits takes up to 0.2 seconds: ``meanwhile`` is called about each millisecond, and may raise.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise BuiltinError("value", "text", f"no UTF-8 at byte {error.start}") from None
    value, end = _Reader(text, meanwhile).value(_skip(text, 0), MAX_DEPTH)
    if _skip(text, end) != len(text):
        raise _bad(text, end)
    return value


def _bad(text: str, at: int) -> BuiltinError:
    return BuiltinError("value", "text", f"unexpected {text[at : at + 20]!r} at character {at}")


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return at if space is None else space.end()


def _string(text: str, at: int) -> tuple[str, int]:
    simple = _STRING.match(text, at)
    if simple is not None:
        return simple[1], simple.end()
    try:
        # Of the standard library, and left out of its types.
        value, end = json.decoder.scanstring(text, at + 1, True)  # type: ignore[attr-defined]
    except json.JSONDecodeError:
        raise _bad(text, at) from None
    if not is_unicode(value):
        raise BuiltinError("value", "text", f"a lone surrogate in the string at character {at}")
    return value, end


class _Reader:
    """Reads one text. Each method is told where its value begins, and tells where it ends."""

    def __init__(self, text: str, meanwhile: Callable[[], object]) -> None:
        self.text = text
        self.meanwhile = meanwhile
        self.count = 0

    def value(self, at: int, depth: int) -> tuple[Value, int]:
        text = self.text
        self.count += 1
        if not self.count % _OFTEN:
            self.meanwhile()
        first = text[at : at + 1]
        if first == '"':
            return _string(text, at)
        if first in ("[", "{") or text.startswith("set(", at):
            if depth <= 0:
                raise BuiltinError("value", "limit", f"more than {MAX_DEPTH} levels")
            return self.array(at + 1, depth - 1) if first == "[" else self.braces(at, depth - 1)
        for word, value in _WORDS:
            if text.startswith(word, at):
                return value, at + len(word)
        match = _NUMBER.match(text, at)
        if match is None:
            raise _bad(text, at)
        return number(match[0]), match.end()

    def array(self, at: int, depth: int) -> tuple[Value, int]:
        text = self.text
        items: list[Value] = []
        at = _skip(text, at)
        if text.startswith("]", at):
            return (), at + 1
        while True:
            item, at = self.value(at, depth)
            items.append(item)
            at = _skip(text, at)
            if text.startswith("]", at):
                return tuple(items), at + 1
            if not text.startswith(",", at):
                raise _bad(text, at)
            at = _skip(text, at + 1)

    def braces(self, at: int, depth: int) -> tuple[Value, int]:
        text = self.text
        if not text.startswith("{", at):
            at = _skip(text, at + 4)
            if not text.startswith(")", at):
                raise _bad(text, at)
            return Set(), at + 1
        at = _skip(text, at + 1)
        if text.startswith("}", at):
            return Object(), at + 1
        keys: list[Value] = []
        values: list[Value] = []
        while True:
            key, at = self.value(at, depth)
            keys.append(key)
            at = _skip(text, at)
            if text.startswith(":", at) and len(values) == len(keys) - 1:
                value, at = self.value(_skip(text, at + 1), depth)
                values.append(value)
                at = _skip(text, at)
            if values and len(values) != len(keys):
                raise _bad(text, at)
            if text.startswith("}", at):
                break
            if not text.startswith(",", at):
                raise _bad(text, at)
            at = _skip(text, at + 1)
        made: Object | Set = Object(zip(keys, values, strict=True)) if values else Set(keys)
        if len(made) != len(keys):
            raise BuiltinError("value", "text", "an object or a set that has a key or a member twice")
        return made, at + 1


def dump(value: Value) -> bytes:
    """Write ``value`` as the text that ``opa_value_parse`` reads: compact, members in Rego's order."""
    weigh(value)
    parts: list[str] = []
    _write(value, parts)
    return "".join(parts).encode()


def _write(value: Value, parts: list[str]) -> None:
    if isinstance(value, str):
        parts.append(json.dumps(value, ensure_ascii=False))
    elif isinstance(value, Number):
        parts.append(value.text)
    elif value is None or isinstance(value, (bool, int)):
        parts.append(json.dumps(value))
    elif isinstance(value, Set) and not value:
        parts.append("set()")
    elif isinstance(value, Object):
        for index, (key, item) in enumerate(value.items):
            parts.append("," if index else "{")
            _write(key, parts)
            parts.append(":")
            _write(item, parts)
        parts.append("}" if value else "{}")
    else:
        opening, closing = ("[", "]") if isinstance(value, tuple) else ("{", "}")
        for index, item in enumerate(value):
            parts.append("," if index else opening)
            _write(item, parts)
        parts.append(closing if value else "[]")
