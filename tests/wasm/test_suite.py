"""The official test suite with and without metering: the same assertions hold, on each engine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from capgate.errors import WasmError
from capgate.limits import Limits
from capgate.wasm import Module, decode, encode, meter, with_section
from capgate.wasm.encode import i32_const, i64_const
from capgate.wasm.rewrite import RESET

from . import suite
from .engines import Host, make_host
from .spec import SpecRun

AMPLE = 2**62
DEPTH = 2_000
#: As much as can be allowed, so that a limit is not what makes an assertion fail.
WIDE = Limits(memory_pages=16_384, table_elements=1_000_000, fuel=10_000_000_000, call_depth=DEPTH)


def metered(data: bytes) -> bytes:
    """The metered module, born with the fuel that the harness gives before each call.

    Functions of a module whose instantiation fails can still be reached through a table; nobody else could fuel those.
    """
    module = decode(data)
    changed = decode(meter(data, WIDE, imports={(item.module, item.name) for item in module.imports}).data)
    return encode(with_fuel(changed))


def with_fuel(module: Module) -> Module:
    section = module.section(6)
    assert section is not None
    empty = b"\x7e\1" + i64_const(0) + b"\x0b" + b"\x7f\1" + i32_const(0) + b"\x0b" + b"\x7f\1" + i32_const(0) + b"\x0b"
    assert section.payload.endswith(empty)
    full = b"\x7e\1" + i64_const(AMPLE) + b"\x0b" + b"\x7f\1" + i32_const(DEPTH) + b"\x0b" + b"\x7f\1\x41\0\x0b"
    return with_section(module, 6, section.payload[: -len(empty)] + full)


def assertions(engine_name: str, files: list[Path], *, with_metering: bool) -> set[tuple[str, int, str]]:
    held: set[tuple[str, int, str]] = set()
    for file in files:
        host = make_host(engine_name)
        run = SpecRun(host, metered if with_metering else bytes, lambda live, host=host: refuel(host, live))  # type: ignore[misc]
        run.run(file)
        held |= run.held
    return held


def refuel(host: Host, live: list[dict[str, object]]) -> None:
    for exports in live:
        if RESET in exports:
            host.call(exports[RESET], AMPLE, DEPTH)


def test_the_same_assertions_hold(engine_name: str, suite_files: list[Path]) -> None:
    """# G3 G7 G8 G9 G19, pitfalls 2 to 6, 25, 29, 33"""
    plain = assertions(engine_name, suite_files, with_metering=False)
    changed = assertions(engine_name, suite_files, with_metering=True)
    counts = Counter(kind for _, _, kind in changed)
    print(f"{engine_name}: {dict(counts)}; refused by capgate beside the engine: {len(changed - plain)}")
    assert plain - changed == set()
    # What holds only with metering are modules that the suite finds malformed or invalid and this engine does not.
    assert {kind for _, _, kind in changed - plain} <= {"assert_malformed", "assert_invalid"}
    assert counts["assert_return"] > 20_000
    assert counts["assert_trap"] > 1_400


def test_no_invalid_module_becomes_valid(engine_name: str, suite_files: list[Path]) -> None:
    """Each is refused here, or what comes out is as invalid as it went in.  # G27"""
    host = make_host(engine_name)
    refused = invalid = 0
    for name, kind, _, data in suite.binaries(suite_files):
        if kind not in ("assert_invalid", "assert_malformed") or host.is_valid(data):
            continue
        try:
            output = metered(data)
        except WasmError:
            refused += 1
            continue
        assert not host.is_valid(output), name
        invalid += 1
    print(f"{engine_name}: {refused} refused, {invalid} invalid as before")
    assert refused > 700
    assert invalid > 1_000
