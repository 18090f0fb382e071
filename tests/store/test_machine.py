"""The store against a model of it: any order of publishing, activating, going back, pruning, expiring, crashing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from capgate.errors import ArtifactError, ArtifactNotFound, ManifestError, StoreError
from capgate.store import Active, PolicyStore

from ..support.keys import DAY, NOW, Clock, Made, released, store_at

pytestmark = pytest.mark.slow

#: Every release that there may be, some with an end, some with fixtures. Made once, because signing takes time.
RELEASES: Final = {
    version: Made(
        version, expires=None if days is None else NOW + days * DAY, fixtures=[released(version)] if version % 2 else ()
    )
    for version, days in enumerate((None, 1, 3, None, 1, 3, None, 1, 3), 1)
}
CALLS: Final = ("open", "write", "replace", "rename", "mkdir", "unlink", "rmdir")
VERSIONS: Final = st.sampled_from(sorted(RELEASES))


class Crash(BaseException):
    """The process is gone: from here on, nothing that it does reaches the disk."""


@dataclass
class Model:
    """What a store is, in three lines."""

    published: set[int] = field(default_factory=set)
    #: (version, the version that a rollback of it leads to), the last one is active
    history: list[tuple[int, int | None]] = field(default_factory=list)
    highest: int = 0

    @property
    def active(self) -> int | None:
        return self.history[-1][0] if self.history else None


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
        self.path = Path(self.folder, "store")
        self.clock = Clock()
        self.store = self.opened()
        self.model = Model()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(os, "fsync", lambda fd: None)

    def teardown(self) -> None:
        self.patch.undo()
        shutil.rmtree(self.folder)

    def opened(self) -> PolicyStore:
        return store_at(self.path, self.clock)

    def is_expired(self, version: int) -> bool:
        expires = RELEASES[version].parsed.expires
        return expires is not None and self.clock.now >= expires

    # -- what may happen

    @rule(version=VERSIONS)
    def publish(self, version: int) -> None:
        refusal = ManifestError if self.is_expired(version) else None
        self.expect(refusal, lambda: self.store.publish(*RELEASES[version].release))
        if refusal is None:
            self.model.published.add(version)

    @rule(version=VERSIONS, by=st.sampled_from(["version", "module", "manifest"]))
    def activate(self, version: int, by: str) -> None:
        self.expect(self.refusal_to_activate(version), lambda: self.store.activate("orders", self.name(version, by)))
        if self.refusal_to_activate(version) is None:
            self.done_activating(version)

    @rule(to=st.none() | VERSIONS)
    def rollback(self, to: int | None) -> None:
        refusal, target = self.refusal_to_roll_back(to)
        self.expect(refusal, lambda: self.store.rollback("orders", to))
        if refusal is None and target is not None:
            self.done_rolling_back(target)

    @rule(version=VERSIONS)
    def a_check_fails(self, version: int) -> None:
        def check(_: object) -> None:
            raise ZeroDivisionError

        if self.refusal_to_activate(version) is None and version != self.model.active:
            with pytest.raises(ZeroDivisionError):
                self.store.activate("orders", version, check=check)

    @rule(to=VERSIONS)
    def reset(self, to: int) -> None:
        refusal = self.refusal_to_load(to)
        self.expect(refusal, lambda: self.store.reset("orders", to))
        if refusal is None:
            self.model.history.append((to, None))
            self.model.highest = to

    @precondition(lambda self: self.model.published)
    @rule(keep=st.integers(0, 3))
    def prune(self, keep: int) -> None:
        self.store.prune(keep)
        if self.model.active is not None:
            self.model.published -= self.superseded(keep)

    @rule(days=st.sampled_from([0.5, 1, 2]))
    def time_passes(self, days: float) -> None:
        self.clock.now += days * DAY

    @rule()
    def restart(self) -> None:
        self.store = self.opened()

    @rule(version=VERSIONS, what=st.sampled_from(["publish", "activate", "rollback", "prune"]), step=st.integers(0, 25))
    def crash(self, version: int, what: str, step: int) -> None:
        """A writer that is killed has done what it was to do, or nothing of it."""
        actions: dict[str, Callable[[], object]] = {
            "publish": lambda: self.store.publish(*RELEASES[version].release),
            "activate": lambda: self.store.activate("orders", version),
            "rollback": lambda: self.store.rollback("orders"),
            "prune": lambda: self.store.prune(10),
        }
        before = self.active_or_none()
        with self.patch.context() as patch:
            left = [step]
            for name in CALLS:
                patch.setattr(os, name, dying(getattr(os, name), name, left))
            with suppress(Crash, ArtifactError):
                actions[what]()
        self.restart()
        after = self.active_or_none()
        if after != before and after is not None:
            if what == "activate":
                assert self.refusal_to_activate(version) is None
                self.done_activating(version)
            else:
                _, target = self.refusal_to_roll_back(None)
                assert (what, after.version) == ("rollback", target)
                self.done_rolling_back(after.version)
        if self.path.exists():
            there = {release.manifest.version for release in self.store.releases("orders")}
            assert there - self.model.published <= ({version} if what == "publish" else set())
            assert self.model.published - there <= (self.superseded(10) if what == "prune" else set())
            self.model.published = there

    # -- what has to hold

    @invariant()
    def what_is_published_has_its_fixtures(self) -> None:
        for version in filter(lambda version: not self.is_expired(version), self.model.published):
            policy = self.store.load_release("orders", version, fixtures=True)
            assert policy.fixtures == ((released(version),) if version % 2 else ())

    @invariant()
    def what_is_active_is_what_the_model_says(self) -> None:
        active = self.model.active
        if not self.path.exists():
            assert not self.model.published
            return
        assert {release.manifest.version for release in self.store.releases("orders")} == self.model.published
        if active is None:
            assert self.active_or_none() is None
            return
        record = self.store.read_active("orders")
        assert (record.version, record.highest) == (active, self.model.highest)
        assert record.sequence == len(self.model.history)
        assert [each.version for each in self.store.history("orders")] == [v for v, _ in reversed(self.model.history)]
        if self.is_expired(active):
            with pytest.raises(ManifestError):
                self.store.load_active("orders")
        else:
            policy = self.store.load_active("orders")
            assert (policy.artifact.data, policy.manifest) == (RELEASES[active].module, RELEASES[active].parsed)

    # -- the model

    def superseded(self, keep: int) -> set[int]:
        """What prune removes."""
        if self.model.active is None:
            return set()
        recent = list(dict.fromkeys(version for version, _ in reversed(self.model.history)))[:keep]
        kept = {*self.model.history[-1], *recent}
        return {version for version in self.model.published - kept if version <= self.model.highest}

    def refusal_to_load(self, version: int) -> type[ArtifactError] | None:
        if version not in self.model.published:
            return ArtifactNotFound
        return ManifestError if self.is_expired(version) else None

    def refusal_to_activate(self, version: int) -> type[ArtifactError] | None:
        refusal = self.refusal_to_load(version)
        if refusal is None and version != self.model.active and version <= self.model.highest:
            return StoreError
        return refusal

    def refusal_to_roll_back(self, to: int | None) -> tuple[type[ArtifactError] | None, int | None]:
        if not self.model.history:
            return ArtifactNotFound, None
        target = self.model.history[-1][1] if to is None else to
        if target is None or target not in {version for version, _ in self.model.history}:
            return StoreError, None
        return (None if target == self.model.active else self.refusal_to_load(target)), target

    def done_activating(self, version: int) -> None:
        if version != self.model.active:
            self.model.history.append((version, self.model.active))
            self.model.highest = version

    def done_rolling_back(self, version: int) -> None:
        if version != self.model.active:
            # Back to where a rollback of it led when it was activated, or reset to, last.
            known = [back for number, (v, back) in enumerate(self.model.history) if v == version and self.began(number)]
            self.model.history.append((version, known[-1]))
            self.model.highest = max(self.model.highest, version)  # above it only after a reset

    def began(self, number: int) -> bool:
        return self.store.history("orders")[::-1][number].action != "rollback"

    # -- how

    def name(self, version: int, by: str) -> int | str:
        made = RELEASES[version]
        digests = {"module": made.parsed.sha256, "manifest": made.digest}
        return version if by == "version" else digests[by]

    def active_or_none(self) -> Active | None:
        try:
            return self.store.read_active("orders")
        except ArtifactNotFound:
            return None

    def expect(self, refusal: type[ArtifactError] | None, action: Callable[[], object]) -> None:
        if refusal is None:
            action()
            return
        with pytest.raises(refusal):
            action()


def dying(call: Callable[..., Any], name: str, left: list[int]) -> Callable[..., Any]:
    """``call``, which raises at the step at which ``left`` is used up, and ever after."""

    def step(*arguments: Any, **named: Any) -> Any:
        if name != "open" or arguments[1] & os.O_CREAT:
            if left[0] <= 0:
                raise Crash
            left[0] -= 1
        return call(*arguments, **named)

    return step


StoreMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestStore = StoreMachine.TestCase
