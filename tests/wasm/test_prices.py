"""The cost table: complete, and of the shape that the guarantees need. ``benchmarks.metering`` says if it is right."""

from __future__ import annotations

import pytest

from benchmarks.metering import fuel_of
from benchmarks.probes import FIRST_TOUCH, numeric_probes, other_probes, program
from benchmarks.programs import PROGRAMS
from capgate.errors import RestrictedModule
from capgate.limits import Limits
from capgate.wasm import meter
from capgate.wasm.metering.plan import BULK_OPERATIONS
from capgate.wasm.metering.prices import DEFERRED, Prices, UnitPrice, frame_weight, prices_for
from capgate.wasm.opcodes import OPCODES

from .engines import WasmtimeHost
from .wat import compile_wat

LIMITS = Limits()
BY_NAME = {row.name: row.code for row in OPCODES.values()}


@pytest.mark.parametrize("pages", [0, 1, 32, 33, 128, 129, 65_536])
def test_everything_has_a_price(pages: int) -> None:
    prices = prices_for(pages)
    assert set(prices.instructions) == {row.code for row in OPCODES.values() if row.allowed}
    assert {row.name for row in OPCODES.values() if row.allowed and prices.of(row.code) == 0} == {
        "nop",
        "block",
        "else",
        "end",
        "drop",
    }
    assert set(prices.units) == BULK_OPERATIONS
    assert all(unit.multiplier > 0 for unit in prices.units.values())
    assert prices.prices_cycles()


def test_dear_operations_are_dear() -> None:
    """# G10 G18, pitfalls 8, 19"""
    prices = prices_for(1)
    assert prices.of(BY_NAME["f64.div"]) >= 64
    assert prices.of(BY_NAME["f64.sqrt"]) >= 64
    assert prices.of(BY_NAME["i64.rem_u"]) >= 32
    assert prices.of(BY_NAME["memory.fill"]) >= 128
    assert prices.of(BY_NAME["call"]) >= 4
    assert prices.of_entry(1_000) > prices.of_entry(0) > 0


def test_memory_costs_more_where_caches_do_not_hold_it() -> None:
    """# G18"""
    loads = [prices_for(pages).of(BY_NAME["i32.load"]) for pages in (1, 32, 128, 1_024)]
    assert loads == sorted(loads)
    assert loads[0] == 1
    assert loads[-1] > 32


def test_the_table_follows_from_the_memory_of_the_module() -> None:
    """What matters is how large the memory may become, not how large it is."""
    small = fuel_used("(memory 1 1)")
    assert fuel_used("(memory 1)") > small
    assert fuel_used("(memory 1)", Limits(memory_pages=16)) == small


def fuel_used(memory: str, limits: Limits = LIMITS) -> int:
    """What a function pays that reads once."""
    metered = meter(compile_wat(f'(module {memory} (func (export "f") (result i32) (i32.load (i32.const 0))))'), limits)
    host = WasmtimeHost()
    exports = host.instantiate(metered.data, {})
    host.call(exports[metered.entries["f"]])
    return limits.fuel - int(host.call(exports[metered.fuel])[0])


def test_frames() -> None:
    """# G5, pitfall 23"""
    assert frame_weight(0, 0) == 1
    assert frame_weight(400, 0) > 100
    assert frame_weight(0, 100_000) > 100


def table(**changes: int) -> Prices:
    instructions = {code: changes.get(OPCODES[code].name.replace(".", "_"), 1) for code in prices_for(1).instructions}
    return Prices(instructions, {}, changes.get("entry", 1), 0, 0)


@pytest.mark.parametrize(
    "changes", [{"loop": 0, "br": 0}, {"loop": 0, "br_if": 0}, {"loop": 0, "br_table": 0}, {"entry": 0}]
)
def test_a_table_under_which_something_goes_round_for_nothing(changes: dict[str, int]) -> None:
    """# pitfall 1"""
    meter(PROBED, prices=table())
    meter(PROBED, prices=table(loop=0))
    with pytest.raises(RestrictedModule) as caught:
        meter(PROBED, prices=table(**changes))
    assert caught.value.rule == "unproven"


PROBED = compile_wat('(module (func (export "f") (loop (br_if 0 (i32.const 0)))))')


def test_only_small_charges_are_deferred() -> None:
    assert table().may_defer(DEFERRED)
    assert not table().may_defer(DEFERRED + 1)
    assert not table(loop=0).may_defer(1)


def test_units() -> None:
    assert UnitPrice(3).shift == 0
    assert not UnitPrice(3).capped


@pytest.mark.slow
def test_the_benchmark_runs() -> None:
    """Each program and each probe is a module that can be metered, runs, and pays."""
    assert all(fuel_of(compile_wat(text), 10) > 10 for text, _, _ in PROGRAMS.values())
    assert fuel_of(FIRST_TOUCH, 0) > 200 * 30_000
    probes = [*numeric_probes(), *other_probes()]
    assert len({probe.name for probe in probes}) == len(probes) > 300
    for probe in probes[::10]:
        assert fuel_of(program(probe), 2) > fuel_of(program(probe), 1) > 0
