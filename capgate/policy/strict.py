"""Reads strict JSON and TOML, says whether text is Unicode, and makes the errors that say where a mistake is.

:class:`StrictDecoder` is the one reader of JSON in the package: whoever has errors of its own makes them of what that
raises. Two do without it: what has one canonical form (``store/canonical.py``) is compared with that, and what a Rego
policy decodes is read as OPA reads it.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Union

from ..errors import ConfigError
from ..spelling import ascii_lower
from .places import Key, Place, find, find_inside, first_twice, first_value, place_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: The formats that a document may have, by the suffix of its file.
JSON, TOML = "json", "toml"
FORMATS: Final = (JSON, TOML)

_TOML_PLACE: Final = re.compile(r"\(at line (\d+), column (\d+)\)")
_TOML_END: Final = "(at end of document)"
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_NO_PLACE: Final[Place] = (None, None)
#: How much a name has to look like another one to have been meant: 1 is the same.
_LIKENESS: Final = 0.6

#: Words that others use for what has another name here, and that look nothing like it.
_OTHER_WORDS: Final = {
    **dict.fromkeys(("production", "live"), "prod"),
    **dict.fromkeys(("development", "developement", "local"), "dev"),
    **dict.fromkeys(("forbid", "block", "reject", "refuse", "disallow"), "deny"),
    **dict.fromkeys(("permit", "grant", "accept"), "allow"),
    **dict.fromkeys(("all", "*", "everything", "true"), "any"),
    **dict.fromkeys(("db", "database", "databases", "queries", "tables"), "sql"),
    **dict.fromkeys(("http", "hosts", "host", "outbound", "network"), "egress"),
    **dict.fromkeys(("files", "file", "filesystem", "paths", "path"), "fs"),
    **dict.fromkeys(("environment", "variables"), "env"),
    **dict.fromkeys(("redis", "namespaces"), "cache"),
    **dict.fromkeys(("jobs", "job"), "compute"),
    **dict.fromkeys(("users", "principal", "principals", "subjects", "subject", "who"), "actors"),
    **dict.fromkeys(("environments",), "modes"),
    **dict.fromkeys(("message", "because"), "reason"),
    **dict.fromkeys(("condition", "conditions", "if", "where", "unless", "expression"), "when"),
    **dict.fromkeys(("asserts", "assertions", "invariants", "properties_to_prove", "prove"), "assert"),
    **dict.fromkeys(("facts", "types", "properties", "declarations"), "attributes"),
    "op": "operation",
    **dict.fromkeys(("drop", "create", "alter", "ddl"), "migrate"),
}
#: The same of kinds of resources, and of the first and the last segments of actions.
_OTHER_KINDS: Final = {
    **dict.fromkeys(("table", "query", "sql"), "sql_query"),
    **dict.fromkeys(("file", "fs", "folder"), "path"),
    **dict.fromkeys(("url", "domain", "address", "egress"), "host"),
    **dict.fromkeys(("cache", "key", "prefix"), "namespace"),
    **dict.fromkeys(("env", "variable"), "env_var"),
}
_OTHER_HEADS: Final = {"sql": "db", "file": "fs", "files": "fs", "egress": "http", "config": "runtime.config"}
_OTHER_ENDS: Final = {
    "read": ("select", "get", "list"),
    "write": ("insert", "update", "upsert", "delete", "set", "put", "append", "modify"),
    "outbound": ("get", "post", "call", "request", "send"),
    "migrate": ("create", "alter", "drop"),
}

Text = Union[str, bytes]


def is_unicode(text: str) -> bool:
    """Say whether ``text`` has an encoding in UTF-8, that is, no lone surrogate."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# -- text to values


class JsonMistake(ValueError):
    """What is no strict JSON, though Python's decoder would take it.

    It is a key that its object has already (``key``), or a word such as ``NaN`` in place of a number (``word``).
    """

    def __init__(self, reason: str, *, key: str | None = None, word: str | None = None) -> None:
        super().__init__(reason)
        self.key = key
        self.word = word


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members: dict[str, object] = {}
    for name, value in pairs:
        if name in members:
            raise JsonMistake(f"the key {name[:128]!a} stands twice in one object", key=name)
        members[name] = value
    return members


def _no_constant(word: str) -> object:
    raise JsonMistake(f"{word} is no number that JSON has", word=word)


class StrictDecoder(json.JSONDecoder):
    """A decoder that raises :class:`JsonMistake`, and ``json.JSONDecodeError`` also for a byte order mark.

    ``whole`` and ``fraction`` make a number of its text, in place of ``int`` and ``float``. A decoder may be shared.
    """

    def __init__(
        self, whole: Callable[[str], object] | None = None, fraction: Callable[[str], object] | None = None
    ) -> None:
        super().__init__(object_pairs_hook=_once, parse_constant=_no_constant, parse_int=whole, parse_float=fraction)

    def decode(self, s: str, _w: Callable[..., Any] = _SPACE.match) -> Any:
        """Return the one value that ``s`` is."""
        if s.startswith("\ufeff"):
            raise json.JSONDecodeError("a byte order mark is before it", s, 0)
        return super().decode(s, _w)


_JSON: Final = StrictDecoder()


