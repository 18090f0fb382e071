"""Reads and writes folders and files of a store by descriptor, so that nothing which is swapped on the way is followed.

Below its root a store has no links, and nothing but folders and regular files. Nobody but its owner (that of the root)
or root may write anything there. Anything else is :class:`StoreError` ``unsafe``. Writing is: a temporary file beside
the target, fsync, rename, fsync of the folder. Names are chosen by capgate, and are not paths.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from types import TracebackType
from typing import Final

from ..errors import ArtifactError, ArtifactNotFound, StoreError
from ..log_writer import BackgroundLogger

_log = BackgroundLogger("capgate.store")

#: What a name begins with while it is being written. Whatever has such a name is garbage once nobody writes.
TEMPORARY: Final = ".tmp-"

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OTHERS_MAY_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_LINK: Final = (errno.ELOOP, errno.ENOTDIR)
#: How often something is looked for that the folder lists, and that is not there: it may just have been made.
_TRIES: Final = 3
#: Seconds between two attempts to get a lock.
_POLL: Final = 0.01


class NotSynced(OSError):
    """A change was made, and others see it, but the disk may not have it."""


class Folder:
    """An open folder. ``path`` is how it is shown; ``owner`` is the user whose store it is. A context manager."""

    def __init__(self, descriptor: int, path: str, owner: int | None = None) -> None:
        self.descriptor = descriptor
        self.path = path
        try:
            status = os.fstat(descriptor)
            self.owner = status.st_uid if owner is None else owner
            self._require_safe(status, path, folder=True)
        except BaseException:
            _close(descriptor)
            raise

    @classmethod
    def root(cls, path: str | os.PathLike[str]) -> Folder:
        """Open the root of a store. If it is a link, that is followed: who configures a path says where it leads."""
        shown = os.fsdecode(path)
        with _errors(shown):
            return cls(os.open(shown, _FOLDER), shown)

    @classmethod
    def make_root(cls, path: str | os.PathLike[str]) -> Folder:
        """Open :meth:`root`, and make it if it is not there. The folder that it is to be in has to be there."""
        shown = os.fsdecode(path)
        with _errors(shown), suppress(FileExistsError):
            os.mkdir(shown, 0o755)
            above = os.open(os.path.dirname(os.path.abspath(shown)), _FOLDER)
            try:
                os.fsync(above)
            finally:
                _close(above)
        return cls.root(path)

    def __enter__(self) -> Folder:
        return self

    def __exit__(
        self, type_: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _close(self.descriptor)

    # -- reading

    def enter(self, name: str) -> Folder:
        """Open the folder ``name`` in this one. Raises :class:`ArtifactNotFound` where there is none."""
        shown = os.path.join(self.path, name)
        with _errors(shown):
            self._require_safe(self._stat(name), shown, folder=True)
            return Folder(os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=self.descriptor), shown, self.owner)

    def names(self) -> list[str]:
        """List what is in it, sorted, without what is being written."""
        try:
            with _errors(self.path):
                return sorted(name for name in os.listdir(self.descriptor) if not name.startswith(TEMPORARY))
        except ArtifactNotFound as error:  # of a folder that is open
            raise StoreError("cannot be listed", reason="io", path=self.path) from error

    def has(self, name: str) -> bool:
        """Say whether there is something of that name, of whatever kind."""
        for _ in range(_TRIES):
            with _errors(os.path.join(self.path, name)), suppress(FileNotFoundError):
                self._stat(name)
                return True
            if name not in self.names():
                return False
        raise self._neither_there_nor_gone(name)

    def read(self, name: str, most: int) -> bytes:
        """Return the bytes of the regular file ``name``, at most ``most``.

        Raises :class:`ArtifactNotFound` where there is none.
        """
        shown = os.path.join(self.path, name)
        with _errors(shown):
            # Asked first as well, because opening a device can itself have an effect.
            self._require_safe(self._stat(name), shown)
            descriptor = os.open(name, _READ, dir_fd=self.descriptor)
            try:
                status = os.fstat(descriptor)
                self._require_safe(status, shown)
                data = _read_up_to(descriptor, most + 1) if status.st_size <= most else b""
            finally:
                _close(descriptor)
        if status.st_size > most or len(data) > most:
            raise StoreError(f"{status.st_size} bytes, the limit is {most}", reason="corrupt", path=shown)
        if len(data) != status.st_size:
            message = f"changed while it was read: {status.st_size} bytes at first, {len(data)} read"
            raise StoreError(message, reason="io", path=shown)
        return data

    def read_if_there(self, name: str, most: int) -> bytes | None:
        """Return what :meth:`read` does, or ``None`` where there is nothing of that name."""
        for _ in range(_TRIES):
            with suppress(ArtifactNotFound):
                return self.read(name, most)
            if name not in self.names():
                return None
        raise self._neither_there_nor_gone(name)

    def _neither_there_nor_gone(self, name: str) -> StoreError:
        """Return the error for what the folder lists, and nobody can open.

        File systems on a network say so for a moment; taken for an answer, a record would be lost.
        """
        return StoreError("is listed, and yet it is not there", reason="io", path=os.path.join(self.path, name))

    def _stat(self, name: str) -> os.stat_result:
        return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)

    def _require_safe(self, status: os.stat_result, shown: str, *, folder: bool = False) -> None:
        if not (stat.S_ISDIR if folder else stat.S_ISREG)(status.st_mode):
            raise StoreError(f"is not a {'folder' if folder else 'regular file'}", reason="unsafe", path=shown)
        if status.st_mode & _OTHERS_MAY_WRITE:
            message = f"mode {stat.S_IMODE(status.st_mode):04o} lets others write it; chmod go-w"
            raise StoreError(message, reason="unsafe", path=shown)
        if status.st_uid not in (self.owner, 0):
            message = f"belongs to user {status.st_uid}, and the store to {self.owner}"
            raise StoreError(message, reason="unsafe", path=shown)

    # -- writing

    @contextmanager
    def locked(self, seconds: float) -> Iterator[float]:
        """Write alone. Other writers wait, ``seconds`` at most, then :class:`StoreError` ``locked``; readers do not.

        Gives the time by the clock of the file system, in seconds since the epoch.
        """
        shown = os.path.join(self.path, "lock")
        with _errors(shown):
            descriptor = os.open("lock", _LOCK, 0o644, dir_fd=self.descriptor)
        try:
            with _errors(shown):
                self._require_safe(os.fstat(descriptor), shown)
                _wait_for_lock(descriptor, shown, time.monotonic() + seconds)
                os.utime(descriptor)
                now = os.fstat(descriptor).st_mtime
            try:
                yield now
            finally:
                # Said, and not left to close(): a child that was forked meanwhile has the descriptor as well. Where it
                # fails, closing does it, and what was changed is changed.
                with suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            _close(descriptor)

    def make(self, name: str) -> Folder:
        """Open the folder ``name``, and make it if it is not there."""
        with _errors(os.path.join(self.path, name)):
            with suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=self.descriptor)
            os.fsync(self.descriptor)
        return self.enter(name)

    def write(self, name: str, data: bytes) -> None:
        """Make ``name`` hold ``data``: whoever opens it gets what was there, or all of ``data``."""
        with _errors(os.path.join(self.path, name)):
            replace_file(self.descriptor, name, data)

    def write_folder(self, name: str, files: Mapping[str, bytes]) -> None:
        """Make the folder ``name`` hold ``files`` and nothing else: it is never there with some of them."""
        temporary = TEMPORARY + secrets.token_hex(8)
        with _errors(os.path.join(self.path, name)):
            os.mkdir(temporary, 0o755, dir_fd=self.descriptor)
            try:
                with self.enter(temporary) as folder:
                    for file, data in files.items():
                        create_file(folder.descriptor, file, data)
                    os.fsync(folder.descriptor)
                with suppress(FileNotFoundError):
                    self._stat(name)
                    self.remove(name)
                os.rename(temporary, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
            except BaseException:
                with suppress(OSError, ArtifactError):
                    self.delete(temporary)
                raise
            _sync_changed(self.descriptor)

    def rename(self, name: str, other: str) -> None:
        """Give the file or folder ``name`` the name ``other``."""
        with _errors(os.path.join(self.path, name)):
            os.rename(name, other, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
            os.fsync(self.descriptor)

    def remove(self, name: str) -> None:
        """Remove the file or folder ``name`` in one step, as others see it."""
        temporary = TEMPORARY + secrets.token_hex(8)
        with _errors(os.path.join(self.path, name)):
            os.rename(name, temporary, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
            os.fsync(self.descriptor)
            self.delete(temporary)

    def sweep(self) -> None:
        """Remove what writers that were killed have left. Only while this store is :meth:`locked`."""
        with _errors(self.path):
            for name in os.listdir(self.descriptor):
                if name.startswith(TEMPORARY):
                    with passing_over_foreign():
                        self.delete(name)

    def delete(self, name: str) -> None:
        """Delete the file ``name``, or the folder with all that is in it, step by step as others see it.

        Folders in it are lifted into this one first, so that it may be of any depth.
        """
        left = [name]
        while left:
            name = left.pop()
            if not self._is_folder(name):
                os.unlink(name, dir_fd=self.descriptor)
                continue
            with self.enter(name) as folder:
                for inner in os.listdir(folder.descriptor):
                    if folder._is_folder(inner):
                        left.append(TEMPORARY + secrets.token_hex(8))
                        os.rename(inner, left[-1], src_dir_fd=folder.descriptor, dst_dir_fd=self.descriptor)
                    else:
                        os.unlink(inner, dir_fd=folder.descriptor)
            os.rmdir(name, dir_fd=self.descriptor)

    def _is_folder(self, name: str) -> bool:
        return stat.S_ISDIR(self._stat(name).st_mode)


def replace_file(folder: int, name: str, data: bytes, *, mode: int | None = None) -> None:
    """Make ``name`` in the folder with that descriptor hold ``data``: others see what was there, or all of ``data``.

    The mode is ``mode``, or without one 0644 under the process's umask. Raises ``OSError``, and then leaves what was
    there; but for :class:`NotSynced`.
    """
    temporary = TEMPORARY + secrets.token_hex(8)
    try:
        create_file(folder, temporary, data, mode)
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    _sync_changed(folder)


def _sync_changed(folder: int) -> None:
    try:
        os.fsync(folder)
    except OSError as error:
        raise NotSynced(error.errno, error.strerror) from error


def _close(descriptor: int) -> None:
    """Close what was only read, or was synced: whatever the operating system says, it is closed, and nothing lost."""
    with suppress(OSError):
        os.close(descriptor)


def replace_at(path: str | os.PathLike[str], data: bytes, *, mode: int | None = None) -> None:
    """Do what :func:`replace_file` does for the file at ``path``, in whatever folder that is."""
    above, name = os.path.split(os.path.abspath(path))
    folder = os.open(above, _FOLDER)
    try:
        replace_file(folder, os.fsdecode(name), data, mode=mode)
    finally:
        _close(folder)


def create_file(folder: int, name: str, data: bytes, mode: int | None = None) -> None:
    """Write a new file and sync it. Raises ``OSError``, also where something has that name."""
    descriptor = os.open(name, _CREATE, 0o644, dir_fd=folder)
    try:
        if mode is not None:
            os.fchmod(descriptor, mode)
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        _close(descriptor)


def _read_up_to(descriptor: int, most: int) -> bytes:
    chunks = []
    while most and (chunk := os.read(descriptor, min(most, 1 << 20))):  # a short read is not the end, an empty one is
        chunks.append(chunk)
        most -= len(chunk)
    return b"".join(chunks)


def _wait_for_lock(descriptor: int, shown: str, until: float) -> None:
    while not _lock(descriptor):
        if time.monotonic() >= until:
            raise StoreError("another process is writing", reason="locked", path=shown)
        time.sleep(_POLL)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _errors(shown: str) -> Iterator[None]:
    """Raise what the operating system raises as one of capgate's errors."""
    try:
        yield
    except FileNotFoundError as error:
        raise ArtifactNotFound("is not there", path=shown) from error
    except (OSError, ValueError) as error:  # ValueError: NUL in a path
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if isinstance(error, NotSynced):
            message = f"was changed, and may be lost again if the machine stops now: {text}"
            raise StoreError(message, reason="io", path=shown, changed=True) from error
        reason = "unsafe" if isinstance(error, OSError) and error.errno in _LINK else "io"
        raise StoreError(f"cannot be used: {text}", reason=reason, path=shown) from error


@contextmanager
def passing_over_foreign(foreign: dict[str, StoreError] | None = None, name: str = "") -> Iterator[None]:
    """Pass over what is not of a store's making, a link or what others may write.

    It is named in the log, and put into ``foreign`` under ``name``.
    """
    try:
        yield
    except StoreError as error:
        if error.reason != "unsafe":
            raise
        _name(str(error))
        if foreign is not None:
            foreign[name] = error


@lru_cache(maxsize=256)
def _name(what: str) -> None:
    """Log ``what`` is passed over, once."""
    _log.warning("passed over: %s", what)


@contextmanager
def unchanged() -> Iterator[None]:
    """Have errors say that nothing was changed: the change comes after this."""
    try:
        yield
    except StoreError as error:
        error.changed = False
        raise
