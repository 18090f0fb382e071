"""What the store finds on the disk and does not take: links, devices, what others may write, what does not end."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from capgate.errors import ArtifactError, ArtifactNotFound, StoreError
from capgate.store import PolicyStore
from capgate.store.folders import TEMPORARY, Folder, replace_file

from ..support.keys import Made, filled, store_at, verifier
from ..support.tools import missing


@pytest.fixture
def store(tmp_path: Path) -> PolicyStore:
    return filled(tmp_path / "store", 1, 2)


def everything(store: PolicyStore) -> list[Path]:
    """The root, every folder and every file but the lock, by the way that leads to them."""
    root = Path(store.path)
    return [root, *sorted(path for path in root.rglob("*") if path.name != "lock")]


def needed(store: PolicyStore) -> list[Path]:
    """Those of them which a load of the active policy goes through."""
    active = store.read_active("orders")
    root = Path(store.path)
    manifest, mod = root / "sha256" / active.manifest, root / "sha256" / active.sha256
    return [
        root / "policies",
        root / "policies/orders",
        root / "policies/orders/active.json",
        root / "sha256",
        manifest,
        manifest / "manifest.json",
        manifest / "signature.json",
        mod,
        mod / "policy.wasm",
    ]


def refused(store: PolicyStore, reason: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StoreError) as caught:
        store.load_active("orders")
    assert caught.value.reason == reason
    assert len(os.listdir("/proc/self/fd")) == before


# A14, A17: below the root nothing leads anywhere else, not even to the same place.
@pytest.mark.parametrize("index", range(9))
def test_links_are_not_followed(index: int, store: PolicyStore) -> None:
    path = needed(store)[index]
    elsewhere = Path(store.path).parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    refused(store, "unsafe")
    path.unlink()
    elsewhere.rename(path)
    assert store.load_active("orders").manifest.version == 2


def test_the_root_may_be_a_link(store: PolicyStore) -> None:
    link = Path(store.path).parent / "current"
    link.symlink_to(store.path)
    assert store_at(link).load_active("orders").manifest.version == 2


# A14
@pytest.mark.parametrize("kind", ["fifo", "folder", "link to a device", "socket"])
@pytest.mark.parametrize("index", [2, 5, 6, 8])
def test_what_is_no_regular_file(kind: str, index: int, store: PolicyStore) -> None:
    path = needed(store)[index]
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o644)
    else:
        path.symlink_to("/dev/zero")
    refused(store, "unsafe")


# A16
@pytest.mark.parametrize("mode", [0o020, 0o002])
@pytest.mark.parametrize("index", range(9))
def test_what_others_may_write(mode: int, index: int, store: PolicyStore) -> None:
    path = needed(store)[index]
    before = path.stat().st_mode
    path.chmod(before | mode)
    refused(store, "unsafe")
    path.chmod(before)
    assert store.load_active("orders").manifest.version == 2


# A16
def test_a_root_that_others_may_write(store: PolicyStore) -> None:
    os.chmod(store.path, 0o777)
    calls: list[Callable[[], object]] = [
        lambda: store.read_active("orders"),
        lambda: store.load_active("orders"),
        lambda: store.activate("orders", 2),
        lambda: store.rollback("orders"),
        lambda: store.publish(*Made(3).files),
        lambda: store.status("orders"),
        lambda: store.prune(),
        lambda: store.names(),
    ]
    for call in calls:
        with pytest.raises(StoreError) as caught:
            call()
        assert caught.value.reason == "unsafe"


# A16
@pytest.mark.parametrize("index", range(9))
def test_what_belongs_to_somebody_else(index: int, store: PolicyStore) -> None:
    if os.geteuid() != 0:
        missing("root, who can give files away,")
    path = needed(store)[index]
    os.chown(path, 12_345, -1)
    refused(store, "unsafe")
    os.chown(path, 0, -1)
    assert store.load_active("orders").manifest.version == 2


# A16: a store that belongs to one user is read by another, who need not be trusted.
def test_a_store_of_another_user(store: PolicyStore) -> None:
    if os.geteuid() != 0:
        missing("root, who can give files away,")
    for path in everything(store):
        os.chown(path, 12_345, -1)
    assert store.load_active("orders").manifest.version == 2


# A16: whatever the umask allows, nobody else may write what the store makes.
@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077])
def test_modes_of_what_is_written(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        store = filled(tmp_path / "store", 1, 2)
    finally:
        os.umask(before)
    for path in (*everything(store), Path(store.path) / "lock"):
        wanted = 0o755 if path.is_dir() else 0o644
        assert stat.S_IMODE(path.stat().st_mode) == wanted & ~umask
    assert store.load_active("orders").manifest.version == 2


# A18
@pytest.mark.parametrize("index", [2, 5, 6, 8])
def test_ten_gigabytes_are_not_read(index: int, store: PolicyStore) -> None:
    with needed(store)[index].open("r+b") as file:
        file.truncate(10 << 30)  # sparse: it takes no room on the disk
    refused(store, "corrupt")


# A14: what is swapped between a look and the opening is what the descriptor says.
SWAP = """
import os, sys
from capgate.store.folders import Folder
from capgate.errors import StoreError

