"""The official test suite with and without metering: the same assertions hold, on each engine."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from capgate.errors import WasmError

from . import suite
from .engines import make_host
from .fuelled import fuelled, refuel
from .spec import SpecRun


def assertions(engine_name: str, files: list[Path], *, with_metering: bool) -> set[tuple[str, int, str]]:
    held: set[tuple[str, int, str]] = set()
    for file in files:
        host = make_host(engine_name)
        run = SpecRun(host, fuelled if with_metering else bytes, lambda live, host=host: refuel(host, live))  # type: ignore[misc]
        run.run(file)
        held |= run.held
    return held


@pytest.mark.slow
def test_the_same_assertions_hold(engine_name: str, suite_files: list[Path]) -> None:
    """# G3 G7 G8 G9 G19, pitfalls 2 to 6, 25, 29, 33"""
    # In a process of its own: the suite exhausts the native stack on purpose, and wasmer needs signals to survive that,
    # which whatever else this process has loaded may want, too.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
        plain = child.submit(assertions, engine_name, suite_files, with_metering=False).result()
        changed = child.submit(assertions, engine_name, suite_files, with_metering=True).result()
    counts = Counter(kind for _, _, kind in changed)
    print(f"{engine_name}: {dict(counts)}; refused by capgate beside the engine: {len(changed - plain)}")
    assert plain - changed == set()
    # What holds only with metering are modules that the suite finds malformed or invalid and this engine does not.
    assert {kind for _, _, kind in changed - plain} <= {"assert_malformed", "assert_invalid"}
    assert counts["assert_return"] > 20_000
    assert counts["assert_trap"] > 1_400


@pytest.mark.slow
def test_no_invalid_module_becomes_valid(engine_name: str, suite_files: list[Path]) -> None:
    """Each is refused here, or what comes out is as invalid as it went in.  # G27"""
    host = make_host(engine_name)
    refused = invalid = 0
    for name, kind, _, data in suite.binaries(suite_files):
        if kind not in ("assert_invalid", "assert_malformed") or host.is_valid(data):
            continue
        try:
            output = fuelled(data)
        except WasmError:
            refused += 1
            continue
        assert not host.is_valid(output), name
        invalid += 1
    print(f"{engine_name}: {refused} refused, {invalid} invalid as before")
    assert refused > 700
    assert invalid > 1_000
