"""The two engines, used directly and alike: what the tests of metering need of them and the library does not."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import wasmtime

#: A host's exports by module and name; values are the engine's own objects.
Namespace = dict[str, dict[str, Any]]


class Trapped(Exception):
    """A guest trapped, or an engine refused to go on. The text is the engine's."""


class Host(Protocol):
    """One engine with a store of its own."""

    #: Whether references can be given and returned.
    has_references: bool

    def is_valid(self, data: bytes) -> bool:
        """Whether the engine finds the module valid."""

    def compile(self, data: bytes) -> Any:
        """The module, for :meth:`instantiate`. Raises :class:`Trapped` where the engine refuses it."""

    def instantiate(self, data: Any, namespace: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The exports of a new instance of bytes, or of what :meth:`compile` gave.

        Raises :class:`Trapped` if its start traps or it does not link.
        """

    def call(self, function: Any, *arguments: Any) -> list[Any]:
        """The results of a call. Raises :class:`Trapped`."""

    def value(self, exported: Any) -> Any:
        """What a global holds."""

    def logger(self, type_name: str, log: Callable[[Any], None]) -> Any:
        """A function of the host that takes one value of this type."""

    def spectest(self) -> dict[str, Any]:
        """The module that the test suite imports from."""


class WasmtimeHost:
    """wasmtime. With ``consume_fuel`` it counts by itself, see :meth:`spent`."""

    PLENTY = 2**62
    has_references = True

    def __init__(self, *, consume_fuel: bool = False) -> None:
        config = wasmtime.Config()
        config.consume_fuel = consume_fuel
        config.cranelift_nan_canonicalization = True
        self.consume_fuel = consume_fuel
        self.engine = wasmtime.Engine(config)
        self.store = wasmtime.Store(self.engine)
        self.store.set_limits(instances=1_000_000, tables=1_000_000, memories=1_000_000)
        self.refuel()

    def refuel(self) -> None:
        if self.consume_fuel:
            self.store.set_fuel(self.PLENTY)

    def spent(self) -> int:
        """Fuel used since :meth:`refuel`, by the engine's own count."""
        return self.PLENTY - self.store.get_fuel()

    def is_valid(self, data: bytes) -> bool:
        try:
            wasmtime.Module.validate(self.engine, data)
        except wasmtime.WasmtimeError:
            return False
        return True

    def compile(self, data: bytes) -> Any:
        try:
            return wasmtime.Module(self.engine, data)
        except wasmtime.WasmtimeError as error:
            raise Trapped(str(error)) from None

    def instantiate(self, data: Any, namespace: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        self.refuel()
        module = self.compile(data) if isinstance(data, bytes) else data
        try:
            items = [namespace[item.module][item.name or ""] for item in module.imports]
            exports = wasmtime.Instance(self.store, module, items).exports(self.store)
        except (wasmtime.WasmtimeError, wasmtime.Trap, KeyError, TypeError) as error:
            raise Trapped(str(error)) from None
        return dict(exports.items())

    def call(self, function: Any, *arguments: Any) -> list[Any]:
        try:
            result = function(self.store, *arguments)
        except (wasmtime.WasmtimeError, wasmtime.Trap) as error:
            raise Trapped(str(error)) from None
        if result is None:
            return []
        return list(result) if isinstance(result, (list, tuple)) else [result]

    def value(self, exported: Any) -> Any:
        return exported.value(self.store)

    def logger(self, type_name: str, log: Callable[[Any], None]) -> Any:
        return wasmtime.Func(self.store, wasmtime.FuncType([getattr(wasmtime.ValType, type_name)()], []), log)

    def spectest(self) -> dict[str, Any]:
        def printer(*types: str) -> wasmtime.Func:
            kind = wasmtime.FuncType([getattr(wasmtime.ValType, name)() for name in types], [])
            return wasmtime.Func(self.store, kind, lambda *_: None)

        def constant(name: str, value: Any) -> wasmtime.Global:
            kind = wasmtime.GlobalType(getattr(wasmtime.ValType, name)(), False)
            return wasmtime.Global(self.store, kind, getattr(wasmtime.Val, name)(value))

        memory = wasmtime.Memory(self.store, wasmtime.MemoryType(wasmtime.Limits(1, 2)))
        table = wasmtime.Table(
            self.store, wasmtime.TableType(wasmtime.ValType.funcref(), wasmtime.Limits(10, 20)), None
        )
        return {
            **{f"print_{name}": printer(name) for name in ("i32", "i64", "f32", "f64")},
            "print": printer(),
            "print_i32_f32": printer("i32", "f32"),
            "print_f64_f64": printer("f64", "f64"),
            "global_i32": constant("i32", 666),
            "global_i64": constant("i64", 666),
            "global_f32": constant("f32", 666.6),
            "global_f64": constant("f64", 666.6),
            "memory": memory,
            "table": table,
        }


class WasmerHost:
    """wasmer with Cranelift. It has no tables and no references to give."""

    has_references = False

    def __init__(self) -> None:
        import wasmer
        from wasmer import engine
        from wasmer_compiler_cranelift import Compiler

        self.wasmer = wasmer
        self.store = wasmer.Store(engine.JIT(Compiler))
        self.alive: list[Any] = []

    def is_valid(self, data: bytes) -> bool:
        return bool(self.wasmer.Module.validate(self.store, data))

    def compile(self, data: bytes) -> Any:
        return self._guarded(lambda: self.wasmer.Module(self.store, data))

    def instantiate(self, data: Any, namespace: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        def build() -> dict[str, Any]:
            module = self.wasmer.Module(self.store, data) if isinstance(data, bytes) else data
            imports = self.wasmer.ImportObject()
            for name in {item.module for item in module.imports}:
                imports.register(name, dict(namespace.get(name, {})))
            instance = self.wasmer.Instance(module, imports)
            # An instance ends with its last reference, though its functions may be in another instance's table.
            self.alive.append(instance)
            return {item.name: getattr(instance.exports, item.name) for item in module.exports}

        exports: dict[str, Any] = self._guarded(build)
        return exports

    def call(self, function: Any, *arguments: Any) -> list[Any]:
        result = self._guarded(lambda: function(*arguments))
        if result is None:
            return []
        return list(result) if isinstance(result, (list, tuple)) else [result]

    def value(self, exported: Any) -> Any:
        return exported.value

    def logger(self, type_name: str, log: Callable[[Any], None]) -> Any:
        kind = self.wasmer.FunctionType([getattr(self.wasmer.Type, type_name.upper())], [])
        return self.wasmer.Function(self.store, log, kind)

    def spectest(self) -> dict[str, Any]:
        wasmer = self.wasmer

        def printer(*types: str) -> Any:
            kind = wasmer.FunctionType([getattr(wasmer.Type, name.upper()) for name in types], [])
            return wasmer.Function(self.store, lambda *_: None, kind)

        def constant(name: str, value: Any) -> Any:
            return wasmer.Global(self.store, getattr(wasmer.Value, name)(value), mutable=False)

        return {
            **{f"print_{name}": printer(name) for name in ("i32", "i64", "f32", "f64")},
            "print": printer(),
            "print_i32_f32": printer("i32", "f32"),
            "print_f64_f64": printer("f64", "f64"),
            "global_i32": constant("i32", 666),
            "global_i64": constant("i64", 666),
            "global_f32": constant("f32", 666.6),
            "global_f64": constant("f64", 666.6),
            "memory": wasmer.Memory(self.store, wasmer.MemoryType(1, 2, shared=False)),
        }

    def _guarded(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of the engine is a BaseException
            raise Trapped(str(error)) from None


def make_host(name: str) -> Host:
    return WasmtimeHost() if name == "wasmtime" else WasmerHost()


def float_of(kind: str, bits: int) -> float:
    """The float with these bits."""
    code = "f" if kind == "f32" else "d"
    return float(struct.unpack("<" + code, bits.to_bytes(4 if kind == "f32" else 8, "little"))[0])
