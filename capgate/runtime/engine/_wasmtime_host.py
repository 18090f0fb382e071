"""Makes functions of the host for wasmtime, of which none can fail unseen.

Python may raise before the first instruction of a function, and after the last: a signal's handler does, and a stack
that is full. Where such a function is a callback of ``ctypes``, what it raised is printed. The engine then takes what
happens to lie in memory for what was returned, and to read a trap from there ends the process, or worse. So

- What the engine calls is a callback whose callable is itself one of C, without a result. Whatever is raised within,
  the engine is given a null pointer, "no trap".
- A function that is done says so by its result, an i64 with a mark in its upper half. A small module between guest and
  host (:func:`marked`) traps where there is no mark, and gives the guest the lower half.

To raise is not to put the mark there. What was raised stays with the instance.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Sequence
from typing import Final

import wasmtime
from wasmtime import _bindings as bindings
from wasmtime import _ffi as ffi

from ...wasm.encode import encode, export_entry, func_type, i64_const, import_entry, vector
from ...wasm.leb128 import unsigned
from ...wasm.module import I32, I64, Export, FuncType, Import, Module, Section
from .base import HostFunction

#: What host functions of an instance raised, the last one last.
Raised = list[BaseException]

_MASK: Final = 0xFFFFFFFF
_MARK: Final = 1
_I32: Final = ffi.WASMTIME_I32
_I64: Final = ffi.WASMTIME_I64
_Value: Final = bindings.wasmtime_val_t

_WORDS: Final = (ctypes.c_size_t,) * 6
_Inner = ctypes.CFUNCTYPE(None, *_WORDS)
_Outer = ctypes.CFUNCTYPE(ctypes.c_void_p, *_WORDS)
_Finalizer = ctypes.CFUNCTYPE(None, ctypes.c_size_t)

#: The functions that there are, by the number that the engine hands on.
_FUNCTIONS: Final[dict[int, tuple[Callable[..., int | None], Raised]]] = {}
_NUMBERS: Final = itertools.count(1)

_new = ctypes.PyDLL(ffi.dll._name)["wasmtime_func_new"]
_new.restype = None


def _call(number: int, caller: int, arguments: int, count: int, results: int, _: int) -> None:
    """Serve as ``wasmtime_func_callback_t`` of ``wasmtime/func.h``, with addresses as numbers."""
    function, raised = _FUNCTIONS[number]
    result = _Value.from_address(results)
    try:
        given = (_Value * count).from_address(arguments)
        value = function(*[item.of.i32 & _MASK for item in given])
        result.of.i64 = _MARK << 32 | ((value or 0) & _MASK)
        result.kind = _I64
    except BaseException as error:
        result.kind, result.of.i64 = _I32, 0  # be it that the mark was there already
        raised.append(error)


_inner: Final = _Inner(_call)
_outer: Final = _Outer(_inner)
_finalizer: Final = _Finalizer(_FUNCTIONS.pop)
for _kept in (_inner, _outer, _finalizer):  # for good: when the interpreter ends, stores may go after this module did
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_kept))


def host_function(store: wasmtime.Store, item: HostFunction, raised: Raised) -> wasmtime.Func:
    """Return ``item`` as what a module of :func:`marked` imports. What it raises is added to ``raised``."""
    number = next(_NUMBERS)
    _FUNCTIONS[number] = (item.call, raised)
    # Made anew each time: it belongs to the first engine that it is used with, and with another one the process ends.
    signature = wasmtime.FuncType([wasmtime.ValType.i32()] * item.parameters, [wasmtime.ValType.i64()])
    made = bindings.wasmtime_func_t()
    _new(store._context(), signature.ptr(), _outer, ctypes.c_void_p(number), _finalizer, ctypes.byref(made))
    return wasmtime.Func._from_raw(made)


def marked(functions: Sequence[HostFunction]) -> bytes:
    """Return a module that imports ``functions`` with an i64 as their result, and exports them as they are to be, each
    by its number."""
    types: list[bytes] = []
    imports, indices, exports, code = [], [], [], []
    for number, item in enumerate(functions):
        parameters = (I32,) * item.parameters
        types += [func_type(FuncType(parameters, (I64,))), func_type(FuncType(parameters, (I32,) * item.results))]
        imports.append(import_entry(Import("", str(number), "function", 2 * number)))
        indices.append(unsigned(2 * number + 1))
        exports.append(export_entry(Export(str(number), "function", len(functions) + number)))
        body = _body(number, item)
        code.append(unsigned(len(body)) + body)
    parts = ((1, types), (2, imports), (3, indices), (7, exports), (10, code))
    return encode(Module(b"", [Section(number, vector(items)) for number, items in parts]))


def _body(number: int, item: HostFunction) -> bytes:
    """Call the import ``number``; trap unless the upper half of what it gives is the mark."""
    local = unsigned(item.parameters)
    arguments = b"".join(b"\x20" + unsigned(index) for index in range(item.parameters))
    upper = b"\x10" + unsigned(number) + b"\x22" + local + i64_const(32) + b"\x88"  # call, local.tee, i64.shr_u
    check = i64_const(_MARK) + b"\x52\x04\x40\x00\x0b"  # i64.ne, if, unreachable, end
    lower = b"\x20" + local + b"\xa7" if item.results else b""  # local.get, i32.wrap_i64
    return b"\x01\x01\x7e" + arguments + upper + check + lower + b"\x0b"
