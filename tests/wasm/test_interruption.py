"""Work on a module ends between two of its functions once nobody wants it any more."""

from __future__ import annotations

import psutil
import pytest

from capgate.errors import RestrictedModule
from capgate.limits import Limits
from capgate.runtime.engine import compile_in_child, load_engine
from capgate.wasm import decode, meter
from capgate.wasm.interruption import Interrupted, check_interrupted, interruptible

from ..support.guests import guest

FUNCTIONS = 20
#: Code of 800 kB that a compiler has to think about, for longer than it takes to look whether it is wanted.
STEP = "(local.set 0 (i32.mul (i32.add (local.get 0) (i32.const 3)) (local.get 0)))"
LARGE = f"(func (param i32) (result i32) {STEP * 200} (local.get 0))" * 300


class Leaves:
    """Wants the work no more when it is asked for the ``last`` time, counted from 0."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.asked = 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked > self.last


def test_metering_asks_at_each_function_and_ends_there() -> None:  # T-7
    module = guest(extra="(func (nop))" * FUNCTIONS)
    functions = len(decode(module).code)
    for_ever = Leaves(1_000_000)
    with interruptible(for_ever):
        metered = meter(module)
    assert metered == meter(module)
    # It is decoded, rewritten, decoded again and proven.
    assert for_ever.asked >= 4 * functions > 4 * FUNCTIONS
    for last in range(for_ever.asked):
        leaves = Leaves(last)
        with pytest.raises(Interrupted), interruptible(leaves):
            meter(module)
        assert leaves.asked == last + 1
    check_interrupted()  # here, nobody left


def test_a_child_that_compiles_is_ended(engine_name: str) -> None:  # T-7
    module, limits = guest(extra=LARGE), Limits(compile_seconds=60)
    data = meter(module).data
    assert len(module) > 100_000
    leaves, others = Leaves(0), set(psutil.Process().children())
    with pytest.raises(Interrupted), interruptible(leaves):
        compile_in_child(load_engine(engine_name), module, data, limits)
    assert leaves.asked >= 2  # the one who looks, and the one who waits
    assert set(psutil.Process().children()) <= others


def test_a_child_that_is_wanted_is_not(engine_name: str) -> None:
    """It is given all of the module, of which a pipe holds a part."""
    module, limits = guest(extra=LARGE), Limits(compile_seconds=60)
    data = meter(module).data
    assert len(module) > 100_000
    for_ever = Leaves(1_000_000)
    with interruptible(for_ever):
        compile_in_child(load_engine(engine_name), module, data, limits)
        with pytest.raises(RestrictedModule):
            compile_in_child(load_engine(engine_name), module[:-1], data, limits)
    assert for_ever.asked
