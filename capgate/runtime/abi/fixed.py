"""Asks the guest that capgate builds quickly: with one call into it, and by writing only what changed.

It relies on what :func:`capgate.artifact.build.is_built_by_capgate` establishes: the guest's bytes are those of
capgate's own build. This guest writes neither to its input nor to anything that the next call reads, does not grow its
memory, and keeps its result below every allocation. So one input record is allocated once, with a slot for each part.
A part that is the very object of the question before (they are immutable) is in its slot already. For a request that is
the environment, the action and often the resource.

A policy that looks at facts gets them behind all of this, as one block that ``conditions.zig`` reads, and that the
record names at its end. It is written anew for each question, because facts can change.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

from ...artifact.build import FACT_EXTRA
from ...conditions.fact_table import pack_values
from ...conditions.questions import Values, facts_of
from ...errors import AbiError, ConfigError, MalformedInput, ends_task
from ...facts import has_facts, weigh_facts
from ...limits import Limits
from ...model import ALLOW, Environment, PolicyInput, PolicyResult, Resource
from ..engine import Instance
from .canonical_abi import CHECK, MASK, REALLOC, Ask, Reasons, denied
from .lowering import ACTORS, INPUT_ALIGN, INPUT_SIZE, NOT_LOWERABLE, check_lowerable, lower, raise_wrong_type, record

#: Bytes of text that a slot holds. Together they are the least that ``limits.input_bytes`` can be, so what fits is
#: within it.
SLOTS: Final = {"actor": 256, "resource": 384, "action": 128, "args_hash": 128, "env": 128}

#: What answers with facts. Its record is so much longer: the address of the block, and its length.
FACTS_CHECK: Final = "capgate_check_with_facts"
_FACTS_SIZE: Final = 8

_NOTHING: Final = object()
_2I: Final = struct.Struct("<2I").pack_into
_3I: Final = struct.Struct("<3I").pack_into
_4I: Final = struct.Struct("<4I").pack_into
_6I: Final = struct.Struct("<6I").pack_into
_Q: Final = struct.Struct("<Q").pack_into
#: What is next to each other in memory and nearly always new, at once: the end of the record, which is the timestamp,
#: and the first two slots, each a text with zeros behind it, so that nothing of a longer one stays.
_STAMP_AND_TEXTS: Final = struct.Struct(f"<Q{SLOTS['actor']}s{SLOTS['resource']}s").pack_into
#: The same where the record goes on.
_STAMP_GAP_AND_TEXTS: Final = struct.Struct(f"<Q{_FACTS_SIZE}x{SLOTS['actor']}s{SLOTS['resource']}s").pack_into


class _Overflow(Exception):
    """A part is larger than its slot."""


def block_room(input_bytes: int, facts: int) -> int:
    """Return how large the block of a question of ``input_bytes`` may be, with so many facts.

    The text in it is counted with that of the question. Of each fact so much is not, such as the kind of an actor.
    """
    return input_bytes + FACT_EXTRA * (facts + 1)


def fixed_call(
    instance: Instance, limits: Limits, entries: Mapping[str, str], spoken: Sequence[tuple[str, str]] = ()
) -> Ask:
    """Return a function that asks ``instance`` by its metered ``entries``, each of which has all the fuel. It raises
    :class:`MalformedInput`, :class:`AbiError`, or what the engine raises. Whoever uses it keeps ``instance``.

    ``spoken`` are the facts that the policy looks at. Raises :class:`ConfigError` if ``limits.input_bytes`` is more
    than the module has room for.
    """
    size = INPUT_SIZE + limits.input_bytes
    if spoken:
        size += _FACTS_SIZE + block_room(limits.input_bytes, len(spoken))
    try:
        base = instance.function(entries[REALLOC], 4, 1)(0, 0, INPUT_ALIGN, size) & MASK
    except BaseException as error:
        if ends_task(error):
            raise
        raise ConfigError("input_bytes", limits.input_bytes, "at most what the policy module has room for") from error
    memory = instance.memory_view()
    if not base or base % INPUT_ALIGN or base + size > len(memory):
        raise AbiError("allocation_out_of_bounds", f"{base:#x} + {size:#x} of {len(memory):#x}")
    if not spoken:
        return _bind(instance.function(entries[CHECK], 1, 1), memory, base, limits)
    write_facts = _facts_writer(memory, base, limits.input_bytes, spoken)
    return _bind(instance.function(entries[FACTS_CHECK], 1, 1), memory, base, limits, write_facts)


def _facts_writer(
    memory: memoryview, base: int, input_bytes: int, spoken: Sequence[tuple[str, str]]
) -> Callable[[PolicyInput], None]:
    """Return a function that writes the facts of a question that was checked, and where they are.

    It raises one of :data:`NOT_LOWERABLE` where they are others by now.
    """
    values_of: Values = facts_of(name for name, _ in spoken)
    pack, room = pack_values, block_room(input_bytes, len(spoken))
    at, words = base + INPUT_SIZE + _FACTS_SIZE + input_bytes, base + INPUT_SIZE

    def write(input: PolicyInput) -> None:
        block = pack(values_of(input))
        size = len(block)
        if size > room:
            raise ValueError(f"{size} bytes of facts, the limit is {room}")
        memory[at : at + size] = block
        _2I(memory, words, at, size)

    return write


def _writers(memory: memoryview, base: int, first: int) -> tuple[Callable[[Any], None], ...]:
    """Return functions that write a part each that is seldom new: its text to its slot, of which the first is at
    ``first``, its words to the record at ``base``.

    In the order of :data:`SLOTS`. They raise :class:`_Overflow`, or one of :data:`NOT_LOWERABLE`.
    """
    at_action, at_hash, at_env = list(accumulate(SLOTS.values(), initial=first))[2:-1]
    room_action, room_hash, room_env = list(SLOTS.values())[2:]
    words_action, words_hash, words_env = base + 12, base + 44, base + 56
    utf8 = str.encode  # not the text's own method: a subclass of str may have another one

    def action(part: str) -> None:
        text = utf8(part)
        if len(text) > room_action:
            raise _Overflow
        memory[at_action : at_action + len(text)] = text
        _2I(memory, words_action, at_action, len(text))

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

    return action, args_hash, env


def _write_whole(
    memory: memoryview,
    base: int,
    first: int,
    room: int,
    input: PolicyInput,
    write_facts: Callable[[PolicyInput], None] | None,
) -> None:
    """Write the whole input, its text at ``first``, for text that its slot does not hold. Raises
    :class:`MalformedInput` above ``room`` bytes of text."""
    lowered = lower(input, room)
    pointers, at = [], first
    for text in lowered[0]:
        pointers.append(at)
        memory[at : at + len(text)] = text
        at += len(text)
    memory[base : base + INPUT_SIZE] = record(lowered, tuple(pointers))
    if write_facts is not None:
        try:
            write_facts(input)
        except NOT_LOWERABLE as error:
            raise MalformedInput(f"{type(error).__name__}: {error}") from error


def _bind(
    check: Callable[[int], int],
    memory: memoryview,
    base: int,
    limits: Limits,
    write_facts: Callable[[PolicyInput], None] | None = None,
) -> Ask:
    reasons = Reasons(limits.output_bytes)
    at_actor = base + INPUT_SIZE + (0 if write_facts is None else _FACTS_SIZE)
    write_stamp_and_texts = _STAMP_AND_TEXTS if write_facts is None else _STAMP_GAP_AND_TEXTS
    write_action, write_args_hash, write_env = _writers(memory, base, at_actor)
    words_resource, stamp_at = base + 20, base + 72
    room_actor, room_resource = SLOTS["actor"], SLOTS["resource"]
    spare = limits.input_bytes - sum(SLOTS.values())  # for facts, however long the text in the slots is
    at_resource = at_actor + room_actor
    actors, utf8 = ACTORS, str.encode
    # What the slots hold; _NOTHING while one is being written, so that a failure leaves no lie. Local to the closure,
    # because attributes would cost as much as the guest itself.
    actor: Any = _NOTHING
    action = resource = args_hash = env = kind = actor
    # The bytes of the actor, of the resource, and of its kind, which is one of few.
    actor_text = resource_text = kind_text = b""
    # Whether they have no facts. Those are checked each time, because they can change.
    is_bare_actor = is_bare_resource = True

    def ask(input: PolicyInput) -> PolicyResult:
        nonlocal actor, action, resource, args_hash, env, kind, actor_text, resource_text, kind_text
        nonlocal is_bare_actor, is_bare_resource
        part: Any
        try:
            # What is written is read once, so that a slot holds what is remembered of it, whatever an odd input does.
            if input.action is not action:
                part, action = input.action, _NOTHING
                write_action(part)
                action = part
            if input.args_hash is not args_hash:
                part, args_hash = input.args_hash, _NOTHING
                write_args_hash(part)
                args_hash = part
            if input.env is not env:
                part, env = input.env, _NOTHING
                write_env(part)
                env = part
            stamp: Any = input.timestamp
            if type(stamp) is not int and not isinstance(stamp, int):
                raise_wrong_type("timestamp", stamp)
            who: Any = input.actor
            what: Any = input.resource
            if who is actor and what is resource:
                _Q(memory, stamp_at, stamp)
            else:  # as nearly every new question: written here, and texts together, which spares half of the calls
                known_actor, known_resource, actor, resource = actor, resource, _NOTHING, _NOTHING
                if who is not known_actor:
                    discriminant = actors[type(who)]
                    actor_text = utf8(who.id) if discriminant else b""
                    if len(actor_text) > room_actor:
                        raise _Overflow
                    is_bare_actor = not discriminant or not (
                        who.roles or who.scopes or who.attributes or who.on_behalf_of is not None
                    )
                    _3I(memory, base, discriminant, at_actor, len(actor_text))
                if what is None:
                    resource_text, is_bare_resource = b"", True
                    _6I(memory, words_resource, 0, 0, 0, 0, 0, 0)
                elif what is not known_resource:
                    if type(what) is not Resource:
                        raise_wrong_type("resource", what)
                    is_bare_resource = not what.attributes and type(what.attributes) is dict
                    part = what.kind
                    if part is not kind:
                        kind = _NOTHING
                        kind_text = utf8(part)
                        kind = part
                    kind_size, id = len(kind_text), what.id
                    resource_text = kind_text if id is None else kind_text + utf8(id)
                    size = len(resource_text)
                    if size > room_resource:
                        raise _Overflow
                    id_at = at_resource + kind_size
                    _6I(memory, words_resource, 1, at_resource, kind_size, id is not None, id_at, size - kind_size)
                write_stamp_and_texts(memory, stamp_at, stamp, actor_text, resource_text)
                actor, resource = who, what
            if write_facts is not None:
                if has_facts(input) and weigh_facts(input) > spare:
                    check_lowerable(input, limits.input_bytes)
                write_facts(input)
            elif (not is_bare_actor or not is_bare_resource or input.args or input.context) and weigh_facts(
                input
            ) > spare:
                check_lowerable(input, limits.input_bytes)
        except _Overflow:
            actor = action = resource = args_hash = env = _NOTHING
            _write_whole(memory, base, at_actor, limits.input_bytes, input, write_facts)
        except NOT_LOWERABLE as error:
            raise MalformedInput(f"{type(error).__name__}: {error}") from error
        pointer = check(base)
        if not 0 < pointer < base:  # which no negative number is, as wasmer gives those from 2 ** 31
            raise AbiError("result_out_of_bounds", f"{pointer & MASK:#x} is not above 0 and below {base:#x}")
        if not memory[pointer]:
            return ALLOW
        return denied(memory, pointer, reasons)

    return ask
