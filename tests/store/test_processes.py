"""Several processes at one store: nothing is lost, nothing is half there, and readers never notice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from ..support.keys import KEYS
from ..support.tools import ROOT
from .racing import Racer

pytestmark = pytest.mark.slow

#: What each role may see. Anything else is a fault.
EXPECTED = {
    "read": {"whole"},
    "look_back": {"whole"},
    "publish": {"published"},
    "activate": {"changed", "was active already", "StoreError lowers_version", "ArtifactNotFound"},
    "rollback": {"changed", "StoreError moved", "StoreError not_recorded", "ReleasePruned"},
    "prune": {"pruned"},
}
ROLES = ("read", "read", "look_back", "publish", "activate", "activate", "rollback", "prune")


# A19
def test_readers_and_writers_at_once(memory: Path) -> None:
    path, key = memory / "store", memory / "key.pem"
    key.write_bytes(KEYS[0].to_pem())
    racer = Racer(path, KEYS[0])
    for version in (1, 2):
        racer.store.publish(*racer.releases[version].files)
        racer.store.activate("orders", version)
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.store.racing", str(path), str(key), role, "4"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for role in ROLES
    ]
    seen: dict[str, Counter[str]] = {role: Counter() for role in ROLES}
    for process in running:
        output, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, "")
        report = json.loads(output)
        seen[report["role"]].update(report["seen"])
    print(seen)
    for role, outcomes in seen.items():
        assert outcomes.keys() <= EXPECTED[role], role
    assert seen["read"]["whole"] > 0
    # Nothing is lost and nothing counted twice: each change has its own number.
    changes = seen["activate"]["changed"] + seen["rollback"]["changed"]
    assert changes > 0
    records = racer.store.history("orders")
    assert len(records) == records[0].sequence == 2 + changes
    assert racer.store.status("orders").problem is None
    racer.store.prune(0)
    assert not [name for _, names, files in os.walk(path) for name in (*names, *files) if name.startswith(".tmp-")]
