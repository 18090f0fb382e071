"""``python -m benchmarks.metering``: what metering costs, and whether the prices are what instructions cost.

Three parts. *Guests*: small programs with and without metering. *Prices*: for each instruction a loop of it, in
nanoseconds of wall clock per fuel; the prices are right when none is above :data:`NANOSECONDS_PER_FUEL`. *Load*:
seconds for each megabyte of code that is decoded, metered and proved. Times are the best of many short runs, which
shared machines disturb least.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from time import perf_counter, process_time

import wasmtime

from capgate.engine import available_engines, load_engine
from capgate.limits import Limits
from capgate.wasm import decode, meter

from . import machine
from .probes import FIRST_TOUCH, Probe, numeric_probes, other_probes, program

#: What is advertised: no code takes longer than this for each fuel it pays, on a machine like those measured.
NANOSECONDS_PER_FUEL = 2.0
#: Metered programs may take this many times as long.
SLOWDOWN = 1.3
LIMITS = Limits(fuel=10_000_000_000)

HASH = """(module (memory 1) (func (export "run") (param $n i32) (result i32) (local $h i32) (local $i i32)
  (local.set $h (i32.const 0x811c9dc5))
  (loop $next
    (local.set $h (i32.mul (i32.xor (local.get $h) (i32.load8_u (i32.and (local.get $i) (i32.const 0xffff))))
                           (i32.const 16777619)))
    (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
  (local.get $h)))"""

SORT = """(module (memory 1)
  (func $fill (param $n i32) (local $i i32) (local $x i32)
    (local.set $x (i32.const 12345))
    (loop $next
      (local.set $x (i32.add (i32.mul (local.get $x) (i32.const 1103515245)) (i32.const 12345)))
      (i32.store (i32.shl (local.get $i) (i32.const 2)) (local.get $x))
      (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n)))))
  (func $sift (param $root i32) (param $end i32) (local $child i32) (local $value i32) (local $other i32)
    (local.set $value (i32.load (i32.shl (local.get $root) (i32.const 2))))
    (block $done
      (loop $down
        (local.set $child (i32.add (i32.shl (local.get $root) (i32.const 1)) (i32.const 1)))
        (br_if $done (i32.ge_u (local.get $child) (local.get $end)))
        (local.set $other (i32.load (i32.shl (local.get $child) (i32.const 2))))
        (if (i32.lt_u (i32.add (local.get $child) (i32.const 1)) (local.get $end))
          (then
            (if (i32.gt_s (i32.load offset=4 (i32.shl (local.get $child) (i32.const 2))) (local.get $other))
              (then
                (local.set $child (i32.add (local.get $child) (i32.const 1)))
                (local.set $other (i32.load (i32.shl (local.get $child) (i32.const 2))))))))
        (br_if $done (i32.le_s (local.get $other) (local.get $value)))
        (i32.store (i32.shl (local.get $root) (i32.const 2)) (local.get $other))
        (local.set $root (local.get $child))
        (br $down)))
    (i32.store (i32.shl (local.get $root) (i32.const 2)) (local.get $value)))
  (func (export "run") (param $n i32) (result i32) (local $i i32) (local $last i32)
    (call $fill (local.get $n))
    (local.set $i (i32.shr_u (local.get $n) (i32.const 1)))
    (loop $heap
      (local.set $i (i32.sub (local.get $i) (i32.const 1)))
      (call $sift (local.get $i) (local.get $n))
      (br_if $heap (local.get $i)))
    (local.set $i (i32.sub (local.get $n) (i32.const 1)))
    (loop $take
      (local.set $last (i32.load (i32.shl (local.get $i) (i32.const 2))))
      (i32.store (i32.shl (local.get $i) (i32.const 2)) (i32.load (i32.const 0)))
      (i32.store (i32.const 0) (local.get $last))
      (call $sift (i32.const 0) (local.get $i))
      (br_if $take (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
    (i32.load (i32.const 400))))"""

MATRIX = """(module (memory 2) (func (export "run") (param $n i32) (result i32) (local $i i32) (local $j i32) (local $k
i32) (local $sum f64) (loop $row (local.set $j (i32.const 0)) (loop $column (local.set $k (i32.const 0)) (local.set $sum
(f64.const 1)) (loop $dot (local.set $sum (f64.add (local.get $sum) (f64.mul (f64.load (i32.shl (i32.add (i32.mul
(local.get $i) (local.get $n)) (local.get $k)) (i32.const 3))) (f64.load offset=32768 (i32.shl (i32.add (i32.mul
(local.get $k) (local.get $n)) (local.get $j)) (i32.const 3)))))) (br_if $dot (i32.lt_u (local.tee $k (i32.add
(local.get $k) (i32.const 1))) (local.get $n)))) (f64.store offset=65536 (i32.shl (i32.add (i32.mul (local.get $i)
(local.get $n)) (local.get $j)) (i32.const 3)) (local.get $sum)) (br_if $column (i32.lt_u (local.tee $j (i32.add
(local.get $j) (i32.const 1))) (local.get $n)))) (br_if $row (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const
1))) (local.get $n)))) (i32.trunc_f64_s (local.get $sum))))"""

SCAN = """(module (memory 1) (data (i32.const 0)
"{\\"kind\\":\\"allow\\",\\"list\\":[1,2,3,4.5,true,false],\\"name\\":\\"some
\\\\\\"text\\\\\\"\\",\\"in\\":{\\"a\\":[[{}]]}}") (func (export "run") (param $n i32) (result i32) (local $i i32)
(local $c i32) (local $depth i32) (local $text i32) (loop $next (local.set $c (i32.load8_u (i32.rem_u (local.get $i)
(i32.const 80)))) (block $done (if (local.get $text) (then (local.set $text (i32.ne (local.get $c) (i32.const 34))) (br
$done))) (block $close (block $open (block $quote (br_if $quote (i32.eq (local.get $c) (i32.const 34))) (br_if $open
(i32.or (i32.eq (local.get $c) (i32.const 91)) (i32.eq (local.get $c) (i32.const 123)))) (br_if $close (i32.or (i32.eq
(local.get $c) (i32.const 93)) (i32.eq (local.get $c) (i32.const 125)))) (br $done)) (local.set $text (i32.const 1)) (br
$done)) (local.set $depth (i32.add (local.get $depth) (i32.const 1))) (br $done)) (local.set $depth (i32.sub (local.get
$depth) (i32.const 1)))) (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
(local.get $depth)))"""

FIBONACCI = """(module (func $f (export "run") (param i32) (result i32)
  (if (result i32) (i32.lt_u (local.get 0) (i32.const 2)) (then (local.get 0))
    (else (i32.add (call $f (i32.sub (local.get 0) (i32.const 1))) (call $f (i32.sub (local.get 0) (i32.const
    2))))))))"""

#: Program -> (text, argument, whether it has to keep within :data:`SLOWDOWN`): the last two do nothing but branch and
#: call.
GUESTS = {
    "hash of bytes": (HASH, 100_000, True),
    "heap sort": (SORT, 4_000, True),
    "matrix product": (MATRIX, 48, True),
    "scan of JSON": (SCAN, 20_000, False),
    "fibonacci": (FIBONACCI, 20, False),
}


def runner(engine: str, data: bytes, export: str) -> Callable[[int], int]:
    """The exported function of a new instance; keeps the instance alive."""
    return load_engine(engine).compile(data).instantiate().function(export, 1, 1)


def best(call: Callable[[int], int], argument: int, rounds: int) -> float:
    """Seconds that the shortest of so many calls took."""
    shortest = float("inf")
    for _ in range(rounds):
        start = perf_counter()
        call(argument)
        shortest = min(shortest, perf_counter() - start)
    return shortest


def fuel_of(data: bytes, argument: int) -> int:
    """What one call pays: the same on each engine."""
    metered = meter(data, LIMITS)
    store = wasmtime.Store()
    exports = wasmtime.Instance(store, wasmtime.Module(store.engine, metered.data), []).exports(store)
    entry, fuel = exports[metered.entries["run"]], exports[metered.fuel]
    if not isinstance(entry, wasmtime.Func) or not isinstance(fuel, wasmtime.Func):
        raise TypeError("an export of the metering is no function")
    entry(store, argument)
    return LIMITS.fuel - int(fuel(store))


def slowdowns(engine: str, rounds: int) -> dict[str, float]:
    """Program -> how many times as long it takes when it pays."""
    out = {}
    for name, (text, argument, _) in GUESTS.items():
        data = bytes(wasmtime.wat2wasm(text))
        metered = meter(data, LIMITS)
        plain, paying = runner(engine, data, "run"), runner(engine, metered.data, metered.entries["run"])
        if plain(argument) & 0xFFFFFFFF != paying(argument) & 0xFFFFFFFF:
            raise ValueError(f"{name} gives another answer when it pays")
        times = [(best(plain, argument, 3), best(paying, argument, 3)) for _ in range(rounds)]
        out[name] = min(paid for _, paid in times) / min(free for free, _ in times)
    return out


def nanoseconds_per_fuel(engine: str, probe: Probe, rounds: int) -> float:
    """Of a loop that pays, everything included."""
    data = program(probe)
    calls = probe.calls or 200
    while not probe.calls and fuel_of(data, calls) < 300_000:
        calls *= 2
    rounds = min(rounds, 3) if probe.calls else rounds
    metered = meter(data, LIMITS)
    call = runner(engine, metered.data, metered.entries["run"])
    return best(call, calls, rounds) * 1e9 / fuel_of(data, calls)


def first_touch(engine: str) -> float:
    """Nanoseconds per fuel of growing and of writing for the first time: each time on a new instance."""
    metered = meter(FIRST_TOUCH, LIMITS)
    module = load_engine(engine).compile(metered.data)
    seconds = min(best(module.instantiate().function(metered.entries["run"], 1, 1), 0, 1) for _ in range(5))
    return seconds * 1e9 / fuel_of(FIRST_TOUCH, 0)


def load_speed(path: str) -> tuple[float, int]:
    """(seconds of processor time for each megabyte of code, bytes of code)."""
    with open(path, "rb") as file:
        data = file.read()
    module = decode(data)
    size = sum(body.end - body.entry for body in module.code)
    imports = {(item.module, item.name) for item in module.imports}
    start = process_time()
    meter(data, LIMITS, imports=imports)
    return (process_time() - start) * 1e6 / size, size


def report(engine: str, rounds: int) -> bool:
    """Print everything about one engine; whether the targets were reached."""
    reached = True
    print(f"\n{engine}: metered against unmetered")
    for name, ratio in slowdowns(engine, rounds).items():
        has_to = GUESTS[name][2]
        reached = reached and (ratio <= SLOWDOWN or not has_to)
        print(f"  {name:20} {ratio:5.2f}" + (f"  (to reach: {SLOWDOWN})" if has_to else ""))
    probes = [*numeric_probes(), *other_probes()]
    found = {probe.name: nanoseconds_per_fuel(engine, probe, rounds) for probe in probes}
    found["growing and first writes"] = first_touch(engine)
    dearest = sorted(found.items(), key=lambda item: -item[1])
    reached = reached and dearest[0][1] <= NANOSECONDS_PER_FUEL
    print(f"{engine}: nanoseconds per fuel of {len(found)} loops, the dearest (to reach: {NANOSECONDS_PER_FUEL:g})")
    for name, value in dearest[:20]:
        print(f"  {name:48} {value:5.2f}")
    return reached


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metering", description=__doc__)
    parser.add_argument("modules", nargs="*", help="modules to decode, meter and prove, for the speed of loading")
    parser.add_argument("--rounds", type=int, default=30, help="runs of each program (default: 30)")
    parser.add_argument("--strict", action="store_true", help="exit with 1 unless every target was reached")
    options = parser.parse_args()
    for name, fact in machine.describe().items():
        print(f"{name + ':':13}{fact}")
    reached = True
    for engine in available_engines():
        reached = report(engine, options.rounds) and reached
    for path in options.modules:
        seconds, size = load_speed(path)
        print(f"{path}: {seconds:.2f} s per megabyte of code, of which it has {size / 1e6:.2f}")
    return int(options.strict and not reached)


if __name__ == "__main__":
    sys.exit(main())
