"""The policy guest, called through the public interface of each engine, with a record that capgate did not write."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from capgate.model import ALLOW, Anonymous, CompilerTool, Deny, PolicyInput, PolicyResult, Service, User

CHECK = "capgate:policy/policy@0.1.0#policy-check"
POST = f"cabi_post_{CHECK}"
ROOM = 65_536
_ACTORS: dict[type, int] = {Anonymous: 0, User: 1, Service: 2, CompilerTool: 3}


class GuestTrap(Exception):
    """The guest trapped."""


class Guest:
    """An instance of ``module`` on ``engine``; one buffer, allocated once, serves every call."""

    def __init__(self, engine: str, module: bytes) -> None:
        self.call, self.read, self.write, self.memory_size = opened(engine, module)
        self.buffer = self.call("cabi_realloc", 0, 0, 8, 80 + ROOM) & 0xFFFFFFFF

    def memory(self) -> bytes:
        """All of it."""
        return self.read(0, self.memory_size())

    def ask(self, input: PolicyInput) -> PolicyResult:
        self.write(self.buffer, record(input, self.buffer))
        return self.ask_raw(self.buffer)

    def ask_raw(self, pointer: int, name: str = CHECK) -> PolicyResult:
        result = self.call(name, pointer) & 0xFFFFFFFF
        case, text, length = struct.unpack("<B3xII", self.read(result, 12))
        assert case in (0, 1)
        return ALLOW if case == 0 else Deny(self.read(text, length).decode())


def record(input: PolicyInput, base: int) -> bytes:
    """``input`` as the canonical ABI lays it out at ``base``, its strings behind it."""
    texts = bytearray()

    def text(value: str | None) -> tuple[int, int]:
        content = (value or "").encode()
        texts.extend(content)
        return base + 80 + len(texts) - len(content), len(content)

    def option(value: str | None) -> tuple[int, ...]:
        return (value is not None, *text(value))

    actor, resource = input.actor, input.resource
    who = None if isinstance(actor, Anonymous) else actor.id
    kind, id = (None, None) if resource is None else (resource.kind, resource.id)
    fields = (
        *(_ACTORS[type(actor)], *text(who), *text(input.action)),
        *(resource is not None, *text(kind), *option(id)),
        *(*option(input.args_hash), *text(input.env.service), *text(input.env.mode)),
    )
    return struct.pack("<18IQ", *fields, input.timestamp) + bytes(texts)


def facts_record(input: PolicyInput, block: bytes, base: int) -> bytes:
    """``input`` at ``base`` with a block of facts: the record goes on with where that is and how long it is."""
    plain = record(input, base + 8)
    at = base + 8 + len(plain)
    return plain[:80] + struct.pack("<II", at, len(block)) + plain[80:] + block


Opened = tuple[Callable[..., int], Callable[[int, int], bytes], Callable[[int, bytes], None], Callable[[], int]]


def opened(engine: str, module: bytes) -> Opened:
    """What calls, reads, writes and measures an instance of ``module``, whose memory has the name ``memory``."""
    return {"wasmer": _open_wasmer, "wasmtime": _open_wasmtime}[engine](module)


def _open_wasmer(module: bytes) -> Opened:
    import wasmer
    import wasmer_compiler_cranelift

    store = wasmer.Store(wasmer.engine.JIT(wasmer_compiler_cranelift.Compiler))
    instance = wasmer.Instance(wasmer.Module(store, module))
    memory = instance.exports.memory

    def call(name: str, *arguments: int) -> int:
        try:
            return int(getattr(instance.exports, name)(*map(_signed, arguments)) or 0)
        except RuntimeError as error:
            raise GuestTrap(str(error)) from error

    def read(at: int, size: int) -> bytes:
        return bytes(memoryview(memory.buffer)[at : at + size])

    def write(at: int, content: bytes) -> None:
        memoryview(memory.buffer)[at : at + len(content)] = content

    return call, read, write, lambda: int(memory.data_size)


class CountedGuest(Guest):
    """On wasmtime, which counts the instructions of each call as fuel: ``spent`` is what the last one took."""

    LIMIT = 50_000_000

    def __init__(self, module: bytes) -> None:
        import wasmtime

        config = wasmtime.Config()
        config.consume_fuel = True
        store = wasmtime.Store(wasmtime.Engine(config))
        store.set_fuel(self.LIMIT)
        call, self.read, self.write, self.memory_size = open_in(store, module)
        self.spent = 0

        def counted(name: str, *arguments: int) -> int:
            store.set_fuel(self.LIMIT)
            try:
                return call(name, *arguments)
            finally:
                self.spent = self.LIMIT - store.get_fuel()

        self.call = counted
        self.buffer = self.call("cabi_realloc", 0, 0, 8, 80 + ROOM)


def _open_wasmtime(module: bytes) -> Opened:
    import wasmtime

    return open_in(wasmtime.Store(wasmtime.Engine()), module)


def open_in(store: Any, module: Any) -> Opened:
    """As :func:`opened`, in a store of wasmtime's. ``module`` is bytes, or one that is compiled."""
    import wasmtime

    compiled = wasmtime.Module(store.engine, module) if isinstance(module, bytes) else module
    exports = wasmtime.Instance(store, compiled, []).exports(store)
    memory: Any = exports["memory"]

    def call(name: str, *arguments: int) -> int:
        function: Any = exports[name]
        try:
            return int(function(store, *map(_signed, arguments)) or 0)
        except wasmtime.Trap as error:
            raise GuestTrap(str(error)) from error

    def read(at: int, size: int) -> bytes:
        return bytes(memory.read(store, at, at + size))

    def write(at: int, content: bytes) -> None:
        memory.write(store, content, at)

    return call, read, write, lambda: int(memory.data_len(store))


def _signed(value: int) -> int:
    return value - 2**32 if value >= 2**31 else value
