"""Provides ``base64url.encode_no_pad``, ``urlquery.*``, ``json.marshal_with_options``, and reads JSON as Go does."""

from __future__ import annotations

import base64
import json
import re
from typing import Final, NoReturn
from urllib.parse import quote_plus, unquote_to_bytes

from ..errors import BuiltinError
from .base import Context, Undefined, boolean, builtin, mapping, string, text_of
from .terms import Number, Object, Set, Value, number, plain

_PERCENT: Final = re.compile("%(?![0-9a-fA-F]{2})", re.ASCII)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_ESCAPED: Final = re.compile('[\x00-\x1f"\\\\<>&\u2028\u2029]')
_BASE64URL: Final = re.compile("[A-Za-z0-9_-]*={0,2}", re.ASCII)
_SHORT: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def read_json(text: str) -> Value:
    """Return the value that Go's ``encoding/json`` reads. Of equal keys the last counts; a lone surrogate becomes
    U+FFFD."""
    try:
        raw = json.loads(
            text,
            parse_int=number,
            parse_float=number,
            parse_constant=_no_constant,
            object_pairs_hook=lambda pairs: {_whole(key): value for key, value in pairs},
        )
    except json.JSONDecodeError:
        raise Undefined from None
    return plain(_repaired(raw))


def _no_constant(word: str) -> NoReturn:
    raise Undefined


def _whole(text: str) -> str:
    return _SURROGATE.sub("\ufffd", text)


def _repaired(raw: object) -> object:
    if isinstance(raw, str):
        return _whole(raw)
    if isinstance(raw, list):
        return [_repaired(item) for item in raw]
    return {key: _repaired(item) for key, item in raw.items()} if isinstance(raw, dict) else raw


def url_bytes(text: str) -> bytes:
    """Return the bytes that are ``text`` in base64url, with or without padding; line breaks do not count, as in Go."""
    if not text.endswith("="):
        if len(text) % 4 == 1:
            raise Undefined
        text += "=" * (-len(text) % 4)
    text = text.replace("\r", "").replace("\n", "")
    if len(text) % 4 or _BASE64URL.fullmatch(text) is None:
        raise Undefined
    return base64.urlsafe_b64decode(text)


def json_text(value: Value) -> str:
    """Return ``json.Marshal`` of the value: compact, keys in order, a set as an array, a key that is no string as its
    JSON."""
    return _lines(value, None, "", "")


def _lines(value: Value, indent: str | None, prefix: str, margin: str) -> str:
    """Write ``value``; with an ``indent``, members on lines of their own, each of which begins with ``prefix`` and
    ``margin``."""
    if isinstance(value, (str, Number)) or not isinstance(value, (tuple, Object, Set)):
        return _scalar(value)
    inner = margin + (indent or "")
    if isinstance(value, Object):
        by_key = {key if isinstance(key, str) else json_text(key): item for key, item in value.items}
        colon = ":" if indent is None else ": "
        parts = [f"{_quoted(key)}{colon}{_lines(by_key[key], indent, prefix, inner)}" for key in sorted(by_key)]
        if len(parts) != len(value):
            raise BuiltinError("json", "ambiguous", "keys that are the same in JSON")
    else:
        parts = [_lines(item, indent, prefix, inner) for item in value]
    opening, closing = ("{", "}") if isinstance(value, Object) else ("[", "]")
    if indent is None or not parts:
        return opening + ",".join(parts) + closing
    start = f"\n{prefix}{inner}"
    return opening + start + f",{start}".join(parts) + f"\n{prefix}{margin}" + closing


def _scalar(value: Value) -> str:
    if isinstance(value, str):
        return _quoted(value)
    return value.text if isinstance(value, Number) else json.dumps(value)


def _quoted(text: str) -> str:
    return '"' + _ESCAPED.sub(_escape, text) + '"'


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    if char in "\b\f":  # Go 1.22 began to write \b and \f
        raise BuiltinError("json", "ambiguous", f"{char!r} is written in one way or the other")
    return _SHORT.get(char, f"\\u{ord(char):04x}")


@builtin("json.marshal_with_options")
def marshal_with_options(context: Context, value: Value, options: Value) -> Value:
    """Write JSON as ``json.MarshalIndent`` writes it, with ``prefix``, ``indent`` and ``pretty``."""
    prefix, indent, pretty, chosen = "", "\t", False, False
    for key, option in mapping(options).items:
        if key == "prefix":
            prefix, chosen = string(option), True
        elif key == "indent":
            indent, chosen = string(option), True
        elif key != "pretty":
            raise Undefined
    given = mapping(options)
    pretty = boolean(given.get("pretty")) if "pretty" in given else chosen
    if not pretty:
        return json_text(value)
    context.spend(_lines_in(value) * (1 + len(prefix)) + _indents_in(value, 1) * len(indent))
    return prefix + _lines(value, indent, prefix, "")


def _lines_in(value: Value) -> int:
    members = [item for _, item in value.items] if isinstance(value, Object) else value
    return 2 + sum(map(_lines_in, members)) if isinstance(members, (list, tuple, Set)) else 1


def _indents_in(value: Value, depth: int) -> int:
    members = [item for _, item in value.items] if isinstance(value, Object) else value
    if not isinstance(members, (list, tuple, Set)):
        return depth
    return 2 * depth + sum(_indents_in(item, depth + 1) for item in members)


@builtin("json.is_valid")
def is_json(context: Context, text: Value) -> Value:
    try:
        read_json(string(text))
    except Undefined:
        return False
    return True


@builtin("base64url.encode_no_pad")
def encode_no_pad(context: Context, text: Value) -> Value:
    return base64.urlsafe_b64encode(string(text).encode()).rstrip(b"=").decode()


@builtin("urlquery.encode")
def encode(context: Context, text: Value) -> Value:
    """Escape as Go's ``url.QueryEscape``: everything but letters, digits and ``-_.~`` is escaped, and a space is a
    plus."""
    return quote_plus(string(text), safe="")


@builtin("urlquery.decode")
def decode(context: Context, text: Value) -> Value:
    return _unescaped(string(text))


def _unescaped(text: str) -> str:
    if _PERCENT.search(text):
        raise Undefined
    return text_of(unquote_to_bytes(text.replace("+", " ")))


@builtin("urlquery.encode_object")
def encode_object(context: Context, query: Value) -> Value:
    """Write ``a=1&b=2`` of an object of strings, arrays or sets of strings; by key, values in their order."""
    pairs: list[tuple[str, str]] = []
    for key, value in mapping(query).items:
        if not isinstance(key, str):
            raise BuiltinError("urlquery", "ambiguous", "a key that is no string")
        values = (value,) if isinstance(value, str) else value
        if not isinstance(values, (tuple, Set)):
            raise Undefined
        pairs.extend((key, string(item)) for item in values)
    return "&".join(f"{quote_plus(key, safe='')}={quote_plus(value, safe='')}" for key, value in pairs)


@builtin("urlquery.decode_object")
def decode_object(context: Context, query: Value) -> Value:
    """Read as Go's ``url.ParseQuery``: an object from key to the array of its values; a semicolon is an error."""
    by_key: dict[str, list[str]] = {}
    for part in string(query).split("&"):
        if ";" in part:
            raise Undefined
        if part:
            key, _, value = part.partition("=")
            by_key.setdefault(_unescaped(key), []).append(_unescaped(value))
    return Object((key, tuple(values)) for key, values in by_key.items())
