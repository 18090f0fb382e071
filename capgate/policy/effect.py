"""Finds what in a document is correct and has no effect, since something else says as much, or denies it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Final

from ..conditions import TRUE, UNKNOWN, Constant, Fact, Operation, Wish, facts_in, together
from .document import ACTION_BITS, BUILTIN_SECTIONS, EVERY, OPERATION_BITS, SECTION_KINDS, Document
from .places import Key
from .rules import Pattern, Rule
from .spelled import read_entry
from .wildcards import EXACT

#: Pairs of rules that are compared, at most, and of entries: of a document with more, the first ones.
PAIRS: Final = 200_000

#: Where it is, what it is called, and how people are told.
Warned = tuple[Key, str, str]
#: An entry of a list: its place there, what it covers, and for which operations.
Entry = tuple[int, Pattern, int]


def without_effect(document: Document, raw: Mapping[str, Any]) -> Iterator[Warned]:
    """Yield what has no effect in ``document``, as which ``raw`` was read."""
    yield from _hidden(document.rules)
    yield from _unmet(document)
    emptied = list(_emptied(document))
    yield from emptied
    gone = {key for key, *_ in emptied}
    pairs = count()
    for number, rule in enumerate(document.rules):
        entries = [(at, pattern, EVERY) for at, pattern in enumerate(rule.resources or ())]
        for at, other in _narrower(entries, pairs).items():
            yield ("rules", number, "resources", at), "hidden", f"resources[{other}] covers whatever this does"
    for section, kind in SECTION_KINDS.items():
        if isinstance(raw.get(section), list) and (section,) not in gone:
            yield from _covered_entries(document, section, _entries(kind, raw[section]), pairs)


def _entries(kind: str, items: Sequence[Any]) -> list[Entry]:
    entries = []
    for at, item in enumerate(items):
        name, operation = (item["name"], item.get("operation")) if isinstance(item, dict) else (item, None)
        match, text = read_entry((), name, kind, name)
        entries.append((at, Pattern(kind, text, match), EVERY if operation is None else OPERATION_BITS[operation]))
    return entries


def _narrower(entries: Sequence[Entry], pairs: Iterator[int]) -> dict[int, int]:
    """Return which entries another one includes, and which one."""
    wild = [entry for entry in entries if entry[1].match != EXACT or entry[1].text is None]
    narrower: dict[int, int] = {}
    for at, pattern, bits in entries:
        for other, wider, granted in wild:
            if next(pairs) >= PAIRS:
                return narrower
            if other != at and wider != pattern and not bits & ~granted and wider.includes(pattern):
                narrower[at] = other
                break
    return narrower


def _covered_entries(document: Document, section: str, entries: list[Entry], pairs: Iterator[int]) -> Iterator[Warned]:
    hidden = _narrower(entries, pairs)
    denying = [(number, rule) for number, rule in enumerate(document.rules) if _denies_whoever_asks(rule)]
    for at, pattern, bits in entries:
        actions = [action for action, asked in ACTION_BITS[section].items() if asked & bits]
        denied: dict[str, int] = {}
        for number, rule in denying:
            if next(pairs) >= PAIRS:
                return
            if rule.resources is None or any(each.includes(pattern) for each in rule.resources):
                denied.update(dict.fromkeys(rule.covers, number))
        if actions and denied.keys() >= set(actions):
            yield (section, at), "denied_anyway", f"rules[{denied[actions[0]]}] denies whatever this admits"
        elif at in hidden:
            yield (section, at), "hidden", f"{section}[{hidden[at]}] admits whatever this does"


def _denies_whoever_asks(rule: Rule) -> bool:
    return rule.denies and not rule.monitor and rule.actors is None and rule.modes is None and rule.when is None


def _hidden(rules: tuple[Rule, ...]) -> Iterator[Warned]:
    pairs = 0
    for number, rule in enumerate(rules):
        for other, earlier in enumerate(rules):
            pairs += 1
            if pairs > PAIRS:
                return
            if other == number or earlier.monitor or rule.monitor or not _covers(earlier, rule):
                continue
            if earlier.denies and not rule.denies:
                yield ("rules", number), "denied_anyway", f"rules[{other}] denies whatever this allows"
            elif earlier.denies == rule.denies and (other < number or not (rule.denies or _covers(rule, earlier))):
                yield ("rules", number), "hidden", f"rules[{other}] says as much for whatever this matches"
            else:
                continue
            break


def _unmet(document: Document) -> Iterator[Warned]:
    """Yield the rules whose condition is not met by anything that their lists match."""
    for number, rule in enumerate(document.rules):
        if rule.when is None or document.conditions is None:
            continue
        states = TRUE | UNKNOWN if rule.denies else TRUE
        node = document.conditions.nodes[rule.when]
        spoken = facts_in(node)
        known = [_listed(name, texts) for name, texts in _lists(rule) if name in spoken]
        if known and together([Wish(node, states), *known]).possible is False:
            yield ("rules", number), "never_met", "its condition is never met by what its lists match"


def _lists(rule: Rule) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the facts of which all that the lists match are known."""
    yield "action", rule.covers
    if rule.modes is not None:
        yield "env.mode", rule.modes
    for holder, patterns in (("actor", rule.actors), ("resource", rule.resources)):
        if patterns is not None:
            yield f"{holder}.kind", tuple({pattern.kind for pattern in patterns})
            if all(pattern.match == EXACT and pattern.text is not None for pattern in patterns):
                yield f"{holder}.id", tuple({str(pattern.text) for pattern in patterns})


def _listed(name: str, texts: tuple[str, ...]) -> Wish:
    return Wish(Operation("bool", "in", (Fact("string", name), Constant("list", tuple(sorted(texts))))), TRUE)


def _covers(rule: Rule, other: Rule) -> bool:
    """Say whether ``rule`` matches whatever ``other`` matches."""
    return (
        rule.when in (None, other.when)
        and set(other.covers) <= set(rule.covers)
        and (rule.modes is None or (other.modes is not None and set(other.modes) <= set(rule.modes)))
        and _all_within(other.actors, rule.actors)
        and _all_within(other.resources, rule.resources)
    )


def _all_within(inner: tuple[Pattern, ...] | None, outer: tuple[Pattern, ...] | None) -> bool:
    if outer is None or inner is None:
        return outer is None
    return all(any(each.includes(pattern) for each in outer) for pattern in inner)


def _emptied(document: Document) -> Iterator[Warned]:
    """Yield the sections of which rules deny whatever they admit."""
    sections: dict[Key, tuple[list[str], str | None]] = {}
    for action, (section, kind) in BUILTIN_SECTIONS.items():
        if section in document.sections:
            sections.setdefault((section,), ([], kind))[0].append(action)
    for action, admitted in document.actions.items():
        if admitted is not None:
            sections["actions", action] = [action], None
    for key, (actions, kind) in sections.items():
        denying = [
            (number, rule)
            for number, rule in enumerate(document.rules)
            if _denies_whoever_asks(rule) and (rule.resources is None or Pattern(kind or "") in rule.resources)
        ]
        denied = {action for _, rule in denying for action in rule.covers}
        if denying and denied.issuperset(actions):
            yield key, "emptied", f"rules deny whatever this admits, as rules[{denying[0][0]}] does"
