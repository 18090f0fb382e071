"""``python -m tests.checker.clock_jumps STORE KEYS CLOCK``: follows a store while the clock of this process jumps."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from capgate.errors import ManifestError, StoreError
from capgate.model import Allow
from capgate.settings.select import select_checker
from capgate.settings.settings import Settings
from capgate.store import PolicyStore, TrustedKeys, Verifier

from ..support.faketime import FakeTime
from ..support.stores import SELDOM, ask
from .swaps import following


def main(store: str, keys: str, folder: str) -> list[object]:
    """Say after each jump and one look: whether it allows, by which version, and what the problem is."""
    clock = FakeTime(Path(folder))
    settings = Settings(store=store, policy_name="orders", trusted_keys=(keys,), store_poll=SELDOM, cache_size=100)
    checker = select_checker(settings)
    follower = following(checker)
    writer = PolicyStore(store, Verifier(TrustedKeys((keys,))))
    said: list[object] = []

    def look() -> None:
        follower._watcher.look()
        allowed = [type(checker.evaluate_now(ask("always"))) is Allow for _ in range(30)]
        assert len(set(allowed)) == 1
        said.append([allowed[0], follower.status().version, follower.status().problem])

    def attempt(change: Callable[[], object]) -> None:
        try:
            change()
            said.append(None)
        except StoreError as error:
            said.append([error.reason, round((error.ahead or 0) / 100)])
        except ManifestError as error:
            said.append([error.field, str(error)])

    look()
    clock.set(7_200)
    look()
    attempt(lambda: writer.load_release("orders", 2))
    attempt(lambda: writer.activate("orders", 2))
    attempt(lambda: writer.rollback("orders"))
    clock.set(0)
    look()
    attempt(lambda: writer.activate("orders", 2))
    clock.set(7_200)
    look()  # version 2, which has the same expiry, is refused
    clock.set(0)
    look()  # and taken up at the next look
    clock.set(7_200)
    look()
    clock.set(0)
    look()  # what it denied meanwhile is no fault of it
    attempt(lambda: writer.rollback("orders"))
    look()
    clock.set(-7_200)
    look()
    clock.set(0)
    look()
    return said


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
