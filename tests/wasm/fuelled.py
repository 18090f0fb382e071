"""Metered modules for harnesses that call exports of any module directly, with more fuel than anything needs."""

from __future__ import annotations

from typing import Any

from capgate.limits import Limits
from capgate.wasm import decode, encode, meter, with_section
from capgate.wasm.encode import i32_const, i64_const
from capgate.wasm.metering.prices import Prices
from capgate.wasm.metering.rewrite import FUEL, RESET

from .engines import Host

AMPLE = 2**62
DEPTH = 2_000
#: As much as can be allowed, so that a limit is not what makes a difference.
WIDE = Limits(memory_pages=16_384, table_elements=1_000_000, fuel=10_000_000_000, call_depth=DEPTH)

_GLOBALS = 6


def fuelled(data: bytes, prices: Prices | None = None) -> bytes:
    """The metered module, allowed to import what it likes, and born with the fuel that :func:`refuel` gives.

    Functions of a module whose instantiation failed can still be reached through another's table, and nobody else could
    fuel those.
    """
    imports = {(item.module, item.name) for item in decode(data).imports}
    module = decode(meter(data, WIDE, prices=prices, imports=imports).data)
    section = module.section(_GLOBALS)
    assert section is not None
    empty, full = counters(0, 0), counters(AMPLE, DEPTH)
    assert section.payload.endswith(empty)
    return encode(with_section(module, _GLOBALS, section.payload[: -len(empty)] + full))


def counters(fuel: int, depth: int) -> bytes:
    """The three globals of the metering, with these values."""
    return b"\x7e\1" + i64_const(fuel) + b"\x0b\x7f\1" + i32_const(depth) + b"\x0b\x7f\1" + i32_const(0) + b"\x0b"


def refuel(host: Host, instances: list[dict[str, Any]], fuel: int = AMPLE, depth: int = DEPTH) -> None:
    """Reset every metered one of these."""
    for exports in instances:
        if RESET in exports:
            host.call(exports[RESET], fuel, depth)


def spent(host: Host, instances: list[dict[str, Any]], fuel: int = AMPLE) -> int:
    """What these have paid together since they were given ``fuel``."""
    return sum(fuel - int(host.call(exports[FUEL])[0]) for exports in instances if FUEL in exports)
