"""Reads and writes facts of a question in words, such as ``args.amount=5 actor.roles=[editor,support]``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..errors import ConfigError
from ..logged_facts import VALID, fact_parts, is_fact_name, nearest_fact_name
from ..model import Actor, Anonymous, CompilerTool, PolicyInput, Resource, Service, User
from ..routes.contract import quoted

#: Actors who have an id, by their kind.
NAMED: Final[dict[str, type[User | Service | CompilerTool]]] = {
    "user": User,
    "service": Service,
    "compiler_tool": CompilerTool,
}

_STRING: Final = r'"(?:[^"\\]|\\.)*"'
_WORD: Final = r'[^\s,\[\]"=]+'
_VALUE: Final = rf'{_STRING}|\[(?:{_STRING}|[^\]"])*\]|[^\s"\[]\S*'
_FACT: Final = re.compile(rf"\s*([^\s=]+)=({_VALUE})(?=\s|$)")
_ITEM: Final = re.compile(rf"\s*({_STRING}|{_WORD})\s*(,|$)")
_INT: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,30})", re.ASCII)
_FLOAT: Final = re.compile(rf"{_INT.pattern}(?:\.[0-9]{{1,30}})?(?:[eE][+-]?[0-9]{{1,3}})?", re.ASCII)
_PLAIN: Final = re.compile(r"[A-Za-z_@/][A-Za-z0-9_@/.:+-]*", re.ASCII)
_WORDS: Final = {"true": True, "false": False}
_EXAMPLE: Final = "such as 'args.amount=5 actor.roles=[editor,support] context.mfa=true'"
_TEXTS: Final = "a list of texts, such as [editor,support]"
_BEHIND: Final = "kind and id of those for whom somebody acts, the nearest first, such as [user:ada,anonymous]"


def read_facts(text: str) -> dict[str, Any]:
    """Return the facts that ``text`` names, each with its value.

    A value is a truth, a number, a list of texts in brackets, or text, in quotes where it would read as anything else.
    Raises :class:`ConfigError` for what is none of these.
    """
    facts: dict[str, Any] = {}
    at = 0
    while text[at:].strip():
        match = _FACT.match(text, at)
        if match is None:
            raise ConfigError("with", text[at:].strip(), f"names of facts, each with '=' and a value, {_EXAMPLE}")
        name, value = match.groups()
        if name in facts:
            raise ConfigError("with", name, "each fact once")
        facts[name] = _value(name, value)
        at = match.end()
    return facts


def with_facts(input: PolicyInput, facts: Mapping[str, Any]) -> PolicyInput:
    """Return ``input`` with these facts, each under the name that the log gives it. One that is ``None`` is not there.

    Raises :class:`ConfigError` for a name that is none, and for a fact of what the question has not.
    """
    given: dict[str, dict[str, Any]] = {"resource": {}, "args": {}, "context": {}}
    actors: list[dict[str, Any]] = [_described(input.actor)]
    for name, value in facts.items():
        parts = fact_parts(name) if is_fact_name(name) else None
        if parts is None:
            raise ConfigError("with", name, VALID, nearest=nearest_fact_name(name))
        holder, behind, key = parts
        if value is None:
            continue
        if holder != "actor":
            given[holder][key] = value
        elif key == "on_behalf_of":
            for depth, text in enumerate(_chain(name, value), behind + 1):
                _at(actors, depth).update(text)
        else:
            _at(actors, behind)[key] = value
    resource = input.resource
    if given["resource"]:
        if resource is None:
            raise ConfigError("with", next(name for name in facts if name.startswith("resource.")), "a resource, too")
        resource = Resource(resource.kind, resource.id, {**resource.attributes, **given["resource"]})
    actor = None
    for description in reversed(actors):
        actor = _actor(description, actor)
    return PolicyInput(
        input.action,
        input.actor if actor is None else actor,
        resource,
        input.args_hash,
        input.env,
        input.timestamp,
        {**input.args, **given["args"]},
        {**input.context, **given["context"]},
    )


def facts_text(input: PolicyInput) -> str:
    """Return the facts of ``input`` as :func:`read_facts` reads them, ``""`` where it has none. In printable ASCII."""
    return " ".join(f"{quoted(name)}={_written(value)}" for name, value in _facts_of(input))


def _facts_of(input: PolicyInput) -> Iterator[tuple[str, Any]]:
    somebody, name = input.actor, "actor"
    if not isinstance(somebody, Anonymous) and somebody.on_behalf_of is not None:
        chain, other = [], somebody.on_behalf_of
        while True:
            kind = str(type(other).__struct_config__.tag)
            chain.append(kind if isinstance(other, Anonymous) else f"{kind}:{other.id}")
            if isinstance(other, Anonymous) or other.on_behalf_of is None:
                break
            other = other.on_behalf_of
        yield "actor.on_behalf_of", chain
    while not isinstance(somebody, Anonymous):
        for key in ("roles", "scopes"):
            if getattr(somebody, key):
                yield f"{name}.{key}", getattr(somebody, key)
        yield from ((f"{name}.{key}", value) for key, value in somebody.attributes.items())
        if somebody.on_behalf_of is None:
            break
        somebody, name = somebody.on_behalf_of, f"{name}.on_behalf_of"
    resource = input.resource
    for holder, facts in (
        ("resource", {} if resource is None else resource.attributes),
        ("args", input.args),
        ("context", input.context),
    ):
        yield from ((f"{holder}.{key}", value) for key, value in facts.items())


def _value(name: str, text: str) -> Any:
    if text.startswith('"'):
        return _string(name, text)
    if text.startswith("["):
        return _list(name, text[1:-1])
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _string(name: str, text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        raise ConfigError(name, text, "text in quotes, escaped as in JSON") from None


def _list(name: str, text: str) -> list[str]:
    items: list[str] = []
    at = 0
    while text.strip():
        match = _ITEM.match(text, at)
        if match is None:
            raise ConfigError(name, f"[{text}]", _TEXTS)
        items.append(_string(name, match[1]) if match[1].startswith('"') else match[1])
        at = match.end()
        if not match[2]:
            break
    return items


def _written(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{','.join(text if _is_plain(text) else json.dumps(text) for text in value)}]"
    return value if isinstance(value, str) and _is_plain(value) else json.dumps(value)


def _is_plain(text: Any) -> bool:
    return isinstance(text, str) and text not in _WORDS and _PLAIN.fullmatch(text) is not None


def _described(actor: Actor) -> dict[str, Any]:
    """Return what an actor is made of, but for whom they act."""
    kind = str(type(actor).__struct_config__.tag)
    if isinstance(actor, Anonymous):
        return {"kind": kind}
    return {"kind": kind, "id": actor.id, "roles": actor.roles, "scopes": actor.scopes, **actor.attributes}


def _at(actors: list[dict[str, Any]], depth: int) -> dict[str, Any]:
    actors.extend({} for _ in range(depth + 1 - len(actors)))
    return actors[depth]


def _chain(name: str, value: Any) -> Iterator[dict[str, Any]]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(name, value, _BEHIND)
    for text in texts:
        kind, colon, id = text.partition(":")
        if (kind in NAMED) != bool(colon) or (kind not in NAMED and text != "anonymous"):
            raise ConfigError(name, text, _BEHIND)
        yield {"kind": kind, "id": id} if colon else {"kind": kind}


def _actor(description: dict[str, Any], behind: Actor | None) -> Actor:
    facts = dict(description)
    kind, id = facts.pop("kind", None), facts.pop("id", None)
    roles, scopes = (facts.pop(key, ()) for key in ("roles", "scopes"))
    if kind == "anonymous":
        if facts or roles or scopes or behind is not None:
            raise ConfigError("with", "anonymous", "somebody who is known, such as 'as user:ada': nobody has no facts")
        return Anonymous()
    if kind not in NAMED or not isinstance(id, str):
        raise ConfigError("with", "actor.on_behalf_of", _BEHIND)
    for name, texts in (("actor.roles", roles), ("actor.scopes", scopes)):
        if not isinstance(texts, (list, tuple)):
            raise ConfigError(name, texts, _TEXTS)
    return NAMED[kind](id, tuple(roles), tuple(scopes), facts, behind)
