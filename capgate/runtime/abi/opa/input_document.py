"""Writes a policy input as the JSON document that Rego sees as ``input``.

Its shape is that of the inputs in golden fixtures. Every key is always present, ``null`` where there is nothing::

    {"action": "db.write",
     "actor": {"kind": "user", "id": "u-1", "roles": [], "scopes": [], "attributes": {}, "on_behalf_of": null},
     "resource": {"kind": "sql_query", "id": "list_users", "attributes": {}}, "args_hash": null,
     "env": {"service": "shop", "mode": "prod"}, "timestamp": 0, "args": {}, "context": {}}

OPA takes text that is not JSON for an undefined input, and answers all the same. So the text is what
the encoder makes of values whose types are exactly those of the model, and nothing else. There is no NaN, no key twice,
no lone surrogate, and no nesting beyond that above.
"""

from __future__ import annotations

import msgspec

from ....model import Anonymous, Environment, PolicyInput, Resource, canonical
from ..lowering import lower


def document(input: PolicyInput, limit: int) -> bytes:
    """Return ``input`` as canonical JSON in UTF-8. Raises :class:`MalformedInput` for what no policy may be asked, and
    above ``limit`` bytes of text, facts included."""
    strings, _, timestamp = lower(input, limit)
    plain = input if _is_plain(input) else _plain(input, strings, timestamp)
    return canonical(plain)


def _is_plain(input: PolicyInput) -> bool:
    """Say whether all text is of ``str`` itself, and the number an ``int``: an encoder may see other values in a
    subclass than those that were checked. Facts are never of a subclass."""
    actor, resource, env = input.actor, input.resource, input.env
    return (
        type(input.action) is str
        and type(input.timestamp) is int
        and type(env.service) is str
        and type(env.mode) is str
        and (type(actor) is Anonymous or type(actor.id) is str)  # type: ignore[union-attr]  # the others have one
        and (input.args_hash is None or type(input.args_hash) is str)
        and (resource is None or (type(resource.kind) is str and (resource.id is None or type(resource.id) is str)))
        and type(input.args) is type(input.context) is dict
    )


def _plain(input: PolicyInput, strings: tuple[bytes, ...], timestamp: int) -> PolicyInput:
    """Return the same input, made of the bytes that were checked."""
    who, action, kind, id, args_hash, service, mode = (text.decode() for text in strings)
    resource, actor = input.resource, input.actor
    if resource is not None:
        resource = Resource(kind, None if resource.id is None else id, resource.attributes)
    return PolicyInput(
        action,
        actor if isinstance(actor, Anonymous) else msgspec.structs.replace(actor, id=who),
        resource,
        None if input.args_hash is None else args_hash,
        Environment(service, mode),
        int.__index__(timestamp),
        input.args or {},
        input.context or {},
    )
