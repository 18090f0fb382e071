"""Reads the rules of a policy document, and finds which of the known actions each of them is about.

::

    {"effect": "allow",                                     or "deny", which beats allows and sections
     "actions": ["db.read", "tool.*"],                      exact, or each known one below; "*": each known one
     "actors": ["service", "user:alice", "service:ci/*"],   absent: whoever asks
     "modes": ["dev"],                                      exact; absent: in every mode
     "resources": ["sql_query:audit", "path:reports/*"],    "sql_query" alone: any id, or none; absent: any, or none
     "reason": "text",                                      of a denial; "not_in_allowlist" where it has none
     "monitor": true}                                       of a denial: it does not count, and is recorded

``*`` stands at the end only, after ``:``, ``/`` or ``.`` (in an action's name after a dot), for one character or more:
``path:reports/*`` covers ``reports/a/b`` and not ``reports/``. An id that contains ``*`` cannot be written. Ids are in
the normal form of their kind (:mod:`capgate.spelling`), in rules as in questions, and compare exactly.

A name that is neither built in nor in the section ``actions`` is an application's own action, known to the policy
because a rule has it; it needs no resource. Neither a ``*`` nor a rule that only monitors makes an action known, for
without the latter every answer is the same (see ``monitored.py``). Rules that could never match are errors,
because a denial with a slip of the pen would deny nothing. Such are a ``*`` that no known action begins with, and a
kind of resource that no action of the rule acts on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

import msgspec

from ..actions import BUILTIN_ACTIONS, is_action_name
from ..model import Reason
from .places import Key
from .spelled import normal_beginning, normal_entry
from .strict import check_keys, is_unicode, mistake, shallow

MAX_RULES: Final = 10_000
MAX_REASON: Final = 256
#: Entries of all rules together, those of one rule counted for each action, mode and actor that lead to it.
MAX_ENTRIES: Final = 1_000_000
ALLOW_EFFECT, DENY_EFFECT = "allow", "deny"
#: In the order of the WIT interface.
ACTOR_KINDS: Final = ("anonymous", "user", "service", "compiler_tool")
BUILTIN_KINDS: Final = {action.name: action.kind for action in BUILTIN_ACTIONS}

RULE_KEYS: Final = ("effect", "actions", "actors", "modes", "resources", "reason", "monitor")
_SEPARATORS: Final = (":", "/", ".")
_STAR: Final = "'*' only as the last segment, after ':', '/' or '.'; an id that contains a '*' cannot be written"
_ACTOR: Final = "'anonymous', or 'user', 'service' or 'compiler_tool', alone or with ':' and an id"
_RESOURCE: Final = "a kind, alone or with ':' and an id; leave 'resources' out for all"

#: Where rules are in a document.
_HERE: Final[Key] = ("rules",)
_T = TypeVar("_T")

#: Kind and id, of an actor or a resource.
Half = tuple[str | None, str | None]


class Pattern(msgspec.Struct, frozen=True):
    """A kind, of actor or resource, and which ids: ``text`` itself, or (``prefix``) what goes on after it.
    ``None``: every id, and none."""

    kind: str
    text: str | None = None
    prefix: bool = False

    def covers(self, kind: str | None, id: str | None) -> bool:
        """Say whether it is about this kind and id, which are ``None`` where there is none."""
        if kind != self.kind or self.text is None:
            return kind == self.kind
        if id is None:
            return False
        return id == self.text if not self.prefix else len(id) > len(self.text) and id.startswith(self.text)


class Rule(msgspec.Struct, frozen=True):
    """A checked rule. ``None`` instead of a list: the rule does not look at it. ``actions`` are as written, and
    ``covers`` are the known actions that they stand for, sorted. With ``monitor`` it is a denial that does not
    count."""

    effect: str
    actions: tuple[str, ...]
    actors: tuple[Pattern, ...] | None = None
    modes: tuple[str, ...] | None = None
    resources: tuple[Pattern, ...] | None = None
    reason: str = Reason.NOT_IN_ALLOWLIST
    covers: tuple[str, ...] = ()
    monitor: bool = False

    @property
    def denies(self) -> bool:
        """Whether this is a denial, which beats whatever allows, unless it only monitors."""
        return self.effect == DENY_EFFECT

    def unmet(self, mode: str, actor: Half, resource: Half) -> tuple[str, ...]:
        """Return which of ``actors``, ``modes`` and ``resources`` keep it from matching a question.

        The question is about an action that it covers. It matches where there are none.
        """
        unmet = []
        if self.actors is not None and not any(pattern.covers(*actor) for pattern in self.actors):
            unmet.append("actors")
        if self.modes is not None and mode not in self.modes:
            unmet.append("modes")
        if self.resources is not None and not any(pattern.covers(*resource) for pattern in self.resources):
            unmet.append("resources")
        return tuple(unmet)


def read_rules(raw: object, declared: Iterable[str] = ()) -> tuple[Rule, ...]:
    """Return the rules that a document's ``rules`` stand for, or raise :class:`ConfigError`.

    Known are the actions that are built in, those ``declared`` by a section, and those that some rule names exactly.
    """
    if not isinstance(raw, (list, tuple)):
        raise mistake(_HERE, shallow(raw), "a list of rules")
    if len(raw) > MAX_RULES:
        raise mistake(_HERE, f"{len(raw)} rules", f"at most {MAX_RULES}")
    return _covering([_rule((*_HERE, index), item) for index, item in enumerate(raw)], declared)


def _rule(where: Key, raw: object) -> Rule:
    if not isinstance(raw, dict):
        raise mistake(where, shallow(raw), "an object with the keys " + ", ".join(RULE_KEYS))
    check_keys(raw, RULE_KEYS, where)
    effect = raw.get("effect")
    if type(effect) is not str or effect not in (ALLOW_EFFECT, DENY_EFFECT):
        raise mistake((*where, "effect"), shallow(effect), "'allow' or 'deny'")
    return Rule(
        effect,
        _list((*where, "actions"), raw.get("actions"), _action),
        _list((*where, "actors"), raw["actors"], _actor) if "actors" in raw else None,
        _list((*where, "modes"), raw["modes"], _mode) if "modes" in raw else None,
        _list((*where, "resources"), raw["resources"], _resource) if "resources" in raw else None,
        _reason((*where, "reason"), raw["reason"], effect) if "reason" in raw else Reason.NOT_IN_ALLOWLIST,
        monitor=_monitor((*where, "monitor"), raw["monitor"], effect) if "monitor" in raw else False,
    )


def _list(where: Key, raw: object, read: Callable[[Key, str], _T]) -> tuple[_T, ...]:
    if not isinstance(raw, (list, tuple)) or not raw:
        raise mistake(where, [] if raw == [] else shallow(raw), "a list of one entry or more")
    entries: dict[_T, None] = {}
    for index, item in enumerate(raw):
        here = (*where, index)
        if type(item) is not str or not item or not is_unicode(item):
            raise mistake(here, shallow(item), "non-empty text without lone surrogates")
        entry = read(here, item)
        if entry in entries:
            raise mistake(here, item, "each entry once")
        entries[entry] = None
    return tuple(entries)


def _action(where: Key, text: str) -> str:
    if text == "*" or is_action_name(text) or (text.endswith(".*") and is_action_name(text[:-1] + "x")):
        return text
    raise mistake(where, text, "an action's name such as 'db.write', or one whose last segment is '*', or '*'")


def _actor(where: Key, text: str) -> Pattern:
    pattern = _pattern(where, text, _ACTOR)
    if pattern.kind not in ACTOR_KINDS or (pattern.kind == ACTOR_KINDS[0] and pattern.text is not None):
        raise mistake(where, text, _ACTOR)
    return pattern


def _mode(where: Key, text: str) -> str:
    if "*" in text:
        raise mistake(where, text, "a mode, exactly; leave 'modes' out for all")
    return text


def _resource(where: Key, text: str) -> Pattern:
    pattern = _pattern(where, text, _RESOURCE)
    if pattern.text is None:
        return pattern
    normal = normal_beginning if pattern.prefix else normal_entry
    return Pattern(pattern.kind, normal(where, text, pattern.kind, pattern.text), pattern.prefix)


def _pattern(where: Key, text: str, valid: str) -> Pattern:
    kind, colon, id = text.partition(":")
    prefix = id.endswith("*")
    stem = id[:-1] if prefix else id
    if not kind or (colon and not id):
        raise mistake(where, text, valid)
    if "*" in kind or "*" in stem or (prefix and stem and not stem.endswith(_SEPARATORS)):
        raise mistake(where, text, f"{valid}; {_STAR}")
    return Pattern(kind, stem if colon else None, prefix)


def _reason(where: Key, raw: object, effect: str) -> str:
    if effect != DENY_EFFECT:
        raise mistake(where, shallow(raw), "no reason, because only a denial has one")
    if type(raw) is not str or not 1 <= len(raw) <= MAX_REASON or not raw.isprintable():
        raise mistake(where, shallow(raw), f"text of 1 to {MAX_REASON} printable characters")
    return raw


def _monitor(where: Key, raw: object, effect: str) -> bool:
    if effect != DENY_EFFECT:
        raise mistake(where, shallow(raw), "no monitor, because only a denial can be recorded and not count")
    if raw is not True and raw is not False:
        raise mistake(where, shallow(raw), "true, for a denial that is recorded and does not count, or false")
    return raw


def _covering(rules: list[Rule], declared: Iterable[str]) -> tuple[Rule, ...]:
    """Return the rules with what they cover. Raises :class:`ConfigError` for an entry that can never match."""
    named = {name for rule in rules if not rule.monitor for name in rule.actions if not name.endswith("*")}
    known = {*BUILTIN_KINDS, *declared, *named}
    below = _by_beginning(known)
    covering, count = [], 0
    for index, rule in enumerate(rules):
        names: set[str] = set()
        for at, action in enumerate(rule.actions):
            covered = below.get(action[:-1], []) if action.endswith("*") else [action]
            if not covered:
                raise mistake((*_HERE, index, "actions", at), action, "the beginning of an action that is known")
            if rule.monitor and action not in known and not action.endswith("*"):
                valid = "an action that is known without this rule, which only monitors"
                raise mistake((*_HERE, index, "actions", at), action, valid)
            names.update(covered)
            count += len(covered)
            check_entries(count)
        _check_kinds((*_HERE, index, "resources"), rule, names)
        covering.append(msgspec.structs.replace(rule, covers=tuple(sorted(names))))
    return tuple(covering)


def check_entries(count: int) -> None:
    """Raise :class:`ConfigError` above :data:`MAX_ENTRIES`."""
    if count > MAX_ENTRIES:
        raise mistake(_HERE, f"more than {MAX_ENTRIES} combinations", "fewer, shorter or more similar lists")


def _by_beginning(names: Iterable[str]) -> Mapping[str, list[str]]:
    """Return the names that go on after each beginning: one that ends with a dot, or the empty one."""
    names_by_beginning: dict[str, list[str]] = {}
    for name in names:
        for at in (0, *(at + 1 for at, character in enumerate(name) if character == ".")):
            names_by_beginning.setdefault(name[:at], []).append(name)
    return names_by_beginning


def _check_kinds(where: Key, rule: Rule, names: Iterable[str]) -> None:
    kinds = {BUILTIN_KINDS.get(name) for name in names}
    if None in kinds:
        return  # an application's own action acts on any kind
    for index, pattern in enumerate(rule.resources or ()):
        if pattern.kind not in kinds:
            valid = "a kind that these actions act on: " + ", ".join(sorted(filter(None, kinds)))
            raise mistake((*where, index), pattern.kind, valid)
