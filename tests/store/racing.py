"""One of several processes that use a store at once: ``python -m tests.store.racing STORE KEY ROLE SECONDS``.

Prints one line of JSON: how often each outcome was seen. ``KEY`` is the private key that everything is signed with.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from capgate.errors import ArtifactError, StoreError
from capgate.store import KeyPair, PolicyStore, Verifier

from ..support.keys import Clock, Made, trust

VERSIONS: Final = 1_000


class Racer:
    """What a process may do, over and over."""

    def __init__(self, path: Path, pair: KeyPair) -> None:
        self.store = PolicyStore(path, Verifier(trust(pair), clock=Clock()), lock_seconds=30)
        self.releases = {version: Made(version, keys=[pair]) for version in range(1, VERSIONS + 1)}

    def read(self, number: int) -> str:
        policy = self.store.load_active("orders")
        version = policy.manifest.version
        whole = policy.active is not None and policy.active.version == version
        return "whole" if whole and policy.artifact.data == self.releases[version].module else "mixed"

    def look_back(self, number: int) -> str:
        records = self.store.history("orders")
        return "whole" if [r.sequence for r in records] == list(range(len(records), 0, -1)) else "short"

    def publish(self, number: int) -> str:
        version = self.store.read_active("orders").highest + 1 + number % 3
        self.store.publish(*self.releases[min(version, VERSIONS)].files)
        return "published"

    def activate(self, number: int) -> str:
        note = f"{os.getpid()} {number}"
        active = self.store.activate("orders", self.store.read_active("orders").highest + 1, note=note)
        return "changed" if active.note == note else "was active already"

    def rollback(self, number: int) -> str:
        active = self.store.rollback("orders", sequence=self.store.read_active("orders").sequence)
        return "changed" if active.action == "rollback" else "unchanged"

    def prune(self, number: int) -> str:
        self.store.prune(2)
        time.sleep(0.05)  # others want the lock too
        return "pruned"

    def once(self, role: str, number: int) -> str:
        action: Callable[[int], str] = getattr(self, role)
        try:
            return action(number)
        except ArtifactError as error:
            return f"{type(error).__name__} {error.reason}" if isinstance(error, StoreError) else type(error).__name__


def main(path: Path, pair: KeyPair, role: str, seconds: float) -> dict[str, Any]:
    racer, seen = Racer(path, pair), Counter[str]()
    until, number = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        seen[racer.once(role, number)] += 1
        number += 1
    return {"role": role, "seen": dict(seen)}


if __name__ == "__main__":
    signing = KeyPair.from_pem(Path(sys.argv[2]).read_bytes())
    print(json.dumps(main(Path(sys.argv[1]), signing, sys.argv[3], float(sys.argv[4]))))