def parse(text: Text, format: str = JSON, path: str | None = None) -> object:
    """Return the value that ``text`` is, in one of :data:`FORMATS`.

    Raises :class:`ConfigError`, with ``path`` and the place in it.
    """
    if format not in FORMATS:
        raise ConfigError("format", format, "one of " + ", ".join(FORMATS))
    return _parse(text, path, _json if format == JSON else _toml)


def parse_json(text: Text) -> object:
    """Return the value of strict JSON in UTF-8: one value, no duplicate keys, no NaN.

    Anything else raises :class:`ConfigError`.
    """
    return parse(text)


def _parse(text: Text, path: str | None, read: Callable[[str, str | None], object]) -> object:
    try:
        decoded = text if isinstance(text, str) else text.decode()
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode()
        line, column = place_of(before, len(before))
        raise ConfigError("document", str(error), "text in UTF-8", path=path, line=line, column=column) from error
    return read(decoded, path)


def _json(text: str, path: str | None) -> object:
    try:
        return _JSON.decode(text)
    except JsonMistake as error:  # which does not say where it was
        if error.key is None:
            setting, seen, valid = "document", error.word, "numbers that JSON has"
            key, (line, column) = first_value(text, seen)
        else:
            setting, seen, valid = key_path(error.key), error.key, "each key of an object once"
            key, (line, column) = first_twice(text, seen)
        raise ConfigError(setting, seen, valid, key=key, path=path, line=line, column=column) from error
    except (ValueError, RecursionError) as error:
        line, column = (error.lineno, error.colno) if isinstance(error, json.JSONDecodeError) else _NO_PLACE
        seen = error.msg if isinstance(error, json.JSONDecodeError) else _cause(error)
        raise ConfigError("document", seen, "strict JSON in UTF-8", path=path, line=line, column=column) from error


def _toml(text: str, path: str | None) -> object:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        seen, (line, column) = _cause(error), _NO_PLACE
        if place := _TOML_PLACE.search(seen):
            line, column = int(place[1]), int(place[2])
        elif _TOML_END in seen:
            line, column = place_of(text, len(text))
        raise ConfigError("document", seen, "TOML in UTF-8", path=path, line=line, column=column) from error


def _cause(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


# -- mistakes in what the text says


def mistake(key: Key, seen: object, valid: str, nearest: str | None = None) -> ConfigError:
    """Return the error for what stands at ``key``; ``seen`` is to be flat, as by :func:`shallow`."""
    return ConfigError(shown(key) if key else "document", seen, valid, key=key, nearest=nearest)


def locate(error: ConfigError, text: Text, format: str, path: str | None) -> None:
    """Tell ``error``, made by :func:`mistake`, where it is in the text that was read."""
    error.path = path
    if error.key is not None:
        decoded = text if isinstance(text, str) else text.decode()
        error.line, error.column = place_in(decoded, format, error.key, error.within)


def place_in(text: str, format: str, key: Key, within: tuple[int, int] | None = None) -> Place:
    """Return where ``key`` stands in ``text``, or this line and column of the string that is its value."""
    return find(text, format == TOML, key) if within is None else find_inside(text, format == TOML, key, within)


def nearest(seen: object, names: Iterable[str]) -> str | None:
    """Return the one of ``names`` that ``seen`` means elsewhere, or looks most like; ``None`` where it is like none."""
    if not isinstance(seen, str):
        return None
    text, names = ascii_lower(seen[:128]), sorted(names)
    known = [name for name in _meant_by(text.strip()) if name in names]
    close = known or difflib.get_close_matches(text, names, 1, _LIKENESS)
    return close[0] if close else None


def _meant_by(text: str) -> Iterator[str]:
    """Yield what others mean by ``text``."""
    yield text
    yield from (words[text] for words in (_OTHER_WORDS, _OTHER_KINDS) if text in words)
    head, dot, end = text.rpartition(".")
    if dot:
        ends = (end, *(own for own, others in _OTHER_ENDS.items() if end in others))
        yield from (f"{own}.{last}" for own in (head, _OTHER_HEADS.get(head, head)) for last in ends)


def check_keys(raw: dict[Any, Any], valid: tuple[str, ...], where: Key = ()) -> None:
    """Raise :class:`ConfigError` for the first key of ``raw`` that is not one of ``valid``."""
    for key in raw:
        if type(key) is not str or key not in valid:
            raise mistake((*where, step(key)), key, "the keys " + ", ".join(valid), nearest(key, valid))


def step(key: object) -> str:
    """Return ``key``, of whatever type, as one step of the way to a mistake."""
    return key if isinstance(key, str) else key_path(key)


def shown(key: Key) -> str:
    """Return ``key`` as people read it: ``rules[0].actors[1]``."""
    return "".join(f"[{part}]" if type(part) is int else f".{key_path(part)}" for part in key).removeprefix(".")


def key_path(key: object) -> str:
    """Return ``key`` as a part of a path in an error."""
    return key if isinstance(key, str) and key.isprintable() and len(key) <= 128 else ascii(key)[:128]


def shallow(value: object) -> object:
    """Return ``value`` for an error: of anything nested only the type, because to print it might recurse too deeply."""
    return value if value is None or isinstance(value, (str, bytes, int, float)) else type(value).__name__
