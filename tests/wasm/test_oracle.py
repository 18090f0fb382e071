"""An exact oracle: what wasmtime counts on the original is what the metered module has paid, by wasmtime's own rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .engines import WasmtimeHost
from .fuelled import fuelled, refuel, spent
from .rules import WASMTIME
from .spec import SpecRun

#: Calls that end up in an instance which failed to instantiate: what it paid, nobody can ask.
UNREADABLE = {"linking:275", "linking:288", "linking:453"}
#: Growing an imported memory whose actual maximum is below the one declared: it pays as if there were room.
SMALLER_THAN_DECLARED = {"imports:572", "linking:381"}

#: (place in the suite, whether the call returned, fuel spent) in the order of the calls.
Spent = list[tuple[str, bool, int]]


def counted_by_the_engine(files: list[Path]) -> Spent:
    out: Spent = []
    for file in files:
        host = WasmtimeHost(consume_fuel=True)

        def after(where: str, _: Any, returned: bool, host: WasmtimeHost = host) -> None:
            out.append((where, returned, host.spent()))

        SpecRun(host, bytes, lambda _, host=host: host.refuel(), after).run(file)  # type: ignore[misc]
    return out


def paid_by_the_module(files: list[Path]) -> Spent:
    out: Spent = []
    for file in files:
        host = WasmtimeHost()

        def after(where: str, live: list[dict[str, Any]], returned: bool, host: WasmtimeHost = host) -> None:
            out.append((where, returned, spent(host, live)))

        run = SpecRun(host, lambda data: fuelled(data, WASMTIME), lambda live, host=host: refuel(host, live), after)  # type: ignore[misc]
        run.run(file)
    return out


@pytest.mark.slow
def test_fuel_is_what_wasmtime_counts(suite_files: list[Path]) -> None:
    """Equal for each call that returns, never less for one that traps.  # G8 G9, pitfalls 2 to 8, 16, 19"""
    theirs, ours = counted_by_the_engine(suite_files), paid_by_the_module(suite_files)
    assert [(where, returned) for where, returned, _ in ours] == [(where, returned) for where, returned, _ in theirs]
    pairs = list(zip(theirs, ours, strict=True))
    returned = [(a, b) for a, b in pairs if a[1] and a[0] not in UNREADABLE]
    trapped = [(a, b) for a, b in pairs if not a[1]]
    assert {a[0] for a, b in returned if a[2] != b[2]} == SMALLER_THAN_DECLARED
    assert [(a, b) for a, b in returned if a[2] > b[2]] == []
    assert [(a, b) for a, b in trapped if a[2] > b[2]] == []
    print(f"{len(returned)} calls equal, {len(trapped)} trapping calls at least; {sum(a[2] for a, _ in returned)} fuel")
    assert len(returned) > 20_000
    assert len(trapped) > 2_000
