"""The edge of the budget: a call that costs c succeeds with c, and fails with c - 1."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capgate.errors import WasmError
from capgate.wasm import decode, meter
from capgate.wasm.metering.charges import OUT_OF_FUEL
from capgate.wasm.metering.prices import SHIFT
from capgate.wasm.metering.rewrite import FUEL, RESET, STATUS

from ..support.tools import FULL
from .engines import Host, Trapped, make_host
from .fuelled import AMPLE, DEPTH, WIDE
from .spec import argument
from .wat import compile_wat

#: Every how manieth call of the suite is tried.
STRIDE = 1 if FULL else 31
#: How many calls of one function of the suite are tried: more only change its operands.
CALLS_PER_FUNCTION = 4
#: A store holds ten thousand instances at most.
CALLS_PER_STORE = 2_000

#: Grows its one page by so many, in a frame above which another one is open.
GROWS = """(module (memory 1)
  (func $grown (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "grow") (param i32) (result i32) (call $grown (local.get 0))))"""


def calls(file: Path) -> Iterator[tuple[bytes, str, list[Any]]]:
    """(module, export, arguments) of each call that should return, of modules that import nothing."""
    data = b""
    for command in json.loads(file.read_text())["commands"]:
        if command["type"] == "module":
            data = (file.parent / command["filename"]).read_bytes()
            data = b"" if decode(data).imports else data
        elif command["type"] == "assert_return" and command["action"]["type"] == "invoke" and data:
            action = command["action"]
            arguments = [argument(value) for value in action["args"]]
            references = any(value["type"].endswith("ref") for value in command["expected"])
            if "module" not in action and not references and NotImplemented not in arguments:
                yield data, action["field"], arguments


def with_budget(host: Host, module: Any, export: str, arguments: list[Any], fuel: int) -> tuple[Any, int, int]:
    """(results or ``None`` after a trap, fuel left, status) of a call on a new instance with that much fuel."""
    exports = host.instantiate(module, {})
    host.call(exports[RESET], fuel, DEPTH)
    try:
        results = repr(host.call(exports[export], *arguments))
    except Trapped:
        results = None
    return results, host.call(exports[FUEL])[0], host.call(exports[STATUS])[0]


@pytest.mark.sampled
def test_one_less_is_not_enough(engine_name: str, suite_files: list[Path]) -> None:
    """# M9, pitfalls 2, 12, 18, 29"""
    edges = grown = seen = chosen = 0
    for file in suite_files:
        host = make_host(engine_name)
        compiled: dict[bytes, Any] = {}
        tried = Counter[tuple[bytes, str]]()
        for data, export, arguments in calls(file):
            seen += 1
            tried[data, export] += 1
            if seen % STRIDE or tried[data, export] > CALLS_PER_FUNCTION:
                continue
            chosen += 1
            if not edges % CALLS_PER_STORE:
                host, compiled = make_host(engine_name), {}
            if data not in compiled:
                compiled[data] = metered(host, data)
            module = compiled[data]
            if module is None:
                continue
            results, left, _ = with_budget(host, module, export, arguments, AMPLE)
            if results is None:
                continue
            shift = worth_less(left)
            cost = least(host, module, export, arguments, left, shift) if shift else AMPLE - left
            assert left == (AMPLE - cost) >> shift, (file.stem, export)
            assert with_budget(host, module, export, arguments, cost) == (results, 0, 0), (file.stem, export)
            assert with_budget(host, module, export, arguments, cost - 1) == (None, 0, OUT_OF_FUEL), (file.stem, export)
            twice = with_budget(host, module, export, arguments, 2 * cost)
            assert twice == (results, cost >> shift, 0), (file.stem, export)
            edges += 1
            grown += bool(shift)
    print(f"{engine_name}: {edges} edges of {chosen} calls of {seen}, {grown} of them in memories that grow")
    assert edges > 0.8 * chosen > 0


def test_one_less_is_not_enough_where_the_memory_grows(engine_name: str) -> None:
    """Past each size the rest of the fuel is worth an eighth; what is left over is worth as little."""
    host = make_host(engine_name)
    module = metered(host, compile_wat(GROWS))
    assert module is not None
    for pages, shift in ((31, 0), (32, SHIFT), (127, SHIFT), (128, 2 * SHIFT)):
        results, left, _ = with_budget(host, module, "grow", [pages], AMPLE)
        assert (results, worth_less(left)) == ("[1]", shift)
        cost = least(host, module, "grow", [pages], left, shift)
        assert left == (AMPLE - cost) >> shift
        assert with_budget(host, module, "grow", [pages], cost) == ("[1]", 0, 0)
        assert with_budget(host, module, "grow", [pages], cost - 1) == (None, 0, OUT_OF_FUEL)
        assert with_budget(host, module, "grow", [pages], 2 * cost) == ("[1]", cost >> shift, 0)


def worth_less(left: int) -> int:
    """By how many bits fuel was shifted in a call that had ample fuel, and paid little of it."""
    shift = AMPLE.bit_length() - 1 - left.bit_length()
    assert shift in (0, SHIFT, 2 * SHIFT)
    return shift


def least(host: Host, module: Any, export: str, arguments: list[Any], left: int, shift: int) -> int:
    """The smallest budget with which the call returns, of those with which ample fuel leaves ``left``."""
    too_little, enough = AMPLE - ((left + 1) << shift), AMPLE - (left << shift)
    while enough - too_little > 1:
        middle = (too_little + enough) // 2
        if with_budget(host, module, export, arguments, middle)[0] is None:
            too_little = middle
        else:
            enough = middle
    return enough


def metered(host: Host, data: bytes) -> Any:
    try:
        return host.compile(meter(data, WIDE, entries=()).data)  # listing exports takes most of the time
    except (WasmError, Trapped):
        return None
