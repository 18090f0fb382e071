"""Run the hostile guests of ``fixtures/guests`` metered, in a process of its own: a guest that gets away would hang it.

``python -m tests.wasm.attack ENGINE [MUTATION]`` prints one line of JSON for each guest before it runs, and one after.
"""

from __future__ import annotations

import json
import re
import sys
import time
from typing import Any

import wasmtime

from capgate.errors import DecodeError, RestrictedModule, WasmError
from capgate.limits import Limits
from capgate.wasm import Metered, core_module, meter
from capgate.wasm.metering.charges import OUT_OF_FUEL, TOO_DEEP

from ..support.tools import ROOT
from .engines import Host, Trapped, make_host

GUESTS = ROOT / "fixtures" / "guests"
CHECK = "capgate:policy/policy@0.1.0#policy-check"
LIMITS = Limits(fuel=1_000_000, memory_pages=1_024)

_EXPECT = re.compile(r"^;; expect: (.+)$", re.MULTILINE)


def guests() -> dict[str, tuple[str, bytes]]:
    """Name -> (what is expected, binary module)."""
    out = {}
    for file in sorted(GUESTS.glob("*.wat")):
        text = file.read_text()
        expected = _EXPECT.search(text)
        if expected is None:
            raise ValueError(f"{file}: no line ';; expect:'")
        out[file.stem] = expected[1], bytes(wasmtime.wat2wasm(text))
    return out


def outcome(host: Host, expected: str, data: bytes, limits: Limits = LIMITS) -> str:
    """What became of one guest, in the words of its expectation."""
    try:
        metered = meter(core_module(data), limits)
    except RestrictedModule as error:
        return f"refused {error.rule}"
    except DecodeError:
        return "refused"
    if not host.is_valid(metered.data):
        return "invalid"
    try:
        exports = host.instantiate(metered.data, {})
    except Trapped:
        return "load"
    name = expected.split()[1] if expected.startswith("fuel ") else CHECK
    return called(host, metered, exports, name)


def called(host: Host, metered: Metered, exports: dict[str, Any], name: str) -> str:
    arguments = [64] * (4 if name == "cabi_realloc" else 0 if name == "_initialize" else 1)
    try:
        results = host.call(exports[metered.entries[name]], *arguments)
    except Trapped:
        return trapped(host, metered, exports, name, arguments)
    return f"returns {results[0]}" if results else "returns"


def trapped(host: Host, metered: Metered, exports: dict[str, Any], name: str, arguments: list[int]) -> str:
    status = host.call(exports[metered.status])[0]
    if status not in (OUT_OF_FUEL, TOO_DEEP):
        return "trap" if status == 0 else f"status {status}"
    if host.call(exports[metered.fuel])[0] != 0:
        return "exhausted with fuel left"
    try:
        host.call(exports[name], *arguments)
    except Trapped:
        pass
    else:
        return "exhausted, and went on"
    if status == TOO_DEEP:
        return "depth"
    return "fuel" if name == CHECK else f"fuel {name}"


def as_expected(expected: str, got: str) -> bool:
    """``refused`` and ``returns`` without a word more stand for any rule, any value."""
    return got == expected or (expected in ("refused", "returns") and got.split()[0] == expected)


def main(engine: str, mutation: str | None = None) -> None:
    if mutation is not None:
        from .mutations import MUTATIONS

        MUTATIONS[mutation].apply()
    for name, (expected, data) in guests().items():
        print(json.dumps({"guest": name, "expected": expected}), flush=True)
        start = time.perf_counter()
        try:
            got = outcome(make_host(engine), expected, data)
        except WasmError as error:
            got = type(error).__name__
        print(json.dumps({"got": got, "ms": (time.perf_counter() - start) * 1e3}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
