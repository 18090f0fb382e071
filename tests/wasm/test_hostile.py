"""The hostile guests: each is refused at load, or stopped, and says why when asked."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ..support.tools import ROOT
from .attack import as_expected, guests
from .children import attack

THREAD = """
import sys, threading
from tests.wasm.attack import LIMITS, guests, make_host, outcome

def work():
    for name, (expected, data) in guests().items():
        if expected == "depth":
            print(name, outcome(make_host(sys.argv[1]), expected, data), flush=True)

threading.stack_size(256 * 1024)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def test_every_guest_is_stopped(engine_name: str) -> None:
    """# G1 G2 G3 G4 G7 G8 G9 G10 G11 G12 G13 G14 G15 G18 G19 G22 G23 G24 G25 G27 G28, pitfalls 1, 12, 14, 20, 21, 30"""
    results = attack(engine_name, seconds=120)
    stopped = [item for item in results if item.expected.startswith(("fuel", "depth"))]
    slowest = max(stopped, key=lambda item: item.milliseconds)
    print(f"{engine_name}: {len(results)} guests; slowest to stop {slowest.guest}, {slowest.milliseconds:.1f} ms")
    assert [item for item in results if not as_expected(item.expected, item.got)] == []
    assert len(results) == len(guests())
    assert len(stopped) > 25


@pytest.mark.slow
def test_recursion_in_a_thread_with_a_small_stack(engine_name: str) -> None:
    """The counted depth ends it before the native stack does, in 256 KiB too.  # G4 G5"""
    done = subprocess.run(
        [sys.executable, "-c", THREAD, engine_name], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert set(lines.values()) == {"depth"}, done.stderr
    assert len(lines) == sum(expected == "depth" for expected, _ in guests().values())


@pytest.mark.parametrize("row", [*range(1, 5), *range(7, 16), *range(18, 26), 27, 28])
def test_every_row_has_a_guest(row: int) -> None:
    """The other rows are about sizes that no one would want to read: they are generated, see test_restrict."""
    texts = [file.read_text() for file in (ROOT / "fixtures" / "guests").glob("*.wat")]
    assert any(text.startswith(f";; G{row}: ") for text in texts)
