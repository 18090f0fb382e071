"""Asks the guest that capgate builds quickly: with one call into it, and by writing only what changed.

It relies on what :func:`capgate.artifact.build.is_built_by_capgate` establishes: the guest's bytes are those of
capgate's own build. This guest writes neither to its input nor to anything that the next call reads, does not grow its
memory, and keeps its result below every allocation. So one input record is allocated once, with a slot for each part.
A part that is the very object of the question before (they are immutable) is in its slot already. For a request that is
the environment, the action and often the resource.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any, Final

from ...errors import AbiError, ConfigError, MalformedInput, ends_task
from ...limits import Limits
from ...model import ALLOW, Environment, PolicyInput, PolicyResult, Resource
from ..engine import Instance
from .canonical_abi import CHECK, MASK, REALLOC, Ask, Reasons, denied
from .lowering import ACTORS, INPUT_ALIGN, INPUT_SIZE, NOT_LOWERABLE, check_resource, lower, raise_wrong_type, record

#: Bytes of text that a slot holds. Together they are the least that ``limits.input_bytes`` can be, so what fits is
#: within it.
SLOTS: Final = {"actor": 256, "action": 128, "resource": 384, "args_hash": 128, "env": 128}

_NOTHING: Final = object()
_2I: Final = struct.Struct("<2I").pack_into
_3I: Final = struct.Struct("<3I").pack_into
_4I: Final = struct.Struct("<4I").pack_into
_6I: Final = struct.Struct("<6I").pack_into
_Q: Final = struct.Struct("<Q").pack_into
#: The text of a slot with zeros behind it, so that nothing of a longer one stays.
_ACTOR_TEXT: Final = struct.Struct(f"{SLOTS['actor']}s").pack_into
_RESOURCE_TEXT: Final = struct.Struct(f"{SLOTS['resource']}s").pack_into


class _Overflow(Exception):
    """A part is larger than its slot."""


def fixed_call(instance: Instance, limits: Limits, entries: Mapping[str, str]) -> Ask:
    """Return a function that asks ``instance`` by its metered ``entries``, each of which has all the fuel. It raises
    :class:`MalformedInput`, :class:`AbiError`, or what the engine raises. Whoever uses it keeps ``instance``.

    Raises :class:`ConfigError` if ``limits.input_bytes`` is more than the module has room for.
    """
    size = INPUT_SIZE + limits.input_bytes
    try:
        base = instance.function(entries[REALLOC], 4, 1)(0, 0, INPUT_ALIGN, size) & MASK
    except BaseException as error:
        if ends_task(error):
            raise
        raise ConfigError("input_bytes", limits.input_bytes, "at most what the policy module has room for") from error
    memory = instance.memory_view()
    if not base or base % INPUT_ALIGN or base + size > len(memory):
        raise AbiError("allocation_out_of_bounds", f"{base:#x} + {size:#x} of {len(memory):#x}")
    return _bind(instance.function(entries[CHECK], 1, 1), memory, base, limits)


def _writers(memory: memoryview, base: int) -> tuple[Callable[[Any], None], ...]:
    """Return functions that write one part of an input each: its text to its slot, its words to the record at ``base``.

    In the order of :data:`SLOTS`. They raise :class:`_Overflow`, or one of :data:`NOT_LOWERABLE`. Closures over plain
    numbers, since two or three of them run in most checks.
    """
    at_actor, at_action, at_resource, at_hash, at_env = list(accumulate(SLOTS.values(), initial=base + INPUT_SIZE))[:-1]
    room_actor, room_action, room_resource, room_hash, room_env = SLOTS.values()
    words_action, words_resource, words_hash, words_env = base + 12, base + 20, base + 44, base + 56
    # Not the text's own method: a subclass of str may have another one.
    actors, utf8 = ACTORS, str.encode

    def actor(part: Any) -> None:
        discriminant = actors[type(part)]
        text = utf8(part.id) if discriminant else b""
        size = len(text)
        if size > room_actor:
            raise _Overflow
        _ACTOR_TEXT(memory, at_actor, text)
        _3I(memory, base, discriminant, at_actor, size)

    def action(part: str) -> None:
        text = utf8(part)
        if len(text) > room_action:
            raise _Overflow
        memory[at_action : at_action + len(text)] = text
        _2I(memory, words_action, at_action, len(text))

    # The kind of the resource before, which is one of few, and its bytes.
    kind: Any = _NOTHING
    kind_text, kind_size, id_at = b"", 0, at_resource

    def resource(part: Any) -> None:
        nonlocal kind, kind_text, kind_size, id_at
        if part is None:
            _6I(memory, words_resource, 0, 0, 0, 0, 0, 0)
            return
        if type(part) is not Resource or part.attributes or type(part.attributes) is not dict:
            check_resource(part)
        name = part.kind
        if name is not kind:
            kind = _NOTHING  # in case that this ends in the middle
            kind_text = utf8(name)
            kind_size = len(kind_text)
            id_at = at_resource + kind_size
            kind = name
        id = part.id
        if id is None:
            text, has_id, size = kind_text, 0, kind_size
        else:
            text, has_id = kind_text + utf8(id), 1
            size = len(text)
        if size > room_resource:
            raise _Overflow
        _RESOURCE_TEXT(memory, at_resource, text)
        _6I(memory, words_resource, 1, at_resource, kind_size, has_id, id_at, size - kind_size)

    def args_hash(part: str | None) -> None:
        text = b"" if part is None else utf8(part)
        if len(text) > room_hash:
            raise _Overflow
        memory[at_hash : at_hash + len(text)] = text
        _3I(memory, words_hash, part is not None, at_hash, len(text))

    def env(part: Any) -> None:
        if type(part) is not Environment:
            raise_wrong_type("env", part)
        service, mode = utf8(part.service), utf8(part.mode)
        if len(service) + len(mode) > room_env:
            raise _Overflow
        memory[at_env : at_env + len(service) + len(mode)] = service + mode
        _4I(memory, words_env, at_env, len(service), at_env + len(service), len(mode))

    return actor, action, resource, args_hash, env


def _write_whole(memory: memoryview, base: int, room: int, input: PolicyInput) -> None:
    """Write the whole input, for text that its slot does not hold. Raises :class:`MalformedInput` above ``room`` bytes
    of text."""
    lowered = lower(input, room)
    pointers, at = [], base + INPUT_SIZE
    for text in lowered[0]:
        pointers.append(at)
        memory[at : at + len(text)] = text
        at += len(text)
    memory[base : base + INPUT_SIZE] = record(lowered, tuple(pointers))


def _bind(check: Callable[[int], int], memory: memoryview, base: int, limits: Limits) -> Ask:
    reasons = Reasons(limits.output_bytes)
    write_actor, write_action, write_resource, write_args_hash, write_env = _writers(memory, base)
    stamp_at = base + 72
    # What the slots hold; _NOTHING while one is being written, so that a failure leaves no lie. Local to the closure,
    # because attributes would cost as much as the guest itself.
    actor: Any = _NOTHING
    action = resource = args_hash = env = actor

    def ask(input: PolicyInput) -> PolicyResult:
        nonlocal actor, action, resource, args_hash, env
        part: Any
        try:
            # What is written is read once, so that a slot holds what is remembered of it, whatever an odd input does.
            if input.actor is not actor:
                part, actor = input.actor, _NOTHING
                write_actor(part)
                actor = part
            if input.action is not action:
                part, action = input.action, _NOTHING
                write_action(part)
                action = part
            if input.resource is not resource:
                part, resource = input.resource, _NOTHING
                write_resource(part)
                resource = part
            if input.args_hash is not args_hash:
                part, args_hash = input.args_hash, _NOTHING
                write_args_hash(part)
                args_hash = part
            if input.env is not env:
                part, env = input.env, _NOTHING
                write_env(part)
                env = part
            part = input.timestamp
            if type(part) is not int and not isinstance(part, int):
                raise_wrong_type("timestamp", part)
            _Q(memory, stamp_at, part)
        except _Overflow:
            actor = action = resource = args_hash = env = _NOTHING
            _write_whole(memory, base, limits.input_bytes, input)
        except NOT_LOWERABLE as error:
            raise MalformedInput(f"{type(error).__name__}: {error}") from error
        pointer = check(base)
        if not 0 < pointer < base:  # which no negative number is, as wasmer gives those from 2 ** 31
            raise AbiError("result_out_of_bounds", f"{pointer & MASK:#x} is not above 0 and below {base:#x}")
        if not memory[pointer]:
            return ALLOW
        return denied(memory, pointer, reasons)

    return ask
