"""Writes files for commands, and reads the secrets that they need."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from ..artifact.load import read_bytes
from ..errors import ArtifactError, ArtifactNotFound, ConfigError
from ..store.folders import replace_at
from .terminal import path_text

#: Bytes of a passphrase or of a private key.
SECRET_BYTES: Final = 16_384


def create_file(path: Path, data: bytes, mode: int) -> None:
    """Write a new file with that mode. Raises :class:`ConfigError` where something has that name already."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except OSError as error:
        raise ConfigError(
            "file", str(path), f"a name that is free, in a folder that is there: {error.strerror}"
        ) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        os.unlink(path)
        raise


def write_output(output: Path, data: bytes) -> None:
    """Write ``data`` as the file ``output``, which is replaced in one step; a link is followed.

    Raises :class:`ArtifactError`, also for what is there and no regular file, as a device or a FIFO.
    """
    path = Path(os.path.realpath(output))
    try:
        if path.exists() and not path.is_file():
            raise ArtifactError("cannot be written: it is there, and not a regular file", path=path_text(output))
        replace_at(path, data, mode=0o644)
    except OSError as error:
        raise ArtifactError(f"cannot be written: {error.strerror}", path=path_text(output)) from error


def replace_file(path: Path, data: bytes) -> None:
    """Write ``data`` as the file ``path``, which is replaced in one step, even where it is a link.

    Raises :class:`ConfigError` for what is there and no regular file, and for a folder that cannot be written.
    """
    if path.exists() and not path.is_file():
        raise ConfigError("file", str(path), "a regular file, or a name that is free")
    try:
        replace_at(path, data, mode=0o644)
    except OSError as error:
        raise ConfigError("file", str(path), f"a folder that can be written: {error.strerror}") from error


def read_beside(module: Path, suffix: str, most: int) -> bytes | None:
    """Return the bytes of the file beside ``module`` with that suffix, ``None`` where there is no such file.

    Raises :class:`ArtifactError` for more than ``most`` bytes, and for what cannot be read.
    """
    try:
        return read_bytes(f"{module}{suffix}", most)
    except ArtifactNotFound:
        return None


def read_secret(path: Path, *, private: bool) -> bytes:
    """Return the bytes of a private key or a passphrase. Raises :class:`ConfigError`, which shows nothing of them.

    With ``private``, a file that others may read is rejected, as ssh does. A pipe may be read too, such as the shell's
    ``<(...)``, and standard input as ``/dev/stdin``.
    """
    valid = f"a file of at most {SECRET_BYTES} bytes"
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if private and stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
                raise ConfigError("file", str(path), f"one that nobody else may read: chmod 600 {path}")
            data = file.read(SECRET_BYTES + 1)
    except OSError as error:
        raise ConfigError("file", str(path), f"{valid}: {error.strerror}") from error
    if not data or len(data) > SECRET_BYTES:
        raise ConfigError("file", str(path), valid)
    return data
