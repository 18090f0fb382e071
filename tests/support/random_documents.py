"""Documents and questions about them by the thousand, from a seed: made in microseconds, where Hypothesis takes longer.

As in :mod:`tests.support.documents`, questions often match and often only just do not. Here sections are of all kinds,
entries have operations, and documents are small, so that what decides a question is often what decides nothing else.
"""

from __future__ import annotations

import copy
from random import Random
from typing import Any, Final

from capgate.actions import BUILTIN_ACTIONS
from capgate.model import Actor, Anonymous, Environment, PolicyInput, Resource

from .documents import ACTORS, IDS, KINDS, MODES, OWN, REASONS, STEMS, is_spelled

SECTIONS: Final = {action.section: action.kind or "thing" for action in BUILTIN_ACTIONS}
BEGINNINGS: Final = ("*", "db.*", "tool.*", "cache.*", "fs.*", "runtime.*", "runtime.config.*", "env.*", "compute.*")
OPERATIONS: Final = ("select", "read", "insert", "write", "delete", "update", "upsert", "migrate")
#: Ids that some kind has in another spelling, or in none, or that no rule can have.
ODD: Final = (
    "",
    "A/./b",
    "a//b",
    "main.a",
    '"A"',
    "0x7f.1",
    "a.",
    "..",
    "a\0",
    "a*",
    "~/a",
    "\u00e9",
    "\udc80",
    "x" * 70,
)
SPELLED: Final = {
    kind: [id for id in (*IDS, *STEMS) if id and is_spelled(kind, id)] for kind in {*SECTIONS.values(), "thing"}
}
#: Of hosts, a star stands in other places.
STARRED: Final = {kind: [stem for stem in STEMS if kind != "host" and is_spelled(kind, stem + "*")] for kind in SPELLED}


def a_document(random: Random) -> dict[str, Any]:
    """Return a document without mistakes, but perhaps for a rule that no action is left for."""
    document: dict[str, Any] = {}
    for section in random.sample(sorted(SECTIONS), random.choice((0, 1, 2, 4))):
        document[section] = _section(random, section)
    declared = random.sample(OWN, random.choice((0, 0, 1, 3)))
    rules = [_rule(random, declared) for _ in range(random.choice((0, 1, 1, 2, 2, 3, 4)))]
    if rules or random.random() < 0.2:
        document["rules"] = rules
    if declared or random.random() < 0.1:
        document["actions"] = {
            name: random.choice(("any", "by_rule", random.sample(IDS, random.randrange(4)))) for name in declared
        }
    return _declared(document)


def a_change(random: Random, document: dict[str, Any]) -> dict[str, Any]:
    """Return another document, of which much is as in ``document``."""
    other, new = a_document(random), copy.deepcopy(document)
    keys = sorted({*document, *other} - {"modes"})
    for key in random.sample(keys, min(len(keys), random.choice((0, 1, 1, 2)))):
        new.pop(key, None)
        if key in other:
            new[key] = other[key]
    if new.get("rules"):
        rule = random.choice(new["rules"])
        change = random.randrange(4)
        if change == 0:
            new["rules"].remove(rule)
        elif change == 1:
            random.shuffle(new["rules"])
        elif change == 2 and rule["effect"] == "deny":
            rule["monitor"] = not rule.get("monitor", False)
        elif change == 3:
            rule.update(_lists(random, rule["actions"]))
    return _declared(new)


def a_question(random: Random, document: dict[str, Any]) -> PolicyInput:
    """Return a question that some rule or section of ``document`` matches, but for what is drawn to differ."""
    rules = document.get("rules") or [{"actions": ["*"]}]
    rule: dict[str, Any] = random.choice(rules) if random.random() < 0.7 else {"actions": ["*"]}
    action = random.choice(rule["actions"])
    if action.endswith("*"):
        fitting = [name for name in (*KINDS, *OWN) if name.startswith(action[:-1])]
        action = random.choice(fitting) if random.random() < 0.95 else action[:-1] + "x"
    what = random.choice(rule.get("resources") or [KINDS.get(action, "thing")])
    kind = what.partition(":")[0] if random.random() < 0.7 else KINDS.get(action, "thing")
    resource = None if random.random() < 0.05 else Resource(kind, _id(random, what, _listed(document, action)))
    mode = random.choice([*(rule.get("modes") or MODES), *MODES, "Prod"])
    return PolicyInput(action, _who(random, rule.get("actors")), resource, env=Environment("s", mode))


