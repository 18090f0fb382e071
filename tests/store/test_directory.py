"""The store: publish, activate, roll back, reset, prune; and what each of them refuses, with nothing changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from capgate import Limits, PolicyInput, Resource, WasmInterpreter, build_policy
from capgate.errors import (
    ArtifactError,
    ArtifactNotFound,
    ConfigError,
    DigestMismatch,
    ManifestError,
    PolicyTimeout,
    SignatureInvalid,
    StoreError,
)
from capgate.store import Active, Manifest, PolicyStore, StoreReader, VerifiedPolicy, Verifier, WasmArtifact
from capgate.store.manifest import HIGHEST_VERSION
from capgate.store.signing import format_signatures, parse_signatures

from ..support.guests import guest
from ..support.keys import DAY, KEYS, NOW, Clock, Made, filled, module, store_at, trust, verifier


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def refused(reason: str, call: Callable[..., object], *arguments: Any, **named: Any) -> StoreError:
    with pytest.raises(StoreError) as caught:
        call(*arguments, **named)
    assert caught.value.reason == reason
    return caught.value


def snapshot(path: Path) -> dict[str, bytes]:
    """Every file of a store that means something."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def versions(store: StoreReader) -> list[tuple[str, int]]:
    return [(record.action, record.version) for record in store.history("orders")]


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


# A1, A16: whatever flips in the record, the policy is not served from it, or it is the same policy.
def test_every_flipped_bit_of_the_record_is_refused(path: Path) -> None:
    store = filled(path, 1, 2)
    record = path / "policies/orders/active.json"
    data = record.read_bytes()
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            with pytest.raises(StoreError) as caught:
                Active.from_bytes(bytes(flipped), "orders")
            assert caught.value.reason == "corrupt"
    for length in range(len(data)):
        record.write_bytes(data[:length])
        refused("corrupt", store.load_active, "orders")


# A1: one bit of each file of the active policy
@pytest.mark.slow
@pytest.mark.parametrize("file", ["policy.wasm", "manifest.json", "signature.json"])
def test_every_flipped_bit_of_the_active_policy_is_refused(file: str, path: Path) -> None:
    store = filled(path, 1)
    (victim,) = path.rglob(file)
    data = victim.read_bytes()
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        victim.write_bytes(flipped)
        with pytest.raises(ArtifactError):
            store.load_active("orders")
        status = store.status("orders")
        assert status.problem is not None
        assert status.active == store.read_active("orders")
    victim.write_bytes(data)
    assert store.status("orders").problem is None


# A1: a damaged new release leaves the active one in place
def test_a_damaged_release_is_not_activated(path: Path) -> None:
    store = filled(path, 1)
    release = store.publish(*Made(2).files)
    for victim in (
        path / f"sha256/{release.digest}/signature.json",
        path / f"sha256/{release.manifest.sha256}/policy.wasm",
    ):
        data = victim.read_bytes()
        victim.write_bytes(data[:-2] + b"x\n")
        with pytest.raises(ArtifactError):
            store.activate("orders", 2)
        assert store.load_active("orders").manifest.version == 1
        victim.write_bytes(data)
    assert store.activate("orders", 2).version == 2


class TestRecords:
    @pytest.mark.parametrize(
        "changed",
        [
            {"name": "payments"},
            {"sequence": 0},
            {"version": 0},
            {"version": 9},
            {"highest": 0},
            {"sha256": ""},
            {"manifest": "x"},
            {"previous": ".."},
            {"before": "A" * 64},
            {"action": "delete"},
            {"format": 2},
            {"when": NOW.replace(microsecond=1)},
            {"note": "\x1b[2J"},
            {"note": "x" * 257},
        ],
        ids=str,
    )
    def test_that_do_not_add_up(self, changed: dict[str, Any], path: Path) -> None:
        record = msgspec.structs.replace(filled(path, 1).read_active("orders"), **changed)
        with pytest.raises(StoreError) as caught:
            Active.from_bytes(record.to_bytes(), "orders")
        assert caught.value.reason == "corrupt"

    def test_that_contradict_the_manifest(self, path: Path) -> None:
        store = filled(path, 1, 2)
        record = store.read_active("orders")
        for changed in ({"version": 1}, {"sha256": "0" * 64}, {"highest": 9, "version": 9}):
            data = msgspec.structs.replace(record, **changed).to_bytes()
            (path / "policies/orders/active.json").write_bytes(data)
            refused("corrupt", store.load_active, "orders")

    # A10: a clock behind what this store has seen
    def test_from_a_time_that_is_still_to_come(self, path: Path) -> None:
        clock = Clock(NOW + DAY)
        store = filled(path, 1, clock=clock)
        clock.now = NOW
        refused("clock", store.load_active, "orders")
        assert store.status("orders").problem is not None
        clock.now = NOW + DAY - timedelta(seconds=200)  # clocks differ a little
        assert store.load_active("orders").manifest.version == 1
        clock.now = NOW
        store.reset("orders")  # it was the other clock that was wrong
        assert store.load_active("orders").manifest.version == 1

    def test_history_is_a_chain(self, path: Path) -> None:
        store = filled(path, 1, 2, 3, 4)
        folder = path / "policies/orders/history"
        assert sorted(os.listdir(folder)) == [f"{number:016}.json" for number in (1, 2, 3)]
        (folder / "0000000000000002.json").unlink()
        refused("corrupt", store.history, "orders")

    def test_history_with_a_forged_record(self, path: Path) -> None:
        store = filled(path, 1, 2, 3)
        never = store.publish(*Made(9).files)
        file = path / "policies/orders/history/0000000000000002.json"
        record = Active.from_bytes(file.read_bytes(), "orders")
        forged = msgspec.structs.replace(record, manifest=never.digest, version=9, highest=9)
        file.write_bytes(forged.to_bytes())
        refused("corrupt", store.rollback, "orders", 9)

    def test_history_with_a_record_under_another_number(self, path: Path) -> None:
        store = filled(path, 1, 2, 3)
        folder = path / "policies/orders/history"
        shutil.copy(folder / "0000000000000001.json", folder / "0000000000000002.json")
        refused("corrupt", store.history, "orders")


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
        with pytest.raises(ArtifactNotFound):
            store.rollback("orders", 1)

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
        assert status.releases == ()


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


class Meanwhile(Clock):
    """Another process does something as soon as somebody has read which release is active."""

    def __init__(self, does: Callable[[], object]) -> None:
        super().__init__()
        self._does: Callable[[], object] | None = does

    def __call__(self) -> float:
        does, self._does = self._does, None
        if does is not None:
            does()
        return super().__call__()


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

    reader = store_at(path, Meanwhile(meanwhile))
    if activates:
        assert reader.load_active("orders").manifest.version == 2
    else:
        with pytest.raises(ArtifactError):
            reader.load_active("orders")
