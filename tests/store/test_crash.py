"""A writer that is killed, at every step that it takes on the disk: what is active is the old policy or the new one,
complete and verified, and the store goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ..support.tools import ROOT
from .crashing import ACTIONS, AFTER, BEFORE, DIED, MODES

pytestmark = pytest.mark.slow


def deaths(folder: Path, *fault: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.store.crashing", str(folder), *fault],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


# A15, A19
def test_killed_at_every_step(memory: Path) -> None:
    found = deaths(memory)
    killed = [death for death in found if death["mode"] is not None]
    steps = {death["action"]: death["steps"] for death in found if death["mode"] is None}
    assert [death for death in found if "problem" in death] == []
    # What was said to be done is done, whatever happens then.
    assert {death["action"]: death["version"] for death in found if death["mode"] is None} == AFTER
    for death in killed:
        name = death["action"]
        assert death["died"] == DIED, death
        assert death["version"] in (BEFORE, AFTER[name]), death
        assert death["history"] in ([3, 2, 1], [AFTER[name], 3, 2, 1]), death
        # What is published has all of its fixtures; only what was damaged before may be so still.
        assert death["untested"] in ([], [4] if name == "mend" else []), death
        assert (death["after"], death["left"]) == (AFTER[name], []), death
    assert Counter(death["action"] for death in killed) == {name: len(MODES) * steps[name] for name in ACTIONS}
    assert len(killed) >= 200
    assert {bool(death["untested"]) for death in killed if death["action"] == "mend"} == {False, True}
    # Both ends were seen: before the deciding step, and after it.
    for name in ("activate", "rollback", "reset"):
        assert {death["version"] for death in killed if death["action"] == name} == {BEFORE, AFTER[name]}
    print(f"killed {len(killed)} times; steps: {steps}")


# The test above can fail: a store that skips a step of its own is found out.
@pytest.mark.parametrize("fault", ["no-sync", "no-folder-sync", "in-place"])
def test_a_store_that_is_less_careful_is_found_out(fault: str, memory: Path) -> None:
    found = deaths(memory, fault)
    wrong = [
        death
        for death in found
        if "problem" in death
        or death["version"] not in (BEFORE, AFTER[death["action"]])
        or (death["mode"] is None and death["version"] != AFTER[death["action"]])
    ]
    assert wrong
