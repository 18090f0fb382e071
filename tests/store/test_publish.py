"""Publishing into a store: what it adds, what it rejects with nothing changed, and which names policies may have."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from capgate.errors import ArtifactError, ArtifactNotFound, DigestMismatch, ManifestError, SignatureInvalid
from capgate.store import PolicyStore
from capgate.store.signing import parse_signatures

from ..support.keys import DAY, KEYS, NOW, Made, filled, store_at, verifier
from .states import refused, snapshot


class TestPublish:
    def test_a_release_is_there_and_not_active(self, path: Path) -> None:
        store, made = store_at(path), Made()
        release = store.publish(*made.files)
        assert release.manifest == made.parsed
        assert store.names() == ("orders",)
        assert store.releases("orders") == (release,)
        with pytest.raises(ArtifactNotFound):
            store.read_active("orders")
        with pytest.raises(ArtifactNotFound):
            store.load_active("orders")
        folder = path / "sha256"
        assert (folder / made.parsed.sha256 / "policy.wasm").read_bytes() == made.module
        assert (folder / release.digest / "manifest.json").read_bytes() == made.manifest
        assert (folder / release.digest / "signature.json").read_bytes() == made.signatures

    def test_again_changes_nothing(self, path: Path) -> None:
        store = store_at(path)
        store.publish(*Made().files)
        before = snapshot(path)
        store.publish(*Made().files)
        assert snapshot(path) == before

    # A1, A2, A13: what would not be loaded is not published.
    @pytest.mark.parametrize(
        ("files", "refusal"),
        [
            ((Made().module, Made().manifest, None), SignatureInvalid),
            ((Made().module, Made().manifest, b""), SignatureInvalid),
            ((Made().module, Made(2).manifest, Made().signatures), SignatureInvalid),
            ((Made(2).module, Made().manifest, Made().signatures), DigestMismatch),
            ((b"", Made().manifest, Made().signatures), DigestMismatch),
            (Made(keys=[KEYS[1]]).files, SignatureInvalid),
            (Made(expires=NOW + timedelta(seconds=1), created=NOW - DAY).files, None),
            (Made(created=NOW - 2 * DAY, expires=NOW - DAY).files, ManifestError),
            (Made(created=NOW + DAY).files, ManifestError),
        ],
    )
    def test_what_does_not_verify_is_refused(
        self, files: tuple[bytes, bytes, bytes | None], refusal: type[Exception] | None, path: Path
    ) -> None:
        store = filled(path, 9)
        before = snapshot(path)
        if refusal is None:
            store.publish(*files)
            return
        with pytest.raises(refusal):
            store.publish(*files)
        assert snapshot(path) == before

    def test_one_version_has_one_content(self, path: Path) -> None:
        store = store_at(path)
        store.publish(*Made(1).files)
        refused("conflict", store.publish, *Made(1, label="another").files)
        store.publish(*Made(1, name="payments", label="another").files)

    def test_one_module_in_two_releases(self, path: Path) -> None:
        store, first, renewed = store_at(path), Made(1, text="same"), Made(2, text="same", expires=NOW + DAY)
        for made in (first, renewed):
            store.publish(*made.files)
        assert len(os.listdir(path / "sha256")) == 3
        assert store.activate("orders", first.parsed.sha256).version == 2  # of one module's releases, the highest

    def test_signatures_are_added(self, path: Path) -> None:
        first, second = Made(keys=[KEYS[0]]), Made(keys=[KEYS[1]])
        store_at(path).publish(*first.files)
        with pytest.raises(SignatureInvalid):  # A12: the new key alone is not trusted here yet
            store_at(path).publish(*second.files)
        both = PolicyStore(path, verifier(KEYS[0], KEYS[1]))
        release = both.publish(*second.files)
        signed = (path / "sha256" / release.digest / "signature.json").read_bytes()
        assert {each.key for each in parse_signatures(signed)} == {KEYS[0].public.id, KEYS[1].public.id}
        store_at(path).activate("orders", 1)
        assert len(PolicyStore(path, verifier(KEYS[0], KEYS[1], threshold=2)).load_active("orders").signers) == 2

    @pytest.mark.parametrize("file", ["manifest.json", "signature.json", "policy.wasm"])
    @pytest.mark.parametrize("damage", [b"", b"damaged", None])
    def test_again_it_mends_what_is_damaged(self, file: str, damage: bytes | None, path: Path) -> None:
        store = filled(path, 1)
        (victim,) = path.rglob(file)
        if damage is None:
            victim.unlink()
        else:
            victim.write_bytes(damage)
        with pytest.raises(ArtifactError):
            store.load_active("orders")
        store.publish(*Made(1).files)
        assert store.load_active("orders").manifest.version == 1

    # A17
    def test_names_that_differ_only_in_case(self, path: Path) -> None:
        store = store_at(path)
        store.publish(*Made().files)
        refused("name", store.publish, *Made(name="Orders").files)
        assert store.names() == ("orders",)

    def test_a_folder_that_is_not_there_is_made_but_not_those_above(self, path: Path) -> None:
        with pytest.raises(ArtifactNotFound):
            store_at(path / "deeper").publish(*Made().files)
        assert not path.exists()


# A17
@pytest.mark.parametrize("name", ["", ".", "..", "../orders", "/orders", "a\0b", "a\n", "\u00e9", "x" * 65, None, 7])
def test_a_name_that_is_none(name: Any, path: Path) -> None:
    store = filled(path, 1)
    calls: list[Callable[[Any], object]] = [
        store.read_active,
        store.load_active,
        store.history,
        store.releases,
        store.status,
        store.rollback,
        store.reset,
        lambda name: store.activate(name, 1),
    ]
    for call in calls:
        refused("name", call, name)
