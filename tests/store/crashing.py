"""Kills a child that changes a store, at every step it takes on the disk, and looks at what it left.

Run as a program: ``python -m tests.store.crashing FOLDER [FAULT]``. It has no threads, so it may fork. A step is a call
that changes the disk. The child dies before it, after it, in the middle of it (a part of a write), or after it together
with the machine: then what was not synced is undone, as far as a test can do that. One line of JSON for each death, and
one for each action that was done, after which the machine dies too.

``FAULT`` breaks activating in a way that this has to notice: ``no-sync``, ``no-folder-sync``, ``in-place``.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from capgate.errors import ArtifactError, StoreError
from capgate.store import PolicyStore, folders
from capgate.store.folders import Folder

from ..support.keys import Made, released, store_at

MODES: Final = ("before", "after", "torn", "power")
DIED: Final = 9
CALLS: Final = ("open", "write", "replace", "rename", "mkdir", "unlink", "rmdir")

Action = Callable[[PolicyStore], object]


def made(version: int) -> Made:
    """A release with fixtures of its own."""
    return Made(version, fixtures=[released(version)])


def mended(store: PolicyStore) -> Made:
    """A release whose fixtures in the store were not those that it names."""
    release = made(4)
    fixtures = Path(store.path, "sha256", release.digest, "fixtures.json")
    if fixtures.read_bytes() != release.fixtures:
        return release
    with fixtures.open("r+b") as file:
        file.truncate(10)
    return release


ACTIONS: Final[dict[str, Action]] = {
    "publish": lambda store: store.publish(*made(5).release),
    "mend": lambda store: store.publish(*mended(store).release),
    "activate": lambda store: store.activate("orders", 4),
    "rollback": lambda store: store.rollback("orders"),
    "reset": lambda store: store.reset("orders", 1),
    "prune": lambda store: store.prune(0),
}
#: The version that is active before, and after each action.
BEFORE: Final = 3
AFTER: Final = {"publish": 3, "mend": 3, "activate": 4, "rollback": 2, "reset": 1, "prune": 3}


class Disk:
    """Counts the steps of this process, and ends it at the one that was chosen. Syncs nothing for real."""

    def __init__(self, fatal: int, mode: str) -> None:
        self.fatal, self.mode, self.step = fatal, mode, 0
        self.unsynced: dict[int, int] = {}  # inode of a file -> a descriptor of it
        self.entries: list[tuple[str, Callable[[], None]]] = []  # folder, how to undo a change of its entries
        self.real = {name: getattr(os, name) for name in CALLS}
        for name in (*self.real, "fsync"):
            setattr(os, name, getattr(self, name))

    def take(self, call: Callable[[], Any], torn: Callable[[], Any] | None = None) -> Any:
        """One step, or the last one."""
        self.step += 1
        if self.step != self.fatal:
            return call()
        if self.mode == "torn" and torn is not None:
            torn()
        elif self.mode in ("after", "power"):
            call()
        if self.mode == "power":
            self.lose()
        os._exit(DIED)

    def lose(self) -> None:
        """What a machine forgets that loses power."""
        for descriptor in self.unsynced.values():
            os.ftruncate(descriptor, 0)
        for _, undo in reversed(self.entries):
            undo()

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        def call() -> int:
            return int(self.real["open"](path, flags, mode, dir_fd=dir_fd))

        if not flags & os.O_CREAT:
            return call()
        descriptor: int = self.take(call)
        if flags & os.O_EXCL:
            self.unsynced[os.fstat(descriptor).st_ino] = os.dup(descriptor)
        return descriptor

    def write(self, descriptor: int, data: Any) -> int:
        def half() -> int:
            return int(self.real["write"](descriptor, bytes(data)[: len(data) // 2]))

        return int(self.take(lambda: self.real["write"](descriptor, data), half))

    def fsync(self, descriptor: int) -> None:
        def call() -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                folder = os.readlink(f"/proc/self/fd/{descriptor}")
                self.entries = [entry for entry in self.entries if entry[0] != folder]
            else:
                self.unsynced.pop(os.fstat(descriptor).st_ino, None)

        self.take(call)

    def replace(self, source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        path = self.path(target, dst_dir_fd)
        before = path.read_bytes() if path.exists() else None

        def undo() -> None:
            path.unlink() if before is None else path.write_bytes(before)

        self.entries.append((str(path.parent), undo))
        self.take(lambda: self.real["replace"](source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd))

    def rename(self, source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        old, new = self.path(source, src_dir_fd), self.path(target, dst_dir_fd)
        self.entries.append((str(new.parent), lambda: self.real["rename"](new, old)))
        self.take(lambda: self.real["rename"](source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd))

    def mkdir(self, path: Any, mode: int, *, dir_fd: int | None = None) -> None:
        made = self.path(path, dir_fd)
        if made.exists():
            raise FileExistsError(str(made))
        self.entries.append((str(made.parent), lambda: shutil.rmtree(made, ignore_errors=True)))
        self.take(lambda: self.real["mkdir"](path, mode, dir_fd=dir_fd))

    def unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self.take(lambda: self.real["unlink"](path, dir_fd=dir_fd))

    def rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self.take(lambda: self.real["rmdir"](path, dir_fd=dir_fd))

    def path(self, name: Any, descriptor: int | None) -> Path:
        return Path(name) if descriptor is None else Path(os.readlink(f"/proc/self/fd/{descriptor}"), name)


def child(path: Path, action: Action, fatal: int, mode: str) -> tuple[int, int]:
    """How a child ended that did ``action``, and how many steps it took if it lived."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        disk = Disk(fatal, mode)
        try:
            action(store_at(path))
            if mode == "power":  # it has said that it is done
                disk.lose()
        finally:
            disk.real["write"](writing, str(disk.step).encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        steps = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), int(steps or 0)


