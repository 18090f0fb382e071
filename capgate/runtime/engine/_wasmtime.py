"""Runs modules on wasmtime 46 or later, on every supported Python.

The package's own call looks the type up and boxes each value, which takes some 20 microseconds. The C function
``wasmtime_func_call_unchecked`` (wasmtime C API, ``wasmtime/func.h``) through ctypes takes about half of one. It is
safe here because the signature is checked once, when the function is looked up. It is used only with versions whose
layout a test has seen; with any other version the public call serves, slower.

The call holds the GIL (``PyDLL``), and a guest is bounded by fuel in any case. Released for a call of one microsecond,
the GIL would come back to a busy process after up to a whole switch interval, 5 ms.

What a host function raises ends the guest's call as a trap, see :mod:`._wasmtime_host`. The instance keeps the
exception, and whichever call fails raises that.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version as package_version
from typing import Any, Final, TypeVar

import wasmtime
from wasmtime import _bindings as bindings
from wasmtime import _ffi as ffi

from ...errors import AbiError, PolicyError, PolicyTrap, RestrictedModule, ends_task
from ._wasmtime_host import Raised, host_function, marked
from .base import HostFunction, HostImport, HostMemory, RawFunction, memory_at

#: Major versions with which the unchecked call was tested. The test suite fails when the installed one is not among
#: them.
UNCHECKED_VERSIONS: Final = range(46, 51)

_KINDS: Final = {
    "UNREACHABLE": "unreachable",
    "MEMORY_OUT_OF_BOUNDS": "memory_out_of_bounds",
    "TABLE_OUT_OF_BOUNDS": "table_out_of_bounds",
    "INDIRECT_CALL_TO_NULL": "indirect_call_to_null",
    "BAD_SIGNATURE": "signature_mismatch",
    "INTEGER_OVERFLOW": "integer_overflow",
    "INTEGER_DIVISION_BY_ZERO": "integer_divide_by_zero",
    "BAD_CONVERSION_TO_INTEGER": "bad_conversion",
    "STACK_OVERFLOW": "stack_overflow",
}
#: Proposals that wasmtime would accept by default, now or in its next release. In an order in which one that another
#: needs goes last.
_REJECTED_FEATURES: Final = (
    *("relaxed_simd", "simd", "threads", "tail_call", "memory64", "multi_memory", "stack_switching", "exceptions"),
    *("gc", "function_references", "wide_arithmetic", "custom_page_sizes", "component_model"),
)
#: Native stack for guest code, in bytes. On a thread whose own stack is smaller, a recursion of the guest would end the
#: process; this leaves room in one of 256 KiB.
_GUEST_STACK: Final = 128 * 1024

#: ``WASM_I32`` and ``WASM_I64`` of ``wasm.h``.
_I32: Final = 0
_I64: Final = 1

_Export = TypeVar("_Export", wasmtime.Func, wasmtime.Memory)

_VALUE_WORDS: Final = ctypes.sizeof(bindings.wasmtime_val_raw_t) // 4
_library = ctypes.PyDLL(ffi.dll._name)
#: Without ``argtypes``, which ctypes would convert at each call: the arguments are made once, with their C types.
_call_unchecked = _library["wasmtime_func_call_unchecked"]
_call_unchecked.restype = ctypes.c_void_p
_memory_data = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(("wasmtime_memory_data", _library))
_memory_data_size = ctypes.PYFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p)(
    ("wasmtime_memory_data_size", _library)
)
#: The type of no imports at all. ctypes makes one for each instance, which only a collection frees, unless it is kept.
_NO_IMPORTS: Final = bindings.wasmtime_extern * 0


@cache
def _values_type(slots: int) -> Any:
    return bindings.wasmtime_val_raw_t * slots


def unchecked_call_supported(version: str) -> bool:
    """Say whether the unchecked call was tested with this version of the wasmtime package (``"50.0.1"``)."""
    major = version.partition(".")[0]
    return major.isdecimal() and int(major) in UNCHECKED_VERSIONS


def _address(value: Any) -> ctypes.c_void_p:
    """Return where a ctypes object is, which the caller keeps. Unlike ``cast``, this ties no knot that only a garbage
    collection undoes."""
    return ctypes.c_void_p(ctypes.addressof(value))


def _unchecked(
    store: wasmtime.Store, function: wasmtime.Func, parameters: int, results: int, raised: Raised, wide: bool = False
) -> RawFunction:
    """Return a Python function that calls ``function`` with i32s and no further checks. Its cells keep everything it
    points to alive. ``wide`` says that it takes nothing and gives an i64, which comes back signed."""
    slots = max(parameters, results, 1)
    values = _values_type(slots)()
    words = memoryview(values).cast("B").cast("q") if wide else memoryview(values).cast("B").cast("I")
    trap = ctypes.c_void_p()
    context, target = ctypes.byref(store._context().contents), ctypes.byref(function._func)
    block, trap_out = ctypes.byref(values), ctypes.byref(trap)
    # An argument as ctypes makes it of a number at each call, made once.
    count, call = ctypes.c_size_t.from_param(slots), _call_unchecked
    keep = (store, function, values, trap)

    def failed(error: int | None) -> BaseException:
        pointer: Any = trap.value
        trap.value = None
        if raised:
            if error is not None:
                _engine_fault(keep, error)  # which lets go of it
            else:
                wasmtime.Trap._from_ptr(ctypes.cast(pointer, ctypes.POINTER(ffi.wasm_trap_t)))
            return _taken(raised)
        if error is not None:
            return _engine_fault(keep, error)
        return _trapped(wasmtime.Trap._from_ptr(ctypes.cast(pointer, ctypes.POINTER(ffi.wasm_trap_t))))

    def call_one(argument: int) -> int:
        words[0] = argument
        error = call(context, target, block, count, trap_out)
        if error is not None or trap:
            raise failed(error)
        return words[0]

    def call_many(*arguments: int) -> int:
        if len(arguments) != parameters:
            raise TypeError(f"{len(arguments)} arguments for {parameters} parameters")
        for index, argument in enumerate(arguments):
            words[index * _VALUE_WORDS] = argument
        error = call(context, target, block, count, trap_out)
        if error is not None or trap:
            raise failed(error)
        return words[0]

    return call_one if parameters == 1 else call_many


def _checked(store: wasmtime.Store, function: wasmtime.Func, raised: Raised) -> RawFunction:
    """Return a Python function that uses the public call, which every version has."""

    def call(*arguments: int) -> int:
        # An i32 is signed for the public call, which would cut one that is too large.
        if not all(0 <= a <= 0xFFFFFFFF for a in arguments):
            raise ValueError(f"{arguments!r}: an argument is from 0 to 0xFFFFFFFF")
        try:
            result = function(store, *map(_signed, arguments))
        except BaseException:
            if raised:
                raise _taken(raised) from None
            raise
        return 0 if result is None else int(result)

    return call


def _taken(raised: Raised) -> BaseException:
    error = raised.pop()
    raised.clear()
    return error


def _signed(value: int) -> int:
    return value - (1 << 32) if value > 0x7FFFFFFF else value


class WasmtimeInstance:
    """One instance in a store of its own, see :class:`~capgate.runtime.engine.base.Instance`."""

    def __init__(
        self,
        store: wasmtime.Store,
        instance: wasmtime.Instance,
        unchecked: bool,
        memory: wasmtime.Memory | None = None,
        raised: Raised | None = None,
    ) -> None:
        self._store = store
        self._exports = instance.exports(store)
        self._is_unchecked = unchecked
        self._raised: Raised = [] if raised is None else raised
        self._memory: tuple[ctypes.c_void_p, ctypes.c_void_p, wasmtime.Memory] | None = None
        self._view = memoryview(b"")
        if memory is not None:
            self._keep(memory)

    def function(self, name: str, parameters: int, results: int) -> RawFunction:
        function = self._export(name, wasmtime.Func)
        if not _has_type(function.type(self._store), parameters, results):
            raise AbiError("signature", f"export {name!r} is not ({parameters} x i32) -> ({results} x i32)")
        if self._is_unchecked:
            return _unchecked(self._store, function, parameters, results, self._raised)
        return _checked(self._store, function, self._raised)

    def number(self, name: str) -> Callable[[], int]:
        function = self._export(name, wasmtime.Func)
        if not _has_type(function.type(self._store), 0, 1, _I64):
            raise AbiError("signature", f"export {name!r} is not () -> i64")
        if self._is_unchecked:
            return _unchecked(self._store, function, 0, 1, self._raised, wide=True)
        return _checked(self._store, function, self._raised)

    def memory_size(self) -> int:
        context, memory = self._linear_memory()
        size: int = _memory_data_size(context, memory)
        return size

    def memory_view(self) -> memoryview:
        context, memory = self._linear_memory()
        size = _memory_data_size(context, memory)
        if len(self._view) != size:  # it moves only when it grows
            self._view = memory_at(_memory_data(context, memory), size)
        return self._view

    def _linear_memory(self) -> tuple[ctypes.c_void_p, ctypes.c_void_p]:
        context, memory, _ = self._memory or self._keep(self._export("memory", wasmtime.Memory))
        return context, memory

    def _keep(self, memory: wasmtime.Memory) -> tuple[ctypes.c_void_p, ctypes.c_void_p, wasmtime.Memory]:
        self._memory = _address(self._store._context().contents), _address(memory._memory), memory
        return self._memory

    def _export(self, name: str, expected: type[_Export]) -> _Export:
        try:
            export = self._exports[name]
        except KeyError:
            raise AbiError("missing_export", repr(name)) from None
        if not isinstance(export, expected):
            raise AbiError("export_kind", f"{name!r} is a {type(export).__name__}, not a {expected.__name__}")
        return export


class WasmtimeModule:
    """A compiled module. May be instantiated on any thread."""

    def __init__(self, engine: wasmtime.Engine, module: wasmtime.Module, unchecked: bool) -> None:
        self._engine = engine
        self._module = module
        self._is_unchecked = unchecked
        #: Of the functions that are imported: the module between them and this one.
        self._marked: tuple[tuple[tuple[int, int], ...], wasmtime.Module] | None = None

    def code(self) -> bytes:
        return bytes(self._module.serialize())

    def instantiate(self, imports: Sequence[HostImport] = ()) -> WasmtimeInstance:
        store = wasmtime.Store(self._engine)
        raised: Raised = []
        memory = None
        given: list[wasmtime.Func | wasmtime.Memory] = []
        try:
            functions = iter(
                self._functions(store, [item for item in imports if isinstance(item, HostFunction)], raised)
            )
            for item in imports:
                if isinstance(item, HostMemory):
                    limits = wasmtime.Limits(item.minimum, item.maximum)
                    memory = wasmtime.Memory(store, wasmtime.MemoryType(limits))
                    given.append(memory)
                else:
                    given.append(next(functions))
            instance = wasmtime.Instance(store, self._module, given)
            return WasmtimeInstance(store, instance, self._is_unchecked, memory, raised)
        except BaseException as error:
            if ends_task(error):
                raise
            if not raised:
                raise ENGINE.explain(error) from error
        of_host = _taken(raised)
        if isinstance(of_host, Exception):
            raise ENGINE.explain(of_host) from of_host
        raise of_host

    def _functions(self, store: wasmtime.Store, items: list[HostFunction], raised: Raised) -> list[wasmtime.Func]:
        """Return the functions of the host as the module imports them."""
        if not items:
            return []
        signatures = tuple((item.parameters, item.results) for item in items)
        if self._marked is None or self._marked[0] != signatures:
            self._marked = signatures, wasmtime.Module(self._engine, marked(items))
        between = wasmtime.Instance(store, self._marked[1], [host_function(store, item, raised) for item in items])
        exports = between.exports(store)
        functions = [exports[str(number)] for number in range(len(items))]
        return [function for function in functions if isinstance(function, wasmtime.Func)]


class WasmtimeEngine:
    """The adapter, see :class:`~capgate.runtime.engine.base.Engine`."""

    name = "wasmtime"
    version: str = package_version("wasmtime")
    thread_bound = False

    def __init__(self) -> None:
        self.unchecked = unchecked_call_supported(self.version)
        if not self.unchecked:
            logging.getLogger("capgate").warning(
                "wasmtime %s is outside the tested versions %d to %d: using its slower public call",
                self.version,
                UNCHECKED_VERSIONS[0],
                UNCHECKED_VERSIONS[-1],
            )

    def validate(self, data: bytes) -> None:
        try:
            wasmtime.Module.validate(wasmtime.Engine(_config()), data)
        except wasmtime.WasmtimeError as error:
            raise RestrictedModule("invalid_module", "wasmtime", str(error)[:300]) from error

    def compile(self, data: bytes) -> WasmtimeModule:
        engine = wasmtime.Engine(_config())
        try:
            return WasmtimeModule(engine, wasmtime.Module(engine, data), self.unchecked)
        except wasmtime.WasmtimeError as error:
            raise RestrictedModule("invalid_module", "wasmtime", str(error)[:300]) from error

    def load(self, code: bytes) -> WasmtimeModule:
        engine = wasmtime.Engine(_config())
        try:
            return WasmtimeModule(engine, wasmtime.Module.deserialize(engine, code), self.unchecked)
        except wasmtime.WasmtimeError as error:
            raise RestrictedModule("invalid_code", "wasmtime", str(error)[:300]) from error

    def explain(self, error: BaseException) -> PolicyError:
        if isinstance(error, PolicyError):
            return error
        if isinstance(error, wasmtime.Trap):
            return _trapped(error)
        return PolicyTrap("engine_fault", f"{type(error).__name__}: {str(error)[:200]}")


def _trapped(trap: wasmtime.Trap) -> PolicyTrap:
    try:
        code = trap.trap_code
    except ValueError:  # a code that the installed package has no name for
        code = None
    reason = "other" if code is None else _KINDS.get(code.name, "other")
    return PolicyTrap(reason, str(trap.message).partition("\n")[0][:200])


def _engine_fault(keep: tuple[object, ...], error: int) -> PolicyTrap:
    fault = wasmtime.WasmtimeError._from_ptr(ctypes.cast(error, ctypes.POINTER(ffi.wasmtime_error_t)))
    return PolicyTrap("engine_fault", str(fault)[:200])


def _has_type(signature: wasmtime.FuncType, parameters: int, results: int, result: int = _I32) -> bool:
    """Say whether a function takes so many i32s and gives so many values of the type ``result``. This does without the
    package's objects, whose making takes most of the time in which an instance is made."""
    pointer = signature.ptr()
    both = ffi.wasm_functype_params(pointer).contents, ffi.wasm_functype_results(pointer).contents
    return all(
        types.size == count and all(int(ffi.wasm_valtype_kind(types.data[index])) == kind for index in range(count))
        for types, count, kind in zip(both, (parameters, results), (_I32, result), strict=True)
    )


def _config() -> wasmtime.Config:
    """Return a configuration that is deterministic and has nothing but the features that capgate admits. It compiles on
    the calling thread, which survives a fork.

    Traps use no signals: a handler that somebody installs later (``faulthandler.enable()`` does) would get them, and
    end the process.
    """
    config = wasmtime.Config()
    config.parallel_compilation = False
    config.signals_based_traps = False
    config.max_wasm_stack = _GUEST_STACK
    config.cranelift_nan_canonicalization = True
    for feature in _REJECTED_FEATURES:
        setattr(config, f"wasm_{feature}", False)
    return config


ENGINE: Final = WasmtimeEngine()
