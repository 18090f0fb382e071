"""Both engines find the same modules valid, of those that are admitted: what loads here loads there (P-13)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from capgate.errors import RestrictedModule, WasmError
from capgate.runtime.engine import Engine, load_engine
from capgate.wasm import decode, meter

from ..support.engines import EXPECTED_ENGINES
from ..support.tools import examples
from . import suite
from .shapes import SHAPES
from .wat import compile_wat

COUNT: Final = examples(6_000)
#: Bytes that make other valid instructions, types and indices more often than any would.
TELLING: Final = (0, 1, 2, 3, 4, 5, 0x0B, 0x0C, 0x0D, 0x0F, 0x20, 0x23, 0x40, 0x41, 0x6F, 0x70, 0x7E, 0x7F, 0xD0, 0xD2)
#: wasmer's validator, of 2021, wants targets of one type in code that cannot be reached, too. WebAssembly 2.0 does not.
OLDER: Final = "br_table target labels have different types"


def problem(engine: Engine, data: bytes) -> str | None:
    """Why the engine finds ``data`` invalid, in its words; ``None`` where it does not."""
    try:
        engine.validate(data)
    except RestrictedModule:
        try:
            engine.compile(data)
        except RestrictedModule as error:
            return error.detail
        return "it compiles, and is not valid"
    return None


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("(global i32 (i32.const 1)) (global i32 (global.get 0))", "global 1"),
        ("(global i32 (global.get 0))", "global 0"),
        ("(global i32 (i32.const 0)) (memory 1) (data (global.get 0))", "data segment 0"),
        ("(global i32 (i32.const 0)) (table 1 funcref) (elem (global.get 0) func)", "element segment 0"),
        (
            "(global funcref (ref.null func)) (table 1 funcref) (elem (i32.const 0) funcref (item (global.get 0)))",
            "element segment 0",
        ),
        ('(import "env" "g" (global (mut i32))) (global i32 (global.get 0))', "global 0"),
    ],
)
def test_constants_are_of_imported_globals_only(text: str, where: str) -> None:
    """As the official suite has it (``global.wast``, "unknown global"), whatever the engine.  # pitfall 22"""
    with pytest.raises(RestrictedModule) as caught:
        meter(compile_wat(f"(module {text})"), imports={("env", "g")})
    assert (caught.value.rule, caught.value.where) == ("constant_expression", where)


def test_those_of_imported_ones_are_admitted() -> None:
    """No policy may import one; that is a rule of its own."""
    meter(compile_wat('(module (import "env" "g" (global i32)) (global i32 (global.get 0)))'), imports={("env", "g")})


def mutants(source: random.Random, seeds: list[bytes]) -> Iterator[bytes]:
    while True:
        data = bytearray(source.choice(seeds))
        for _ in range(source.randrange(3)):
            if len(data) > 8:
                data[source.randrange(8, len(data))] = source.choice((source.randrange(256), *TELLING))
        yield bytes(data)


@pytest.mark.slow
@pytest.mark.skipif(len(EXPECTED_ENGINES) < 2, reason="only one engine is there for this Python")
def test_what_is_admitted_is_valid_on_both_or_on_neither(suite_files: list[Path]) -> None:
    """# pitfall 32, G27"""
    engines = [load_engine(name) for name in EXPECTED_ENGINES]
    seeds = [shape.data for shape in SHAPES]
    seeds += [data for _, _, _, data in suite.binaries(suite_files) if len(data) < 2_000]
    made = mutants(random.Random(13), seeds)
    admitted = valid = 0
    for _ in range(COUNT):
        data = next(made)
        try:
            module = decode(data)
            metered = meter(module, imports={(item.module, item.name) for item in module.imports})
        except WasmError:
            continue
        admitted += 1
        problems = [problem(engine, data) for engine in engines]
        if OLDER in (problems[0] or ""):
            continue
        assert len({item is None for item in problems}) == 1, (problems, data.hex())
        if problems[0] is None:
            valid += 1
            assert [problem(engine, metered.data) for engine in engines] == [None, None], data.hex()
    print(f"{COUNT} modules, {admitted} admitted, {valid} valid")
    assert valid > COUNT / 20
    assert admitted - valid > COUNT / 20