path, kind, armed = sys.argv[1], sys.argv[2], [True]

def swap(event, arguments):
    if event == "open" and arguments[0] == "active.json" and armed:
        armed.clear()
        os.unlink(path)
        if kind == "fifo": os.mkfifo(path)
        else: os.symlink("/dev/zero", path)

sys.addaudithook(swap)
try:
    with Folder.root(os.path.dirname(path)) as folder:
        folder.read("active.json", 100)
except StoreError as error:
    print("swapped" if not armed else "not swapped", error.reason)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_a_file_that_is_swapped_before_it_is_opened(kind: str, store: PolicyStore) -> None:
    path = str(needed(store)[2])
    done = subprocess.run(
        [sys.executable, "-c", SWAP, path, kind], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("swapped unsafe\n", "")


# A14: a folder that is swapped while it is open changes nothing for who has it open.
def test_an_open_folder_stays_the_same(store: PolicyStore) -> None:
    path = Path(store.path)
    with Folder.root(path) as root, root.enter("policies") as policies:
        shutil.move(path / "policies", path / "old")
        (path / "policies/orders").mkdir(parents=True)
        (path / "policies/orders/active.json").write_bytes(b"forged")
        with policies.enter("orders") as folder:
            assert b'"version": 2' in folder.read("active.json", 8_192)


def refusal_of(action: Callable[[], object]) -> StoreError | None:
    try:
        action()
    except StoreError as error:
        return error
    return None


# A15
@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EMFILE, errno.EACCES, errno.EROFS, errno.ESTALE])
@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace", "mkdir", "rename"])
def test_an_error_of_the_disk_while_writing(
    call: str, code: int, store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(os, call)

    def fail(*arguments: Any, **named: Any) -> Any:
        if call == "open" and not arguments[1] & os.O_CREAT:
            return real(*arguments, **named)  # reading works
        raise OSError(code, os.strerror(code))

    before = store.load_active("orders")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        refusals = [refusal_of(lambda: store.publish(*Made(3).files)), refusal_of(lambda: store.rollback("orders"))]
    assert any(refusals)  # not every action makes every call
    for refusal in filter(None, refusals):
        assert refusal.reason == "io"
        assert isinstance(refusal.__cause__, OSError)
    left = store.read_active("orders")
    assert (call in ("fsync", "mkdir", "rename")) or left == before.active
    assert store.load_active("orders").manifest.version == left.version
    store.publish(*Made(3).files)
    assert store.activate("orders", 3).version == 3
    store.prune(10)
    assert not [path for path in everything(store) if path.name.startswith(TEMPORARY)]


# A15
def test_a_disk_that_is_full_leaves_nothing_half_written(store: PolicyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real, room = os.write, [0]

    def write(descriptor: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part = min(room[0], len(data))
        room[0] -= part
        return real(descriptor, bytes(data)[:part])

    monkeypatch.setattr(os, "write", write)
    for room[0] in (0, 1, 20, 50, 150):
        with pytest.raises(StoreError):
            store.publish(*Made(3).files)
        for folder in (Path(store.path) / "sha256").iterdir():
            content = folder / ("manifest.json" if (folder / "manifest.json").exists() else "policy.wasm")
            assert hashlib.sha256(content.read_bytes()).hexdigest() == folder.name
        assert [release.manifest.version for release in store.releases("orders")] == [2, 1]
    assert store.load_active("orders").manifest.version == 2


# A15: what a network file system does, and what a signal may do: fewer bytes than were asked for
def test_short_reads_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.read, os.write
    monkeypatch.setattr(os, "read", lambda descriptor, size: read(descriptor, min(size, 7)))
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data)[:5]))
    assert filled(tmp_path / "store", 1, 2).load_active("orders").manifest.version == 2


