"""Reads a store, in as many processes as like to, without a lock and without writing a byte."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from ..errors import ArtifactError, ArtifactNotFound, CapgateError, ConfigError, StoreError
from ..policy import is_label
from .folders import Folder
from .manifest import Manifest
from .records import RECORD_BYTES, Active
from .releases import OBJECTS, Foreign, Release, open_objects, read_fixtures, read_manifest, read_module, releases_of
from .verifier import VerifiedPolicy, Verifier

POLICIES: Final = "policies"
ACTIVE: Final = "active.json"
HISTORY: Final = "history"
#: What the name of a history begins with that a reset has set aside.
SET_ASIDE: Final = "history-before-"
#: How often a load starts again because the active policy changed meanwhile.
_ATTEMPTS: Final = 10
_HISTORY_FILE: Final = re.compile(r"[0-9]{16}\.json", re.ASCII)


class Status(msgspec.Struct, frozen=True):
    """One name of a store. ``releases`` are the published ones, the highest version first, verified or not.

    ``problem`` says why the active policy could not be loaded now, or its fixtures could not be run again; or it is
    ``None``.
    """

    name: str
    active: Active | None
    manifest: Manifest | None
    signers: tuple[str, ...]
    problem: str | None
    releases: tuple[Release, ...]


class StoreReader:
    """The reading half of :class:`~capgate.store.PolicyStore`, for whoever only follows it.

    ``verifier`` says which signatures, audience, limits and clock count; without one there are no signatures to look
    at. Nothing is opened before it is asked for, and nothing stays open.
    """

    def __init__(self, path: str | os.PathLike[str], verifier: Verifier | None = None) -> None:
        shown = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
        if not isinstance(shown, str) or not shown or "\0" in shown:
            raise ConfigError("store", path, "the path of a policy store")
        self.path = shown
        self.verifier = verifier or Verifier()

    def names(self) -> tuple[str, ...]:
        """Return the policies that were published here."""
        with Folder.root(self.path) as root:
            if not root.has(POLICIES):
                return ()
            with root.enter(POLICIES) as policies:
                return tuple(names_of(policies))

    def read_active(self, name: str) -> Active:
        """Return the record of the policy that is active: one small file, cheap enough to be asked every second.

        Raises :class:`ArtifactNotFound` where none is, and :class:`StoreError`.
        """
        with self._policy(name) as folder:
            return read_record(folder, name)

    def load_active(self, name: str) -> VerifiedPolicy:
        """Return the active policy, with everything verified, from bytes that were read once.

        Raises :class:`ArtifactError`, of which the leaves say what is wrong. An expired policy is not loaded.
        """
        return self._load_active(name, fixtures=False)

    def _load_active(self, name: str, *, fixtures: bool) -> VerifiedPolicy:
        active = self.read_active(name)
        for _ in range(_ATTEMPTS):
            try:
                return self._load(active, fixtures=fixtures)
            except ArtifactError:  # noqa: PERF203 - the loop is for this
                # Between the two reads it may have been superseded, and removed file by file: a release without its
                # signature is one that is not signed, for example. Whatever is read next is verified as this was.
                before, active = active, self.read_active(name)
                if active == before:
                    raise
        raise StoreError(f"{name!r} changed {_ATTEMPTS} times while it was read", reason="moved", path=self.path)

    def load(self, active: Active) -> VerifiedPolicy:
        """Return the policy of a record that :meth:`read_active` gave, verified as by :meth:`load_active`."""
        return self._load(active, fixtures=False)

    def _load(self, active: Active, *, fixtures: bool) -> VerifiedPolicy:
        with Folder.root(self.path) as root, open_objects(root) as folder:
            policy = load_release(folder, active.manifest, active.name, self.verifier, fixtures=fixtures)
        stated = (policy.manifest.version, policy.manifest.sha256)
        if stated != (active.version, active.sha256):
            message = f"the record says {active.version}, {active.sha256}, the manifest {stated}"
            raise StoreError(message, reason="corrupt", path=self.path)
        return msgspec.structs.replace(policy, active=active)

    def load_release(self, name: str, which: int | str, *, fixtures: bool = False) -> VerifiedPolicy:
        """Return a published release, active or not.

        ``which`` is its version, the digest of its module or of its manifest. With ``fixtures``, those that it was
        released with are read as well, and verified. Raises as :meth:`load_active` does.
        """
        _require_name(name)
        with Folder.root(self.path) as root, open_objects(root) as tree:
            return find_release(tree, name, which, self.verifier, fixtures=fixtures)[1]

    def history(self, name: str) -> tuple[Active, ...]:
        """Return every record of that name. The newest, which is active, is first.

        Raises as :meth:`read_active` does.
        """
        with self._policy(name) as folder:
            return tuple(read_history(folder, name))

    def releases(self, name: str) -> tuple[Release, ...]:
        """Return what was published under that name, the highest version first."""
        return self._releases(name, {})

    def _releases(self, name: str, foreign: Foreign) -> tuple[Release, ...]:
        _require_name(name)
        with Folder.root(self.path) as root:
            if not root.has(OBJECTS):
                return ()
            with open_objects(root) as tree:
                return releases_of(tree, name, foreign)

    def status(self, name: str) -> Status:
        """Return how things are with that name.

        Raises :class:`ArtifactNotFound` where there is no store, and :class:`StoreError` where it cannot be looked at,
        or the name is none.
        """
        _require_name(name)
        with Folder.root(self.path):
            pass
        active, policy, problem = None, None, None
        published: tuple[Release, ...] = ()
        try:
            foreign: Foreign = {}
            published = self._releases(name, foreign)
            problem = f"passed over: {'; '.join(map(str, foreign.values()))}" if foreign else None
        except ArtifactError as error:
            problem = f"the releases cannot be listed: {error}"
        try:
            active = self.read_active(name)
            policy = self._load_active(name, fixtures=True)
            active = policy.active
        except ArtifactNotFound as error:
            problem = str(error) if active is not None else problem
        except CapgateError as error:
            problem = str(error)
        manifest, signers = (None, ()) if policy is None else (policy.manifest, policy.signers)
        return Status(name, active, manifest, signers, problem, published)

    @contextmanager
    def _policy(self, name: str) -> Iterator[Folder]:
        _require_name(name)
        with Folder.root(self.path) as root, root.enter(POLICIES) as policies, policies.enter(name) as folder:
            yield folder


def load_release(
    folder: Folder, digest: str, name: str, verifier: Verifier, *, fixtures: bool = False
) -> VerifiedPolicy:
    """Return the release with that digest, verified, from the folder ``sha256``.

    Its ``fixtures`` come with it if they are wanted.
    """
    data, signatures, path = read_manifest(folder, digest)
    manifest, signers = verifier.manifest(data, signatures, path=path, name=name)
    module, path = read_module(folder, manifest.sha256, verifier.limits.module_bytes)
    artifact = verifier.artifact(manifest, module, path=path)
    golden = read_fixtures(folder, digest, manifest) if fixtures else ()
    return VerifiedPolicy(artifact, manifest, signers, fixtures=golden)


def find_release(
    tree: Folder, name: str, which: object, verifier: Verifier, *, fixtures: bool = False
) -> tuple[str, VerifiedPolicy]:
    """Return the release that ``which`` names, and its digest.

    Of several with one module it is the highest version that verifies.
    """
    failure: ArtifactError | None = None
    for release in releases_of(tree, name):
        if is_named(which, release.manifest.version, release.manifest.sha256, release.digest):
            try:
                return release.digest, load_release(tree, release.digest, name, verifier, fixtures=fixtures)
            except ArtifactError as error:
                failure = failure or error
    raise failure or ArtifactNotFound(f"{name!r} has no release {which!r}", path=tree.path)


def is_named(which: object, version: int, *digests: str) -> bool:
    """Say whether ``which`` is that version, or one of the digests. A ``True`` is no 1."""
    return (type(which) is int and which == version) or (type(which) is str and which in digests)


def read_record(folder: Folder, name: str) -> Active:
    """Return the record in the folder of a policy.

    One that is missing where there is a history was lost: that is ``corrupt``, and no fresh start.
    """
    data = folder.read_if_there(ACTIVE, RECORD_BYTES)
    if data is not None:
        return Active.from_bytes(data, name, path=f"{folder.path}/{ACTIVE}")
    if history_files(folder) or any(file.startswith(SET_ASIDE) for file in folder.names()):
        raise StoreError("is missing, but there is a history", reason="corrupt", path=f"{folder.path}/{ACTIVE}")
    raise ArtifactNotFound("no version is active", path=folder.path)


def read_history(folder: Folder, name: str) -> Iterator[Active]:
    """Yield the active record, then those before it, back to the first.

    Raises :class:`StoreError` (``corrupt``) where the chain is broken.
    """
    active = read_record(folder, name)
    yield active
    for older in read_archive(folder, name, below=active.sequence):
        if active.before != older.digest:
            message = f"record {older.sequence} is not the one that record {active.sequence} follows"
            raise StoreError(message, reason="corrupt", path=folder.path)
        yield older
        active = older
    if active.before is not None:
        raise StoreError(f"what was before record {active.sequence} is missing", reason="corrupt", path=folder.path)


def read_archive(folder: Folder, name: str, below: int) -> Iterator[Active]:
    """Yield the superseded records, the newest first, whose sequence is less than ``below``."""
    files = [file for file in history_files(folder) if number_of(file) < below]
    if not files:
        return
    with folder.enter(HISTORY) as history:
        for file in reversed(files):
            path = f"{history.path}/{file}"
            record = Active.from_bytes(history.read(file, RECORD_BYTES), name, path=path)
            if history_file(record.sequence) != file:
                raise StoreError(f"holds record {record.sequence}", reason="corrupt", path=path)
            yield record


def history_file(sequence: int) -> str:
    """Return the name of a record's file. 16 digits, so that names sort as numbers do."""
    return f"{sequence:016}.json"


def number_of(file: str) -> int:
    """Return the number of the record in a file of that name."""
    return int(file.partition(".")[0])


def history_files(folder: Folder) -> list[str]:
    """Return the files of superseded records, the oldest first."""
    if not folder.has(HISTORY):
        return []
    try:
        with folder.enter(HISTORY) as history:
            return [file for file in history.names() if _HISTORY_FILE.fullmatch(file)]
    except ArtifactNotFound as error:  # it was there a moment ago, and is not to be taken for none
        raise StoreError("cannot be entered", reason="io", path=folder.path) from error


def names_of(policies: Folder) -> list[str]:
    """Return the names in the folder ``policies``."""
    return list(filter(is_label, policies.names()))


def _require_name(name: object) -> None:
    if not is_label(name):
        message = f"{name!r} is not 1 to 64 letters, digits, dots, underscores, plus and minus signs"
        raise StoreError(message, reason="name")
