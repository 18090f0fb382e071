"""Documents with conditions, and questions with facts, from a seed: as in :mod:`tests.support.random_documents`.

Facts are few, and so are their values, so that conditions hold as often as not. Some are absent, some of another
type, and some texts and lists are long enough for steps to run out.
"""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Any, Final

import msgspec

from capgate.errors import ConfigError
from capgate.model import Actor, Anonymous, CompilerTool, PolicyInput, Resource, Service, User
from capgate.policy import RuntimePolicy

from .random_documents import a_document, a_question

ATTRIBUTES: Final[dict[str, dict[str, str]]] = {
    "actor": {"tenant": "string", "level": "int", "groups": "list"},
    "resource": {"owner": "string", "total": "int", "price": "float", "tags": "list", "open": "bool"},
    "args": {"amount": "int", "note": "string", "rate": "float", "until": "string"},
    "context": {"mfa": "bool", "ip": "string"},
}
TEXTS: Final = ("a", "b", "ab", "acme", "", "Zoë", "😀b", "x" * 40)
INTS: Final = (0, 1, -1, 7, 1_000, 2**31, 2**62, 2**63 - 1, -(2**63), 250, -33)
FLOATS: Final = (0.0, -0.0, 0.5, 1.0, 7.0, 1e300, 9223372036854775808.0, -2.5)
TIMES: Final = ("1970-01-01T00:00:00Z", "2027-01-01T00:00:00+02:00", "9999-12-31T23:59:59Z", "soon", "")
STAMPS: Final = (0, 1, 1_798_761_600_000_000_000, 1_798_754_400_000_000_000, 2**63, 2**64 - 1)
LISTS: Final[tuple[list[str], ...]] = (
    [],
    ["a"],
    ["a", "b"],
    ["b", "a", "acme"],
    ["Zoë", "x" * 40],
    [f"t{number}" for number in range(60)],
    [f"t{number}" for number in range(300)],
)

_STRINGS: Final = (
    *("actor.id", "actor.tenant", "actor.kind", "resource.owner", "resource.id", "resource.kind", "args.note"),
    *("context.ip", "action", "env.mode", "env.service", "actor.on_behalf_of.id", "actor.on_behalf_of.tenant"),
    *("actor.on_behalf_of.kind", "actor.on_behalf_of.on_behalf_of.id"),
)
_INTS: Final = ("actor.level", "resource.total", "args.amount", "actor.on_behalf_of.level")
_FLOATS: Final = ("resource.price", "args.rate")
_BOOLS: Final = ("resource.open", "context.mfa")
_ROLES: Final = ("actor.roles", "actor.scopes", "actor.groups", "resource.tags", "actor.on_behalf_of.roles")
_ORDERS: Final = ("==", "!=", "<", "<=", ">", ">=")


def a_condition(random: Random, depth: int = 2, elements: tuple[str, ...] = ()) -> str:
    """The text of a condition, which perhaps always holds, or never."""
    pick = random.random()
    if depth and pick < 0.5:
        left, right = (a_condition(random, depth - 1, elements) for _ in range(2))
        form = random.randrange(5)
        if form < 2:
            return f"({left} {('&&', '||')[form]} {right})"
        if form == 2:
            return f"!({left})"
        if form == 3:
            return f"({left} ? {right} : {a_condition(random, depth - 1, elements)})"
        if len(elements) == 2:
            return left
        element = f"e{len(elements)}"
        body = a_condition(random, depth - 1, (*elements, element))
        return f"{random.choice(_ROLES)}.{random.choice(('exists', 'all'))}({element}, {body})"
    return _an_atom(random, elements)


