"""Finds where in a text of JSON or TOML a key or an element stands, for errors, after a library parsed the text.

Neither :mod:`json` nor :mod:`tomllib` tells that. What is here reads only for places, so it takes for granted that the
text is well-formed. On one that is not it ends early, or tells a place that means nothing, and raises nothing of its
own. Nothing here recurses.

A place is a line and a column in characters, both from 1. The place of a named value is that of its name, of an element
of a list that of the element, of a table ``[[in.a.list]]`` that of its header. Where TOML comes back to a table, the
first place counts.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Generator, Iterator
from typing import Final

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: The way to a value: names, and numbers of elements from 0.
Key = tuple[str | int, ...]
Place = tuple[int | None, int | None]
#: A key, and the offset at which it stands.
Found = tuple[Key, int]


def place_of(text: str, offset: int) -> tuple[int, int]:
    """Return line and column of the character at ``offset``."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def find(text: str, is_toml: bool, key: Key) -> Place:
    """Return where ``key`` stands, or else the longest beginning of it that stands anywhere."""
    best: Key = ()
    offset = None
    for reached, at in toml_places(text) if is_toml else json_places(text):
        if len(reached) > len(best) and reached == key[: len(reached)]:
            best, offset = reached, at
            if reached == key:
                break
    return (None, None) if offset is None else place_of(text, offset)


def find_inside(text: str, is_toml: bool, key: Key, within: tuple[int, int]) -> Place:
    """Return where this line and column, both from 1, of the string stands that is the value of ``key``.

    It is the place of ``key`` itself where that has no string.
    """
    places = toml_places(text) if is_toml else json_places(text)
    offset = next((at for reached, at in places if reached == key), None)
    opening = None if offset is None else (_TOML_STRING if is_toml else _JSON_STRING).match(text, offset)
    if opening is None:
        return find(text, is_toml, key)
    written = _LITERAL if opening[1].startswith("'") else _BASIC if is_toml else _JSON_CHARACTER
    at, line, column = opening.end(), 1, 1
    while (line, column) != within and (character := written.match(text, at)) is not None:
        at = character.end()
        if not character["none"]:
            line, column = (line + 1, 1) if character[0] in _NEWLINES else (line, column + 1)
    return place_of(text, at)


def first_twice(text: str, name: object) -> tuple[Key | None, Place]:
    """Return in JSON the first ``name`` that its object has already."""
    seen = set()
    for way, at in json_places(text):
        if way and way[-1] == name and type(way[-1]) is str:
            if way in seen:
                return way, place_of(text, at)
            seen.add(way)
    return None, (None, None)


def first_value(text: str, word: object) -> tuple[Key | None, Place]:
    """Return in JSON the first value that is written as ``word``, a bare one such as ``NaN``."""
    key: Key = ()
    for token in _TOKEN.finditer(text):
        if token[0] == word:
            for way, at in json_places(text):
                if at > token.start():
                    break
                key = way
            return key, place_of(text, token.start())
    return None, (None, None)


# -- inside a string

#: A name, and where the string begins that is its value.
_JSON_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"\s*:\s*(")')
_TOML_STRING: Final = re.compile(
    r"""(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[^\s.=\[\]{},"'#]+)[ \t]*=[ \t]*"""
    r"""(?=("|'))(?:(?:\"{3}|'{3})(?:\r?\n)?|["'])"""
)
#: How one character of a string is written, or none of it.
_LITERAL: Final = re.compile(r"(?P<none>(?!))|\r\n|[\s\S]")
_BASIC: Final = re.compile(r"(?P<none>\\[ \t]*\r?\n\s*)|\\u[0-9a-fA-F]{4}|\\U[0-9a-fA-F]{8}|\\[\s\S]|\r\n|[\s\S]")
_JSON_CHARACTER: Final = re.compile(
    r"(?P<none>(?!))|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|[\s\S]"
)
_NEWLINES: Final = ("\n", "\r\n", r"\n")


# -- JSON

