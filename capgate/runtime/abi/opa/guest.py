"""Loads and asks one live instance of a module that OPA compiled.

The answer to an input must not depend on what was asked before. OPA's own code resets its heap for each evaluation; but
a module only claims to be OPA's, and may keep a count of questions wherever it likes. So nothing is believed. All that
an instance can remember is its memory and its globals; :mod:`capgate.wasm.state` finds the modules that have more.
Those are used once. Before each question both are set to what they were when it was loaded. That also frees
whatever the question before has allocated, and takes a fraction of what an evaluation does. Only the size of a memory
cannot be set back: an instance whose memory grew says so by ``grown``, and is replaced.

Data, builtins and the entry point are told once, when the instance is loaded, and are part of what is restored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from ....errors import AbiError, ConfigError, RestrictedModule
from ....limits import Limits
from ....model import ONLY_ENTRYPOINT, Entrypoint, PolicyInput, PolicyResult
from ....policy.strict import is_unicode, parse_json
from ....wasm import Metered
from ...engine import CompiledModule, RawFunction
from ..memory_image import MemoryImage
from ..reactor import initialize
from .answer import JSON_AROUND, JSON_FACTOR, AnswerReader
from .host import Host, require_room
from .input_document import document
from .interface import EXPORTS, LOADING, PAGE, ModuleFacts

if TYPE_CHECKING:
    from ....rego import Builtin

MASK: Final = 0xFFFFFFFF
#: Bytes of the names that a module gives its builtins and entry points.
NAMES: Final = 262_144
#: Bytes of memory that there are for a question at least, unless the limits forbid it; with much data, a quarter of
#: what that takes. More of it means more to restore: some 25 microseconds for each MiB.
SPARE: Final = 262_144
#: Bytes of a text that are looked at first. Most are shorter.
_FIRST: Final = 256
#: Of names that a module gives, an error shows so many, and so many characters of each.
_MENTIONED: Final = 50
_SHOWN: Final = 200


class Guest:
    """One instance: to be loaded once, and then asked. ``metered`` is what was compiled.

    ``image_of`` notes what the memory holds when it is loaded. Raises :class:`PolicyError`
    where the start function traps.

    A question takes several calls. ``opa_eval`` of ABI 1.2 would be one, 3 microseconds of 25 quicker, but it does not
    say whether the input could be read.
    """

    def __init__(
        self,
        compiled: CompiledModule,
        facts: ModuleFacts,
        limits: Limits,
        metered: Metered,
        entrypoint: Entrypoint,
        *,
        image_of: Callable[[memoryview], MemoryImage] = MemoryImage,
    ) -> None:
        self.grown = False
        self._entrypoint = entrypoint
        self._image_of = image_of
        self._limits = limits
        self._host = Host(limits)
        self._answers = AnswerReader(entrypoint, limits.output_bytes)
        self._answer_bytes = limits.output_bytes * JSON_FACTOR + JSON_AROUND
        maximum = limits.most_pages if facts.memory.maximum is None else facts.memory.maximum
        maximum = min(maximum, limits.most_pages)
        self._most = maximum * PAGE
        require_room()
        self.instance = compiled.instantiate(self._host.imports(facts, facts.memory.minimum, maximum))
        call = {name: self.instance.function(name, *signature) for name, signature in EXPORTS.items()}
        # As attributes, and no function that keeps this object: what keeps itself is dropped by the garbage collector,
        # which may run on another thread.
        self._malloc, self._dump_value, self._parse_value = (
            call[name] for name in ("opa_malloc", "opa_value_dump", "opa_value_parse")
        )
        self._parse, self._dump, self._evaluate, self._set_input, self._get_result = (
            call[name]
            for name in ("opa_json_parse", "opa_json_dump", "eval", "opa_eval_ctx_set_input", "opa_eval_ctx_get_result")
        )
        self._call = call
        self._metered, self._initializer = metered, facts.initializer
        self._begin_loading = self.instance.function(metered.entries[LOADING], 1, 1)
        self._begin = self.instance.function(metered.restore, 0, 0)
        self._save = self.instance.function(metered.save, 0, 0)
        self._used = False

    # -- loading

    def load(self, data: bytes = b"{}") -> None:
        """Tell the guest all that stays the same, ``data`` being JSON, and take note of what it is then.

        Raises :class:`ConfigError` where the module has no such entry point, :class:`RestrictedModule` where it needs
        builtins that there are not, :class:`AbiError`, or what the engine raises. The data have fuel of their own,
        since they may be large; so has an initializer, and everything else together.
        """
        self._host.begin_loading(self)
        try:
            initialize(self.instance, self._metered, self._initializer)
            self._begin_loading(0)
            self._host.provide(_provided(self.names("builtins")))
            self._prepare(_number(self.names("entrypoints"), self._entrypoint), data)
        finally:
            self._host.end()
        self._image = self._image_of(self.instance.memory_view())

    def _prepare(self, number: int, data: bytes) -> None:
        """Have the guest read the data, and make a context with them and the entry point."""
        call = self._call
        value = self._parsed(data, call["opa_json_parse"], self._begin_loading)
        if not value:
            raise AbiError("data_not_parsed", f"{len(data)} bytes of data are no JSON for the module")
        context = call["opa_eval_ctx_new"]() & MASK
        call["opa_eval_ctx_set_data"](context, value)
        call["opa_eval_ctx_set_entrypoint"](context, number)
        self._context = context
        self._reserve()
        self._save()

    def _reserve(self) -> None:
        """Make the memory large enough for a question behind the heap, so that few questions make it grow."""
        call, size = self._call, self.instance.memory_size()
        heap = call["opa_heap_ptr_get"]() & MASK
        spare = min(max(SPARE, size // 4), self._most - heap - PAGE)
        if spare > size - heap:
            call["opa_malloc"](spare)
            call["opa_heap_ptr_set"](heap)

    def names(self, export: str) -> dict[str, int]:
        """Return what the export ``builtins`` or ``entrypoints`` tells: numbers by name."""
        text = self.text_at(self._call["opa_json_dump"](self._call[export]()), NAMES)
        try:
            names = parse_json(text)
        except ConfigError as error:
            raise AbiError(f"{export}_not_json", f"{error.seen!r}"[:200]) from error
        if type(names) is not dict or any(type(n) is not int or not 0 <= n <= MASK for n in names.values()):
            raise AbiError(export, f"not an object of numbers: {text[:200]!r}")
        if not all(map(is_unicode, names)):  # JSON can spell what is no text
            raise AbiError(export, f"names that are no Unicode: {text[:200]!r}")
        return names

    # -- asking

    def ask(self, input: PolicyInput) -> PolicyResult:
        text = document(input, self._limits.input_bytes)
        host = self._host
        if host.is_asked:  # by a signal's handler, say: what that one leaves behind must not answer the other
            raise AbiError("nested", "the instance is answering a question already")
        try:
            host.begin(self, input.timestamp)
            if self._used:
                self._image.restore(self.instance.memory_view())
            self._used = True
            self._begin()
            pointer = self._evaluated(text)
            raw = self.text_at(pointer, self._answer_bytes)
        finally:
            host.end()
        if host.failed:
            raise AbiError("answer_after_failure", "the policy went on after the host had ended it")
        self.grown = self.instance.memory_size() != self._image.size
        return self._answers.read(raw)

    def _evaluated(self, text: bytes) -> int:
        """Have the guest evaluate the input ``text``. Returns the address of the answer."""
        context = self._context
        value = self._parsed(text, self._parse, self._malloc)
        if not value:
            raise AbiError("input_not_parsed", "the module could not read the input")
        self._set_input(context, value)
        status = self._evaluate(context)
        if status:
            raise AbiError("eval", f"returned {status & MASK}, which has no meaning")
        return self._dump(self._get_result(context) & MASK)

    # -- values

    def text_at(self, pointer: int, limit: int) -> bytes:
        """Return the bytes from ``pointer`` to the next zero, of which there are at most ``limit``."""
        memory, pointer = self.instance.memory_view(), pointer & MASK
        if not pointer or pointer >= len(memory):
            raise AbiError("text_out_of_bounds", f"{pointer:#x} of {len(memory):#x}")
        for size in (min(_FIRST, limit), limit):
            text = bytes(memory[pointer : pointer + size + 1])
            end = text.find(0)
            if end >= 0:
                return text[:end]
        raise AbiError("text_unterminated", f"no zero in {len(text)} bytes from {pointer:#x} of {len(memory):#x}")

    def dumped(self, value: int) -> bytes:
        """Return the text of a Rego value, sets included."""
        return self.text_at(self._dump_value(value), self._limits.input_bytes)

    def parsed(self, text: bytes) -> int:
        """Return the Rego value with this text, sets included. Raises :class:`AbiError` where the guest cannot read
        it."""
        value = self._parsed(text, self._parse_value, self._malloc)
        if not value:
            raise AbiError("builtin_result", "the module could not read the result of a builtin")
        return value

    def _parsed(self, text: bytes, parse: RawFunction, malloc: RawFunction) -> int:
        """Return what the guest makes of ``text``, 0 where it is none of its values."""
        at, size = malloc(len(text)) & MASK, len(text)
        memory = self.instance.memory_view()  # after the allocation, which may have moved it
        _check_allocation(at, size, len(memory))
        memory[at : at + size] = text
        return parse(at, size) & MASK


class Listing(Guest):
    """An instance that is asked for names, and never a question: so no data, no entry point, and any builtins.

    ``entrypoints`` and ``builtins`` are sorted, and there once it was loaded. Raises
    :class:`~capgate.errors.AbiError`, or what the engine raises.
    """

    entrypoints: tuple[str, ...]
    builtins: tuple[str, ...]

    def __init__(self, compiled: CompiledModule, facts: ModuleFacts, limits: Limits, metered: Metered) -> None:
        super().__init__(compiled, facts, limits, metered, ONLY_ENTRYPOINT)

    def load(self, data: bytes = b"{}") -> None:
        """Ask for the names, with the fuel of one question. The data are left alone."""
        initialize(self.instance, self._metered, self._initializer)
        self._begin_loading(0)
        self.builtins = tuple(sorted(self.names("builtins")))
        self.entrypoints = tuple(sorted(self.names("entrypoints")))


def _check_allocation(at: int, size: int, end: int) -> None:
    if not at or at + size > end:
        raise AbiError("allocation_out_of_bounds", f"{at:#x} + {size:#x} of {end:#x}")


def _provided(names: Mapping[str, int]) -> dict[int, Builtin]:
    """Return the builtins that the module needs, by their numbers."""
    if not names:
        return {}
    from ....rego import BUILTINS, NOT_PROVIDED  # only here, because of what they import

    # A name of none of the two is the module's own text, and may be anything.
    absent = [
        f"{name} ({NOT_PROVIDED[name]})" if name in NOT_PROVIDED else f"{ascii(name)[:_SHOWN]} (not known)"
        for name in sorted(names)
        if name not in BUILTINS
    ]
    if absent:
        more = f", and {len(absent) - _MENTIONED} more" if len(absent) > _MENTIONED else ""
        raise RestrictedModule(
            "builtin", ", ".join(absent[:_MENTIONED]) + more, "the policy needs what is not provided"
        )
    provided = {number: BUILTINS[name] for name, number in names.items()}
    if len(provided) != len(names):
        raise AbiError("builtins", "two of them have one number")
    return provided


def _number(names: Mapping[str, int], entrypoint: Entrypoint) -> int:
    # The module's own text, of which an error may go to a log.
    valid = (
        " or ".join(ascii(name)[:_SHOWN] for name in sorted(names)[:_MENTIONED])
        or "none: the module has no entry point"
    )
    if len(names) > _MENTIONED:
        valid += f", and {len(names) - _MENTIONED} more"
    if entrypoint.name is None:
        if len(names) != 1:
            raise ConfigError("entrypoint", None, f"{valid}, of which the module has {len(names)}")
        return next(iter(names.values()))
    if entrypoint.name not in names:
        raise ConfigError("entrypoint", entrypoint.name, valid)
    return names[entrypoint.name]