def deaths(folder: Path, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every death of those actions, and what the store was like afterwards."""
    os.fsync = lambda fd: None  # machines lose their power in the child, and only there
    base, path = folder / "base", folder / "store"
    store = store_at(base)
    for version in (1, 2, 3, 4):
        store.publish(*made(version).release)
    for version in (1, 2, 3):
        store.activate("orders", version)
    for name in names:
        action = ACTIONS[name]
        shutil.copytree(base, path)
        lived, steps = child(path, action, -1, "power")
        yield {"action": name, "steps": steps, "mode": None, "step": 0, **look(path, name)}
        shutil.rmtree(path)
        for mode in MODES:
            for step in range(1, steps + 1):
                shutil.copytree(base, path)
                died, _ = child(path, action, step, mode)
                found = look(path, name)
                yield {"action": name, "mode": mode, "step": step, "died": died, **found}
                shutil.rmtree(path)
        if lived != 0:
            raise SystemExit(f"{name} does not end")


def look(path: Path, name: str) -> dict[str, Any]:
    """Reopen the store: what is active, and whether it can go on."""
    store = store_at(path)
    try:
        version: int | None = store.load_active("orders").manifest.version
        history = [record.version for record in store.history("orders")]
        untested = incomplete(store)
        if name == "rollback":
            refused_or_done(store)
        else:
            ACTIONS[name](store)
        after = store.load_active("orders").manifest.version
        status, still_untested = store.status("orders"), incomplete(store)
        store.prune(10)
        left = [str(file) for file in path.rglob(".tmp-*")]
    except ArtifactError as error:
        return {"problem": repr(error)}
    found = {"version": version, "history": history, "untested": untested, "after": after, "left": left}
    return found if status.problem is None and not still_untested else {"problem": status.problem or still_untested}


def incomplete(store: PolicyStore) -> list[int]:
    """The versions that are published without the fixtures that they name, or without anything else of theirs."""
    found = []
    for release in store.releases("orders"):
        try:
            policy = store.load_release("orders", release.digest, fixtures=True)
        except ArtifactError:
            policy = None
        if policy is None or policy.fixtures != (released(release.manifest.version),):
            found.append(release.manifest.version)
    return found


def refused_or_done(store: PolicyStore) -> None:
    """Go back from the release that was active before; if that was done, it is refused."""
    try:
        store.rollback("orders", sequence=3)
    except StoreError as error:
        if error.reason != "moved":
            raise


def break_store(fault: str) -> None:
    """Make the store as it must not be."""

    def create(folder: int, name: str, data: bytes, mode: int | None = None) -> None:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=folder)
        os.write(descriptor, data)
        os.close(descriptor)

    def write(folder: Folder, name: str, data: bytes) -> None:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644, dir_fd=folder.descriptor)
        os.write(descriptor, data)
        os.fsync(descriptor)
        os.close(descriptor)

    def fsync_files(disk: Disk, descriptor: int) -> None:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            fsync(disk, descriptor)

    fsync = Disk.fsync
    faults: dict[str, tuple[object, str, Any]] = {
        "no-sync": (folders, "create_file", create),
        "no-folder-sync": (Disk, "fsync", fsync_files),
        "in-place": (Folder, "write", write),
    }
    setattr(*faults[fault])


if __name__ == "__main__":
    if len(sys.argv) > 2:
        break_store(sys.argv[2])
    for death in deaths(Path(sys.argv[1]), ("activate",) if len(sys.argv) > 2 else tuple(ACTIONS)):
        print(json.dumps(death))