_TOKEN: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},:]|[^\s\[\]{},:"]+')


def json_places(text: str) -> Iterator[Found]:
    """Yield every member and element, in the order of the text."""
    open_: list[str | int] = []  # for each list and object around, the element or member at hand
    named = False  # whether a name is next
    for token in _TOKEN.finditer(text):
        word = token[0]
        if word == ":":
            continue
        if word == ",":
            named = _next(open_)
        elif word in ("]", "}"):
            named = False
            if open_:
                open_.pop()
        elif named:
            open_[-1] = _name(word)
            named = False
            yield tuple(open_), token.start()
        else:
            if open_ and type(open_[-1]) is int:
                yield tuple(open_), token.start()
            if word in ("[", "{"):
                open_.append(0 if word == "[" else "")
                named = word == "{"


def _next(open_: list[str | int]) -> bool:
    """Go on to the next element, or say that a name is next."""
    if open_ and isinstance(open_[-1], int):
        open_[-1] += 1
        return False
    return bool(open_)


def _name(token: str) -> str:
    try:
        return str(json.loads(token))
    except ValueError:
        return token


# -- TOML

_SPACE: Final = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_BLANK: Final = re.compile(r"[ \t]*")
_PART: Final = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|[^\s.=\[\]{},"\'#]+')
_SCALAR: Final = re.compile(
    r'"""(?:[^"\\]|\\[\s\S]|"{1,2}(?!"))*"{3,5}'
    r"|'''(?:[^']|'{1,2}(?!'))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|[^,\]}#\n]+"
)


def toml_places(text: str) -> Iterator[Found]:
    """Yield every name, element and table, in the order of the text. One that is written twice is told twice."""
    return _Toml(text).places()


class _Toml:
    """A place in a text of TOML, and the last table of each list of tables so far."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._last: dict[Key, int] = {}

    def places(self) -> Iterator[Found]:
        table: Key = ()
        while self._peek():
            before = self._at
            if self._peek() == "[":
                table = yield from self._header()
            else:
                key = yield from self._named(table)
                yield from self._value(key)
            if self._at == before:  # nothing that TOML has
                return

    def _header(self) -> Generator[Found, None, Key]:
        start = self._at
        brackets = 2 if self._text.startswith("[[", start) else 1
        self._at += brackets
        key: Key = ()
        parts = self._parts()
        for left, (name, at) in zip(reversed(range(len(parts))), parts, strict=True):
            key = (*key, name)
            yield key, at
            if brackets == 2 and not left:
                self._last[key] = self._last.get(key, -1) + 1
                yield (*key, self._last[key]), start
            if key in self._last:
                key = (*key, self._last[key])
        self._at += brackets
        return key

    def _named(self, table: Key) -> Generator[Found, None, Key]:
        """Read the name before a value, and the sign between them. Yield each part's place, and return the key."""
        key = table
        for name, at in self._parts():
            key = (*key, name)
            yield key, at
        self._at += self._text.startswith("=", self._at)
        return key

    def _parts(self) -> list[tuple[str, int]]:
        """Return what a name consists of, with dots between the parts."""
        parts: list[tuple[str, int]] = []
        while True:
            self._skip(_BLANK)
            part = _PART.match(self._text, self._at)
            if part is None:
                return parts
            parts.append((_unquoted(part[0]), self._at))
            self._at = part.end()
            self._skip(_BLANK)
            if not self._text.startswith(".", self._at):
                return parts
            self._at += 1

    def _value(self, key: Key) -> Iterator[Found]:
        around: list[tuple[Key, int | None]] = []  # lists, with the number of the element at hand, and tables
        while True:
            opening = self._peek()
            if opening in ("[", "{"):
                self._at += 1
                around.append((key, 0 if opening == "[" else None))
            else:
                self._skip(_SCALAR)
            while around and self._peek() in (",", "]", "}"):
                if self._peek() == ",":
                    inner, number = around[-1]
                    around[-1] = inner, None if number is None else number + 1
                else:
                    around.pop()
                self._at += 1
            before = self._at
            if not around or not self._peek():
                return
            outer, number = around[-1]
            if number is None:
                key = yield from self._named(outer)
                if self._at == before:
                    return
            else:
                key = (*outer, number)
                yield key, self._at

    def _peek(self) -> str:
        """Return the next character that means something; none at the end."""
        self._skip(_SPACE)
        return self._text[self._at : self._at + 1]

    def _skip(self, pattern: re.Pattern[str]) -> None:
        skipped = pattern.match(self._text, self._at)
        if skipped is not None:
            self._at = skipped.end()


def _unquoted(part: str) -> str:
    if part[0] not in "\"'":
        return part
    try:
        return str(tomllib.loads(f"name = {part}")["name"])
    except ValueError:
        return part
