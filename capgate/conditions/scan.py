"""Looks at the text of a condition before the parser does: bounds, and literals that are read in one way only.

The parser's own pattern for strings takes exponential time on one that does not end, and it lets some strings end
later than CEL says. What comes through here is neither.
"""

from __future__ import annotations

import re
from typing import Final

from ..errors import ConfigError

#: Most characters of a condition, and most brackets in one another.
TEXT_LIMIT: Final = 8_192
BRACKET_LIMIT: Final = 64

_TOKEN: Final = re.compile(
    r"(?P<comment>//[^\n]*)"
    r"|(?P<prefix>[bB]?[rR]?|[rR][bB])(?P<quote>\"\"\"|'''|\"|')"
    r"|(?P<word>[_a-zA-Z][_a-zA-Z0-9]*)"
    r"|(?P<open>[(\[{])|(?P<close>[)\]}])"
    r"|(?P<odd>[^\t\n\f\r\x20-\x7e])"
)
#: What a string ends with, or what it must not have; behind a backslash any character is a part of it.
_INSIDE: Final = {
    quote: re.compile(rf"(?:[^\\{quote[0]}{line}]|\\[^\r\n]|{inner})*{quote}")
    for quote, line, inner in (
        ('"', r"\r\n", r"(?!)"),
        ("'", r"\r\n", r"(?!)"),
        ('"""', "", r"\"(?!\"\")"),
        ("'''", "", r"'(?!'')"),
    )
}
_RAW_INSIDE: Final = {
    quote: re.compile(rf"(?s:.)*?{quote}" if len(quote) == 3 else rf"[^\r\n{quote}]*{quote}") for quote in _INSIDE
}


def mistake(text: str, at: int, seen: object, valid: str, near: str | None = None) -> ConfigError:
    """Return the error of a condition, with the line and column of the character ``at`` which it is."""
    line = text.count("\n", 0, at) + 1
    return ConfigError("when", seen, valid, nearest=near, line=line, column=at - text.rfind("\n", 0, at))


def check_text(text: object) -> str:
    """Return ``text`` if it is short and shallow enough for the parser, and its strings end.

    Raises :class:`ConfigError` with line and column.
    """
    if not isinstance(text, str):
        raise ConfigError("when", text, "a condition, which is text")
    if len(text) > TEXT_LIMIT:
        raise mistake(text, TEXT_LIMIT, f"{len(text)} characters", f"a condition of {TEXT_LIMIT} characters at most")
    if not text.strip():
        raise mistake(text, 0, text, "a condition that says something")
    depth = at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            at += 1
            continue
        start, at = at, match.end()
        if match["quote"] is not None:
            at = _end_of_string(text, start, match)
        elif match["odd"] is not None:
            raise mistake(text, start, match["odd"], "ASCII outside of strings and comments")
        elif match["open"] is not None:
            depth += 1
            if depth > BRACKET_LIMIT:
                raise mistake(text, start, f"{depth} brackets in one another", f"{BRACKET_LIMIT} at most")
        elif match["close"] is not None:
            depth -= 1
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise mistake(text, error.start, text[error.start], "Unicode, without lone surrogates") from None
    return text


def _end_of_string(text: str, start: int, match: re.Match[str]) -> int:
    quote, is_raw = match["quote"], match["prefix"].lower().strip("b") == "r"
    end = (_RAW_INSIDE if is_raw else _INSIDE)[quote].match(text, match.end())
    if end is None:
        raise mistake(
            text, start, text[start : start + 20], f"a string that ends with {quote} (on its line, but for '''...''')"
        )
    if is_raw:
        inside = text[match.end() : end.end() - len(quote)]
        if (len(inside) - len(inside.rstrip("\\"))) % 2 or re.search(rf"\\{quote[0]}", inside):
            raise mistake(
                text, start, text[start : end.end()][:40], "a raw string without a backslash before its quote"
            )
    return end.end()
