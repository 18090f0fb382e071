"""The benchmark of load runs once, as short as it can be, so that it cannot rot. No figure is judged here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.load import ATTACKERS, RATES, Answers, Step, main, plot

from ...support.engines import EXPECTED_ENGINES

pytestmark = pytest.mark.slow

LOADS = ("capacity", *(f"{rate:g} x" for rate in RATES))
ATTACKS = ("honest, alone", f"honest, {ATTACKERS} attack", f"innocent, {ATTACKERS}")


def test_each_step_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "load.json"
    assert main(["--quick", "--json", str(written)]) == 0
    steps = [Step(**step) for step in json.loads(written.read_text())]
    expected = [(policy, load) for policy in ("own", "foreign") for load in LOADS]
    expected += [("foreign", load) for load in ATTACKS]
    assert [(step.engine, step.policy, step.load) for step in steps] == [
        (engine, *row) for engine in EXPECTED_ENGINES for row in expected
    ]
    shown = capsys.readouterr().out
    for step in steps:
        assert step.load in shown
        assert step.answered + sum(step.refused.values()) > 0
        assert min(step.seconds, step.longest_gap, step.longest_gap_of_thread) > 0
        assert bool(step.attack) is (step.load == ATTACKS[1])


def test_why_nothing_was_answered_is_counted() -> None:
    answers = Answers()
    answers.take(200, b"ok", 0.002)
    answers.take(200, b"ok", 2.0)
    answers.take(403, b'{"status": 403, "reason": "pool_exhausted"}', 0.1)
    answers.take(500, b'{"status": 500}', 0.1)
    assert (answers.seconds, dict(answers.refused)) == ([0.002], {"late": 1, "pool_exhausted": 1, "500": 1})
    assert answers.quantile(0.5) == 2.0


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_charts_are_drawn(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib")
    figures: tuple[Any, ...] = (1.0, 100.0, {}, 10.0, 20.0, 1.0, 1.0, 2.0, 3.0, 3.0)
    steps = [Step("wasmtime", "own", load, *figures) for load in (*LOADS, *ATTACKS)]
    drawn = tmp_path / f"load.{ending}"
    plot(steps, drawn)
    if ending == "svg":
        assert ElementTree.fromstring(drawn.read_text()).tag.endswith("svg")
    else:
        assert drawn.read_bytes().startswith(b"\x89PNG")
