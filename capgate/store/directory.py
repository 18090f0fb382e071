"""A store of policies: a folder that several processes may use at once, and that no crash leaves half written.

::

    sha256/<digest of a module>/policy.wasm
    sha256/<digest of a manifest>/manifest.json, signature.json, fixtures.json
    policies/<name>/active.json                     which manifest is active: the one file that decides, and is replaced
    policies/<name>/history/<sequence>.json         what active.json was before
    lock                                            held by whoever writes

Publishing adds; only activating, rolling back and resetting change what runs, each by replacing ``active.json``.
Versions rise. The only way down is a rollback, to what once was active.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Final

from ..errors import ConfigError, StoreError
from . import objects
from .changes import commit, last_readable, previous_of, record_or_none, require_unlike, rollback_target, sweep
from .files import Folder
from .fixtures import fixtures_of
from .objects import Release, open_objects
from .reading import POLICIES, StoreReader, find_release, load_release, names_of, read_history, read_record, releases_of
from .records import NOTE_LENGTH, Active, is_note, make_record
from .verify import VerifiedPolicy, Verifier

#: Looks at a policy before it becomes active, and raises where it must not: :func:`capgate.testing.golden.check_release`, for
#: one. A rollback reads no fixtures. Other writers wait meanwhile, and it must not write to the store itself.
Check = Callable[[VerifiedPolicy], object]

#: Superseded policies that :meth:`PolicyStore.prune` keeps unless told otherwise, beside the active and the previous.
KEEP: Final = 5


class PolicyStore(StoreReader):
    """A store that may be written. Made by publishing into a folder that does not exist yet, or is empty.

    ``lock_seconds`` is how long to wait for another writer. Every method raises :class:`ArtifactError`, whose leaves
    say why, and then has changed nothing that runs; only after :class:`StoreError` ``io``, :meth:`status` says whether
    it has. All of this blocks, on the disk and on other writers: an event loop calls it in a worker thread.

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
        """Add a module with its manifest, signature and fixtures files, verified as if they were to be loaded. The
        fixtures have to be those that the manifest names, and are judged when it is to be activated; this activates
        nothing.

        Again with the same manifest, it adds signatures and mends what is damaged. Raises :class:`StoreError`
        (``conflict``) where this version of the policy is published already with another manifest.
        """
        parsed, _ = self.verifier.manifest(manifest, signatures)
        artifact = self.verifier.artifact(parsed, module)
        fixtures_of(parsed, fixtures)
        digest = objects.sha256_of(manifest)
        with Folder.make_root(self.path) as root, root.locked(self.lock_seconds):
            # The name first: a publisher that is killed leaves a name without releases, not a release without a name.
            with root.make(POLICIES) as policies:
                require_unlike(policies, parsed.name)
                with policies.make(parsed.name):
                    pass
            with root.make(objects.FOLDER) as tree:
                for release in releases_of(tree, parsed.name):
                    if release.manifest.version == parsed.version and release.digest != digest:
                        message = f"version {parsed.version} of {parsed.name!r} is published as {release.digest}"
                        raise StoreError(message, reason="conflict", path=self.path)
                objects.put_module(tree, artifact)
                objects.put_manifest(tree, manifest, signatures, self.verifier.keys, fixtures)
        return Release(digest, parsed)

    def activate(self, name: str, which: int | str, *, check: Check | None = None, note: str = "") -> Active:
        """Make a published release the active one, if everything verifies and ``check`` does not raise.

        ``which`` is a version, the digest of a module or that of a manifest. Raises :class:`StoreError`
        (``lowers_version``) unless the version is above all that were active. Does nothing where it is active already.
        """
        with self._changing(name, note) as (tree, folder):
            active = record_or_none(folder, name)
            digest, policy = find_release(tree, name, which, self.verifier, fixtures=True)
            if active is not None and digest == active.manifest:
                return active
            version = policy.manifest.version
            if active is not None and version <= active.highest:
                message = f"version {version} of {name!r} is not above {active.highest}, which was active"
                raise StoreError(message + "; what was active is for rollback", reason="lowers_version", path=self.path)
            previous = None if active is None else active.manifest
            return self._change("activate", folder, active, digest, policy, check, note, previous, version)

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
        by now, :class:`StoreError` (``moved``), so that several who see the same fault go back once. ``not_recorded``
        where there is nothing to go back to. The highest version stays what it was.
        """
        with self._changing(name, note) as (tree, folder):
            active = read_record(folder, name)
            if sequence is not None and sequence != active.sequence:
                message = f"record {active.sequence} of {name!r} is active, not {sequence}"
                raise StoreError(message, reason="moved", path=self.path)
            digest = rollback_target(folder, name, active, to)
            if digest == active.manifest:
                return active
            policy = load_release(tree, digest, name, self.verifier)
            previous = previous_of(folder, name, digest)
            highest = max(active.highest, policy.manifest.version)  # which a reset may have lowered
            return self._change("rollback", folder, active, digest, policy, check, note, previous, highest)

    def reset(self, name: str, to: int | str | None = None, *, check: Check | None = None, note: str = "") -> Active:
        """Begin again at ``to``, any published release: the way out of a version too high, and of a lost record.

        Without ``to`` it is the active release, or the last one that the history has. Versions rise from there: this
        forgets that a higher one was ever active, and whoever calls it answers for that.
        """
        with self._changing(name, note) as (tree, folder):
            before, sequence = last_readable(folder, name)
            if to is None and before is None:
                message = f"nothing of {name!r} can be read; say which release to take"
                raise StoreError(message, reason="corrupt", path=self.path)
            wanted = before.manifest if to is None and before is not None else to
            digest, policy = find_release(tree, name, wanted, self.verifier, fixtures=True)
            version = policy.manifest.version
            return self._change("reset", folder, before, digest, policy, check, note, None, version, sequence)

    def prune(self, keep: int = KEEP, *, dry: bool = False) -> tuple[str, ...]:
        """Remove releases that are superseded, and what killed writers left; returns the digests of what went.

        Kept are, for each name, the active one, the one before it, the last ``keep`` that were active, and whatever has
        a higher version than ever was. With ``dry``, says what would go.
        """
        if type(keep) is not int or keep < 0:
            raise ConfigError("keep", keep, "a whole number from 0")
        unused: set[str] = set()
        in_use: set[str] = set()
        with self._writing() as root, open_objects(root) as tree, root.enter(POLICIES) as policies:
            for name in names_of(policies):
                with policies.enter(name) as folder:
                    active = record_or_none(folder, name)
                    recorded = [] if active is None else [record.manifest for record in read_history(folder, name)]
                if active is None:
                    continue
                in_use.add(active.sha256)
                kept = {active.manifest, active.previous, *list(dict.fromkeys(recorded))[:keep]}
                unused |= {
                    release.digest
                    for release in releases_of(tree, name)
                    if release.digest not in kept and release.manifest.version <= active.highest
                }
            going = (*sorted(unused), *objects.unused_modules(tree, unused, in_use))
            if not dry:
                sweep(tree, policies)
                for digest in going:
                    tree.remove(digest)
        return going

    # -- how

    @contextmanager
    def _writing(self) -> Iterator[Folder]:
        with Folder.root(self.path) as root, root.locked(self.lock_seconds):
            yield root

    @contextmanager
    def _changing(self, name: str, note: str) -> Iterator[tuple[Folder, Folder]]:
        """The folder ``sha256``, and that of ``name``, for one change."""
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
        before: Active | None,
        digest: str,
        policy: VerifiedPolicy,
        check: Check | None,
        note: str,
        previous: str | None,
        highest: int,
        sequence: int | None = None,
    ) -> Active:
        if check is not None:
            check(policy)
        when = datetime.fromtimestamp(int(self.verifier.clock()), timezone.utc)
        record = make_record(
            action,
            policy.manifest,
            digest,
            before,
            previous=previous,
            highest=highest,
            when=when,
            note=note,
            sequence=sequence,
        )
        return commit(folder, before, record)
