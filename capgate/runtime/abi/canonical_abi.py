"""Speaks the WIT interfaces ``capgate:policy/policy`` (``policy.wit``, ``policy-0.2.0.wit``) to core modules directly.

Layouts and names follow the Component Model's canonical ABI ("Canonical ABI Explainer", sections Alignment, Element
Size, Storing, Lowering). The parameters of ``policy-check`` flatten to more than 16 values and its result to more
than one. So the core function takes a pointer to a record and gives a pointer to one of 12 bytes. Both are
little-endian. Of 0.1.0, whose guests are told of no facts::

    input   0 actor      discriminant, pointer, length        result  0 discriminant (byte): 0 allow, 1 deny
           12 action     pointer, length                              4 reason  pointer, length
           20 resource   option, kind pointer, length,
                         id option, pointer, length
           44 args-hash  option, pointer, length
           56 env        service pointer, length, mode pointer, length
           72 timestamp  u64, nanoseconds

That of 0.2.0 is in :mod:`capgate.runtime.abi.question_records`; its result is the same. A guest that exports both is
asked by 0.2.0.

:class:`CanonicalCall` serves any guest: one ``cabi_realloc`` for each string and list, every pointer that it gives is
checked, and ``cabi_post_…`` is called afterwards. A guest that exports :data:`ONE_BLOCK` says that it frees or moves no
part of a question singly, so that all of it is one allocation. Whoever says so wrongly corrupts its own memory alone.
The guest that capgate builds is asked in a quicker way, see :mod:`capgate.runtime.abi.fixed`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from ...errors import AbiError, RestrictedModule
from ...limits import Limits
from ...model import ALLOW, Deny, PolicyInput, PolicyResult
from ...wasm import Metered, Module
from ...wasm.module import I32
from ..engine import Instance, RawFunction
from .lowering import INPUT_ALIGN
from .memory_image import MemoryImage
from .question_records import FactsRecord, PlainRecord, QuestionRecord


class Interface(NamedTuple):
    """A version of the interface: its name, and how a question of it is laid out."""

    name: str
    record: type[QuestionRecord]

    @property
    def check(self) -> str:
        """The export that answers."""
        return f"{self.name}#policy-check"

    @property
    def post(self) -> str:
        """The export that is called afterwards, where there is one."""
        return f"cabi_post_{self.check}"


PLAIN: Final = Interface("capgate:policy/policy@0.1.0", PlainRecord)
WITH_FACTS: Final = Interface("capgate:policy/policy@0.2.0", FactsRecord)
#: In the order in which a guest that exports several is asked.
INTERFACES: Final = (WITH_FACTS, PLAIN)
CHECK: Final = PLAIN.check
POST: Final = PLAIN.post
REALLOC: Final = "cabi_realloc"
MEMORY: Final = "memory"
#: An export of this name, of whatever kind, is a declaration: see above. Nothing calls it.
ONE_BLOCK: Final = "capgate_one_block"

RESULT_SIZE: Final = 12
RESULT_ALIGN: Final = 4

_RESULT: Final = struct.Struct("<B3xII")
MASK: Final = 0xFFFFFFFF
Ask = Callable[[PolicyInput], PolicyResult]
#: Parts of linear memory, each from its first byte to the one after its last.
Spans = list[tuple[int, int]]


def interface_of(module: Module) -> Interface:
    """Return the interface by which to ask ``module``.

    Raises :class:`RestrictedModule` unless it exports what a guest of that must, with the right types.
    """
    interface = next((each for each in INTERFACES if module.export(each.check) is not None), None)
    if interface is None:
        names = " or ".join(each.name for each in reversed(INTERFACES))
        raise RestrictedModule("missing_export", CHECK, f"a policy exports {names}, see policy.wit")
    #: export -> (parameters, results), all i32
    signatures = {interface.check: (1, 1), REALLOC: (4, 1), interface.post: (1, 0)}
    for name, (parameters, results) in signatures.items():
        export = module.export(name)
        if export is None:
            if name == interface.post:
                continue
            raise RestrictedModule("missing_export", name, f"a policy exports {interface.name}, see policy.wit")
        if export.kind != "function":
            raise RestrictedModule("export_kind", name, f"is a {export.kind}, not a function")
        try:
            signature = module.function_type(export.index)
        except IndexError as error:
            raise RestrictedModule("export_type", name, f"is no function of this module: {error}") from error
        if signature.params != (I32,) * parameters or signature.results != (I32,) * results:
            raise RestrictedModule("export_type", name, f"is not ({parameters} x i32) -> ({results} x i32)")
    memory = module.export(MEMORY)
    if memory is None or memory.kind != "memory":
        raise RestrictedModule("missing_export", MEMORY, "a policy exports its linear memory")
    return interface


class Reasons:
    """Denials by the raw bytes of their reasons: guests repeat a few, so decoding them again is not needed."""

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
    """Ask any guest. ``ask`` raises :class:`PolicyError`, or what the engine raises.

    With ``image_of``, which notes what a memory holds, the instance is set back before each question but the first. It
    sets memory and globals to what they are now, which has to be all that the instance can remember. The size of a
    memory cannot be set back. One that grew says so by ``grown``, and its instance is to be replaced.
    """

    def __init__(
        self,
        instance: Instance,
        limits: Limits,
        metered: Metered,
        interface: Interface = PLAIN,
        *,
        has_post: bool = False,
        one_block: bool = False,
        image_of: Callable[[memoryview], MemoryImage] | None = None,
    ) -> None:
        self.grown = False
        self._instance = instance
        self._limits = limits
        # The first call into the guest begins with all the fuel, and those after it go on with what is left: allocating
        # and answering are one budget.
        self._begin = instance.function(metered.entries[REALLOC], 4, 1)
        self._realloc = instance.function(REALLOC, 4, 1)
        self._record = interface.record
        self._check = instance.function(interface.check, 1, 1)
        self._post = instance.function(interface.post, 1, 0) if has_post else None
        self._one_block = one_block  # a bound method would make a cycle of it, and keep the instance
        self._reasons = Reasons(limits.output_bytes)
        self._image: MemoryImage | None = None
        self._is_asked = self._used = False
        if image_of is not None:
            self._restore = instance.function(metered.restore, 0, 0)
            instance.function(metered.save, 0, 0)()
            self._image = image_of(instance.memory_view())

    def ask(self, input: PolicyInput) -> PolicyResult:
        record = self._record(input, self._limits.input_bytes)
        if self._is_asked:  # by a signal's handler, say: what that one leaves behind must not answer the other
            raise AbiError("nested", "the instance is answering a question already")
        self._is_asked = True
        try:
            store = self._store_block if self._one_block else self._store_singly
            at, taken = store(record, self._ready())
            pointer = self._check(at) & MASK
            result = self._load(pointer, taken)
            if self._post is not None:
                self._post(pointer)
            if self._image is not None:
                self.grown = self._instance.memory_size() != self._image.size
            return result
        finally:
            self._is_asked = False

    def _ready(self) -> RawFunction:
        """Take the instance back to where it was, if it was asked before. Returns the allocator to call first."""
        if not self._used or self._image is None:
            self._used = True
            return self._begin
        self._image.restore(self._instance.memory_view())
        self._restore()
        return self._realloc

    def _store_block(self, record: QuestionRecord, begin: RawFunction) -> tuple[int, Spans]:
        """Write the input into one allocation: the record, and what it points to behind it."""
        size = record.size
        at = begin(0, 0, INPUT_ALIGN, size) & MASK
        memory = self._instance.memory_view()  # after the allocation, which may have moved it
        if at % INPUT_ALIGN:
            raise AbiError("allocation_misaligned", f"{at:#x} for alignment {INPUT_ALIGN}")
        if at + size > len(memory):
            raise AbiError("allocation_out_of_bounds", f"{at:#x} + {size:#x} of {len(memory):#x}")
        if not at:
            raise AbiError("allocation_failed", "cabi_realloc gave 0")
        memory[at : at + size] = record.block(at)
        return at, [(at, at + size)]

    def _store_singly(self, record: QuestionRecord, begin: RawFunction) -> tuple[int, Spans]:
        """Write the input. Returns where its record is, and every span that now belongs to the input."""
        allocations = record.allocations
        (align, size), *others = allocations
        realloc = self._realloc
        pointers = [begin(0, 0, align, size) & MASK, *[realloc(0, 0, *other) & MASK for other in others]]
        # Taken after the last allocation: any of them may have grown, and so moved, the memory.
        memory = self._instance.memory_view()
        spans = _check_allocations(allocations, pointers, len(memory))
        for pointer, part in zip(pointers, record.parts(pointers), strict=True):
            memory[pointer : pointer + len(part)] = part
        return pointers[-1], spans

    def _load(self, pointer: int, taken: Spans) -> PolicyResult:
        memory = self._instance.memory_view()
        if not pointer:
            # Nothing lies at 0 in what compilers make, so a guest that failed gives it, and zeros would mean "allow".
            raise AbiError("result_null", "policy-check gave 0")
        if pointer % RESULT_ALIGN:
            raise AbiError("result_misaligned", f"{pointer:#x}")
        if pointer + RESULT_SIZE > len(memory):
            raise AbiError("result_out_of_bounds", f"{pointer:#x} of {len(memory):#x}")
        end = pointer + RESULT_SIZE
        for low, high in taken:
            if pointer < high and low < end:
                # In the record the first byte could be the actor's discriminant, and 0 is both "anonymous" and "allow";
                # in a string it is whatever the caller sent.
                raise AbiError("result_overlaps_input", f"{pointer:#x}")
        if memory[pointer] == 0:
            return ALLOW
        return denied(memory, pointer, self._reasons)


def denied(memory: memoryview, pointer: int, reasons: Reasons) -> Deny:
    """Return the denial whose result record, known to be in bounds, is at ``pointer``. Raises :class:`AbiError`."""
    discriminant, reason, length = _RESULT.unpack_from(memory, pointer)
    if discriminant != 1:
        raise AbiError("discriminant", f"{discriminant}, valid are 0 (allow) and 1 (deny)")
    return reasons.deny(memory, reason, length)


def _check_allocations(allocations: Sequence[tuple[int, int]], pointers: Sequence[int], size: int) -> Spans:
    """Return the spans that are not empty. Raises :class:`AbiError` unless the guest may have allocated them."""
    spans = []
    for (align, length), pointer in zip(allocations, pointers, strict=True):
        if pointer % align:
            raise AbiError("allocation_misaligned", f"{pointer:#x} for alignment {align}")
        spans.append((pointer, pointer + length))
    spans.sort()
    end, taken = 0, []
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
        taken.append((low, high))
    return taken
