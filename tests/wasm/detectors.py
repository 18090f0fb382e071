"""What the tests look at, as functions that say whether a change of the metering shows, over small modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from capgate.errors import RestrictedModule, WasmError
from capgate.limits import Limits
from capgate.wasm import decode, meter
from capgate.wasm.metering.charges import OUT_OF_FUEL
from capgate.wasm.metering.prices import Prices

from .attack import CHECK
from .engines import Host, Trapped, WasmtimeHost
from .fuelled import AMPLE, WIDE, refuel, spent
from .rules import WASMTIME
from .shapes import SHAPES, Shape
from .test_generated import reason
from .wat import compile_wat

Outcome = tuple[str, object, int]


def run(host: WasmtimeHost, shape: Shape, data: bytes) -> list[Outcome]:
    """(call, results or trap, fuel) of each call of a shape; fuel by the engine if it counts, else by the module."""
    exports = host.instantiate(data, {})
    out: list[Outcome] = []
    for name, arguments in shape.calls:
        host.refuel()
        refuel(host, [exports])
        result: object
        try:
            result = repr(host.call(exports[name], *arguments))
        except Trapped as trap:
            result = reason(trap)
        out.append((f"{shape.name}: {name}{arguments}", result, fuel_of(host, exports)))
    return out


def fuel_of(host: WasmtimeHost, exports: dict[str, Any]) -> int:
    return host.spent() if host.consume_fuel else spent(host, [exports])


def differs_in_what_it_does() -> bool:
    """Results and traps are the original's, and an engine finds the module valid."""
    for shape in SHAPES:
        host = WasmtimeHost()
        data = meter(shape.data, WIDE).data
        if not host.is_valid(data):
            return True
        before, after = run(WasmtimeHost(), shape, shape.data), run(host, shape, data)
        if [item[:2] for item in before] != [item[:2] for item in after]:
            return True
    return False


def differs_in_fuel() -> bool:
    """What is paid is what wasmtime counts, and not less where it trapped."""
    for shape in SHAPES:
        theirs = run(WasmtimeHost(consume_fuel=True), shape, shape.data)
        ours = run(WasmtimeHost(), shape, meter(shape.data, WIDE, prices=WASMTIME).data)
        for (_, result, counted), (_, _, paid) in zip(theirs, ours, strict=True):
            if paid < counted or (paid > counted and str(result).startswith("[")):
                return True
    return False


def differs_at_the_edge() -> bool:
    """What costs c succeeds with c, and fails with c - 1, saying so."""
    for shape in SHAPES:
        host = WasmtimeHost()
        data = host.compile(meter(shape.data, WIDE).data)
        for call in shape.calls:
            cost, _ = ask(host, data, call, AMPLE)
            if cost is None:
                continue
            enough, too_little = ask(host, data, call, cost), ask(host, data, call, cost - 1)
            if enough != (cost, 0) or too_little != (None, OUT_OF_FUEL):
                return True
    return False


def ask(host: Host, data: Any, call: tuple[str, tuple[int, ...]], fuel: int) -> tuple[int | None, int]:
    """(fuel paid or ``None`` after a trap, status) of a call on a new instance."""
    exports = host.instantiate(data, {})
    refuel(host, [exports], fuel)
    try:
        host.call(exports[call[0]], *call[1])
    except Trapped:
        return None, host.call(exports["capgate-meter:status"])[0]
    return spent(host, [exports], fuel), host.call(exports["capgate-meter:status"])[0]


# Modules that have to be refused, whatever comes of them otherwise.
REFUSED = (
    '(module (func (export "capgate-meter:reset")))',
    '(module (import "a" "b" (func)))',
    "(module (memory 1 2 shared))",
    "(module (memory i64 1))",
    "(module (memory 2000))",
    "(module (func (global.set 0 (i64.const 1))))",
    "(module (func (local.set 0 (i64.const 1))))",
    "(module (func (call 1 (i64.const 1))))",
    "(module (func (br 2)))",
    "(module (table 1 funcref) (elem (i32.const 0) 2))",
    '(module (type (func)) (func (type 0)) (export "f" (func 1)))',
    "(module (memory 1 70000))",
)


def is_not_proved() -> bool:
    """The pass over the output refuses at least one module."""
    texts = [compile_wat(text) for text in REFUSED]
    return any(unproven(data, prices) for prices in (None, WASMTIME) for data in (*(s.data for s in SHAPES), *texts))


def unproven(data: bytes, prices: Prices | None) -> bool:
    try:
        meter(data, prices=prices)
    except RestrictedModule as error:
        return error.rule == "unproven"
    except WasmError:
        return False
    return False


def admits_what_it_must_not() -> bool:
    """Modules that must be refused here, or come out as invalid as they went in."""
    for text in REFUSED:
        try:
            output = meter(compile_wat(text)).data
        except WasmError:
            continue
        if WasmtimeHost().is_valid(output):
            return True
    return False


def goes_beyond_the_limits() -> bool:
    """Memory and tables stop at their limits, a call without fuel before it does anything; nothing else is exported."""
    return runs_unpaid() or grows_too_far()


def runs_unpaid() -> bool:
    """The arm of an if that cannot be paid is not begun."""
    text = f"""(module (memory (export "memory") 1)
      (func (export "read") (result i32) (i32.load (i32.const 0)))
      (func (export "f") (param i32) (result i32)
        (if (local.get 0) (then (i32.store (i32.const 0) (i32.const 1)) {"(local.set 0 (local.get 0))" * 2_000}))
        (i32.const 0)))"""
    metered = meter(compile_wat(text), Limits(fuel=1_000))
    host = WasmtimeHost()
    exports = host.instantiate(metered.data, {})
    try:
        host.call(exports[metered.entries["f"]], 1)
    except Trapped:
        return host.call(exports[metered.entries["read"]]) != [0]
    return True


def grows_too_far() -> bool:
    text = f"""(module (memory (export "memory") 1) (table $t 1 funcref)
      (func (export "{CHECK}") (param i32) (result i32)
        (loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) (memory.size))
      (func (export "table") (result i32) (drop (table.grow $t (ref.null func) (i32.const 500))) (table.size $t)))"""
    metered = meter(compile_wat(text), Limits(memory_pages=8, table_elements=100))
    names = {"memory", CHECK, "table", metered.reset, metered.fuel, metered.status, *metered.entries.values()}
    if {item.name for item in decode(metered.data).exports} != names:
        return True
    host = WasmtimeHost()
    exports = host.instantiate(metered.data, {})
    try:
        host.call(exports["table"])
    except Trapped:
        pass
    else:
        return True
    sizes = host.call(exports[metered.entries[CHECK]], 0) + host.call(exports[metered.entries["table"]])
    return sizes != [8, 1] or [item.maximum for item in decode(metered.data).memories] != [8]


DETECTORS: dict[str, Callable[[], bool]] = {
    "semantics": differs_in_what_it_does,
    "oracle": differs_in_fuel,
    "edge": differs_at_the_edge,
    "refusals": admits_what_it_must_not,
    "limits": goes_beyond_the_limits,
}


def shows(detector: Callable[[], bool]) -> bool:
    """Whether a detector sees something, an error of ours or of the engine being something too."""
    try:
        return detector()
    except (WasmError, Trapped):
        return True
