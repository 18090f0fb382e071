"""Reads policy documents: strict JSON, TOML or a dict, checked key by key, into the sections that they stand for.

::

    {"name": "shop", "version": "3",
     "env": ["TZ"],                                                      exact entries
     "egress": ["api.example.com", "*.example.com", "10.0.0.0/8"],       hosts, in whichever spelling
     "fs": ["README", "reports/*"],                                      wildcards as in rules
     "sql": ["audit", {"name": "list_users", "operation": "select"}],    without an operation: every one
     "cache": "any",                                                     everything of this class
     "actions": {"invoice.send": ["inv-1"], "report.print": "any",       an application's own, which are declared here
                 "audit.seal": "by_rule"},                               admitted by rules alone
     "modes": ["frozen"],                                                modes of one's own, beside dev, test and prod
     "attributes": {"resource": {"owner": "string"}},                    facts that conditions may speak of
     "rules": [{"effect": "deny", "actions": ["db.*"], "modes": ["dev"]}],      see rules.py
     "assert": [{"never": ["db.write"], "modes": ["dev"]}],              what `capgate check` proves, see assertions.py
     "$schema": "policy.schema.json"}                                    for editors, see schema.py; not looked at

A section that is absent admits nothing. A mistake raises :class:`ConfigError`, whose ``setting`` is the path of a key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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
from ..conditions import Conditions, Declaration
from .assertions import Assertion, read_assertions
from .conditional import ConditionReader, read_attributes
from .index import IdIndex, admitting
from .places import Key
from .rules import MODES, Pattern, Rule, read_modes, read_rules
from .spelled import read_entry
from .strict import check_keys, is_unicode, mistake, nearest, shallow, step
from .wildcards import EXACT

READ, WRITE, MIGRATE = 1, 2, 4
#: What an entry without an operation grants, and what an action outside ``sql`` asks for.
EVERY: Final = READ | WRITE | MIGRATE
#: operation -> the bit of its class; operations of one class satisfy the same actions.
OPERATION_BITS: Final[dict[str, int]] = {
    **dict.fromkeys(READ_OPERATIONS, READ),
    **dict.fromkeys(WRITE_OPERATIONS, WRITE),
    **dict.fromkeys(MIGRATE_OPERATIONS, MIGRATE),
}
#: The kind of resource that the entries of a section are.
SECTION_KINDS: Final = {action.section: action.kind for action in BUILTIN_ACTIONS if action.kind is not None}
ANY: Final = "any"

#: The section and the kind of resource of each built-in action.
BUILTIN_SECTIONS: Final = {action.name: (action.section, action.kind) for action in BUILTIN_ACTIONS}
#: For each section, the bits of operations that each of its actions asks for.
ACTION_BITS: Final[dict[str, dict[str, int]]] = {
    section: {
        action.name: sum({OPERATION_BITS[operation] for operation in action.operations}) or EVERY
        for action in BUILTIN_ACTIONS
        if action.section == section
    }
    for section in SECTION_KINDS
}
#: What names the JSON Schema of a document to an editor.
SCHEMA: Final = "$schema"
KEYS: Final = ("name", "version", *SECTIONS, "modes", "attributes", "rules", "assert", SCHEMA)
#: The section of an action that nothing but rules admits.
BY_RULE: Final = "by_rule"
LABEL: Final = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}"

_LABEL: Final = re.compile(LABEL, re.ASCII)


class PolicySection(msgspec.Struct, frozen=True):
    """What one section admits: everything (``entries`` is ``None``), or each entry, for the operations of its bits.

    ``entries`` are the ids, and ``index`` has these and the ``wildcards``, where there are any. Of an application's own
    action there are none, because its section does not look at the kind.
    """

    entries: Mapping[str, int] | None
    wildcards: Mapping[Pattern, int] = {}
    index: IdIndex[int] | None = None

    def granted(self, id: str) -> int:
        """Return the bits of the operations that are admitted for ``id``."""
        if self.entries is None:
            return EVERY
        return self.entries.get(id, 0) if self.index is None else self.index.find(id)

    def patterns(self, kind: str) -> Iterator[tuple[Pattern, int]]:
        """Yield each entry of a section whose ids are of ``kind``, and its bits."""
        for id, bits in (self.entries or {}).items():
            yield Pattern(kind, id), bits
        yield from self.wildcards.items()


class Document(msgspec.Struct, frozen=True):
    """A checked policy document.

    ``actions`` has one section for each action that an application brings; ``None`` where nothing but rules admits it.
    The ``rules`` are in the document's order, and ``modes`` are all known ones. The conditions of rules are
    ``conditions``, ``None`` where no rule has one; the ``declaration`` says which facts they may speak of. No answer
    depends on the ``assertions``.
    """

    name: str
    version: str
    sections: Mapping[str, PolicySection]
    actions: Mapping[str, PolicySection | None]
    rules: tuple[Rule, ...] = ()
    modes: frozenset[str] = frozenset(MODES)
    declaration: Declaration = Declaration()
    conditions: Conditions | None = None
    assertions: tuple[Assertion, ...] = ()


def is_label(text: object) -> bool:
    """Say whether ``text`` can be a policy's name or version."""
    return type(text) is str and _LABEL.fullmatch(text) is not None


