"""Reads the rules of a policy document, and finds which of the known actions each of them is about.

::

    {"effect": "allow",                                     or "deny", which beats allows and sections
     "actions": ["db.read", "tool.*"],                      exact, or each known one below; "*": each known one
     "actors": ["service", "user:alice", "service:ci/*"],   absent: whoever asks
     "modes": ["dev"],                                      exact; absent: in every mode
     "resources": ["sql_query:audit", "path:reports/*"],    "sql_query" alone: any id, or none; absent: any, or none
     "when": "args.amount <= 1000",                         a condition in CEL on facts; absent: whatever they are
     "reason": "text",                                      of a denial; "not_in_allowlist" where it has none
     "monitor": true}                                       of a denial: it does not count, and is recorded

``*`` stands at the end only, after ``:``, ``/`` or ``.`` (in an action's name after a dot), for one character or more:
``path:reports/*`` covers ``reports/a/b`` and not ``reports/``. Hosts and paths have wildcards that fit them, see
:mod:`~capgate.policy.wildcards`. An id that contains ``*`` cannot be written. Ids are in the normal form of their kind
(:mod:`capgate.spelling`), in rules as in questions, and compare exactly.

Rules that could never match are errors, because a denial with a slip of the pen would deny nothing. Known are
actions that are built in, or in the section ``actions``; and the modes :data:`MODES`, or those in ``modes``. Errors are
also a ``*`` that no known action begins with, and a kind of resource that no action of the rule acts on. An
application's own actions act on any kind, but for one that only looks like a built-in kind.

A condition is looked at where all lists match. An allow matches where it is true, and a denial where it is true, or not
known: of a fact that is absent, for one. So a denial is not passed by leaving something out. See
:mod:`~capgate.policy.conditional`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

import msgspec

from ..actions import BUILTIN_ACTIONS, is_action_name
from ..model import Reason
from ..spelling import SPELLINGS, TEMPLATE
from .conditional import ConditionReader
from .places import Key
from .spelled import has_blank_edge, read_entry
from .strict import check_keys, is_unicode, mistake, nearest, shallow
from .wildcards import BEGINNING, ENDING, EXACT, SEPARATORS, Match, bounds, is_covered, is_mapped

MAX_RULES: Final = 10_000
MAX_REASON: Final = 256
#: Entries of all rules together, those of one rule counted for each action, mode and actor that lead to it.
MAX_ENTRIES: Final = 1_000_000
ALLOW_EFFECT, DENY_EFFECT = "allow", "deny"
#: In the order of the WIT interface.
ACTOR_KINDS: Final = ("anonymous", "user", "service", "compiler_tool")
BUILTIN_KINDS: Final = {action.name: action.kind for action in BUILTIN_ACTIONS}

RULE_KEYS: Final = ("effect", "actions", "actors", "modes", "resources", "when", "reason", "monitor")
_STAR: Final = "'*' only as the last segment, after ':', '/' or '.'; an id that contains a '*' cannot be written"
_ACTOR: Final = "'anonymous', or 'user', 'service' or 'compiler_tool', alone or with ':' and an id"
_RESOURCE: Final = "a kind, alone or with ':' and an id; leave 'resources' out for all"

#: Where rules are in a document.
_HERE: Final[Key] = ("rules",)
_T = TypeVar("_T")

#: The modes that are known without being declared.
MODES: Final = ("dev", "test", "prod")
#: How much the name of a kind has to look like a built-in one to be taken for a slip.
_SLIP: Final = 0.8

#: Kind and id, of an actor or a resource.
Half = tuple[str | None, str | None]


class Pattern(msgspec.Struct, frozen=True):
    """A kind, of actor or resource, and which ids: those that compare with ``text`` by ``match``.
    ``None``: every id, and none."""

    kind: str
    text: str | None = None
    match: Match = EXACT

    def covers(self, kind: str | None, id: str | None) -> bool:
        """Say whether it is about this kind and id, which are ``None`` where there is none."""
        if kind != self.kind or self.text is None:
            return kind == self.kind
        return id is not None and is_covered(self.match, self.text, id)

    def includes(self, other: Pattern) -> bool:
        """Say whether it covers whatever ``other`` does."""
        if other.kind != self.kind or self.text is None:
            return other.kind == self.kind
        if other.text is None:
            return False
        if other.match == EXACT or self.match == EXACT:
            return self == other or (other.match == EXACT and self.covers(self.kind, other.text))
        if self.match == BEGINNING:
            return not self.text or (other.match == BEGINNING and other.text.startswith(self.text))
        if self.match != other.match:
            return False
        if self.match == ENDING:
            return other.text == self.text or other.text.endswith(f".{self.text}")
        (first, last), (inner_first, inner_last) = bounds(self.text), bounds(other.text)
        return first <= inner_first and inner_last <= last and is_mapped(first) == is_mapped(inner_first)

    @property
    def written(self) -> str:
        """How its ids are written in a document; without one, nothing."""
        text = self.text or ""
        return f"*.{text}" if self.match == ENDING else f"{text}*" if self.match == BEGINNING else text


class Rule(msgspec.Struct, frozen=True):
    """A checked rule. ``None`` instead of a list: the rule does not look at it.

    ``actions`` are as written, and ``covers`` are the known actions that they stand for, sorted. With ``monitor`` it is
    a denial that does not count. Its condition has the number ``when`` among those of the document, and is written as
    ``when_text``.
    """

    effect: str
    actions: tuple[str, ...]
    actors: tuple[Pattern, ...] | None = None
    modes: tuple[str, ...] | None = None
    resources: tuple[Pattern, ...] | None = None
    reason: str = Reason.NOT_IN_ALLOWLIST
    covers: tuple[str, ...] = ()
    monitor: bool = False
    when: int | None = None
    when_text: str | None = None

    @property
    def denies(self) -> bool:
        """Whether this is a denial, which beats whatever allows, unless it only monitors."""
        return self.effect == DENY_EFFECT

    def unmet(self, mode: str, actor: Half, resource: Half) -> tuple[str, ...]:
        """Return which of ``actors``, ``modes`` and ``resources`` keep it from matching a question.

        The question is about an action that it covers. Where there are none, it matches if its condition does.
        """
        unmet = []
        if self.actors is not None and not any(pattern.covers(*actor) for pattern in self.actors):
            unmet.append("actors")
        if self.modes is not None and mode not in self.modes:
            unmet.append("modes")
        if self.resources is not None and not any(pattern.covers(*resource) for pattern in self.resources):
            unmet.append("resources")
        return tuple(unmet)


def read_modes(raw: object) -> tuple[str, ...]:
    """Return the modes that a document's ``modes`` declare, or raise :class:`ConfigError`."""
    if raw == []:
        return ()
    return _list(("modes",), raw, _mode)


