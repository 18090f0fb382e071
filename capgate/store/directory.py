"""Writes a store of policies: a folder that several processes may use at once, and that no crash leaves half written.

::

    sha256/<digest of a module>/policy.wasm
    sha256/<digest of a manifest>/manifest.json, signature.json, fixtures.json
    policies/<name>/active.json                     which manifest is active: the one file that decides, and is replaced
    policies/<name>/history/<sequence>.json         what active.json was before
    policies/<name>/versions/<version>              the digest of the manifest that has this version
    lock                                            held by whoever writes

Publishing adds; only activating, rolling back and resetting change what runs, each by replacing ``active.json``.
Versions rise. The only way down is a rollback, to what once was active.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import Final

from ..errors import ArtifactNotFound, ConfigError, ReleasePruned, StoreError
from ..limits import is_digest
from .folders import Folder, passing_over_foreign, unchanged
from .manifest import CLOCK_SKEW, HIGHEST_VERSION
from .records import NOTE_LENGTH, Active, is_note, make_record
from .release_fixtures import fixtures_of
from .releases import OBJECTS, Release, open_objects, put_manifest, put_module, releases_of, sha256_of, unused_modules
from .resetting import Beginning, find_beginning, set_history_aside
from .store_reader import (
    ACTIVE,
    HISTORY,
    POLICIES,
    StoreReader,
    find_release,
    history_file,
    is_named,
    load_release,
    names_of,
    read_history,
    read_record,
)
from .verifier import VerifiedPolicy, Verifier
from .version_index import VERSIONS, enter_version, forget_versions, published_as

#: Looks at a policy before it becomes active, and raises where it must not become that. An example is
#: :func:`capgate.testing.golden.check_release`. A rollback reads no fixtures. Other writers wait meanwhile, and it must
#: not write to the store itself.
Check = Callable[[VerifiedPolicy], object]

#: Superseded policies that :meth:`PolicyStore.prune` keeps unless told otherwise, beside the active and the previous.
KEEP: Final = 5


class PolicyStore(StoreReader):
    """A store that may be written. Made by publishing into a folder that does not exist yet, or is empty.

    ``lock_seconds`` is how long to wait for another writer. Every method raises :class:`ArtifactError`, whose leaves
    say why, and then has changed nothing that runs, unless :class:`StoreError` says that it ``changed``. All of this
    blocks, on the disk and on other writers: an event loop calls it in a worker thread.

    What a store remembers is as safe as its folder is: whoever may remove ``policies/<name>`` makes it forget which
    versions there were. What it hands out is verified against keys that are not in it.
    """

    def __init__(
        self, path: str | os.PathLike[str], verifier: Verifier | None = None, *, lock_seconds: float = 30.0
    ) -> None:
        super().__init__(path, verifier)
        self.lock_seconds = lock_seconds

    def publish(
        self, module: bytes, manifest: bytes, signatures: bytes | None = None, fixtures: bytes | None = None
    ) -> Release:
        """Add a module with its manifest, signature and fixtures files, verified as if they were to be loaded.

        The fixtures have to be those that the manifest names. They are run when it is to be activated; this activates
        nothing. Again with the same manifest, it adds signatures and mends what is damaged. Raises :class:`StoreError`
        (``conflict``) where this version of the policy is published already with another manifest.
        """
        parsed, _ = self.verifier.manifest(manifest, signatures)
        artifact = self.verifier.artifact(parsed, module)
        fixtures_of(parsed, fixtures)
        digest = sha256_of(manifest)
        with Folder.make_root(self.path) as root, self._alone(root), root.make(OBJECTS) as tree:
            # The name first: a publisher that is killed leaves a name without releases, not a release without a name.
            with unchanged(), root.make(POLICIES) as policies:
                _require_unlike(policies, parsed.name)
                with policies.make(parsed.name) as folder:
                    self._enter(folder, tree, Release(digest, parsed))
                put_module(tree, artifact)
            put_manifest(tree, manifest, signatures, self.verifier.keys, fixtures)
        return Release(digest, parsed)

    def _enter(self, folder: Folder, tree: Folder, release: Release) -> None:
        """Keep the version for this release. Raises :class:`StoreError` (``conflict``) where another one has it."""
        name, version = release.manifest.name, release.manifest.version
        other = published_as(folder, tree, name, version)
        if other is None:
            enter_version(folder, version, release.digest)
        elif other.digest != release.digest:
            message = f"version {version} of {name!r} is published as {other.digest}"
            raise StoreError(message, reason="conflict", path=self.path)

    def activate(self, name: str, which: int | str, *, check: Check | None = None, note: str = "") -> Active:
        """Make a published release the active one, if everything verifies and ``check`` does not raise.

        ``which`` is a version, the digest of a module or that of a manifest. Raises :class:`StoreError`
        (``lowers_version``) unless the version is above all that were active. Does nothing where it is active already.
        """
        with self._changing(name, note) as (tree, folder):
            active = _record_or_none(folder, name)
            digest, policy = find_release(tree, name, which, self.verifier, fixtures=True)
            if active is not None and digest == active.manifest:
                return active
            version = policy.manifest.version
            if active is not None and version <= active.highest:
                message = f"version {version} of {name!r} is not above {active.highest}, which was active"
                raise StoreError(message + "; what was active is for rollback", reason="lowers_version", path=self.path)
            previous = None if active is None else active.manifest
            return self._change("activate", folder, _after(active), digest, policy, check, note, previous, version)

    def rollback(
        self,
        name: str,
        to: int | str | None = None,
        *,
        sequence: int | None = None,
        check: Check | None = None,
        note: str = "",
    ) -> Active:
        """Make active what once was: the one before, or ``to``, a version or digest that the history has.

        Rolled back twice, it goes on backwards. ``sequence`` is that of the record to leave: if another one is active
        by now, :class:`StoreError` (``moved``) is raised. So several who see the same fault go back once. It is
        ``not_recorded`` where there is nothing to go back to. The highest version stays what it was.
        """
        with self._changing(name, note) as (tree, folder):
            active = read_record(folder, name)
            if sequence is not None and sequence != active.sequence:
                message = f"record {active.sequence} of {name!r} is active, not {sequence}"
                raise StoreError(message, reason="moved", path=self.path)
            digest = _rollback_target(folder, name, active, to)
            if digest == active.manifest:
                return active
            try:
                policy = load_release(tree, digest, name, self.verifier)
            except ArtifactNotFound as error:
                raise _pruned(tree, folder, active, digest) from error
            previous = _previous_of(folder, name, digest)
            highest = max(active.highest, policy.manifest.version)  # which a reset may have lowered
            return self._change("rollback", folder, _after(active), digest, policy, check, note, previous, highest)

    def reset(self, name: str, to: int | str | None = None, *, check: Check | None = None, note: str = "") -> Active:
        """Begin again at ``to``, any published release: the way out of a version too high, and of a lost record.

        Without ``to`` it is the active release, or the last one that the history has. Versions rise from there: this
        forgets that a higher one was ever active, and whoever calls it answers for that.
        """
        with self._changing(name, note) as (tree, folder):
            start = find_beginning(folder, name)
            latest = start.latest
            if to is None and latest is None:
                message = f"nothing of {name!r} can be read; say which release to take"
                raise StoreError(message, reason="corrupt", path=self.path)
            wanted = latest.manifest if to is None and latest is not None else to
            digest, policy = find_release(tree, name, wanted, self.verifier, fixtures=True)
            version = policy.manifest.version
            return self._change("reset", folder, start, digest, policy, check, note, None, version)

    def prune(self, keep: int = KEEP, *, dry: bool = False) -> tuple[str, ...]:
        """Remove releases that are superseded, and what killed writers left; returns the digests of what went.

        Kept are, for each name, the active one, the one before it, the last ``keep`` that were active, and whatever has
        a higher version than ever was. With ``dry``, says what would go.
        """
        if type(keep) is not int or keep < 0:
            raise ConfigError("keep", keep, "a whole number from 0")
        superseded: dict[str, list[Release]] = {}
        in_use: set[str] = set()
        foreign: dict[str, StoreError] = {}
        with self._writing() as root, open_objects(root) as tree, root.enter(POLICIES) as policies:
            for name in names_of(policies):
                with policies.enter(name) as folder:
                    active = _record_or_none(folder, name)
                    records = [] if active is None else list(read_history(folder, name))
                if active is None:
                    continue
                kept = {active.manifest, active.previous, *_distinct(records)[:keep]}
                # Also of one whose manifest cannot be read now: a rollback to it needs its module.
                in_use |= {record.sha256 for record in records if record.manifest in kept}
                recorded = {record.manifest for record in records}
                superseded[name] = [
                    release
                    for release in releases_of(tree, name, foreign)
                    if release.digest not in kept and release.manifest.version <= active.highest
                ]
                for digest in recorded & foreign.keys():  # which is nobody else's
                    raise foreign[digest]
            unused = {release.digest for releases in superseded.values() for release in releases}
            going = (*sorted(unused), *unused_modules(tree, unused, in_use))
            if not dry:
                _sweep(tree, policies)
                _remove(tree, policies, going, superseded)
        return going

    # -- how

    @contextmanager
    def _writing(self) -> Iterator[Folder]:
        with Folder.root(self.path) as root, self._alone(root):
            yield root

    @contextmanager
    def _alone(self, root: Folder) -> Iterator[None]:
        """Take the lock. Raises :class:`StoreError` (``clock``) where this clock would date a change into the future.

        Of a store that others have too, the clock of the file system is theirs. What is compared with it is the clock
        of this machine, whatever clock the verifier was given.
        """
        with root.locked(self.lock_seconds) as there:
            ahead = time.time() - there
            if not ahead <= CLOCK_SKEW:
                message = f"this clock is {ahead:.0f} s ahead of that of the store's file system; nothing was changed"
                raise StoreError(message, reason="clock", path=self.path, ahead=ahead)
            yield

    @contextmanager
    def _changing(self, name: str, note: str) -> Iterator[tuple[Folder, Folder]]:
        """Open the folder ``sha256``, and that of ``name``, for one change."""
        if not is_note(note):
            raise ConfigError("note", note, f"printable text of at most {NOTE_LENGTH} characters")
        with self._policy(name):  # before the lock is made: is there such a policy at all?
            pass
        with (
            self._writing() as root,
            open_objects(root) as tree,
            root.enter(POLICIES) as policies,
            policies.enter(name) as folder,
        ):
            yield tree, folder

    def _change(
        self,
        action: str,
        folder: Folder,
        start: Beginning,
        digest: str,
        policy: VerifiedPolicy,
        check: Check | None,
        note: str,
        previous: str | None,
        highest: int,
    ) -> Active:
        if start.sequence > HIGHEST_VERSION:
            message = f"record {start.sequence - 1} leaves no number above it; reset begins again"
            raise StoreError(message, reason="corrupt", path=folder.path)
        if check is not None:
            check(policy)
        when = datetime.fromtimestamp(int(self.verifier.clock()), timezone.utc)
        if start.latest is not None:  # a follower knows a reset by that it is no older
            when = max(when, start.latest.when)
        before = start.before
        record = make_record(
            action,
            policy.manifest,
            digest,
            before,
            previous=previous,
            highest=highest,
            when=when,
            note=note,
            sequence=start.sequence,
        )
        if before is None:
            with unchanged():
                set_history_aside(folder, start.sequence)
        return _commit(folder, before, record)


# -- the steps of a change, in folders of a store whose lock is held


def _after(active: Active | None) -> Beginning:
    return Beginning(active, active, 1 if active is None else active.sequence + 1)


def _commit(folder: Folder, before: Active | None, record: Active) -> Active:
    """Replace the record of a policy, whose folder this is, after keeping ``before`` as history.

    The second step decides: killed in between, the history has what is still active, and nobody reads that.
    """
    data = record.to_bytes()
    written = Active.from_bytes(data, record.name, path=folder.path)
    if before is not None:
        with unchanged(), folder.make(HISTORY) as history:
            history.write(history_file(before.sequence), before.to_bytes())
    folder.write(ACTIVE, data)
    return written


def _record_or_none(folder: Folder, name: str) -> Active | None:
    """Return the active record, ``None`` before the first activation.

    Raises :class:`StoreError` for one that was lost.
    """
    try:
        return read_record(folder, name)
    except ArtifactNotFound:
        return None


def _rollback_target(folder: Folder, name: str, active: Active, to: int | str | None) -> str:
    """Return the digest of the manifest to roll back to.

    Raises :class:`StoreError` (``not_recorded``) where it never was active.
    """
    if to is None:
        if active.previous is None:
            raise StoreError(f"{name!r} has nothing before this", reason="not_recorded", path=folder.path)
        return active.previous
    for record in read_history(folder, name):
        if is_named(to, record.version, record.sha256, record.manifest):
            return record.manifest
    raise StoreError(f"{to!r} of {name!r} was never active", reason="not_recorded", path=folder.path)


def _pruned(tree: Folder, folder: Folder, active: Active, digest: str) -> ReleasePruned:
    """Return the error for a rollback to a release that is not there: it says which one, and which ones are."""
    records = {active.manifest: active}
    with suppress(StoreError):  # a history that is broken ends there
        for record in read_history(folder, active.name):
            records.setdefault(record.manifest, record)
    there = set(tree.names())
    candidates = [
        record.version
        for manifest, record in records.items()
        if manifest != active.manifest and {manifest, record.sha256} <= there
    ]
    wanted = records.get(digest)
    which = "the release before it" if wanted is None else f"version {wanted.version}"
    left = f"it can go to version {', '.join(map(str, candidates))}" if candidates else "nothing else is left"
    message = f"{which} of {active.name!r} ({digest[:16]}) was pruned; {left}"
    version = None if wanted is None else wanted.version
    return ReleasePruned(message, version=version, candidates=tuple(candidates), path=tree.path)


def _distinct(records: list[Active]) -> list[str]:
    return list(dict.fromkeys(record.manifest for record in records))


def _remove(tree: Folder, policies: Folder, going: Iterable[str], gone: Mapping[str, Iterable[Release]]) -> None:
    """Remove the folders ``going``, and then the versions of the releases that are ``gone``, by name."""
    removed = False
    try:
        for digest in going:
            tree.remove(digest)
            removed = True
        for name, releases in gone.items():
            with policies.enter(name) as folder:
                forget_versions(folder, releases)
    except StoreError as error:
        error.changed = removed
        raise


def _previous_of(folder: Folder, name: str, digest: str) -> str | None:
    """Return what was active before that manifest was activated, so that a second rollback goes on backwards.

    It is ``None`` as well where the history cannot be read: a rollback is not the time to insist on it.
    """
    try:
        for record in read_history(folder, name):
            if record.manifest == digest and record.action != "rollback":
                return record.previous
    except StoreError:
        pass
    return None


def _require_unlike(policies: Folder, name: str) -> None:
    """Raise :class:`StoreError` (``name``) where another name differs from this one in nothing but case."""
    for other in names_of(policies):
        if other != name and other.lower() == name.lower():
            raise StoreError(f"{name!r} differs from {other!r} only in case", reason="name", path=policies.path)


def _sweep(tree: Folder, policies: Folder) -> None:
    """Remove what writers that were killed have left."""
    tree.sweep()
    for digest in filter(is_digest, tree.names()):
        with passing_over_foreign(), tree.enter(digest) as folder:
            folder.sweep()
    for name in names_of(policies):
        with policies.enter(name) as folder:
            folder.sweep()
            for inner in filter(folder.has, (HISTORY, VERSIONS)):
                with folder.enter(inner) as records:
                    records.sweep()
