"""What operators meet: foreign entries, what killed writers left, many releases, and errors at the very end."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from capgate.errors import ReleasePruned, StoreError
from capgate.store.folders import Folder

from ..support.keys import Made, filled, store_at
from ..support.tools import examples
from .failing_calls import FailingCalls, descriptors
from .states import refused


@pytest.mark.slow
def test_a_folder_that_goes_too_deep_is_removed(path: Path) -> None:  # S-6
    """Left in a store, it stopped everything that sweeps: 3,000 levels are more than Python recurses."""
    filled(path, 1, 2)
    deep = os.open(path / "sha256", os.O_RDONLY)
    for name in (".tmp-0123456789abcdef", *["d"] * 3_000):
        os.mkdir(name, dir_fd=deep)
        inner = os.open(name, os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=deep))
    os.close(deep)
    before = descriptors()
    store_at(path).prune()
    assert not [name for name in os.listdir(path / "sha256") if name.startswith(".tmp-")]
    assert descriptors() == before
    assert store_at(path).load_active("orders").manifest.version == 2


@pytest.mark.parametrize("what", ["a folder that others may write", "a link", "a file"])
def test_foreign_entries_are_passed_over_and_named(
    what: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # S-6
    store = filled(path, 1, 2, 3, 4)
    store.publish(*Made(5).files)
    digest = os.urandom(32).hex()
    foreign = path / "sha256" / digest
    if what == "a link":
        foreign.symlink_to(path)
    elif what == "a file":
        foreign.write_bytes(b"?")
    else:
        foreign.mkdir()
        foreign.chmod(0o777)
    store.publish(*Made(6).files)
    assert [release.manifest.version for release in store.releases("orders")] == [6, 5, 4, 3, 2, 1]
    assert store.activate("orders", 5).version == 5
    assert store.rollback("orders").version == 4
    assert store.reset("orders", 5).version == 5
    assert digest not in store.prune(0)
    assert os.path.lexists(foreign)
    assert store.load_active("orders").manifest.version == 5
    status = store.status("orders")
    assert status.problem is not None
    assert digest in status.problem
    assert [record for record in caplog.records if record.name == "capgate.store" and digest in record.getMessage()]


def test_a_rollback_to_what_was_pruned_says_where_it_can_go(path: Path) -> None:  # S-7
    store = filled(path, 1, 2, 3, 4)
    store.prune(0)
    assert store.rollback("orders").version == 3
    with pytest.raises(ReleasePruned) as caught:
        store.rollback("orders")
    assert (caught.value.version, caught.value.candidates) == (2, (4,))
    with pytest.raises(ReleasePruned) as caught:
        store.rollback("orders", 1)
    assert (caught.value.version, caught.value.candidates) == (1, (4,))
    assert store.rollback("orders", 4).version == 4


def test_prune_keeps_the_module_of_what_a_rollback_needs(path: Path) -> None:  # S-7
    store = filled(path, 1, 2)
    previous = store.history("orders")[1]
    manifest = path / "sha256" / previous.manifest / "manifest.json"
    data = manifest.read_bytes()
    manifest.write_bytes(b"damaged")
    store.prune(0)
    manifest.write_bytes(data)  # as restored from elsewhere
    assert store.rollback("orders").version == 1


@pytest.mark.sampled
def test_publishing_takes_as_many_calls_whatever_there_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # S-10
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # which would take most of the time
    store, counts, last = filled(path, 1), {}, examples(500)
    for version in range(2, last + 1):
        with FailingCalls().installed() as calls:
            store.publish(*Made(version, text="of all").files)
        counts[version] = len(calls.names)
    assert counts[3] == counts[last // 2] == counts[last]
    made = Made(last // 2, text="another")
    with FailingCalls().installed() as calls:
        refused("conflict", store.publish, *made.files)
    assert len(calls.names) < counts[3]


class TestIndexOfVersions:
    """It decides nothing: what is published does."""

    def test_one_that_is_missing_is_made_again(self, path: Path) -> None:
        store = filled(path, 1, 2)
        for file in (path / "policies/orders/versions").iterdir():
            file.unlink()
        (path / "policies/orders/versions").rmdir()
        refused("conflict", store.publish, *Made(2, text="another").files)
        assert len(list((path / "policies/orders/versions").iterdir())) == 2

    def test_an_entry_without_its_release_keeps_nobody_from_the_version(self, path: Path) -> None:
        """So it is when a publisher is killed."""
        store, killed = filled(path, 1), Made(2)
        entry = path / "policies/orders/versions/0000000000000002"
        entry.write_text(f"{killed.digest}\n")
        other = Made(2, text="another")
        assert store.publish(*other.files).digest == other.digest
        refused("conflict", store.publish, *killed.files)

    @pytest.mark.parametrize("data", [b"", b"?", b"\xff" * 64, b"0" * 64, b"../../../../lock"])
    def test_an_entry_that_says_nothing(self, path: Path, data: bytes) -> None:
        store = filled(path, 1)
        (path / "policies/orders/versions/0000000000000002").write_bytes(data)
        assert store.publish(*Made(2).files).manifest.version == 2
        refused("conflict", store.publish, *Made(2, text="another").files)

    def test_an_entry_of_another_release(self, path: Path) -> None:
        store = filled(path, 1)
        (path / "policies/orders/versions/0000000000000002").write_text(f"{Made(1).digest}\n")
        assert store.publish(*Made(2).files).manifest.version == 2

    def test_a_version_that_was_pruned_is_free_again(self, path: Path) -> None:
        store = filled(path, 1, 2, 3)
        store.prune(0)
        other = Made(1, text="another")
        assert store.publish(*other.files).digest == other.digest


@pytest.mark.parametrize(("number", "changed"), [(-1, True), (0, False)])
def test_an_error_says_whether_the_change_was_made(path: Path, number: int, changed: bool) -> None:  # S-6
    """The last sync of a folder fails after its record is replaced, the others before."""
    store = filled(path, 1, 2)
    with FailingCalls().installed() as calls:
        store.rollback("orders")
    store.reset("orders", 2)
    syncs = [at for at, name in enumerate(calls.names, 1) if name == "fsync"]
    store = filled(path.with_name("again"), 1, 2)
    with FailingCalls(syncs[number]).installed(), pytest.raises(StoreError) as caught:
        store.rollback("orders")
    assert (caught.value.reason, caught.value.changed) == ("io", changed)
    assert store.read_active("orders").version == (1 if changed else 2)


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO])
def test_a_folder_that_cannot_be_looked_at_leaves_no_descriptor(path: Path, code: int) -> None:  # S-4
    filled(path, 1)
    before = descriptors()
    for fatal in (1, 2):
        calls = FailingCalls(fatal, code)
        with calls.installed(), pytest.raises(StoreError):
            Folder.root(path)
        assert calls.failed == ("open", "fstat")[fatal - 1]
        assert descriptors() == before
