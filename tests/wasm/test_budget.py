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
from capgate.wasm.metering.rewrite import FUEL, RESET, STATUS

from ..support.tools import FULL
from .engines import Host, Trapped, make_host
from .fuelled import AMPLE, DEPTH, WIDE
from .spec import argument

#: Every how manieth call of the suite is tried.
STRIDE = 1 if FULL else 31
#: How many calls of one function of the suite are tried: more only change its operands.
CALLS_PER_FUNCTION = 8
#: A store holds ten thousand instances at most.
CALLS_PER_STORE = 2_000


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
    edges = seen = chosen = 0
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
            cost = AMPLE - left
            assert with_budget(host, module, export, arguments, cost) == (results, 0, 0), (file.stem, export)
            assert with_budget(host, module, export, arguments, cost - 1) == (None, 0, OUT_OF_FUEL), (file.stem, export)
            assert with_budget(host, module, export, arguments, 2 * cost) == (results, cost, 0), (file.stem, export)
            edges += 1
    print(f"{engine_name}: {edges} edges of {chosen} calls of {seen}")
    assert edges > 0.8 * chosen > 0


def metered(host: Host, data: bytes) -> Any:
    try:
        return host.compile(meter(data, WIDE, entries=()).data)  # listing exports takes most of the time
    except (WasmError, Trapped):
        return None
