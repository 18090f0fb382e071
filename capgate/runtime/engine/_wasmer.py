"""Runs modules on wasmer 1.1.0 with its Cranelift compiler: the fastest call from Python, on CPython 3.10 only.

Facts that shape this file:

- The GIL is held for the whole guest call.
- Every object may be used only on the thread that made it. Misuse raises ``PanicException``, a ``BaseException``.
- ``Module()`` also accepts text, so the caller has checked the magic number.
- Its validator is of 2021: of a ``br_table`` in code that cannot be reached it wants targets of one type, which
  WebAssembly 2.0 does not.
- A trap is a ``RuntimeError`` whose text is the only sign of its kind.
- A trap is a signal: whoever takes SIGSEGV, SIGILL, SIGFPE or SIGBUS over from wasmer lets a guest's trap end the
  process.
- What a host function raises comes out of the guest's call as the object that it was.
"""

from __future__ import annotations

import ctypes
import faulthandler
import signal
from collections.abc import Callable, Sequence
from typing import Any, Final

import wasmer
from wasmer import engine as wasmer_engine
from wasmer_compiler_cranelift import Compiler

from ...errors import AbiError, PolicyError, PolicyTrap, RestrictedModule, ends_task
from .base import HostFunction, HostImport, HostMemory, RawFunction, memory_at

_MASK: Final = 0xFFFFFFFF
#: The text of a trap (wasmer-vm 1.0, ``TrapCode::message``) -> our kind.
_KINDS: Final = (
    ("unreachable", "unreachable"),
    ("out of bounds memory access", "memory_out_of_bounds"),
    ("out of bounds table access", "table_out_of_bounds"),
    ("undefined element", "table_out_of_bounds"),
    ("uninitialized element", "indirect_call_to_null"),
    ("indirect call type mismatch", "signature_mismatch"),
    ("integer overflow", "integer_overflow"),
    ("integer divide by zero", "integer_divide_by_zero"),
    ("invalid conversion to integer", "bad_conversion"),
    ("call stack exhausted", "stack_overflow"),
)


class WasmerInstance:
    """One instance of a module, see :class:`~capgate.runtime.engine.base.Instance`."""

    def __init__(self, instance: Any, memory: Any = None) -> None:
        # The instance object keeps code and memory alive; each access of `.exports` builds a new object, so keep one.
        self._instance = instance
        self._exports = instance.exports
        self._memory: Any = memory
        self._view = memoryview(b"")

    def function(self, name: str, parameters: int, results: int) -> RawFunction:
        function = self._export(name, wasmer.Function)
        signature = function.type
        if (
            list(signature.params) != [wasmer.Type.I32] * parameters
            or list(signature.results) != [wasmer.Type.I32] * results
        ):
            raise AbiError("signature", f"export {name!r} is not ({parameters} x i32) -> ({results} x i32)")
        raw: RawFunction = function
        return raw

    def number(self, name: str) -> Callable[[], int]:
        function = self._export(name, wasmer.Function)
        if list(function.type.params) or list(function.type.results) != [wasmer.Type.I64]:
            raise AbiError("signature", f"export {name!r} is not () -> i64")
        raw: Callable[[], int] = function
        return raw

    def memory_size(self) -> int:
        size: int = self._linear_memory().data_size
        return size

    def memory_view(self) -> memoryview:
        memory = self._linear_memory()
        if len(self._view) != memory.data_size:
            # Not the buffer itself: it may be released on this thread only, and a view of it is released wherever the
            # last reference goes, such as that of a traceback.
            with memoryview(memory.buffer) as buffer:
                self._view = memory_at(ctypes.addressof(ctypes.c_char.from_buffer(buffer)), len(buffer))
        return self._view

    def _linear_memory(self) -> Any:
        if self._memory is None:
            self._memory = self._export("memory", wasmer.Memory)
        return self._memory

    def _export(self, name: str, expected: type) -> Any:
        try:
            export = getattr(self._exports, name)
        except LookupError:
            raise AbiError("missing_export", repr(name)) from None
        if not isinstance(export, expected):
            raise AbiError("export_kind", f"{name!r} is a {type(export).__name__}, not a {expected.__name__}")
        return export