def read_document(raw: object) -> Document:
    """Return the document that ``raw`` (a dict as JSON would give it) stands for, or :class:`ConfigError`."""
    if not isinstance(raw, dict):
        raise mistake((), shallow(raw), "an object with the keys " + ", ".join(KEYS))
    check_keys(raw, KEYS)
    if type(raw.get(SCHEMA, "")) is not str or not is_unicode(raw.get(SCHEMA, "")):
        raise mistake((SCHEMA,), shallow(raw[SCHEMA]), "text, the address of a JSON Schema")
    sections = {name: _section(name, (name,), raw[name]) for name in SECTIONS if name in raw and name != "actions"}
    name, version = _label(raw, "name", "policy"), _label(raw, "version", "0")
    actions = _actions(raw.get("actions", {}))
    modes = frozenset({*MODES, *read_modes(raw.get("modes", []))})
    declaration = read_attributes(raw.get("attributes", {}))
    conditions = ConditionReader(declaration)
    rules = read_rules(raw.get("rules", []), actions, modes, conditions)
    compiled = conditions.compiled()
    assertions = read_assertions(raw.get("assert", []), actions, modes, ConditionReader(declaration))
    return Document(name, version, sections, actions, rules, modes, declaration, compiled, assertions)


def _label(raw: dict[Any, Any], key: str, default: str) -> str:
    value = raw.get(key, default)
    if type(value) is not str or not is_label(value):
        valid = "text of 1 to 64 letters, digits, dots, underscores, plus and minus signs"
        raise mistake((key,), shallow(value), valid)
    return value


def _actions(raw: object) -> dict[str, PolicySection | None]:
    if not isinstance(raw, dict):
        raise mistake(
            ("actions",), shallow(raw), "an object from action name to 'any', 'by_rule' or a list of resource ids"
        )
    sections: dict[str, PolicySection | None] = {}
    for name, value in raw.items():
        where = ("actions", step(name))
        if type(name) is not str or not is_action_name(name):
            valid = "lower-case words joined by dots, such as 'invoice.send'"
            in_parts = isinstance(value, dict)  # what TOML makes of a name without quotes
            raise mistake(where, name, valid + ", which is one name, in TOML in quotes" * in_parts)
        if name in BUILTIN_SECTIONS:
            raise mistake(
                where, name, f"an application's own action; this one belongs to {BUILTIN_SECTIONS[name][0]!r}"
            )
        sections[name] = None if type(value) is str and value == BY_RULE else _section("actions", where, value)
    return sections


def _section(section: str, where: Key, raw: object) -> PolicySection:
    if type(raw) is str and raw == ANY:
        return PolicySection(None)
    if not isinstance(raw, (list, tuple)):
        words = (ANY, BY_RULE) if section == "actions" else (ANY,)
        raise mistake(where, shallow(raw), " or ".join(map(repr, words)) + " or a list of entries", nearest(raw, words))
    entries: dict[Pattern, int] = {}
    seen: set[tuple[Pattern, str | None]] = set()
    for index, item in enumerate(raw):
        here = (*where, index)
        name, operation = _sql_entry(here, item) if section == "sql" and isinstance(item, dict) else (item, None)
        pattern = _entry(here, name, section)
        if (pattern, operation) in seen:
            raise mistake(here, item, "each entry once")
        seen.add((pattern, operation))
        entries[pattern] = entries.get(pattern, 0) | (EVERY if operation is None else OPERATION_BITS[operation])
    wildcards = {pattern: bits for pattern, bits in entries.items() if pattern.match != EXACT}
    ids = {str(pattern.text): bits for pattern, bits in entries.items() if pattern.match == EXACT}
    return PolicySection(ids, wildcards, admitting(where, entries) if wildcards else None)


def _entry(where: Key, value: object, section: str) -> Pattern:
    if type(value) is not str or not value or not is_unicode(value):
        valid = "non-empty text without lone surrogates"
        raise mistake(where, shallow(value), valid + (", or {'name': …, 'operation': …}" if section == "sql" else ""))
    kind = SECTION_KINDS.get(section, "")
    if section == "actions" and "*" in value:
        raise mistake(where, value, "an id without '*'; a rule says of which kind a wildcard is, as 'order:eu/*'")
    if kind and value.startswith(f"{kind}:"):
        raise mistake(where, value, f"an id alone: of `{section}` all are of the kind {kind!r}", value[len(kind) + 1 :])
    match, text = read_entry(where, value, kind, value)
    return Pattern(kind, text, match)


def _sql_entry(where: Key, item: dict[Any, Any]) -> tuple[object, str | None]:
    check_keys(item, ("name", "operation"), where)
    if "name" not in item:
        raise mistake((*where, "name"), None, "the name of a query")
    if "operation" not in item:
        return item["name"], None
    operation = item["operation"]
    if type(operation) is not str or operation not in OPERATION_BITS:
        raise mistake(
            (*where, "operation"), shallow(operation), "one of " + ", ".join(OPERATIONS), nearest(operation, OPERATIONS)
        )
    return item["name"], operation