def _section(random: Random, section: str) -> Any:
    if random.random() < 0.2:
        return "any"
    entries: list[Any] = random.sample(SPELLED[SECTIONS[section]], random.choice((0, 1, 2, 4)))
    if section != "sql":
        return entries
    return [
        {"name": entry, **({"operation": random.choice(OPERATIONS)} if random.random() < 0.8 else {})}
        if random.random() < 0.6
        else entry
        for entry in entries
    ]


def _rule(random: Random, declared: list[str]) -> dict[str, Any]:
    names = [*KINDS, *OWN[:2], *declared]
    stars = [*BEGINNINGS, *(f"{name.split('.')[0]}.*" for name in declared)]
    actions = {random.choice(stars if random.random() < 0.4 else names) for _ in range(random.choice((1, 1, 2, 3)))}
    rule: dict[str, Any] = {"effect": random.choice(("allow", "deny")), "actions": sorted(actions)}
    rule.update(_lists(random, rule["actions"]))
    if rule["effect"] == "deny" and random.random() < 0.5:
        rule["reason"] = random.choice(REASONS)
    if rule["effect"] == "deny" and random.random() < 0.2:
        rule["monitor"] = True
    return rule


def _lists(random: Random, actions: list[str]) -> dict[str, list[str]]:
    lists = {}
    if random.random() < 0.5:
        lists["actors"] = _patterns(random, ["anonymous", *ACTORS], "thing")
    if random.random() < 0.25:
        lists["modes"] = random.sample(MODES, random.choice((1, 2)))
    if random.random() < 0.5:
        acted_on = {
            kind
            for name, kind in KINDS.items()
            for a in actions
            if a == name or (a[-1] == "*" and name.startswith(a[:-1]))
        }
        lists["resources"] = _patterns(random, sorted(acted_on or {"thing", "host"}), None)
    return lists


def _patterns(random: Random, kinds: list[str], spelled_as: str | None) -> list[str]:
    patterns = set()
    for _ in range(random.choice((1, 1, 2, 4))):
        kind = random.choice(kinds)
        texts = SPELLED[spelled_as or kind]
        if STARRED[spelled_as or kind] and random.random() < 0.4:
            texts = [stem + "*" for stem in STARRED[spelled_as or kind]]
        bare = kind == "anonymous" or random.random() < 0.2
        patterns.add(kind if bare else f"{kind}:{random.choice(texts)}")
    return sorted(patterns)


def _declared(document: dict[str, Any]) -> dict[str, Any]:
    """Declare what the rules speak of, as a document has to."""
    rules = document.get("rules", [])
    named = {name for rule in rules for name in rule["actions"] if name in OWN}
    if named:
        document.setdefault("actions", {})
        for name in sorted(named):
            document["actions"].setdefault(name, "by_rule")
    if any("compiler_author" in rule.get("modes", ()) for rule in rules):
        document["modes"] = ["compiler_author"]
    return document


def _listed(document: dict[str, Any], action: str) -> list[str]:
    section = next((each.section for each in BUILTIN_ACTIONS if each.name == action), None)
    entries = document.get("actions", {}).get(action) if section is None else document.get(section)
    return (
        [entry["name"] if isinstance(entry, dict) else entry for entry in entries] if isinstance(entries, list) else []
    )


def _id(random: Random, pattern: str, listed: list[str]) -> str | None:
    """Return an id that the pattern covers, or nearly, or one that is listed in a section."""
    chance = random.random()
    if chance < 0.05:
        return None
    if chance < 0.15:
        return random.choice(ODD)
    _, colon, text = pattern.partition(":")
    if listed and (not colon or chance < 0.5):
        return random.choice(listed)
    if not colon:
        return random.choice(IDS)
    if text.endswith("*"):
        text = text[:-1] + random.choice(("x", "b/c", "A", "", "\u00e9", "b/"))
    return random.choice((text, text, text, text.swapcase(), text + "x", text[:-1]))


def _who(random: Random, patterns: list[str] | None) -> Actor:
    pattern = random.choice(patterns or ["anonymous", *ACTORS])
    kind = pattern.partition(":")[0] if random.random() < 0.8 else random.choice(sorted(ACTORS))
    return Anonymous() if kind == "anonymous" else ACTORS[kind](_id(random, pattern, []) or "")
