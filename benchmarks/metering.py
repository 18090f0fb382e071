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

from capgate import Limits, WasmArtifact, build_policy
from capgate.runtime.engine import available_engines, load_engine
from capgate.runtime.interpreter import CompiledPolicy, PreparedPolicy
from capgate.wasm import Metered, decode, meter
from capgate.wasm.metering.prices import Prices, prices_for

from . import machine
from .probes import FIRST_TOUCH, TOUCHED, Probe, numeric_probes, other_probes, program
from .programs import PROGRAMS, UPDATE
from .questions import arguments, document, policy_input

#: What is advertised: no code takes longer than this for each fuel it pays, on a machine like those measured.
NANOSECONDS_PER_FUEL = 2.0
#: Metered programs may take this many times as long.
SLOWDOWN = 1.3
#: Of one check, metering may be this much.
SHARE = 0.1
LIMITS = Limits(fuel=10_000_000_000, memory_pages=1_024)


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


def fuel_of(data: bytes, argument: int, prices: Prices | None = None) -> int:
    """What one call pays: the same on each engine."""
    metered = meter(data, LIMITS, prices=prices)
    store = wasmtime.Store()
    exports = wasmtime.Instance(store, wasmtime.Module(store.engine, metered.data), []).exports(store)
    entry, fuel = exports[metered.entries["run"]], exports[metered.fuel]
    if not isinstance(entry, wasmtime.Func) or not isinstance(fuel, wasmtime.Func):
        raise TypeError("an export of the metering is no function")
    entry(store, argument)
    return LIMITS.call_fuel - int(fuel(store))


def slowdowns(engine: str, rounds: int) -> dict[str, float]:
    """Program -> how many times as long it takes when it pays."""
    out = {}
    for name, (text, argument, _) in PROGRAMS.items():
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
    prices = prices_for(TOUCHED)  # of one that begins with so many, since fuel is worth less in one that grew
    metered = meter(FIRST_TOUCH, LIMITS, prices=prices)
    module = load_engine(engine).compile(metered.data)
    seconds = min(best(module.instantiate().function(metered.entries["run"], 1, 1), 0, 1) for _ in range(5))
    return seconds * 1e9 / fuel_of(FIRST_TOUCH, 0, prices)


def ordinary(engine: str, rounds: int) -> dict[str, float]:
    """Program -> nanoseconds per fuel of code as compilers make it, which takes much less than the bound."""
    programs = {name: (text, argument) for name, (text, argument, _) in PROGRAMS.items()}
    for name, memory in (("a declared maximum", "(memory 1 1)"), ("none", "(memory 1)")):
        programs[f"load, add, store; {name}"] = UPDATE.replace("(memory)", memory), 100_000
    out = {}
    for name, (text, argument) in programs.items():
        data = bytes(wasmtime.wat2wasm(text))
        metered = meter(data, LIMITS)
        seconds = best(runner(engine, metered.data, metered.entries["run"]), argument, rounds)
        out[name] = seconds * 1e9 / fuel_of(data, argument)
    return out


def share_of_a_check(engine: str, rounds: int) -> float:
    """What metering adds to one check of a document policy, as a share of the check."""
    artifact = WasmArtifact.from_bytes(build_policy(document(100)))
    paying = PreparedPolicy(artifact, Limits())
    free = PreparedPolicy(artifact, Limits())
    # The library has no way to run a module that does not pay; this makes one, to see the difference.
    free.metered = Metered(free.original, {name: name for name in free.metered.entries})
    asks = [
        CompiledPolicy(prepared, load_engine(engine)).instantiate().call_policy_check for prepared in (free, paying)
    ]
    questions = arguments("fresh", 100, 1, policy_input)(200)
    shortest = [float("inf"), float("inf")]
    for _ in range(20 * rounds):
        for index, ask in enumerate(asks):
            start = perf_counter()
            for question in questions:
                ask(question)
            shortest[index] = min(shortest[index], perf_counter() - start)
    return 1 - shortest[0] / shortest[1]


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
        has_to = PROGRAMS[name][2]
        reached = reached and (ratio <= SLOWDOWN or not has_to)
        print(f"  {name:20} {ratio:5.2f}" + (f"  (to reach: {SLOWDOWN})" if has_to else ""))
    share = share_of_a_check(engine, rounds)
    reached = reached and share <= SHARE
    print(f"{engine}: share of one check of a document policy {share:.1%}  (to reach: {SHARE:.0%})")
    print(f"{engine}: nanoseconds per fuel of ordinary code")
    for name, value in ordinary(engine, rounds).items():
        print(f"  {name:48} {value:5.2f}")
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
