"""Hot swap: what stays in memory after many of them, and on which thread instances end."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
from contextlib import nullcontext
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from capgate.checker.following import FollowingChecker
from capgate.checker.wasm import WasmPolicyChecker
from capgate.limits import Limits
from capgate.runtime.engine import load_engine
from capgate.runtime.pool import WasmPool
from capgate.store import VerifiedPolicy

from ..support.stores import SELDOM, ask
from ..support.tools import FULL, ROOT, examples
from .swaps import (
    ENGINES,
    Carousel,
    Crew,
    at_once,
)


@pytest.mark.slow
@ENGINES
def test_many_swaps_leave_nothing(engine: str, capsys: pytest.CaptureFixture[str]) -> None:  # P17
    swaps = examples(60, quick=30)
    command = [sys.executable, "-m", "tests.checker.swapping", engine, str(swaps)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    half, end = json.loads(done.stdout)
    with capsys.disabled():
        print(f"\n{swaps} swaps on {engine}: at half time {half}, at the end {end}")
    slack = 2  # whoever is about to drop one; what each swap leaves behind would be half as many as swaps
    assert {name: count for name, count in end["live"].items() if count > half["live"].get(name, 0) + slack} == {}
    assert end["descriptors"] <= half["descriptors"] + slack
    assert end["threads"] <= half["threads"] + slack
    if FULL:
        assert end["memory"] - half["memory"] < 4 * 1_048_576


@pytest.mark.slow
@pytest.mark.parametrize("beside_a_loop", [True, False])
@ENGINES
async def test_instances_of_a_policy_that_is_gone_end_on_their_thread(
    engine: str, beside_a_loop: bool, monkeypatch: pytest.MonkeyPatch
) -> None:  # P5
    """A worker thread lives on, while the last reference to a pool goes on the thread that looks."""
    from capgate.runtime.thread_instances import ThreadInstances

    gc.collect()  # what earlier tests left, of which nobody here knows the thread
    ended: list[bool] = []
    owners: dict[int, int] = {}
    keep: list[ThreadInstances] = []
    start, close = ThreadInstances.__init__, ThreadInstances.close

    def started(self: ThreadInstances, *arguments: Any) -> None:
        start(self, *arguments)
        keep.append(self)  # so that no id is given twice
        owners[id(self)] = threading.get_ident()

    def closed(self: ThreadInstances) -> None:
        if id(self) in owners:  # and not of another test, whose thread ends now
            ended.append(owners[id(self)] == threading.get_ident())
        close(self)

    monkeypatch.setattr(ThreadInstances, "__init__", started)
    monkeypatch.setattr(ThreadInstances, "close", closed)
    source, crew = Carousel(), Crew(2)

    def make(policy: VerifiedPolicy) -> WasmPolicyChecker:
        return WasmPolicyChecker(WasmPool(policy.artifact, 1, engine, Limits(deadline=20.0)))

    with at_once(monkeypatch):
        checker = FollowingChecker(source, "orders", make, poll=SELDOM)
        async with checker if beside_a_loop else nullcontext():
            for _ in range(8):
                source.sequence += 1
                await checker.refresh()
                await anyio.to_thread.run_sync(crew.do, lambda: checker.answer_many_now([ask("always")]))
        await anyio.to_thread.run_sync(crew.dismiss)
        await checker.aclose()
    # Where modules belong to a thread, a loop that has instances is asked by the workers, which then have none.
    least = 8 if beside_a_loop and load_engine(engine).thread_bound else 16
    assert len(ended) >= least
    assert all(ended)
    closed_ones = [instances for instances in keep if not instances.idle and instances._size == 0]
    assert len(closed_ones) >= least  # and none of them has an instance any more
