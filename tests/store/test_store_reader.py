"""Reading a store: its status, without keys, with a threshold that rises, and while it changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from capgate.errors import ArtifactError, ArtifactNotFound, ConfigError, SignatureInvalid
from capgate.store import Active, PolicyStore, StoreReader, Verifier

from ..support.keys import KEYS, Clock, Made, filled, store_at, trust, verifier
from .states import snapshot


class TestStatus:
    def test_before_and_after(self, path: Path) -> None:
        store = store_at(path)
        release = store.publish(*Made().files)
        status = store.status("orders")
        assert (status.active, status.manifest, status.problem, status.releases) == (None, None, None, (release,))
        active = store.activate("orders", 1)
        status = store.status("orders")
        assert (status.active, status.manifest, status.problem) == (active, release.manifest, None)
        assert status.signers == (KEYS[0].public.id,)
        assert json.loads(msgspec.json.encode(status))["active"]["version"] == 1

    def test_of_nothing(self, path: Path) -> None:
        filled(path, 1)
        status = store_at(path).status("payments")
        assert (status.active, status.releases) == (None, ())
        with pytest.raises(ArtifactNotFound):
            store_at(path / "absent").status("orders")

    def test_of_a_release_that_vanished(self, path: Path) -> None:
        store = filled(path, 1)
        shutil.rmtree(path / "sha256")
        assert store.status("orders").problem is not None
        with pytest.raises(ArtifactNotFound):
            store.load_active("orders")

    @pytest.mark.parametrize("which", ["another release", "the folder of all", "the active one"])
    def test_of_what_cannot_be_looked_at(self, path: Path, which: str) -> None:  # A14, A16
        store = filled(path, 1, 2)
        first, active = store.history("orders")[-1], store.read_active("orders")
        digest = {"another release": first.manifest, "the active one": active.manifest}.get(which, "")
        (path / "sha256" / digest).chmod(0o777)
        status = store.status("orders")
        assert status.active == active
        assert status.problem is not None
        assert (status.manifest is not None) == (which == "another release")
        others = {"another release": (2,), "the active one": (1,)}  # S-6: passed over, and named
        assert tuple(release.manifest.version for release in status.releases) == others.get(which, ())
        assert digest in status.problem


def test_an_unsigned_store(path: Path) -> None:
    store = PolicyStore(path, Verifier(clock=Clock()))
    made = Made()
    store.publish(made.module, made.manifest)
    store.activate("orders", 1)
    assert store.load_active("orders").signers == ()
    with pytest.raises(SignatureInvalid) as caught:  # A2
        store_at(path).load_active("orders")
    assert caught.value.reason == "missing"


# A11: what was signed by one is not enough where two are asked for
def test_a_threshold_that_rises(path: Path) -> None:
    filled(path, 1)
    strict = PolicyStore(path, Verifier(trust(KEYS[0], KEYS[1], threshold=2), clock=Clock()))
    with pytest.raises(SignatureInvalid) as caught:
        strict.load_active("orders")
    assert caught.value.reason == "threshold"


def test_reading_needs_no_permission_to_write(path: Path) -> None:
    store = filled(path, 1, 2)
    before = snapshot(path)
    (path / "lock").unlink()
    reader = StoreReader(path, verifier(clock=Clock()))
    assert reader.load_active("orders").manifest.version == 2
    assert (reader.history("orders"), reader.names()) == (store.history("orders"), ("orders",))
    assert reader.status("orders").problem is None
    assert snapshot(path) == {name: data for name, data in before.items() if name != "lock"}


@pytest.mark.parametrize("path", ["", "a\0b", None, 7, b"store"])
def test_a_store_has_a_path(path: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        PolicyStore(path)
    assert caught.value.setting == "store"


class Meanwhile(StoreReader):
    """Another process does something as soon as this one has read which release is active."""

    def __init__(self, path: Path, does: Callable[[], object]) -> None:
        super().__init__(path, verifier(clock=Clock()))
        self._does: Callable[[], object] | None = does

    def read_active(self, name: str) -> Active:
        active = super().read_active(name)
        does, self._does = self._does, None
        if does is not None:
            does()
        return active


@pytest.mark.parametrize("name", ["manifest.json", "signature.json", "policy.wasm"])
@pytest.mark.parametrize("activates", [True, False])
def test_a_release_that_is_removed_file_by_file_while_it_is_read(path: Path, name: str, activates: bool) -> None:
    """A13, A19: superseded, it gives way to the one that is active by now; active still, it is refused."""
    made, writer = Made(1), filled(path, 1)
    folder = path / "sha256" / (made.parsed.sha256 if name == "policy.wasm" else made.digest)

    def meanwhile() -> None:
        if activates:
            writer.publish(*Made(2).files)
            writer.activate("orders", 2)
        (folder / name).unlink()

    reader = Meanwhile(path, meanwhile)
    if activates:
        assert reader.load_active("orders").manifest.version == 2
    else:
        with pytest.raises(ArtifactError):
            reader.load_active("orders")
