"""Modules with bytes changed, those that are still valid: metered, they do what they did, and pay what it costs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from capgate.errors import WasmError
from capgate.limits import Limits
from capgate.wasm import decode, meter
from capgate.wasm.module import F32, F64, I32, I64, Module

from ..support.tools import examples
from . import suite
from .engines import Trapped, WasmtimeHost
from .fuelled import refuel, spent
from .rules import WASMTIME
from .shapes import SHAPES
from .test_generated import EXHAUSTED, reason
from .wat import is_valid

COUNT = examples(500)
#: So little that what no longer ends is over soon.
BUDGET = 30_000
DEPTH = 100_000
#: Bytes that turn instructions into others of the same length: branches, returns, ends, small indices.
TELLING = (0, 1, 2, 3, 4, 5, 0x0B, 0x0C, 0x0D, 0x0F, 0x20, 0x40, 0x7F)


class Limited(WasmtimeHost):
    """Counts by itself, and stops."""

    PLENTY = BUDGET


def corpus(files: list[Path]) -> list[bytes]:
    """Small modules without imports, start functions, and lengths that a limit would make a difference to."""
    found = [shape.data for shape in SHAPES] + [data for _, kind, _, data in suite.binaries(files) if kind == "module"]
    return [data for data in found if 30 < len(data) < 4_000 and usable(data)]


def usable(data: bytes) -> bool:
    if b"\xfc" in data or b"\x40\0" in data or not is_valid(data):
        return False
    module = decode(data)
    small = max([0, *(m.minimum for m in module.memories), *(t.minimum for t in module.tables)]) <= 64
    return small and not module.imports and module.start is None


def mutants(source: random.Random, seeds: list[bytes]) -> Iterator[bytes]:
    while True:
        data = bytearray(source.choice(seeds))
        for _ in range(source.randrange(1, 4)):
            data[source.randrange(8, len(data))] = source.choice((source.randrange(256), *TELLING))
        if usable_or_none(bytes(data)):
            yield bytes(data)


def usable_or_none(data: bytes) -> bool:
    try:
        return usable(data)
    except WasmError:  # valid for the engine by a feature that is not admitted
        return False


def argument(source: random.Random, kind: int) -> int | float:
    return source.choice((0, 1, 2, -1, 5, 100)) if kind in (I32, I64) else source.choice((0.0, 1.5, -2.0))


def compare(source: random.Random, data: bytes, module: Module) -> int:
    """Call every export with and without metering; how many returned, with the same results for the same fuel."""
    try:
        output = meter(data, Limits(call_depth=DEPTH), prices=WASMTIME).data
    except WasmError:
        return 0
    theirs, ours = Limited(consume_fuel=True), WasmtimeHost()
    try:
        original = theirs.instantiate(data, {})
    except Trapped:
        return 0
    metered = ours.instantiate(output, {})
    equal = 0
    for item in module.exports:
        kinds = module.function_type(item.index) if item.kind == "function" else None
        if kinds is None or not set(kinds.params + kinds.results) <= {I32, I64, F32, F64}:
            continue
        arguments = [argument(source, kind) for kind in kinds.params]
        theirs.refuel()
        refuel(ours, [metered], BUDGET, DEPTH)
        before, after = attempt(theirs, original[item.name], arguments), attempt(ours, metered[item.name], arguments)
        if not before.startswith("["):
            assert before == after or "fuel" in before or EXHAUSTED in (before, after), (before, after, data.hex())
            break  # what a trap left half done may differ
        assert (before, theirs.spent()) == (after, spent(ours, [metered], BUDGET)), data.hex()
        equal += 1
    return equal


def attempt(host: WasmtimeHost, function: object, arguments: list[int | float]) -> str:
    try:
        return repr(host.call(function, *arguments))
    except Trapped as trap:
        return reason(trap)


@pytest.mark.slow
def test_they_do_and_pay_the_same(suite_files: list[Path]) -> None:
    """# pitfalls 1 to 6, 25, 29, 33"""
    source = random.Random(5)
    made = mutants(source, corpus(suite_files))
    equal = 0
    for _ in range(COUNT):
        data = next(made)
        equal += compare(source, data, decode(data))
    print(f"{COUNT} modules, {equal} calls equal")
    assert equal > COUNT
