"""Says what an engine has to offer: compile, instantiate, call an export with i32s, show memory, say why it trapped.

Host functions and a memory made by the host are there for the ABI of OPA, whose modules import them. Everything else
that engines can do is left out on purpose: a policy is pure.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Final, Protocol, Union

import msgspec

from ...errors import PolicyError

#: Why a guest trapped, in words that are the same on every engine. ``abort`` is the guest's own wish, by a function of
#: the host; ``engine_fault`` is a failure of the engine itself.
TRAP_KINDS: Final = (
    "unreachable",
    "memory_out_of_bounds",
    "table_out_of_bounds",
    "indirect_call_to_null",
    "signature_mismatch",
    "integer_overflow",
    "integer_divide_by_zero",
    "bad_conversion",
    "stack_overflow",
    "abort",
    "engine_fault",
    "other",
)

#: An export of the signature (i32, …) -> i32 or -> (). Takes Python integers from 0 to 0xFFFFFFFF. A result may come
#: back signed, so callers mask it with 0xFFFFFFFF; without a result, what comes back means nothing. Raises what
#: :meth:`Engine.explain` understands.
RawFunction = Callable[..., int]


class HostMemory(msgspec.Struct, frozen=True):
    """A linear memory that the module imports under ``module`` and ``name``; sizes in pages of 64 KiB."""

    module: str
    name: str
    minimum: int
    maximum: int


class HostFunction(msgspec.Struct, frozen=True):
    """A function that the module imports under ``module`` and ``name``, taking ``parameters`` i32s and giving
    ``results`` (0 or 1) i32s.

    ``call`` gets Python integers from 0 to 0xFFFFFFFF, and gives one where there is a result. It may call the guest.
    Whatever it raises ends every call of the guest that is under way, and comes out of the raw function as it is. An
    engine may keep ``call`` for as long as the instance lives, so it must not keep the instance: the two would keep
    each other.
    """

    module: str
    name: str
    parameters: int
    results: int
    call: Callable[..., int | None]


HostImport = Union[HostMemory, HostFunction]


class Instance(Protocol):
    """One live instance. Must be used, and dropped, on the thread that made it."""

    def function(self, name: str, parameters: int, results: int) -> RawFunction:
        """Return the exported function ``name``, taking ``parameters`` i32s and giving ``results`` (0 or 1) i32s.

        Raises :class:`~capgate.errors.AbiError` if there is no such export of that signature.
        """

    def number(self, name: str) -> Callable[[], int]:
        """Return the exported function ``name``, which takes nothing and gives an i64, that comes back signed.

        Raises :class:`~capgate.errors.AbiError` if there is no such export of that signature.
        """

    def memory_size(self) -> int:
        """Return the bytes of linear memory now. The number grows when the guest grows it, never shrinks."""

    def memory_view(self) -> memoryview:
        """Return linear memory as writable bytes. Stale once the memory has grown: take it anew when the size changed.

        It keeps nothing alive: whoever uses it keeps the instance.
        """


class CompiledModule(Protocol):
    """A module compiled by one engine."""

    def instantiate(self, imports: Sequence[HostImport] = ()) -> Instance:
        """Make an instance with its own memory: that of ``imports`` where it imports one. ``imports`` are those of the
        module, in its order. Raises :class:`~capgate.errors.PolicyError` if start code traps, or they do not fit."""

    def code(self) -> bytes:
        """Return the machine code, which :meth:`Engine.load` of the same engine takes, on this machine."""


class Engine(Protocol):
    """One WebAssembly engine."""

    name: str
    version: str
    #: Whether compiled modules belong to the thread that compiled them.
    thread_bound: bool

    def validate(self, data: bytes) -> None:
        """Raise :class:`~capgate.errors.RestrictedModule` if the engine finds the module invalid."""

    def compile(self, data: bytes) -> CompiledModule:
        """Compile ``data``. Raises :class:`~capgate.errors.RestrictedModule` if the engine rejects it."""

    def load(self, code: bytes) -> CompiledModule:
        """Return the module with this machine code, which has to be what :meth:`CompiledModule.code` gave: whatever it
        is, it runs. Raises :class:`~capgate.errors.RestrictedModule` if it is of another version of the engine."""

    def explain(self, error: BaseException) -> PolicyError:
        """Return what a raw function raised as a :class:`~capgate.errors.PolicyError`, a trap with a kind of
        :data:`TRAP_KINDS`."""


_WRITABLE: Final = 0x200
#: Of Python's C API. A ctypes array at the address would do it too, at the price of a new type for each size.
_from_memory = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)(
    ("PyMemoryView_FromMemory", ctypes.pythonapi)
)


def memory_at(address: int | None, size: int) -> memoryview:
    """Return linear memory, ``size`` bytes at ``address``, as a writable view.

    It keeps nothing alive: whoever uses it keeps the instance, and takes it anew after a growth.
    """
    if address is None or not size:
        return memoryview(bytearray())
    view: memoryview = _from_memory(address, size, _WRITABLE)
    return view
