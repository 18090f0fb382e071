"""Says whether an input has the types that policies take for granted, and gives its texts as plain characters."""

from __future__ import annotations

from typing import Any, Final

from ..facts import has_facts, weigh_facts
from ..model import Anonymous, CompilerTool, Environment, PolicyInput, Resource, Service, User
from .rules import ACTOR_KINDS
from .strict import is_unicode

_U64: Final = 2**64
_NAMED: Final[tuple[tuple[type[User] | type[Service] | type[CompilerTool], str], ...]] = tuple(
    zip((User, Service, CompilerTool), ACTOR_KINDS[1:], strict=True)
)


def exact(text: str) -> str:
    """Return the characters of ``text``, also of a subclass of ``str``: an enumeration, for one, hashes as its name."""
    return text if type(text) is str else str.__str__(text)


def is_well_formed(input: object) -> bool:
    """Say whether every field of ``input`` has its type, every text is Unicode, and the timestamp fits in a u64."""
    if not isinstance(input, PolicyInput) or not isinstance(input.env, Environment):
        return False
    texts: list[Any] = [input.action, input.env.service, input.env.mode]
    actor: object = input.actor
    if isinstance(actor, (User, Service, CompilerTool)):
        texts.append(actor.id)
    elif not isinstance(actor, Anonymous):
        return False
    if input.args_hash is not None:
        texts.append(input.args_hash)
    if input.resource is not None and not _add_resource(input.resource, texts):
        return False
    if not isinstance(input.timestamp, int) or not 0 <= input.timestamp < _U64:
        return False
    try:
        if has_facts(input):
            weigh_facts(input)
        return is_unicode("".join(texts))
    except (TypeError, ValueError, AttributeError):
        return False


def _add_resource(resource: object, texts: list[Any]) -> bool:
    if not isinstance(resource, Resource) or not isinstance(resource.attributes, dict):
        return False
    texts.append(resource.kind)
    if resource.id is not None:
        texts.append(resource.id)
    return True


def is_readable(input: object) -> bool:
    """Say whether what every answer looks at has the types that are taken for granted."""
    if not isinstance(input, PolicyInput) or not isinstance(input.action, str):
        return False
    resource: object = input.resource
    if resource is None:
        return True
    if not isinstance(resource, Resource) or not isinstance(resource.kind, str):
        return False
    return resource.id is None or isinstance(resource.id, str)


def actor_of(actor: object) -> tuple[str, str | None] | None:
    """Return kind and id, or ``None`` where the actor is malformed."""
    if isinstance(actor, Anonymous):
        return ACTOR_KINDS[0], None
    for type_, kind in _NAMED:
        if isinstance(actor, type_):
            id: object = actor.id
            return (kind, exact(id)) if isinstance(id, str) else None
    return None


def mode_of(env: object) -> str | None:
    """Return the mode, or ``None`` where it is malformed."""
    mode: object = env.mode if isinstance(env, Environment) else None
    return exact(mode) if isinstance(mode, str) else None
