"""The policy document: strict JSON or a dict, checked key by key, as the sections that it stands for.

::

    {"name": "shop", "version": "3",
     "env": ["TZ"],                                                      exact entries
     "egress": ["api.example.com"],                                      host names, A to Z compare as a to z
     "sql": ["audit", {"name": "list_users", "operation": "select"}],    without an operation: every one
     "cache": "any",                                                     everything of this class
     "actions": {"invoice.send": ["inv-1"], "report.print": "any"}}      an application's own

A section that is absent admits nothing. A mistake raises :class:`ConfigError`, whose ``setting`` is the path of a key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ..actions import (
    BUILTIN_ACTIONS,
    MIGRATE_OPERATIONS,
    OPERATIONS,
    READ_OPERATIONS,
    SECTIONS,
    WRITE_OPERATIONS,
    is_action_name,
)
from ..errors import ConfigError

READ, WRITE, MIGRATE = 1, 2, 4
#: What an entry without an operation grants, and what an action outside ``sql`` asks for.
EVERY: Final = READ | WRITE | MIGRATE
#: operation -> the bit of its class; operations of one class satisfy the same actions.
OPERATION_BITS: Final[dict[str, int]] = {
    **dict.fromkeys(READ_OPERATIONS, READ),
    **dict.fromkeys(WRITE_OPERATIONS, WRITE),
    **dict.fromkeys(MIGRATE_OPERATIONS, MIGRATE),
}
#: Sections whose entries are host names.
HOST_SECTIONS: Final = frozenset(action.section for action in BUILTIN_ACTIONS if action.kind == "host")
ANY: Final = "any"

_BUILTIN_SECTIONS: Final = {action.name: action.section for action in BUILTIN_ACTIONS}
_KEYS: Final = ("name", "version", *SECTIONS)
_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", re.ASCII)
_TO_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


class Section(msgspec.Struct, frozen=True):
    """What one section admits: everything (``entries`` is ``None``), or each entry, for the operations of its bits."""

    entries: Mapping[str, int] | None


class Document(msgspec.Struct, frozen=True):
    """A checked policy document. ``actions`` has one section for each action that an application brings."""

    name: str
    version: str
    sections: Mapping[str, Section]
    actions: Mapping[str, Section]


def is_label(text: object) -> bool:
    """Whether ``text`` can be a policy's name or version."""
    return type(text) is str and _LABEL.fullmatch(text) is not None


def ascii_lower(text: str) -> str:
    """``text`` with A to Z as a to z and every other character as it is: no Kelvin sign becomes a k."""
    return text.lower() if text.isascii() else text.translate(_TO_LOWER)


def is_unicode(text: str) -> bool:
    """Whether ``text`` has an encoding in UTF-8, that is, no lone surrogate."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_json(text: str | bytes) -> object:
    """Strict JSON in UTF-8: one value, no duplicate keys, no NaN. Anything else raises :class:`ConfigError`."""
    try:
        text = text if isinstance(text, str) else text.decode()
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ConfigError("document", _cause(error), "strict JSON in UTF-8") from error


def read_document(raw: object) -> Document:
    """The document that ``raw`` (a dict as JSON would give it) stands for, or :class:`ConfigError`."""
    if not isinstance(raw, dict):
        raise ConfigError("document", _shallow(raw), "an object with the keys " + ", ".join(_KEYS))
    for key in raw:
        if type(key) is not str or key not in _KEYS:
            raise ConfigError(_path(key), key, "the keys " + ", ".join(_KEYS))
    sections = {name: _section(name, name, raw[name]) for name in SECTIONS if name in raw and name != "actions"}
    name, version = _label(raw, "name", "policy"), _label(raw, "version", "0")
    return Document(name, version, sections, _actions(raw.get("actions", {})))


def _label(raw: dict[Any, Any], key: str, default: str) -> str:
    value = raw.get(key, default)
    if type(value) is not str or not is_label(value):
        raise ConfigError(
            key, _shallow(value), "text of 1 to 64 letters, digits, dots, underscores, plus and minus signs"
        )
    return value


def _actions(raw: object) -> dict[str, Section]:
    if not isinstance(raw, dict):
        raise ConfigError("actions", _shallow(raw), "an object from action name to 'any' or a list of resource ids")
    found: dict[str, Section] = {}
    for name, value in raw.items():
        path = f"actions.{_path(name)}"
        if type(name) is not str or not is_action_name(name):
            raise ConfigError(path, name, "lower-case words joined by dots, such as 'invoice.send'")
        if name in _BUILTIN_SECTIONS:
            raise ConfigError(
                path, name, f"an application's own action; this one belongs to {_BUILTIN_SECTIONS[name]!r}"
            )
        found[name] = _section("actions", path, value)
    return found


def _section(section: str, path: str, raw: object) -> Section:
    if type(raw) is str and raw == ANY:
        return Section(None)
    if not isinstance(raw, (list, tuple)):
        raise ConfigError(path, _shallow(raw), "'any' or a list of entries")
    entries: dict[str, int] = {}
    seen: set[tuple[str, str | None]] = set()
    for index, item in enumerate(raw):
        where = f"{path}[{index}]"
        name, operation = _sql_entry(where, item) if section == "sql" and isinstance(item, dict) else (item, None)
        name = _entry(where, name, section)
        if (name, operation) in seen:
            raise ConfigError(where, item, "each entry once")
        seen.add((name, operation))
        entries[name] = entries.get(name, 0) | (EVERY if operation is None else OPERATION_BITS[operation])
    return Section(entries)


def _entry(where: str, value: object, section: str) -> str:
    if type(value) is not str or not value or not is_unicode(value):
        valid = "non-empty text without lone surrogates"
        raise ConfigError(
            where, _shallow(value), valid + (", or {'name': …, 'operation': …}" if section == "sql" else "")
        )
    return ascii_lower(value) if section in HOST_SECTIONS else value


def _sql_entry(where: str, item: dict[Any, Any]) -> tuple[object, str | None]:
    for key in item:
        if type(key) is not str or key not in ("name", "operation"):
            raise ConfigError(f"{where}.{_path(key)}", key, "the keys name, operation")
    if "name" not in item:
        raise ConfigError(f"{where}.name", None, "the name of a query")
    if "operation" not in item:
        return item["name"], None
    operation = item["operation"]
    if type(operation) is not str or operation not in OPERATION_BITS:
        raise ConfigError(f"{where}.operation", _shallow(operation), "one of " + ", ".join(OPERATIONS))
    return item["name"], operation


def _path(key: object) -> str:
    return key if isinstance(key, str) and key.isprintable() and len(key) <= 128 else ascii(key)[:128]


def _shallow(value: object) -> object:
    """``value`` for an error: of anything nested only the type, because to print it might recurse too deeply."""
    return value if value is None or isinstance(value, (str, bytes, int, float)) else type(value).__name__


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise ConfigError(_path(name), name, "each key of an object once")
        found[name] = value
    return found


def _refuse_constant(name: str) -> object:
    raise ConfigError("document", name, "numbers that JSON has")


def _cause(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
