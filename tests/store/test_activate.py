"""Activating, rolling back and resetting: what runs afterwards, and what each rejects with nothing changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from capgate import Limits, PolicyInput, Resource, WasmInterpreter, build_policy
from capgate.errors import ArtifactNotFound, ConfigError, ManifestError, PolicyTimeout
from capgate.store import Manifest, VerifiedPolicy, WasmArtifact
from capgate.store.manifest import HIGHEST_VERSION
from capgate.store.signing import format_signatures

from ..support.guests import guest
from ..support.keys import DAY, KEYS, NOW, Clock, Made, filled, store_at
from .states import refused, snapshot, versions


class TestActivate:
    def test_what_is_active(self, path: Path) -> None:
        clock = Clock()
        store = store_at(path, clock)
        made = Made()
        release = store.publish(*made.files)
        clock.now += DAY
        active = store.activate("orders", 1, note="first")
        assert active == store.read_active("orders")
        assert (active.name, active.version, active.sha256) == ("orders", 1, made.parsed.sha256)
        assert (active.manifest, active.sequence, active.highest) == (release.digest, 1, 1)
        assert (active.action, active.when, active.note) == ("activate", NOW + DAY, "first")
        assert (active.previous, active.before) == (None, None)
        policy = store.load_active("orders")
        assert (policy.artifact.data, policy.manifest, policy.active) == (made.module, made.parsed, active)
        assert policy.signers == (KEYS[0].public.id,)

    def test_by_version_or_either_digest(self, path: Path) -> None:
        store = filled(path, 1)
        releases = {version: store.publish(*Made(version).files) for version in (2, 3, 4)}
        assert store.activate("orders", 2).version == 2
        assert store.activate("orders", releases[3].manifest.sha256).version == 3
        assert store.activate("orders", releases[4].digest).version == 4
        for which in (5, True, "4", releases[4].digest.upper(), "../" + releases[4].digest, None, 4.0):
            with pytest.raises(ArtifactNotFound):
                store.activate("orders", which)  # type: ignore[arg-type]  # what a caller without a type checker passes

    def test_what_is_active_already_stays(self, path: Path) -> None:
        store = filled(path, 1)
        before = snapshot(path)
        assert store.activate("orders", 1) == store.read_active("orders")
        assert snapshot(path) == before

    # A8
    def test_versions_only_rise(self, path: Path) -> None:
        store = store_at(path)
        for version in (1, 2, 3):
            store.publish(*Made(version).files)
        store.activate("orders", 2)
        before = snapshot(path)
        refused("lowers_version", store.activate, "orders", 1)
        assert snapshot(path) == before
        store.activate("orders", 3)
        store.rollback("orders")
        for version in (1, 3):  # the record of the highest version outlives a rollback, and a process
            refused("lowers_version", store_at(path).activate, "orders", version)

    # A8: an older release that is validly signed, published anew
    def test_an_old_release_that_is_replayed(self, path: Path) -> None:
        store = filled(path, 5)
        store.publish(*Made(4, text="old").files)
        refused("lowers_version", store.activate, "orders", 4)
        assert store.load_active("orders").manifest.version == 5

    # A10
    def test_one_that_expired_meanwhile(self, path: Path) -> None:
        clock = Clock()
        store = filled(path, 1, clock=clock)
        store.publish(*Made(2, expires=NOW + DAY).files)
        clock.now = NOW + DAY
        with pytest.raises(ManifestError) as caught:
            store.activate("orders", 2)
        assert caught.value.field == "expires"
        assert store.load_active("orders").manifest.version == 1

    # A7
    def test_one_for_somebody_else(self, path: Path) -> None:
        store_at(path).publish(*Made(environment=("test",)).files)
        with pytest.raises(ManifestError) as caught:
            store_at(path, mode="prod").activate("orders", 1)
        assert caught.value.field == "environment"

    # A7: a release of another policy, put where this one's is expected
    def test_one_of_another_policy(self, path: Path) -> None:
        store = filled(path, 1)
        other = store.publish(*Made(2, name="payments").files)
        for which in (2, other.digest, other.manifest.sha256):
            with pytest.raises(ArtifactNotFound):
                store.activate("orders", which)
        record = msgspec.structs.replace(store.read_active("orders"), manifest=other.digest)
        (path / "policies/orders/active.json").write_bytes(record.to_bytes())
        with pytest.raises(ManifestError) as caught:
            store.load_active("orders")
        assert caught.value.field == "name"

    def test_a_check_that_raises_changes_nothing(self, path: Path) -> None:
        store = filled(path, 1)
        store.publish(*Made(2).files)
        before = snapshot(path)
        seen: list[VerifiedPolicy] = []

        def check(policy: VerifiedPolicy) -> None:
            seen.append(policy)
            raise PolicyTimeout("a fixture")

        with pytest.raises(PolicyTimeout):
            store.activate("orders", 2, check=check)
        assert [policy.artifact.data for policy in seen] == [Made(2).module]
        assert snapshot(path) == before
        assert store.activate("orders", 2, check=seen.append).version == 2

    def test_a_check_in_the_production_runtime(self, path: Path, engine_name: str) -> None:
        def answers(policy: VerifiedPolicy) -> None:
            interpreter = WasmInterpreter(policy.artifact, engine=engine_name, limits=Limits(fuel=1_000_000))
            interpreter.call_policy_check(PolicyInput("cache.read", resource=Resource("namespace", "orders")))

        store = store_at(path)
        sound, endless = (
            build_policy({"name": "orders", "cache": "any"}),
            guest("(loop $again (br $again)) (i32.const 0)"),
        )
        for version, data in ((1, sound), (2, endless)):
            artifact = WasmArtifact.from_bytes(data)
            manifest = Manifest.describing(artifact, name="orders", version=version, created=NOW).to_bytes()
            store.publish(data, manifest, format_signatures([KEYS[0].sign(manifest)]))
        store.activate("orders", 1, check=answers)
        with pytest.raises(PolicyTimeout):
            store.activate("orders", 2, check=answers)
        assert store.load_active("orders").artifact.data == sound

    @pytest.mark.parametrize("note", ["\n", "x" * 257, "\u202e", None, 7])
    def test_a_note_is_a_line(self, note: Any, path: Path) -> None:
        with pytest.raises(ConfigError):
            filled(path, 1).rollback("orders", note=note)


class TestRollback:
    def test_goes_back_step_by_step(self, path: Path) -> None:
        store = filled(path, 1, 2, 3)
        assert [store.rollback("orders").version for _ in range(2)] == [2, 1]
        refused("not_recorded", store.rollback, "orders")
        assert store.load_active("orders").manifest.version == 1
        assert versions(store) == [("rollback", 1), ("rollback", 2), ("activate", 3), ("activate", 2), ("activate", 1)]
        assert store.read_active("orders").highest == 3

    def test_goes_forward_again_by_name(self, path: Path) -> None:
        store = filled(path, 1, 2, 3)
        store.rollback("orders", 1)
        assert store.rollback("orders", 3).version == 3
        assert store.rollback("orders").version == 2
        store.publish(*Made(4).files)
        assert store.activate("orders", 4).previous == store.history("orders")[1].manifest

    # A8: only what was active, under whichever name
    def test_only_to_what_was_active(self, path: Path) -> None:
        store = filled(path, 1, 3)
        never = store.publish(*Made(2).files)
        for to in (2, never.digest, never.manifest.sha256, 9, "0" * 64, "", True):
            refused("not_recorded", store.rollback, "orders", to)
        first = store.history("orders")[1]
        for to in (1, first.sha256, first.manifest):
            assert store.rollback("orders", to).version == 1
            store.rollback("orders", 3)

    # A23: several workers see the same fault; one of them goes back, once.
    def test_from_a_record_that_is_still_active(self, path: Path) -> None:
        store = filled(path, 1, 2, 3)
        bad = store.read_active("orders")
        assert store.rollback("orders", sequence=bad.sequence).version == 2
        refused("moved", store.rollback, "orders", sequence=bad.sequence)
        assert store.read_active("orders").version == 2

    # A10, A23: what does not verify any more is not gone back to
    def test_not_to_one_that_expired(self, path: Path) -> None:
        clock = Clock()
        store = store_at(path, clock)
        for made in (Made(1, expires=NOW + DAY), Made(2)):
            store.publish(*made.files)
            store.activate("orders", made.parsed.version)
        clock.now = NOW + 2 * DAY
        with pytest.raises(ManifestError):
            store.rollback("orders")
        assert store.load_active("orders").manifest.version == 2

    def test_works_with_a_history_that_is_damaged(self, path: Path) -> None:
        store = filled(path, 1, 2, 3)
        (path / "policies/orders/history/0000000000000001.json").write_bytes(b"")
        assert store.rollback("orders").version == 2
        assert store.load_active("orders").manifest.version == 2
        refused("corrupt", store.history, "orders")


class TestReset:
    # A9
    def test_out_of_a_version_that_was_too_high(self, path: Path) -> None:
        store = filled(path, 1, HIGHEST_VERSION)
        store.rollback("orders")
        store.publish(*Made(2).files)
        refused("lowers_version", store.activate, "orders", 2)
        assert store.reset("orders").highest == 1
        assert store.activate("orders", 2).version == 2
        assert versions(store)[:2] == [("activate", 2), ("reset", 1)]

    # A16
    @pytest.mark.parametrize("damage", [b"", b"{}", None])
    def test_out_of_a_lost_record(self, damage: bytes | None, path: Path) -> None:
        store = filled(path, 1, 2, 3)
        lost = store.read_active("orders")
        record = path / "policies/orders/active.json"
        if damage is None:
            record.unlink()
        else:
            record.write_bytes(damage)
        for call in (store.read_active, store.load_active, store.rollback, store.history):
            refused("corrupt", call, "orders")
        refused("corrupt", store.activate, "orders", 3)
        refused("corrupt", store.prune)
        reset = store.reset("orders", 3)
        assert (reset.version, reset.highest) == (3, 3)
        assert reset.sequence > lost.sequence
        assert store.load_active("orders").manifest.version == 3
        assert versions(store) == [("reset", 3), ("activate", 2), ("activate", 1)]
        assert store.reset("orders").version == 3

    def test_without_saying_to_what_it_is_the_last_that_is_known(self, path: Path) -> None:
        store = filled(path, 1, 2)
        (path / "policies/orders/active.json").unlink()
        assert store.reset("orders").version == 1

    def test_where_nothing_is_known(self, path: Path) -> None:
        store = filled(path, 1)
        (path / "policies/orders/active.json").write_bytes(b"")
        refused("corrupt", store.reset, "orders")
        assert store.reset("orders", 1).version == 1
