"""Whichever call of the operating system fails in a change: what is active is the old or the new, and it is said which.

Every call of every action fails once, with each of the errors. No descriptor is left, the history is right, nothing but
capgate's own errors is raised, and the same action succeeds afterwards.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from capgate.errors import ArtifactError, StoreError
from capgate.store import PolicyStore

from ..support.keys import KEYS, Made, filled, store_at
from ..support.tools import FULL
from .failing_calls import FailingCalls, descriptors

ERRORS: Final = (
    *(pytest.param(code, id=errno.errorcode[code]) for code in (errno.EIO,)),
    *(
        pytest.param(code, id=errno.errorcode[code], marks=pytest.mark.slow)
        for code in (errno.ENOENT, errno.ESTALE, errno.ENOSPC)
    ),
)


class Action(NamedTuple):
    """What is done, the version that is active afterwards, and the versions that are published then."""

    run: Callable[[PolicyStore], Any]
    active: int | None = 3
    published: frozenset[int] = frozenset({1, 2, 3, 4})
    prepare: Callable[[Path], object] = lambda path: None
    records: int = 3


def lose_record(path: Path) -> None:
    (path / "policies/orders/active.json").unlink()


def lose_module(path: Path) -> None:
    (path / "sha256" / Made(4).parsed.sha256 / "policy.wasm").write_bytes(b"damaged")


def leave_rubbish(path: Path) -> None:
    (path / "sha256/.tmp-0123456789abcdef/deeper").mkdir(parents=True)
    (path / "policies/orders/.tmp-0123456789abcdef").write_bytes(b"half")


ACTIONS: Final[dict[str, Action]] = {
    "publish": Action(lambda store: store.publish(*Made(5).files), published=frozenset({1, 2, 3, 4, 5})),
    "publish again": Action(lambda store: store.publish(*Made(4, keys=KEYS[:2]).files)),
    "mend": Action(lambda store: store.publish(*Made(4).files), prepare=lose_module),
    "begin": Action(
        lambda store: store.publish(*Made(1).files), None, frozenset({1}), prepare=shutil.rmtree, records=0
    ),
    "activate": Action(lambda store: store.activate("orders", 4), 4, records=4),
    "roll back": Action(lambda store: store.rollback("orders"), 2, records=4),
    "reset": Action(lambda store: store.reset("orders", 1), 1, records=4),
    "reset what is lost": Action(lambda store: store.reset("orders", 1), 1, prepare=lose_record),
    "prune": Action(lambda store: store.prune(0), published=frozenset({2, 3, 4}), prepare=leave_rubbish),
    "look": Action(lambda store: (store.status("orders").name, store.names(), store.history("orders"))),
    "load": Action(lambda store: (store.load_active("orders"), store.load_release("orders", 4))),
}


def active_in(store: PolicyStore) -> int | None:
    """The version that is active; ``None`` for none, or a record that is lost."""
    try:
        return store.read_active("orders").version
    except ArtifactError:
        return None


def check(action: Action, path: Path, before: int | None, error: ArtifactError | None) -> None:
    """Look at the store after an action that ended with ``error``, if that is one."""
    store = store_at(path)
    changed = error is None or (isinstance(error, StoreError) and error.changed)
    expected = action.active if changed else before
    assert active_in(store) == expected
    if expected is not None:
        assert store.load_active("orders").manifest.version == expected
        versions = [record.version for record in store.history("orders")]
        assert versions in ([expected, 3, 2, 1][-len(versions) :], [expected, 2, 1])
    # The same once more, where nothing fails.
    if error is not None and (not changed or action.active in (None, 3)):
        action.run(store)
    assert active_in(store) == action.active
    assert {release.manifest.version for release in store.releases("orders")} == action.published
    if action.active is not None:
        assert len(store.history("orders")) == action.records
        assert store.rollback("orders", 2).version == 2
    assert store.status("orders").problem is None or action.active is None


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("failing") / "store"
    store = filled(path, 1, 2, 3)
    store.publish(*Made(4).files)
    return path


@pytest.fixture(autouse=True)
def no_power_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is synced for real: that takes nine tenths of the time, and only a machine that stops would notice."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.sampled
@pytest.mark.parametrize("code", ERRORS)
@pytest.mark.parametrize("name", ACTIONS)
def test_each_call_fails_once(name: str, code: int, pristine: Path, path: Path) -> None:  # S-4, S-6, S-10
    # The first fails each of the calls; the others a part of them, each another one.
    action, step = ACTIONS[name], 13 if not FULL else 1 if code == errno.EIO else 7
    fatal, failures = 1 + code % step, 0
    while True:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(pristine, path)
        action.prepare(path)
        store, error = store_at(path), None
        before, open_before = active_in(store), descriptors()
        with FailingCalls(fatal, code).installed() as calls:
            try:
                action.run(store)
            except ArtifactError as raised:
                error = raised
        if calls.failed is None:
            assert error is None
            break
        assert descriptors() == open_before, calls.failed
        failures += error is not None
        try:
            check(action, path, before, error)
        except BaseException:
            print(f"call {fatal}, {calls.failed}: {error!r}")
            raise
        fatal += step
    assert failures > (10 if step == 1 else 0)
