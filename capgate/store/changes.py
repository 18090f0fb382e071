"""The steps of a change of what is active. All of them are given folders of a store whose lock is held."""

from __future__ import annotations

from ..errors import ArtifactNotFound, StoreError
from .files import Folder
from .manifest import is_digest
from .reading import ACTIVE, HISTORY, history_file, history_files, is_named, names_of, read_history, read_record
from .records import RECORD_BYTES, Active


def commit(folder: Folder, before: Active | None, record: Active) -> Active:
    """Replace the record of a policy, whose folder this is, after keeping ``before`` as history.

    The second step decides: killed in between, the history has what is still active, and nobody reads that.
    """
    data = record.to_bytes()
    written = Active.from_bytes(data, record.name, path=folder.path)
    if before is not None:
        with folder.make(HISTORY) as history:
            history.write(history_file(before.sequence), before.to_bytes())
    folder.write(ACTIVE, data)
    return written


def record_or_none(folder: Folder, name: str) -> Active | None:
    """The active record, ``None`` before the first activation. One that was lost raises :class:`StoreError`."""
    try:
        return read_record(folder, name)
    except ArtifactNotFound:
        return None


def rollback_target(folder: Folder, name: str, active: Active, to: int | str | None) -> str:
    """The digest of the manifest to roll back to. :class:`StoreError` (``not_recorded``) where it never was active."""
    if to is None:
        if active.previous is None:
            raise StoreError(f"{name!r} has nothing before this", reason="not_recorded", path=folder.path)
        return active.previous
    for record in read_history(folder, name):
        if is_named(to, record.version, record.sha256, record.manifest):
            return record.manifest
    raise StoreError(f"{to!r} of {name!r} was never active", reason="not_recorded", path=folder.path)


def previous_of(folder: Folder, name: str, digest: str) -> str | None:
    """What was active before that manifest was activated, so that a second rollback goes on backwards.

    ``None`` as well where the history cannot be read: a rollback is not the time to insist on it.
    """
    try:
        for record in read_history(folder, name):
            if record.manifest == digest and record.action != "rollback":
                return record.previous
    except StoreError:
        pass
    return None


def last_readable(folder: Folder, name: str) -> tuple[Active | None, int]:
    """The newest record that can be read, and a sequence number above every one that was ever given."""
    try:
        active = record_or_none(folder, name)
        return active, 1 if active is None else active.sequence + 1
    except StoreError as error:
        if error.reason != "corrupt":
            raise
    files = history_files(folder)
    # One more, because the record that cannot be read had a number too.
    sequence = 2 + (int(files[-1].partition(".")[0]) if files else 0)
    archived = (_archived(folder, name, file) for file in reversed(files))
    return next((record for record in archived if record is not None), None), sequence


def _archived(folder: Folder, name: str, file: str) -> Active | None:
    with folder.enter(HISTORY) as history:
        try:
            return Active.from_bytes(history.read(file, RECORD_BYTES), name, path=history.path)
        except StoreError as error:
            if error.reason != "corrupt":
                raise
            return None


def require_unlike(policies: Folder, name: str) -> None:
    """Raise :class:`StoreError` (``name``) where another name differs from this one in nothing but case."""
    for other in names_of(policies):
        if other != name and other.lower() == name.lower():
            raise StoreError(f"{name!r} differs from {other!r} only in case", reason="name", path=policies.path)


def sweep(tree: Folder, policies: Folder) -> None:
    """Remove what writers that were killed have left."""
    tree.sweep()
    for digest in filter(is_digest, tree.names()):
        with tree.enter(digest) as folder:
            folder.sweep()
    for name in names_of(policies):
        with policies.enter(name) as folder:
            folder.sweep()
            if folder.has(HISTORY):
                with folder.enter(HISTORY) as history:
                    history.sweep()
