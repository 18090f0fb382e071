"""Conditions, each with what it says in Python of a question: true, false, or ``None`` where it is not known.

They share no code with capgate. So what ``explain`` and ``diff`` say is held against something else.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

import msgspec

from capgate.model import Actor, Anonymous, PolicyInput, Service, User

Judge = Callable[[PolicyInput], Any]

ATTRIBUTES: Final = {
    "actor": {"tenant": "string"},
    "resource": {"owner": "string", "tags": "list"},
    "args": {"amount": "int"},
    "context": {"mfa": "bool"},
}
_TYPES: Final = {"tenant": str, "owner": str, "amount": int, "mfa": bool}


def _of(attributes: Any, name: str) -> Any:
    value = attributes.get(name)
    return value if type(value) is _TYPES[name] else None


def _amount(test: Callable[[int], bool]) -> Judge:
    def judged(asked: PolicyInput) -> bool | None:
        amount = _of(asked.args, "amount")
        return None if amount is None else test(amount)

    return judged


def _mfa(asked: PolicyInput) -> Any:
    return _of(asked.context, "mfa")


def _has_role(role: str) -> Judge:
    return lambda asked: role in getattr(asked.actor, "roles", ())


def _owns(asked: PolicyInput) -> Any:
    owner = None if asked.resource is None else _of(asked.resource.attributes, "owner")
    id = getattr(asked.actor, "id", None)
    return None if owner is None or id is None else owner == id


def _tagged(asked: PolicyInput) -> Any:
    tags = None if asked.resource is None else asked.resource.attributes.get("tags")
    if not isinstance(tags, (list, tuple)) or not all(type(tag) is str for tag in tags):
        return None
    return "eu" in tags


def _delegated(asked: PolicyInput) -> Any:
    behalf = getattr(asked.actor, "on_behalf_of", None)
    id = getattr(behalf, "id", None)
    return None if id is None else id == "a"


def _not(judged: Judge) -> Judge:
    def opposite(asked: PolicyInput) -> Any:
        value = judged(asked)
        return None if value is None else not value

    return opposite


def _any(*parts: Judge) -> Judge:
    def judged(asked: PolicyInput) -> Any:
        values = [part(asked) for part in parts]
        return True if True in values else None if None in values else False

    return judged


def _all(*parts: Judge) -> Judge:
    return _not(_any(*map(_not, parts)))


def _kind(kind: type) -> Judge:
    return lambda asked: type(asked.actor) is kind


CONDITIONS: Final[dict[str, Judge]] = {
    "args.amount <= 3": _amount(lambda amount: amount <= 3),
    "args.amount <= 5": _amount(lambda amount: amount <= 5),
    "args.amount > 3": _amount(lambda amount: amount > 3),
    "has(args.amount)": lambda asked: "amount" in asked.args,
    "context.mfa": _mfa,
    "!context.mfa": _not(_mfa),
    "context.mfa || args.amount <= 1": _any(_mfa, _amount(lambda amount: amount <= 1)),
    "context.mfa && args.amount > 2": _all(_mfa, _amount(lambda amount: amount > 2)),
    "'support' in actor.roles": _has_role("support"),
    "!('admin' in actor.roles)": _not(_has_role("admin")),
    "resource.owner == actor.id": _owns,
    "resource.owner == actor.id || 'admin' in actor.roles": _any(_owns, _has_role("admin")),
    "'eu' in resource.tags && !('support' in actor.roles)": _all(_tagged, _not(_has_role("support"))),
    "actor.on_behalf_of.id == 'a'": _delegated,
    "actor.kind == 'user'": _kind(User),
    "actor.kind == 'user' ? context.mfa : true": lambda asked: _mfa(asked) if _kind(User)(asked) else True,
    "env.mode == 'dev'": lambda asked: asked.env.mode == "dev",
    "now >= timestamp('1970-01-01T00:00:01Z')": lambda asked: asked.timestamp >= 1_000_000_000,
}


def condition_of(rule: dict[str, Any], asked: PolicyInput) -> Any:
    """What the condition of a rule says, which is true where there is none."""
    return CONDITIONS[rule["when"]](asked) if "when" in rule else True


def with_conditions(random: Random, document: dict[str, Any], share: float = 0.6) -> dict[str, Any]:
    """The document with conditions in that share of its rules."""
    rules = []
    for rule in document.get("rules", ()):
        when = {"when": random.choice(sorted(CONDITIONS))} if random.random() < share else {}
        rules.append({**rule, **when})
    return {**document, "rules": rules, "attributes": ATTRIBUTES} if rules else document


def with_facts(random: Random, asked: PolicyInput) -> PolicyInput:
    """The question with facts that the conditions speak of: some are absent, and some of another type."""
    if random.random() < 0.1:
        return asked
    actor: Actor = asked.actor
    if not isinstance(actor, Anonymous):
        roles = tuple(sorted(random.sample(("admin", "support", "guest"), random.randrange(3))))
        behalf = random.choice((None, None, User("a"), Service("b"), Anonymous()))
        actor = msgspec.structs.replace(actor, roles=roles, on_behalf_of=behalf)
    resource = asked.resource
    if resource is not None:
        owner = random.choice((getattr(actor, "id", "a"), "a", "b", 7))
        attributes = {"owner": owner, "tags": random.choice((["eu"], ["us", "eu"], [], ["us"], "eu"))}
        resource = msgspec.structs.replace(resource, attributes=_some(random, attributes))
    return msgspec.structs.replace(
        asked,
        actor=actor,
        resource=resource,
        args=_some(random, {"amount": random.choice((0, 1, 2, 3, 4, 5, 6, "3", True))}),
        context=_some(random, {"mfa": random.choice((True, False, True, False, "true"))}),
        timestamp=random.choice((0, 999_999_999, 1_000_000_000)),
    )


def _some(random: Random, attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if random.random() < 0.85}
