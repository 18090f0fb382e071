"""The cost table: complete, and of the shape that the guarantees need. ``benchmarks.metering`` says if it is right."""

from __future__ import annotations

import pytest

from benchmarks.metering import fuel_of
from benchmarks.probes import FIRST_TOUCH, numeric_probes, other_probes, program
from benchmarks.programs import PROGRAMS
from capgate.errors import RestrictedModule
from capgate.limits import Limits
from capgate.wasm import decode, meter
from capgate.wasm.metering import charges
from capgate.wasm.metering.charges import OUT_OF_FUEL
from capgate.wasm.metering.module_proof import verify
from capgate.wasm.metering.plan import BULK_OPERATIONS
from capgate.wasm.metering.prices import ACCESSES_PER_WEIGHT, DEFERRED, Prices, UnitPrice, frame_weight, prices_for
from capgate.wasm.metering.rewrite import prices_of
from capgate.wasm.opcodes import OPCODES

from .engines import Trapped, WasmtimeHost
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
    """What matters is how large the memory is, and not how large it may become: fuel is worth less once it grew."""
    small = fuel_used("(memory 1 1)")
    assert fuel_used("(memory 1)") == fuel_used("(memory 32)") == small
    assert fuel_used("(memory 33 33)") == fuel_used("(memory 33)") == small + 7
    assert fuel_used("(memory 129 129)") == fuel_used("(memory 129)") == small + 63
    # One that the host makes may be as large as it may become.
    assert prices_of(decode(compile_wat('(module (import "env" "memory" (memory 1)))')), LIMITS) == prices_for(1_024)
    assert prices_of(decode(compile_wat("(module (memory 1))")), LIMITS).growth == (32, 128)
    assert prices_of(decode(compile_wat("(module (memory 33))")), LIMITS).growth == (128,)
    assert prices_of(decode(compile_wat("(module (memory 1 32))")), LIMITS).growth == ()
    assert prices_of(decode(compile_wat("(module (memory 1))")), Limits(memory_pages=128)).growth == (32,)


GROWING = """(module (memory 1)
  (func $deeper (param $n i32) (param $by i32) (result i32)
    (if (result i32) (local.get $n)
      (then (call $deeper (i32.sub (local.get $n) (i32.const 1)) (local.get $by)))
      (else (memory.grow (local.get $by)))))
  (func (export "grow") (param $by i32) (result i32) (memory.grow (local.get $by)))
  (func (export "deep") (param $by i32) (result i32) (call $deeper (i32.const 300) (local.get $by)))
  (func (export "nothing") (param i32) (result i32) (i32.const 0)))"""
PLENTY = Limits(fuel=100_000_000)


class Growing:
    """A live instance of the guest above, and what is left of the fuel after each call."""

    def __init__(self) -> None:
        self.host, metered = WasmtimeHost(), meter(compile_wat(GROWING), PLENTY)
        self.exports = self.host.instantiate(metered.data, {})
        self.metered = metered

    def left(self, export: str, argument: int = 0) -> int:
        self.host.call(self.exports[self.metered.entries[export]], argument)
        return int(self.host.call(self.exports[self.metered.fuel])[0])


@pytest.mark.parametrize(
    ("sizes", "before", "by"),
    [((31,), 0, 0), ((32,), 0, 3), ((127,), 0, 3), ((128,), 0, 6), ((31, 1), 0, 3), ((32, 95), 3, 0), ((32, 96), 3, 3)],
)
def test_fuel_is_worth_less_in_a_memory_that_grew(sizes: tuple[int, ...], before: int, by: int) -> None:
    """A call begins with as much as it is worth by then, and goes on with what a growth leaves of it.  # T-8 G18"""
    live = Growing()
    left = [live.left("grow", pages) for pages in sizes][-1]
    expected = ((PLENTY.call_fuel >> before) - sizes[-1] * 32_768 - 4_096) >> by
    assert expected - 2_000 < left < expected  # beside the loads that frames may still do
    assert 0 < (PLENTY.call_fuel >> (before + by)) - live.left("nothing") < 20


def test_fuel_is_worth_the_same_where_nothing_grew() -> None:
    live, nothing = Growing(), Growing().left("nothing")
    assert live.left("grow", 0) > PLENTY.call_fuel - 5_000
    assert live.left("grow", 2_000) > PLENTY.call_fuel - 5_000  # there is no room for that
    assert live.left("nothing") == nothing


def test_what_was_paid_before_a_growth_is_made_up_for() -> None:
    """Each frame may have paid for all of its code, at the price that loads had then."""
    shallow, deep = Growing().left("grow", 100), Growing().left("deep", 100)
    assert shallow - deep >= 300 * ACCESSES_PER_WEIGHT


def test_a_growth_for_which_frames_cannot_make_up_ends_the_call() -> None:
    data = meter(compile_wat(GROWING), Limits(fuel=2_200_000))
    host = WasmtimeHost()
    for export, ends in (("grow", False), ("deep", True)):
        exports = host.instantiate(data.data, {})
        if ends:
            with pytest.raises(Trapped):
                host.call(exports[data.entries[export]], 64)
            assert host.call(exports[data.status]) == [OUT_OF_FUEL]
        else:
            host.call(exports[data.entries[export]], 64)


def test_the_proof_knows_what_is_behind_a_growth() -> None:
    original = compile_wat('(module (memory 1) (func (export "f") (drop (memory.grow (i32.const 1)))))')
    module, data = decode(original), meter(original, LIMITS).data
    prices = prices_of(module, LIMITS)
    verify(module, data, LIMITS, prices)
    scale = charges.scale(prices.growth)
    grown = data[data.index(b"\x40\0\x22") + 2 :]
    grown = grown[: grown.index(b"\x1a")]
    assert data.count(scale) == 2  # the entry, and the reset
    wrong = [
        data.replace(scale, charges.scale((32,)) + b"\x01" * (len(scale) - len(charges.scale((32,)))), 1),
        data.replace(scale, b"\x01" * len(scale), 1),
        data.replace(grown, b"\x01" * len(grown)),
        data.replace(grown, grown.replace(b"\x41\x20\x4b", b"\x41\x21\x4b")),
        data.replace(grown, grown.replace(b"\x41\x20\x4d", b"\x41\x1f\x4d")),
        data.replace(grown, grown.replace(b"\x41\x03\x6c", b"\x41\x02\x6c")),
        data.replace(grown, grown.replace(b"\x41\xab\x01\x6c", b"\x41\xaa\x01\x6c")),
        data.replace(grown, grown.replace(b"\x53\x0d\x01", b"\x53\x0d\x00")),
    ]
    for number, other in enumerate(wrong):
        assert other != data, number
        with pytest.raises(RestrictedModule) as caught:
            verify(module, other, LIMITS, prices)
        assert caught.value.rule == "unproven", number


def fuel_used(memory: str, limits: Limits = LIMITS) -> int:
    """What a function pays that reads once."""
    metered = meter(compile_wat(f'(module {memory} (func (export "f") (result i32) (i32.load (i32.const 0))))'), limits)
    host = WasmtimeHost()
    exports = host.instantiate(metered.data, {})
    host.call(exports[metered.entries["f"]])
    return limits.call_fuel - int(host.call(exports[metered.fuel])[0])


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