# A15: a file that grows or shrinks between its size and its end
@pytest.mark.parametrize("extra", [b"", b"more"])
def test_a_file_that_changes_while_it_is_read(
    extra: bytes, store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.read

    def read(descriptor: int, size: int) -> bytes:
        return real(descriptor, size) + extra if extra else b""

    monkeypatch.setattr(os, "read", read)
    with pytest.raises(ArtifactError):
        store.load_active("orders")


# A15
def test_no_descriptor_left(store: PolicyStore) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir("/proc/self/fd")}  # with one for that folder, which is free by now
    free = sorted(set(range(max(taken) + 8)) - taken | {max(taken)})
    for room in range(1, 6):
        # The limit is on numbers, and not on how many there are: below it, so many are free.
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[room - 1], hard))
        try:
            with pytest.raises(StoreError) as caught:
                store.prune(0)
            assert caught.value.reason == "io"
        except BaseException:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            raise
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert store.load_active("orders").manifest.version == 2
        assert len(store.releases("orders")) == 2


# A15, A19: a manifest that cannot be looked at may be anybody's, so nothing is removed.
def test_prune_removes_nothing_where_it_cannot_look(store: PolicyStore) -> None:
    store.publish(*Made(3).files)
    store.activate("orders", 3)
    first = store.history("orders")[-1]
    (Path(store.path) / "sha256" / first.manifest).chmod(0o777)
    before = everything(store)
    with pytest.raises(StoreError) as caught:
        store.prune(0)
    assert caught.value.reason == "unsafe"
    assert everything(store) == before


class TestLock:
    # A19
    def test_a_second_writer_waits_and_then_gives_up(self, store: PolicyStore) -> None:
        impatient = PolicyStore(store.path, verifier(), lock_seconds=0.05)
        with Folder.root(store.path) as root, root.locked(1):
            with pytest.raises(StoreError) as caught:
                impatient.rollback("orders")
            assert caught.value.reason == "locked"
            assert impatient.read_active("orders").version == 2  # readers never wait
        assert impatient.read_active("orders").version == 2

    def test_a_second_writer_waits_and_then_writes(self, store: PolicyStore) -> None:
        versions: list[int] = []
        writer = threading.Thread(target=lambda: versions.append(store.rollback("orders").version))
        with Folder.root(store.path) as root, root.locked(1):
            writer.start()
            writer.join(0.2)
            assert writer.is_alive()
            assert store_at(Path(store.path)).load_active("orders").manifest.version == 2
        writer.join(10)
        assert versions == [1]

    def test_is_given_back_where_a_change_fails(self, store: PolicyStore) -> None:
        def fail(_: object) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            store.rollback("orders", check=fail)
        assert store.rollback("orders").version == 1

    # A14
    @pytest.mark.parametrize("kind", ["fifo", "link", "folder", "writable"])
    def test_that_is_no_file_of_ours(self, kind: str, store: PolicyStore) -> None:
        lock = Path(store.path) / "lock"
        lock.unlink()
        victim = lock.with_name("victim")
        if kind == "fifo":
            os.mkfifo(lock)
        elif kind == "link":
            lock.symlink_to(victim)
        elif kind == "folder":
            lock.mkdir()
        else:
            lock.touch()
            lock.chmod(0o666)
        with pytest.raises(StoreError):
            store.rollback("orders")
        assert not victim.exists()
        assert store.read_active("orders").version == 2


def test_the_store_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, error in (("file", StoreError), ("absent", ArtifactNotFound)):
        with pytest.raises(error):
            store_at(tmp_path / name).read_active("orders")
    with pytest.raises(StoreError):
        store_at(tmp_path / "file").publish(*Made().files)


class TestReplaceFile:
    """The one way to write a file that others read meanwhile; the commands use it, too."""

    @pytest.mark.parametrize(("mode", "wanted"), [(None, 0o600), (0o644, 0o644)])
    def test_the_mode_is_the_umask_s_or_the_one_that_is_given(
        self, mode: int | None, wanted: int, tmp_path: Path
    ) -> None:
        before = os.umask(0o077)
        try:
            with Folder.root(tmp_path) as folder:
                replace_file(folder.descriptor, "file", b"new", mode=mode)
        finally:
            os.umask(before)
        assert (tmp_path / "file").read_bytes() == b"new"
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == wanted

    def test_what_fails_leaves_what_was_there_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "no space")

        (tmp_path / "file").write_bytes(b"old")
        monkeypatch.setattr(os, "replace", fail)
        with Folder.root(tmp_path) as folder, pytest.raises(OSError, match="no space"):
            replace_file(folder.descriptor, "file", b"new")
        assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]
