"""Pruning removes what is superseded, and keeps whatever may be needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from capgate.errors import ConfigError, ReleasePruned
from capgate.store import WasmArtifact

from ..support.keys import Made, filled, module, store_at


class TestPrune:
    def test_keeps_what_is_needed(self, path: Path) -> None:
        store = filled(path, 1, 2, 3, 4, 5)
        for version in (6, 7):
            store.publish(*Made(version).files)
        store.rollback("orders")
        gone = store.prune(0, dry=True)
        assert {release.manifest.version for release in store.releases("orders")} == {1, 2, 3, 4, 5, 6, 7}
        assert store.prune(0) == gone
        assert {release.manifest.version for release in store.releases("orders")} == {3, 4, 6, 7}
        assert len(os.listdir(path / "sha256")) == 8
        assert store.load_active("orders").manifest.version == 4
        assert store.rollback("orders").version == 3
        assert len(store.history("orders")) == 7
        with pytest.raises(ReleasePruned) as caught:  # S-7
            store.rollback("orders", 1)
        assert (caught.value.version, caught.value.candidates) == (1, (4,))

    def test_keeps_the_last_ones(self, path: Path) -> None:
        store = filled(path, 1, 2, 3, 4, 5)
        store.prune(4)
        assert [release.manifest.version for release in store.releases("orders")] == [5, 4, 3, 2]
        assert store.prune() == ()

    def test_keeps_a_module_that_another_release_has(self, path: Path) -> None:
        store = store_at(path)
        for version in (1, 2, 3):
            store.publish(*Made(version, text="same").files)
            store.activate("orders", version)
        store.publish(*Made(1, name="payments", text="same").files)
        store.prune(0)
        assert store.load_active("orders").manifest.version == 3
        assert store.activate("payments", 1).version == 1

    def test_keeps_what_was_never_active(self, path: Path) -> None:
        store = store_at(path)
        store.publish(*Made(1).files)
        assert store.prune(0) == ()

    # A19
    def test_removes_what_killed_writers_left(self, path: Path) -> None:
        store = filled(path, 1, 2)
        left = [path / "sha256/.tmp-1", path / "policies/orders/history/.tmp-2", path / "policies/orders/.tmp-3"]
        left[0].mkdir()
        (left[0] / "policy.wasm").write_bytes(module())
        left[1].touch()
        left[2].touch()
        orphan = path / "sha256" / WasmArtifact.from_bytes(module()).sha256
        orphan.mkdir()
        (orphan / "policy.wasm").write_bytes(module())
        assert len(store.prune()) == 1
        assert not any(file.exists() for file in (*left, orphan))
        assert store.load_active("orders").manifest.version == 2

    @pytest.mark.parametrize("keep", [-1, True, 1.0, None])
    def test_keeps_a_number(self, keep: Any, path: Path) -> None:
        with pytest.raises(ConfigError):
            filled(path, 1).prune(keep)
