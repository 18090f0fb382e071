"""Records and releases that are damaged, forged or out of order are noticed, and nothing of them is activated."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from capgate.errors import ArtifactError, StoreError
from capgate.store import Active

from ..support.keys import DAY, NOW, Clock, Made, filled
from .states import refused


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

    # S-2: records have an order, and what is signed has its times
    def test_from_a_time_that_is_still_to_come(self, path: Path) -> None:
        clock = Clock(NOW + DAY)
        store = filled(path, 1, 2, clock=clock)
        clock.now = NOW
        assert store.load_active("orders").manifest.version == 2
        assert store.status("orders").problem is None
        store.rollback("orders")
        assert [record.when for record in store.history("orders")] == [NOW + DAY] * 3

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
