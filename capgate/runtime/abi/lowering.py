"""Lowers a policy input to bytes and numbers, the same for every ABI that passes records through linear memory.

The layout is that of ``input`` in ``policy.wit`` under the canonical ABI, see :mod:`capgate.runtime.abi.canonical_abi`.
"""

from __future__ import annotations

import struct
from typing import Final, NoReturn

from ...errors import MalformedInput
from ...facts import has_facts, weigh_facts
from ...model import Anonymous, CompilerTool, Environment, PolicyInput, Resource, Service, User

INPUT_SIZE: Final = 80
INPUT_ALIGN: Final = 8

#: The discriminants of the variant ``actor``.
ACTORS: Final[dict[type, int]] = {Anonymous: 0, User: 1, Service: 2, CompilerTool: 3}

#: What lowering a field of a wrong type, or text with a lone surrogate, raises.
NOT_LOWERABLE: Final = (TypeError, AttributeError, KeyError, ValueError, OverflowError, struct.error)

#: The strings of an input in ABI order, encoded, then the discriminants and the timestamp that go around them.
Lowered = tuple[tuple[bytes, ...], tuple[int, int, int, int], int]

_INPUT: Final = struct.Struct("<18IQ")
_U64: Final = 2**64


def lower(input: PolicyInput, limit: int) -> Lowered:
    """Return ``input`` as bytes and numbers. Raises :class:`MalformedInput` for anything that no policy may be asked.

    That is: a value of a wrong type, a lone surrogate, a timestamp outside u64, what :mod:`capgate.facts` does not
    take, more than ``limit`` bytes of text. The parts have exactly the types of the model, because those are known
    not to change while they are in use.
    """
    try:
        actor, resource, args_hash, env = input.actor, input.resource, input.args_hash, input.env
        if resource is not None and type(resource) is not Resource:
            raise_wrong_type("resource", resource)
        if type(env) is not Environment:
            raise_wrong_type("env", env)
        if not isinstance(input.timestamp, int):
            raise_wrong_type("timestamp", input.timestamp)
        kind, id = ("", None) if resource is None else (resource.kind, resource.id)
        discriminant = ACTORS[type(actor)]
        who = "" if isinstance(actor, Anonymous) else actor.id
        id_text, hash_text = "" if id is None else id, "" if args_hash is None else args_hash
        texts = (who, input.action, kind, id_text, hash_text, env.service, env.mode)
        strings = tuple(str.encode(text) for text in texts)  # a TypeError for anything but text
        struct.pack("<Q", input.timestamp)
        size = sum(map(len, strings)) + (weigh_facts(input) if has_facts(input) else 0)
    except NOT_LOWERABLE as error:
        raise MalformedInput(f"{type(error).__name__}: {error}") from error
    if size > limit:
        raise MalformedInput(f"{size} bytes of text, the limit is {limit}")
    return strings, (discriminant, resource is not None, id is not None, args_hash is not None), input.timestamp


def check_lowerable(input: PolicyInput, limit: int) -> None:
    """Raise what :func:`lower` raises, for whoever does not need what it gives. ASCII is as long in bytes as it is in
    characters, so that nothing has to be encoded; about anything else :func:`lower` is asked."""
    try:
        actor, resource, digest, env, stamp = input.actor, input.resource, input.args_hash, input.env, input.timestamp
        if type(actor) in ACTORS and type(env) is Environment and type(stamp) is int and 0 <= stamp < _U64:
            who = "" if type(actor) is Anonymous else actor.id  # type: ignore[union-attr]  # the others have one
            kind, id = ("", None) if resource is None else (resource.kind, resource.id)
            hashed = "" if digest is None else digest
            text = "".join((who, input.action, kind, "" if id is None else id, hashed, env.service, env.mode))
            size = len(text) + (weigh_facts(input) if has_facts(input) else 0)
            if text.isascii() and size <= limit and (resource is None or type(resource) is Resource):
                return
    except NOT_LOWERABLE:  # it says what is wrong
        pass
    lower(input, limit)


def raise_wrong_type(part: str, seen: object) -> NoReturn:
    """Raise ``TypeError``. It does not say what was seen, which may be anything."""
    raise TypeError(f"{part}: {type(seen).__name__} is not the type that it has in a policy input")


def record(lowered: Lowered, pointers: tuple[int, ...]) -> bytes:
    """Return the 80 bytes of ``input``, whose strings are at ``pointers``."""
    strings, (actor, resource, id, args_hash), timestamp = lowered
    p, n = pointers, tuple(map(len, strings))
    return _INPUT.pack(
        *(actor, p[0], n[0]),
        *(p[1], n[1]),
        *(resource, p[2], n[2], id, p[3], n[3]),
        *(args_hash, p[4], n[4]),
        *(p[5], n[5], p[6], n[6]),
        timestamp,
    )
