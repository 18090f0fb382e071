"""A store that is followed, swaps at the worst moment, and what is alive after them."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from capgate.checker.base import PolicyChecker
from capgate.checker.cached import CachedChecker
from capgate.checker.following import FollowingChecker
from capgate.model import Deny, PolicyInput, Reason
from capgate.settings.select import select_checker
from capgate.store import Active, Manifest, VerifiedPolicy, WasmArtifact
from capgate.store.records import make_record

from ..support.engines import EXPECTED_ENGINES
from ..support.stores import Shelf, ask, document

ENGINES = pytest.mark.parametrize("engine", EXPECTED_ENGINES)
NO = Deny(Reason.NOT_IN_ALLOWLIST)


def follow(shelf: Shelf, **options: Any) -> FollowingChecker:
    return following(select_checker(shelf.settings(**options)))


def following(checker: PolicyChecker) -> FollowingChecker:
    inner = checker.inner if isinstance(checker, CachedChecker) else checker
    assert isinstance(inner, FollowingChecker)
    return inner


def swap_after_answering(checker: PolicyChecker) -> None:
    """Have the store looked at, once, right after the policy that answers now has answered: on the same thread, before
    anything is done with the answer."""
    follower = following(checker)
    asked = follower.current.checker
    call = asked._call

    def called(input: PolicyInput) -> Any:
        asked._call = call
        result = call(input)
        assert follower._watcher.look() is True
        return result

    asked._call = called


# -- going back


async def fail(checker: FollowingChecker, times: int = 20) -> None:
    for _ in range(times):
        assert type(await checker.evaluate(ask("always"))) is Deny
        await anyio.lowlevel.checkpoint()  # for the pool, which replaces what trapped


# -- what stays


class Carousel:
    """A source of policies without a disk: at each reading of ``read_active`` after ``turn`` another one."""

    path = "memory"

    def __init__(self, kinds: int = 3) -> None:
        from datetime import datetime, timezone

        self.made = []
        when = datetime.now(timezone.utc).replace(microsecond=0)
        for version in range(1, kinds + 1):
            artifact = WasmArtifact.from_bytes(document(version))
            self.made.append((artifact, Manifest.describing(artifact, version=version, created=when)))
        self.when = when
        self.sequence = 1

    def read_active(self, name: str) -> Active:
        _, manifest = self.made[self.sequence % len(self.made)]
        digest = f"{self.sequence % len(self.made):064x}"
        return make_record(
            "activate", manifest, digest, None, previous=None, highest=9, when=self.when, sequence=self.sequence
        )

    def load(self, active: Active) -> VerifiedPolicy:
        artifact, manifest = self.made[active.sequence % len(self.made)]
        return VerifiedPolicy(artifact, manifest, (), active)

    def load_active(self, name: str) -> VerifiedPolicy:
        return self.load(self.read_active(name))


class Crew:
    """Threads that do what they are given, each of them once, and wait for more."""

    def __init__(self, count: int) -> None:
        self._barrier = threading.Barrier(count + 1)
        self._work: Callable[[], object] | None = None
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while True:
            self._barrier.wait(60)
            if self._work is None:
                return
            self._work()
            self._barrier.wait(60)

    def do(self, work: Callable[[], object]) -> None:
        self._work = work
        self._barrier.wait(60)
        self._barrier.wait(60)

    def dismiss(self) -> None:
        self._work = None
        self._barrier.wait(60)
        for thread in self._threads:
            thread.join(60)


@contextmanager
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What was replaced is closed at the next look."""
    with monkeypatch.context() as patched:
        patched.setattr("capgate.checker.watcher._when_answered", lambda generation: 0.0)
        yield


def live() -> dict[str, int]:
    """Instances and policies that anything still refers to."""
    gc.collect()
    names = {"WasmerInstance", "WasmtimeInstance", "Generation", "WasmPool", "PreparedPolicy"}
    return dict(Counter(name for item in gc.get_objects() if (name := type(item).__name__) in names))
