"""The judgement again, as the README tells it: one rule after the other, with nothing made beforehand.

It shares no code with capgate but the model, by which ids are spelled, and the names of the actions. It reads the
document as it was written.
"""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import Any

from capgate.actions import BUILTIN_ACTIONS
from capgate.model import ALLOW, Anonymous, CompilerTool, Deny, PolicyInput, PolicyResult, Resource, Service, User

from .judged_conditions import condition_of

BUILTIN = {action.name: action for action in BUILTIN_ACTIONS}
ACTORS: dict[type, str] = {Anonymous: "anonymous", User: "user", Service: "service", CompilerTool: "compiler_tool"}
SPELLED = {"env_var", "host", "namespace", "path", "sql_query"}
CLASSES = {
    "read": ("read", "select"),
    "write": ("delete", "insert", "update", "upsert", "write"),
    "migrate": ("migrate",),
}


def judge(document: dict[str, Any], input: PolicyInput) -> tuple[PolicyResult, int | None]:
    """The answer to a well-formed question, and the number of the rule that gave it."""
    rules = document.get("rules", [])
    own = document.get("actions", {})
    resource = input.resource
    if input.action not in BUILTIN and input.action not in own:
        return Deny("unknown_action"), None
    builtin = BUILTIN.get(input.action)
    required = builtin.resource_required if builtin else own[input.action] not in ("any", "by_rule")
    if required and (resource is None or resource.id is None):
        return Deny("missing_resource"), None
    if builtin and resource is not None and resource.kind != builtin.kind:
        return Deny("not_in_allowlist"), None
    if resource is not None and is_nameless(resource):
        return Deny("missing_resource"), None
    for effect in ("deny", "allow"):
        for number, rule in enumerate(rules):
            if rule["effect"] != effect or only_monitors(rule) or not matches(rule, input):
                continue
            holds = condition_of(rule, input)
            if effect == "deny" and holds is not False:
                return Deny("missing_fact" if holds is None else rule.get("reason", "not_in_allowlist")), number
            if effect == "allow" and holds is True:
                return ALLOW, number
    return (ALLOW if admitted(document, input) else Deny("not_in_allowlist")), None


def is_nameless(resource: Resource) -> bool:
    """Whether it is not certain what is meant: nothing that has a name, or, of kinds with a spelling, any at all."""
    return resource.id == "" or (resource.id is None and resource.kind in SPELLED)


def only_monitors(rule: dict[str, Any]) -> bool:
    return bool(rule.get("monitor", False))


def recorded(document: dict[str, Any], input: PolicyInput) -> int | None:
    """The number of the first rule that only monitors, and would deny what the document allows."""
    if judge(document, input)[0] is not ALLOW:
        return None
    rules = enumerate(document.get("rules", []))
    return next((number for number, rule in rules if only_monitors(rule) and would_match(rule, input)), None)


def would_match(rule: dict[str, Any], input: PolicyInput) -> bool:
    """Whether a denial matches: by its lists, and where its condition is true or not known."""
    return matches(rule, input) and condition_of(rule, input) is not False


def matches(rule: dict[str, Any], input: PolicyInput) -> bool:
    """Whether all lists of a rule match."""
    resource = input.resource
    who = ACTORS[type(input.actor)]
    if not any(action_fits(pattern, input.action) for pattern in rule["actions"]):
        return False
    if "modes" in rule and input.env.mode not in rule["modes"]:
        return False
    if "actors" in rule:
        id = None if isinstance(input.actor, Anonymous) else input.actor.id
        if not any(fits(pattern, who, id) for pattern in rule["actors"]):
            return False
    if "resources" in rule:
        return resource is not None and any(fits(p, resource.kind, resource.id) for p in rule["resources"])
    return True


def action_fits(pattern: str, action: str) -> bool:
    return pattern == action or (pattern.endswith("*") and action.startswith(pattern[:-1]))


def fits(pattern: str, kind: str, id: str | None) -> bool:
    wanted, colon, rest = pattern.partition(":")
    if wanted != kind:
        return False
    if not colon:
        return True
    if id is None:
        return False
    if kind in ACTORS.values():
        return id.startswith(rest[:-1]) and id != rest[:-1] if rest.endswith("*") else id == rest
    return entry_fits(rest, kind, id)


def entry_fits(entry: str, kind: str, id: str) -> bool:
    """Whether an entry about ids of this kind is about ``id``, which is in its normal form."""
    if kind == "host" and entry.startswith("*."):
        labels, ending = id.split("."), str(Resource(kind, entry[2:]).id).split(".")
        return ":" not in id and len(labels) > len(ending) and labels[-len(ending) :] == ending
    if kind == "host" and "/" in entry:
        with suppress(ValueError):
            return ip_address(id) in ip_network(entry)
        return False
    if entry.endswith("*"):
        beginning = str(Resource(kind, entry[:-1] + "x").id)[:-1]
        return id.startswith(beginning) and id != beginning
    return id == Resource(kind, entry).id


def admitted(document: dict[str, Any], input: PolicyInput) -> bool:
    builtin, resource = BUILTIN.get(input.action), input.resource
    section = document.get(builtin.section) if builtin else document.get("actions", {}).get(input.action)
    if section is None or section in ("any", "by_rule"):
        return section == "any"
    if resource is None or resource.id is None:
        return False
    for entry in section:
        name, operation = (entry["name"], entry.get("operation")) if isinstance(entry, dict) else (entry, None)
        same = entry_fits(name, resource.kind, resource.id) if builtin else resource.id == name
        asked = CLASSES.get(input.action.removeprefix("db."), ())
        if same and (operation is None or operation in asked):
            return True
    return False