def _an_atom(random: Random, elements: tuple[str, ...]) -> str:
    atom = random.randrange(11)
    text = random.choice(elements) if elements and random.random() < 0.7 else random.choice(_STRINGS)
    other = random.choice((*_STRINGS, *(f"'{each}'" for each in TEXTS)))
    if atom == 0:
        return random.choice(_BOOLS)
    if atom == 1:
        return f"has({random.choice((*_BOOLS, *_INTS, 'args.note', 'resource.tags', 'actor.on_behalf_of'))})"
    if atom == 2:
        number = random.choice((*_INTS, *map(str, INTS[:5])))
        return (
            f"{random.choice(_INTS)} {random.choice('+-*')} {number} {random.choice(_ORDERS)} {random.choice(INTS[:5])}"
        )
    if atom == 3:
        return f"{random.choice(_FLOATS)} {random.choice(_ORDERS)} {random.choice((*_INTS, '0.5', '7.0', '1'))}"
    if atom == 4:
        return f"now {random.choice(_ORDERS)} timestamp({random.choice(('args.until', repr(TIMES[1])))})"
    if atom == 5:
        return f"{text} in {random.choice((*_ROLES, repr([*TEXTS[:3]])))}"
    if atom == 6:
        return f"{text}.{random.choice(('startsWith', 'endsWith', 'contains'))}({other})"
    if atom == 7:
        return f"{random.choice(_ROLES)} {random.choice(('==', '!='))} {random.choice((*_ROLES, repr(['a'])))}"
    if atom == 8:
        return f"size({random.choice((text, *_ROLES))}) {random.choice(_ORDERS)} {random.choice((0, 1, 2, 40))}"
    return f"{text} {random.choice(_ORDERS)} {other}"


@cache
def conditions(seed: int, count: int = 150) -> tuple[str, ...]:
    """So many conditions of which a document may have each: reading one takes milliseconds."""
    random, usable = Random(seed), list[str]()
    while len(usable) < count:
        text = a_condition(random)
        rule = {"effect": "deny", "actions": ["a.b"], "when": text}
        try:
            RuntimePolicy.from_document({"attributes": ATTRIBUTES, "actions": {"a.b": "any"}, "rules": [rule]})
        except ConfigError:
            continue
        usable.append(text)
    return tuple(usable)


def a_document_with_conditions(random: Random, texts: tuple[str, ...]) -> dict[str, Any]:
    """A document some of whose rules have a condition of ``texts``, perhaps with mistakes."""
    document = a_document(random)
    rules = document.get("rules", [])
    rules += [{**random.choice(rules)} for _ in range(random.randrange(4)) if rules]
    for rule in rules:
        if random.random() < 0.7:
            rule["when"] = random.choice(texts)
    document["attributes"] = ATTRIBUTES
    return document


def a_question_with_facts(random: Random, document: dict[str, Any]) -> PolicyInput:
    """A question that rules of ``document`` match, with facts."""
    asked = a_question(random, document)
    resource = asked.resource
    return msgspec.structs.replace(
        asked,
        actor=_with_facts(random, asked.actor, 0),
        resource=None if resource is None else Resource(resource.kind, resource.id, _attributes(random, "resource")),
        args=_attributes(random, "args"),
        context=_attributes(random, "context"),
        timestamp=random.choice(STAMPS),
    )


_VALUES: Final[dict[str, tuple[Any, ...]]] = {
    "string": (*TEXTS, *TIMES, "y" * 700, "é" * 20_000),
    "int": INTS,
    "float": FLOATS,
    "bool": (True, False),
    "list": LISTS,
}


def _attributes(random: Random, holder: str) -> dict[str, Any]:
    attributes = {}
    for name, type in ATTRIBUTES[holder].items():
        drawn = random.random()
        if drawn < 0.15:
            continue
        wanted = type if drawn < 0.93 else random.choice(sorted(_VALUES))
        value = random.choice(_VALUES[wanted])
        attributes[name] = tuple(value) if wanted == "list" and random.random() < 0.3 else value
    if random.random() < 0.2:
        attributes["unspoken"] = "of"
    return attributes


def _with_facts(random: Random, actor: Actor, depth: int) -> Actor:
    if type(actor) is Anonymous:
        return actor
    behind: Actor | None = None
    if depth < 4 and random.random() < 0.5:
        kind = random.choice((User, Service, CompilerTool, None))
        bare = Anonymous() if kind is None else kind(random.choice(TEXTS[:4]))
        behind = _with_facts(random, bare, depth + 1)
    return msgspec.structs.replace(
        actor,
        roles=tuple(random.choice(LISTS)),
        scopes=tuple(random.choice(LISTS[:4])),
        attributes=_attributes(random, "actor") if random.random() < 0.8 else {},
        on_behalf_of=behind,
    )
