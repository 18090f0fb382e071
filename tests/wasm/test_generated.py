"""Modules that binaryen makes up from random bytes: metered, they do what they did, and pay what wasmtime counts."""

from __future__ import annotations

import random
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from capgate.wasm import decode
from capgate.wasm.metering.charges import TOO_DEEP
from capgate.wasm.metering.rewrite import RESET, STATUS
from capgate.wasm.module import F32, F64, I64, Module

from ..support.tools import examples, require_tool
from .engines import Host, Trapped, WasmtimeHost, make_host
from .fuelled import fuelled, refuel, spent
from .rules import WASMTIME

COUNT = examples(80, quick=40)
FEATURES = ("sign-ext", "mutable-globals", "nontrapping-float-to-int", "bulk-memory", "multivalue")
EXHAUSTED = "call stack exhausted"


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The same modules in each run: the bytes that they are made of are seeded."""
    wasm_opt = require_tool("wasm-opt")
    folder = tmp_path_factory.mktemp("generated")
    flags = ["-ttf", "--denan", "--mvp-features", *(f"--enable-{feature}" for feature in FEATURES)]
    return [generate(wasm_opt, flags, folder, seed) for seed in range(COUNT)]


def generate(wasm_opt: str, flags: list[str], folder: Path, seed: int) -> bytes:
    source = random.Random(seed)
    raw, made = folder / "random", folder / "module.wasm"
    raw.write_bytes(source.randbytes(source.randrange(200, 4_000)))
    subprocess.run([wasm_opt, *flags, str(raw), "-o", str(made)], check=True, capture_output=True)
    return made.read_bytes()


class Run:
    """Every exported function of a module called in turn, with what it logged, returned, or trapped with."""

    def __init__(self, host: Host, data: bytes, original: Module) -> None:
        self.host = host
        self.events: list[object] = []
        self.fuel: list[int | None] = []
        names = {item.name.rpartition("-")[2] for item in original.imports}
        imports = {f"log-{name}": host.logger(name, self.log) for name in names}
        try:
            exports = host.instantiate(data, {"fuzzing-support": imports})
        except Trapped as trap:
            self.events.append(reason(trap))
            return
        for item in original.exports:
            if item.kind == "function" and not self.call(exports, item.name, original.function_type(item.index).params):
                break

    def log(self, value: Any) -> None:
        self.events.append(bits(value))

    def call(self, exports: dict[str, Any], name: str, parameters: tuple[int, ...]) -> bool:
        """Whether to go on: what was left half done when the stack ran out may differ."""
        refuel(self.host, [exports])
        if isinstance(self.host, WasmtimeHost):
            self.host.refuel()
        arguments = [2.5 if kind in (F32, F64) else 3_000_000_000 if kind == I64 else 7 for kind in parameters]
        try:
            self.events.append((name, [bits(value) for value in self.host.call(exports[name], *arguments)]))
        except Trapped as trap:
            self.fuel.append(None)
            deep = STATUS in exports and self.host.call(exports[STATUS])[0] == TOO_DEEP
            self.events.append((name, EXHAUSTED if deep else reason(trap)))
            return self.events[-1] != (name, EXHAUSTED)
        self.fuel.append(spent(self.host, [exports]) if RESET in exports else self.counted())
        return True

    def counted(self) -> int:
        return self.host.spent() if isinstance(self.host, WasmtimeHost) and self.host.consume_fuel else 0


def bits(value: Any) -> object:
    return struct.pack("<d", value) if isinstance(value, float) else value


def reason(trap: Trapped) -> str:
    """What kind of trap, in the engine's words, without the places that follow or precede it."""
    text = str(trap)
    if "wasm trap:" in text:
        return text.partition("wasm trap:")[2].strip().partition("\n")[0]
    first = text.removeprefix("RuntimeError: ").partition("\n")[0]
    return EXHAUSTED if first.startswith(EXHAUSTED) else first.partition("    at")[0]


@pytest.mark.sampled
def test_no_difference(engine_name: str, modules: list[bytes]) -> None:
    """# G28, pitfalls 6, 7, 9, 29, 36"""
    events = traps = 0
    for number, data in enumerate(modules):
        original = decode(data)
        plain = Run(make_host(engine_name), data, original)
        changed = Run(make_host(engine_name), fuelled(data), original)
        assert changed.events == plain.events, f"seed {number}"
        events += len(plain.events)
        traps += plain.fuel.count(None)
    print(f"{engine_name}: {len(modules)} modules, {events} events, {traps} traps, no difference")
    assert events > 3 * len(modules)


@pytest.mark.slow
def test_fuel_is_what_wasmtime_counts(modules: list[bytes]) -> None:
    """# pitfalls 1 to 8"""
    calls = 0
    for number, data in enumerate(modules):
        original = decode(data)
        theirs = Run(WasmtimeHost(consume_fuel=True), data, original)
        ours = Run(WasmtimeHost(), fuelled(data, WASMTIME), original)
        assert ours.fuel == theirs.fuel, f"seed {number}"
        calls += len(ours.fuel) - ours.fuel.count(None)
    print(f"{len(modules)} modules, {calls} calls equal")
    assert calls > len(modules)