def read_rules(
    raw: object, declared: Iterable[str], modes: frozenset[str], conditions: ConditionReader
) -> tuple[Rule, ...]:
    """Return the rules that a document's ``rules`` stand for, or raise :class:`ConfigError`.

    Known are the actions that are built in, those ``declared`` by a section, and these ``modes``. What ``conditions``
    then has are those of the rules.
    """
    if not isinstance(raw, (list, tuple)):
        raise mistake(_HERE, shallow(raw), "a list of rules")
    if len(raw) > MAX_RULES:
        raise mistake(_HERE, f"{len(raw)} rules", f"at most {MAX_RULES}")
    known = frozenset({*BUILTIN_KINDS, *declared})
    return _covering([_rule((*_HERE, index), item, known, modes, conditions) for index, item in enumerate(raw)], known)


def _rule(where: Key, raw: object, known: frozenset[str], modes: frozenset[str], conditions: ConditionReader) -> Rule:
    if not isinstance(raw, dict):
        raise mistake(where, shallow(raw), "an object with the keys " + ", ".join(RULE_KEYS))
    check_keys(raw, RULE_KEYS, where)
    effect = raw.get("effect")
    if type(effect) is not str or effect not in (ALLOW_EFFECT, DENY_EFFECT):
        near = nearest(effect, (ALLOW_EFFECT, DENY_EFFECT))
        raise mistake((*where, "effect"), shallow(effect), "'allow' or 'deny'", near)

    def action(where: Key, text: str) -> str:
        return _action(where, text, known)

    def mode(where: Key, text: str) -> str:
        if _mode(where, text) not in modes:
            valid = f"a mode that is known: {', '.join(sorted(modes)[:20])}; own ones are declared in `modes`"
            raise mistake(where, text, valid, nearest(text, modes))
        return text

    when, when_text = conditions.read((*where, "when"), raw["when"]) if "when" in raw else (None, None)
    return Rule(
        effect,
        _list((*where, "actions"), raw.get("actions"), action),
        _list((*where, "actors"), raw["actors"], _actor) if "actors" in raw else None,
        _list((*where, "modes"), raw["modes"], mode) if "modes" in raw else None,
        _list((*where, "resources"), raw["resources"], _resource) if "resources" in raw else None,
        _reason((*where, "reason"), raw["reason"], effect) if "reason" in raw else Reason.NOT_IN_ALLOWLIST,
        monitor=_monitor((*where, "monitor"), raw["monitor"], effect) if "monitor" in raw else False,
        when=when,
        when_text=when_text,
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


def _action(where: Key, text: str, known: frozenset[str]) -> str:
    is_beginning = text.endswith(".*") and is_action_name(text[:-1] + "x")
    if text == "*" or text in known or (is_beginning and any(name.startswith(text[:-1]) for name in known)):
        return text
    beginnings = {f"{name.rpartition('.')[0]}.*" for name in known}
    if is_beginning:
        valid = "the beginning of an action that is known"
    elif is_action_name(text):
        valid = "an action that is known, built in or declared in `actions`"
    else:
        valid = "an action's name such as 'db.write', or one whose last segment is '*', or '*'"
    raise mistake(where, text, valid, nearest(text, beginnings if "*" in text else known))


def _actor(where: Key, text: str) -> Pattern:
    kind, colon, id = text.partition(":")
    stem = id.removesuffix("*")
    if not kind or (colon and not id):
        raise mistake(where, text, _ACTOR)
    if "*" in kind or "*" in stem or (stem != id and stem and not stem.endswith(SEPARATORS)):
        raise mistake(where, text, f"{_ACTOR}; {_STAR}")
    if kind == ACTOR_KINDS[0] and colon:
        raise mistake(where, text, _ACTOR, kind)
    if has_blank_edge(kind, id):
        raise mistake(where, text, "an id without blanks around it", f"{kind}:{id.strip()}" if id.strip() else kind)
    if TEMPLATE.fullmatch(id):
        raise mistake(where, text, "an id itself, and no template; the kind alone is each actor of it", kind)
    if kind not in ACTOR_KINDS:
        raise mistake(where, text, _ACTOR, _with_kind(text, kind, ACTOR_KINDS))
    return Pattern(kind, stem if colon else None, BEGINNING if stem != id else EXACT)


def _mode(where: Key, text: str) -> str:
    if "*" in text:
        raise mistake(where, text, "a mode, exactly; leave 'modes' out for all")
    return text


def _resource(where: Key, text: str) -> Pattern:
    kind, colon, id = text.partition(":")
    if not kind or (colon and not id) or "*" in kind:
        raise mistake(where, text, _RESOURCE)
    if not colon:
        return Pattern(kind)
    match, normal = read_entry(where, text, kind, id)
    return Pattern(kind, normal, match)


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


def _covering(rules: list[Rule], known: frozenset[str]) -> tuple[Rule, ...]:
    """Return the rules with what they cover. Raises :class:`ConfigError` for an entry that can never match."""
    below = _by_beginning(known)
    covering, count = [], 0
    for index, rule in enumerate(rules):
        names: set[str] = set()
        for action in rule.actions:
            covered = below.get(action[:-1], []) if action.endswith("*") else [action]
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
    acted_on = {*filter(None, kinds)}
    for index, pattern in enumerate(rule.resources or ()):
        if pattern.kind in acted_on:
            continue
        if None in kinds:  # an application's own action acts on any kind
            if pattern.kind in SPELLINGS or not difflib.get_close_matches(pattern.kind, SPELLINGS, 1, _SLIP):
                continue
            valid, near = "a kind of your own that looks like no built-in one", nearest(pattern.kind, SPELLINGS)
        else:
            valid = "a kind that these actions act on: " + ", ".join(sorted(acted_on))
            near = nearest(pattern.kind, acted_on)
        raise mistake((*where, index), pattern.kind, valid, near)


def _with_kind(text: str, kind: str, kinds: Iterable[str]) -> str | None:
    """Return ``text`` with the kind that was probably meant."""
    near = nearest(kind, kinds)
    return None if near is None else near + text[len(kind) :]