class WasmerModule:
    """A compiled module. Belongs to the thread that compiled it."""

    def __init__(self, store: Any, module: Any) -> None:
        self._store = store
        self._module = module

    def code(self) -> bytes:
        return bytes(self._module.serialize())

    def instantiate(self, imports: Sequence[HostImport] = ()) -> WasmerInstance:
        try:
            if not imports:
                return WasmerInstance(wasmer.Instance(self._module))
            return self._with(imports)
        except BaseException as error:
            if ends_task(error):
                raise
            raise ENGINE.explain(error) from error

    def _with(self, imports: Sequence[HostImport]) -> WasmerInstance:
        imported, memory = wasmer.ImportObject(), None
        for name in {item.module for item in imports}:
            given: dict[str, Any] = {}
            for item in imports:
                if item.module != name:
                    continue
                if isinstance(item, HostMemory):
                    size = wasmer.MemoryType(item.minimum, item.maximum, False)
                    given[item.name] = memory = wasmer.Memory(self._store, size)
                else:
                    given[item.name] = self._function(item)
            imported.register(name, given)
        return WasmerInstance(wasmer.Instance(self._module, imported), memory)

    def _function(self, item: HostFunction) -> Any:
        i32 = wasmer.Type.I32
        signature = wasmer.FunctionType([i32] * item.parameters, [i32] * item.results)
        return wasmer.Function(self._store, _unsigned(item.call, item.results), signature)


def _unsigned(call: Callable[..., int | None], results: int) -> Callable[..., int | None]:
    """Wrap ``call`` for wasmer, which hands on signed numbers, and takes one of 32 bits as a result."""

    def called(*arguments: int) -> int | None:
        result = call(*[argument & _MASK for argument in arguments])
        return (result or 0) & _MASK if results else None

    return called


class WasmerEngine:
    """The adapter, see :class:`~capgate.runtime.engine.base.Engine`."""

    name = "wasmer"
    version: str = wasmer.__version__
    thread_bound = True

    def validate(self, data: bytes) -> None:
        try:
            is_valid = wasmer.Module.validate(_store(), data)
        except BaseException as error:
            if ends_task(error):
                raise
            raise RestrictedModule("invalid_module", "wasmer", str(error)[:300]) from error
        if not is_valid:
            raise RestrictedModule("invalid_module", "wasmer")

    def compile(self, data: bytes) -> WasmerModule:
        try:
            store = _store()
            return WasmerModule(store, wasmer.Module(store, data))
        except BaseException as error:
            if ends_task(error):
                raise
            raise RestrictedModule("invalid_module", "wasmer", str(error)[:300]) from error

    def load(self, code: bytes) -> WasmerModule:
        try:
            store = _store()
            return WasmerModule(store, wasmer.Module.deserialize(store, code))
        except BaseException as error:
            if ends_task(error):
                raise
            raise RestrictedModule("invalid_code", "wasmer", str(error)[:300]) from error

    def explain(self, error: BaseException) -> PolicyError:
        if isinstance(error, PolicyError):
            return error
        text = str(error)
        if type(error) is RuntimeError:  # and not RecursionError, which is one too
            first = text.partition("\n")[0]
            for phrase, kind in _KINDS:
                if phrase in first:
                    return PolicyTrap(kind, first[:200])
            return PolicyTrap("other", first[:200])
        return PolicyTrap("engine_fault", f"{type(error).__name__}: {text[:200]}")


def _store() -> Any:
    # A store per compilation: stores only grow, and one that is shared would keep every retired module alive.
    _keep_signals()
    return wasmer.Store(wasmer_engine.Universal(Compiler))


def _keep_signals() -> None:
    """Keep a later ``faulthandler.enable()`` from taking over the signals that wasmer's first store takes.

    Where faulthandler is on already, that call changes nothing but the file. So it is switched on here, writing to the
    standard error, unless somebody has the signals by now: wasmer itself, used elsewhere, or a crash reporter.
    """
    if faulthandler.is_enabled():
        return
    action = (ctypes.c_void_p * 32)()  # struct sigaction, of which the handler comes first; 0 is the default action
    ctypes.CDLL(None).sigaction(signal.SIGSEGV, None, action)
    if not action[0]:
        faulthandler.enable(2)


ENGINE: Final = WasmerEngine()
