"""``python -m benchmarks.rego``: what a module of OPA's ABI costs to load and to ask, on each engine.

The module is the guest of the tests (``tests/rego/guest``), which follows the ABI; *large* is the same with generated
functions added, until it has the size of what OPA makes of a large policy. A question includes what is done for each:
the input as JSON, restoring the instance, evaluating, reading the answer. Times of questions are medians of batches and
the shortest batch; those of loading are of single runs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, NamedTuple

from capgate import Limits, WasmArtifact
from capgate.model import Entrypoint
from capgate.runtime.abi import opa
from capgate.runtime.abi.memory_image import MemoryImage
from capgate.runtime.abi.opa.input_document import document
from capgate.runtime.engine import Engine, available_engines, compile_in_child, is_small, load_engine
from capgate.runtime.interpreter import PreparedPolicy
from capgate.wasm import decode, encode
from capgate.wasm.edit import extended
from capgate.wasm.encode import i32_const
from capgate.wasm.leb128 import unsigned
from tests.support.rego_guests import opa_policy

from . import machine
from .questions import arguments, policy_input
from .questions import document as policy_document

#: Bytes of the large module.
LARGE = 500_000
ENTRYPOINT = Entrypoint("capgate/decision")
LIMITS = Limits()
_FUNCTIONS, _CODE = 3, 10


class Figures(NamedTuple):
    """``loading`` in milliseconds and ``asking`` in microseconds (median, minimum), by what was done."""

    loading: dict[str, float]
    asking: dict[str, tuple[float, float]]


def large_policy(size: int = LARGE) -> bytes:
    """The policy's module with functions that nobody calls, of ``size`` bytes or a little more. Always the same."""
    module = decode(opa_policy(policy_document(3)))
    kind = next(index for index, item in enumerate(module.types) if not item.results and len(item.params) == 1)
    bodies: list[bytes] = []
    missing = size - len(module.source)
    while missing > 0:
        bodies.append(_body(len(bodies)))
        missing -= len(bodies[-1]) + 1
    sections = extended(module, _FUNCTIONS, len(module.functions), [unsigned(kind)] * len(bodies))
    changed = type(module)(b"", sections)
    return encode(type(module)(b"", extended(changed, _CODE, len(module.code), bodies)))


def _body(number: int) -> bytes:
    """A function of some 700 bytes: blocks, branches, loads and stores, as compilers write them."""
    step = b""
    for index in range(24):
        constant = i32_const((number * 2_654_435_761 + index * 40_503) % 2**31)
        # if (local 0 & constant) { memory[local 0] += constant } else { local 0 = local 0 * 31 + constant }
        step += b"\x20\0" + constant + b"\x71\x04\x40"
        step += b"\x20\0\x20\0\x28\2\0" + constant + b"\x6a\x36\2\0"
        step += b"\x05\x20\0\x41\x1f\x6c" + constant + b"\x6a\x21\0\x0b"
    code = b"\0" + step + b"\x0b"
    return unsigned(len(code)) + code


def measure(data: bytes, engine: Engine, rounds: int, batch: int) -> Figures:
    """Load the module and ask it."""
    loading: dict[str, float] = {}

    def timed(name: str, step: Callable[[], Any]) -> Any:
        start = perf_counter()
        result = step()
        loading[name] = (perf_counter() - start) * 1e3
        return result

    artifact = timed("decode", lambda: WasmArtifact.from_bytes(data))
    prepared = timed("restrict, meter, prove", lambda: PreparedPolicy(artifact, LIMITS, ENTRYPOINT))
    if not is_small(prepared.metered.data):
        timed("compile in a child", lambda: compile_in_child(engine, prepared.original, prepared.metered.data, LIMITS))
    compiled = timed("compile", lambda: engine.compile(prepared.metered.data))

    def opened() -> opa.Guest:
        if prepared.facts is None:
            raise TypeError("a module of another ABI")
        guest = opa.Guest(compiled, prepared.facts, LIMITS, prepared.metered, ENTRYPOINT)
        guest.load()
        return guest

    guest = timed("instance", opened)
    memory = guest.instance.memory_view
    image = MemoryImage(memory())
    input = arguments("same", 3, 1, policy_input)(1)[0]
    parts = {
        "a question": lambda: guest.ask(input),
        "of it: the input as JSON": lambda: document(input, LIMITS.input_bytes),
        "of it: restoring": lambda: image.restore(memory()),
    }
    return Figures(loading, {name: _median(call, rounds, batch) for name, call in parts.items()})


def _median(call: Callable[[], object], rounds: int, batch: int) -> tuple[float, float]:
    found = []
    for _ in range(rounds):
        start = perf_counter()
        for _ in range(batch):
            call()
        found.append((perf_counter() - start) / batch * 1e6)
    return statistics.median(found), min(found)


def main(command_line: Sequence[str] | None = None) -> int:
    """Run, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rego", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shows that it runs, proves no figure")
    options = parser.parse_args(command_line)
    rounds, batch = (2, 5) if options.quick else (50, 200)
    for name, fact in machine.describe().items():
        print(f"{name + ':':13}{fact}")
    for name, data in (("small", opa_policy(policy_document(3))), ("large", large_policy())):
        for engine in available_engines():
            found = measure(data, load_engine(engine), rounds, batch)
            print(f"\n{name} module, {len(data):,} bytes, {engine}")
            for step, milliseconds in found.loading.items():
                print(f"  {step:30}{milliseconds:10.1f} ms")
            for part, (median, least) in found.asking.items():
                print(f"  {part:30}{median:10.1f} us, at least {least:.1f}")
    print(f"\nload average after: {machine.load_average()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
