"""The WIT interface ``capgate:policy/policy@0.1.0`` (``policy.wit``), spoken to core modules directly.

Layouts and names follow the Component Model's canonical ABI ("Canonical ABI Explainer", sections Alignment, Element Size,
Storing, Lowering). The parameters of ``policy-check`` flatten to more than 16 values and its result to more than one, so the
core function takes a pointer to an 80-byte record and gives a pointer to a 12-byte one, all little-endian::

    input   0 actor      discriminant, pointer, length        result  0 discriminant (byte): 0 allow, 1 deny
           12 action     pointer, length                              4 reason  pointer, length
           20 resource   option, kind pointer, length,
                         id option, pointer, length
           44 args-hash  option, pointer, length
           56 env        service pointer, length, mode pointer, length
           72 timestamp  u64, nanoseconds

There are two ways to ask. :class:`CanonicalCall` serves any guest: one ``cabi_realloc`` per string, every pointer it gives is
checked, ``cabi_post_…`` is called afterwards. :class:`FixedCall` serves the guest that capgate builds, whose bytes are known: it
never writes to its input, so one buffer is allocated once and a check is one call into the guest.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from ..engine import Instance
from ..errors import AbiError, ConfigError, MalformedInput, RestrictedModule
from ..limits import Limits
from ..model import ALLOW, Anonymous, CompilerTool, Deny, PolicyInput, PolicyResult, Service, User
from ..wasm import Module

INTERFACE: Final = "capgate:policy/policy@0.1.0"
CHECK: Final = f"{INTERFACE}#policy-check"
POST: Final = f"cabi_post_{CHECK}"
REALLOC: Final = "cabi_realloc"
MEMORY: Final = "memory"

INPUT_SIZE: Final = 80
INPUT_ALIGN: Final = 8
RESULT_SIZE: Final = 12
RESULT_ALIGN: Final = 4

_INPUT: Final = struct.Struct("<18IQ")
_RESULT: Final = struct.Struct("<B3xII")
_MASK: Final = 0xFFFFFFFF
_ACTORS: Final[dict[type, int]] = {Anonymous: 0, User: 1, Service: 2, CompilerTool: 3}
_I32: Final = 0x7F
#: export -> (parameters, results), all i32
_SIGNATURES: Final = {CHECK: (1, 1), REALLOC: (4, 1), POST: (1, 0)}

#: What lowering a field of a wrong type, or text with a lone surrogate, raises.
_NOT_LOWERABLE: Final = (TypeError, AttributeError, KeyError, ValueError, OverflowError, struct.error)

#: The strings of an input in ABI order, encoded, then the discriminants and the timestamp that go around them.
Lowered = tuple[tuple[bytes, ...], tuple[int, int, int, int], int]

Ask = Callable[[PolicyInput], PolicyResult]


def check_exports(module: Module) -> None:
    """Raise :class:`RestrictedModule` unless ``module`` exports what a guest of this interface must, with the right types."""
    for name, (parameters, results) in _SIGNATURES.items():
        export = module.export(name)
        if export is None:
            if name == POST:
                continue
            raise RestrictedModule("missing_export", name, f"a policy exports {INTERFACE}, see policy.wit")
        if export.kind != "func":
            raise RestrictedModule("export_kind", name, f"is a {export.kind}, not a func")
        kind = module.function_type(export.index)
        if tuple(kind.params) != (_I32,) * parameters or tuple(kind.results) != (_I32,) * results:
            raise RestrictedModule("export_type", name, f"is not ({parameters} x i32) -> ({results} x i32)")
    memory = module.export(MEMORY)
    if memory is None or memory.kind != "memory":
        raise RestrictedModule("missing_export", MEMORY, "a policy exports its linear memory")


def lower(input: PolicyInput, limit: int) -> Lowered:
    """``input`` as bytes and numbers. Raises :class:`MalformedInput` for anything that no policy may be asked.

    That is: a value of a wrong type, a lone surrogate, a timestamp outside u64, more than ``limit`` bytes of text.
    """
    try:
        actor, resource, args_hash, env = input.actor, input.resource, input.args_hash, input.env
        kind, id = ("", None) if resource is None else (resource.kind, resource.id)
        discriminant = _ACTORS[type(actor)]
        who = "" if isinstance(actor, Anonymous) else actor.id
        texts = (who, input.action, kind, id or "", args_hash or "", env.service, env.mode)
        if not all(isinstance(text, str) for text in (*texts, "" if id is None else id, "" if args_hash is None else args_hash)):
            raise TypeError("a field that must be text is not")
        strings = tuple(text.encode() for text in texts)
        struct.pack("<Q", input.timestamp)
    except _NOT_LOWERABLE as error:
        raise MalformedInput(f"{type(error).__name__}: {error}") from error
    size = sum(map(len, strings))
    if size > limit:
        raise MalformedInput(f"{size} bytes of text, the limit is {limit}")
    return strings, (discriminant, resource is not None, id is not None, args_hash is not None), input.timestamp


def _record(lowered: Lowered, pointers: tuple[int, ...]) -> bytes:
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


class Reasons:
    """Deny results by their raw bytes: guests repeat a few reasons, so decoding them again is not needed."""

    _SIZE: Final = 64

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[bytes, Deny] = {}

    def deny(self, memory: memoryview, pointer: int, length: int) -> Deny:
        if length > self._limit:
            raise AbiError("reason_too_long", f"{length} bytes, the limit is {self._limit}")
        if pointer + length > len(memory):
            raise AbiError("reason_out_of_bounds", f"{pointer:#x} + {length:#x} of {len(memory):#x}")
        raw = bytes(memory[pointer : pointer + length])
        known = self._known.get(raw)
        if known is None:
            try:
                known = Deny(str(raw, "utf-8", "strict"))
            except UnicodeDecodeError as error:
                raise AbiError("reason_not_utf8", str(error)) from error
            if len(self._known) < self._SIZE:
                self._known[raw] = known
        return known


class CanonicalCall:
    """Ask any guest. ``ask`` raises :class:`PolicyError`, or what the engine raises."""

    def __init__(self, instance: Instance, limits: Limits, *, has_post: bool) -> None:
        self._instance = instance
        self._limits = limits
        self._realloc = instance.function(REALLOC, 4, 1)
        self._check = instance.function(CHECK, 1, 1)
        self._post = instance.function(POST, 1, 0) if has_post else None
        self._reasons = Reasons(limits.output_bytes)

    def ask(self, input: PolicyInput) -> PolicyResult:
        lowered = lower(input, self._limits.input_bytes)
        record = self._store(lowered)
        pointer = self._check(record) & _MASK
        result = self._load(pointer, record)
        if self._post is not None:
            self._post(pointer)
        return result

    def _store(self, lowered: Lowered) -> int:
        pointers = tuple(self._realloc(0, 0, 1, len(text)) & _MASK for text in lowered[0])
        record = self._realloc(0, 0, INPUT_ALIGN, INPUT_SIZE) & _MASK
        # Taken after the last allocation: any of them may have grown, and so moved, the memory.
        memory = self._instance.memory_view()
        _check_allocations(lowered[0], pointers, record, len(memory))
        for pointer, text in zip(pointers, lowered[0], strict=True):
            memory[pointer : pointer + len(text)] = text
        memory[record : record + INPUT_SIZE] = _record(lowered, pointers)
        return record

    def _load(self, pointer: int, record: int) -> PolicyResult:
        memory = self._instance.memory_view()
        if pointer % RESULT_ALIGN:
            raise AbiError("result_misaligned", f"{pointer:#x}")
        if pointer + RESULT_SIZE > len(memory):
            raise AbiError("result_out_of_bounds", f"{pointer:#x} of {len(memory):#x}")
        if pointer < record + INPUT_SIZE and record < pointer + RESULT_SIZE:
            # Its first byte would be the actor's discriminant, and 0 is both "anonymous" and "allow".
            raise AbiError("result_overlaps_input", f"{pointer:#x}")
        discriminant, reason, length = _RESULT.unpack_from(memory, pointer)
        if discriminant == 0:
            return ALLOW
        if discriminant != 1:
            raise AbiError("discriminant", f"{discriminant}, valid are 0 (allow) and 1 (deny)")
        return self._reasons.deny(memory, reason, length)


def _check_allocations(texts: tuple[bytes, ...], pointers: tuple[int, ...], record: int, size: int) -> None:
    if record % INPUT_ALIGN:
        raise AbiError("allocation_misaligned", f"{record:#x} for alignment {INPUT_ALIGN}")
    spans = sorted((p, p + len(text)) for p, text in (*zip(pointers, texts, strict=True), (record, bytes(INPUT_SIZE))))
    end = 0
    for low, high in spans:
        if high > size:
            raise AbiError("allocation_out_of_bounds", f"{low:#x} to {high:#x} of {size:#x}")
        if low == high:
            continue
        if low == 0:
            raise AbiError("allocation_failed", "cabi_realloc gave 0")
        if low < end:
            raise AbiError("allocations_overlap", f"{low:#x} is below {end:#x}")
        end = high


def fixed_call(instance: Instance, limits: Limits) -> Ask:
    """A function that asks the guest which capgate builds, in one call into it.

    Relies on what :func:`capgate.build.is_built_by_capgate` established: this guest writes neither to the input buffer nor to
    anything the next call reads, does not grow its memory, and puts its result below the buffer.
    Raises :class:`ConfigError` if ``limits.input_bytes`` is more than the module has room for.
    """
    allocated = INPUT_SIZE + limits.input_bytes
    try:
        base = instance.function(REALLOC, 4, 1)(0, 0, INPUT_ALIGN, allocated) & _MASK
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise ConfigError("input_bytes", limits.input_bytes, "at most what the policy module was built with") from error
    check = instance.function(CHECK, 1, 1)
    memory = instance.memory_view()
    if base % INPUT_ALIGN or not base or base + allocated > len(memory):
        raise AbiError("allocation_out_of_bounds", f"{base:#x}")
    return _fixed_ask(check, memory, base, limits)


def _fixed_ask(check: Callable[[int], int], memory: memoryview, base: int, limits: Limits) -> Ask:
    text_base, room = base + INPUT_SIZE, limits.input_bytes
    pack_into, unpack_from, actors = _INPUT.pack_into, _RESULT.unpack_from, _ACTORS
    reasons = Reasons(limits.output_bytes)

    def general(input: PolicyInput) -> None:
        """Text outside ASCII, or over the limit: the slower way, which measures bytes."""
        lowered = lower(input, room)
        pointers, at = [], text_base
        for text in lowered[0]:
            pointers.append(at)
            memory[at : at + len(text)] = text
            at += len(text)
        memory[base:text_base] = _record(lowered, tuple(pointers))

    def ask(input: PolicyInput) -> PolicyResult:
        # This is :func:`lower` and :func:`_record` written out, because they would be half the time of a check:
        # one join, one encode and one pack, and in ASCII text lengths in characters are lengths in bytes.
        try:
            actor, resource, args_hash, env = input.actor, input.resource, input.args_hash, input.env
            discriminant = actors[type(actor)]
            who = actor.id if discriminant else ""  # type: ignore[union-attr]
            if resource is None:
                has_resource = has_id = 0
                kind = id = ""
            else:
                has_resource, kind, id = 1, resource.kind, resource.id  # type: ignore[assignment]
                has_id = 1
                if id is None:
                    has_id, id = 0, ""
            has_hash = 1
            if args_hash is None:
                has_hash, args_hash = 0, ""
            action, service, mode = input.action, env.service, env.mode
            text = "".join((who, action, kind, id, args_hash, service, mode)).encode()
            size = len(text)
            p1 = text_base + len(who)
            p2 = p1 + len(action)
            p3 = p2 + len(kind)
            p4 = p3 + len(id)
            p5 = p4 + len(args_hash)
            p6 = p5 + len(service)
            if p6 + len(mode) != text_base + size or size > room:
                general(input)
            else:
                # fmt: off
                pack_into(
                    memory, base, discriminant, text_base, p1 - text_base, p1, p2 - p1, has_resource, p2, p3 - p2,
                    has_id, p3, p4 - p3, has_hash, p4, p5 - p4, p5, p6 - p5, p6, len(mode), input.timestamp,
                )
                # fmt: on
                memory[text_base : text_base + size] = text
        except _NOT_LOWERABLE as error:
            raise MalformedInput(f"{type(error).__name__}: {error}") from error
        pointer = check(base) & _MASK
        if pointer >= base:
            raise AbiError("result_out_of_bounds", f"{pointer:#x} is not below {base:#x}")
        discriminant, reason, length = unpack_from(memory, pointer)
        if discriminant == 0:
            return ALLOW
        if discriminant != 1:
            raise AbiError("discriminant", f"{discriminant}, valid are 0 (allow) and 1 (deny)")
        return reasons.deny(memory, reason, length)

    return ask

