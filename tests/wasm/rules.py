"""Other cost rules than capgate's own, for tests."""

from __future__ import annotations

from capgate.wasm.metering.prices import Prices, UnitPrice
from capgate.wasm.opcodes import OPCODES

_FREE = {"nop", "drop", "block", "loop", "unreachable", "return", "else", "end"}
_BULK = (
    "memory.fill",
    "memory.copy",
    "memory.init",
    "memory.grow",
    "table.fill",
    "table.copy",
    "table.init",
    "table.grow",
)
_BY_NAME = {row.name: row.code for row in OPCODES.values()}

#: What wasmtime 46 and later count with ``consume_fuel`` (crates/environ/src/tunables.rs): one for each instruction but
#: those of control flow that cost nothing, one for each call of a function, one for each byte, page and element of a
#: bulk operation, and of growth that succeeds.
WASMTIME = Prices(
    instructions={row.code: int(row.name not in _FREE) for row in OPCODES.values() if row.allowed},
    units={_BY_NAME[name]: UnitPrice(1, capped=name.endswith("grow")) for name in _BULK},
    entry=1,
    locals_per_fuel=0,
    charge=0,
)
