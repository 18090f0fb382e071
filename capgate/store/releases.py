"""Keeps what was published, by content: ``sha256/<digest>/``, a folder for each module and for each manifest.

A module's folder holds ``policy.wasm``. A manifest's holds ``manifest.json``; if it is signed, ``signature.json``; and
if it names fixtures, ``fixtures.json``. The folder's name is the SHA-256 of the first. So a module that gets a later
expiry, or another name, is there once, and its manifests do not replace each other.

All functions take the folder ``sha256``. Those that write need the store's lock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

import msgspec

from ..artifact.load import WasmArtifact
from ..errors import ArtifactError, ArtifactNotFound, DigestMismatch, ManifestError, SignatureInvalid, StoreError
from ..limits import is_digest
from .folders import Folder, passing_over_foreign
from .manifest import MANIFEST_BYTES, Manifest
from .release_fixtures import FIXTURES_BYTES, Fixture, fixtures_of
from .signing import SIGNATURE_BYTES, TrustedKeys, format_signatures, parse_signatures

OBJECTS: Final = "sha256"
MODULE: Final = "policy.wasm"
MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "signature.json"
FIXTURES: Final = "fixtures.json"


class Release(msgspec.Struct, frozen=True):
    """A published manifest, and the ``digest`` of its file. Whether its signature holds is another question."""

    digest: str
    manifest: Manifest


def sha256_of(data: bytes) -> str:
    """Return the SHA-256 of ``data`` as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def read_manifest(objects: Folder, digest: str) -> tuple[bytes, bytes | None, str]:
    """Return the manifest file with that digest, its signature file, and where it is."""
    with objects.enter(digest) as folder:
        data = folder.read(MANIFEST, MANIFEST_BYTES)
        signatures = folder.read_if_there(SIGNATURE, SIGNATURE_BYTES)
        _require_digest(data, digest, folder.path)
        return data, signatures, folder.path


def read_module(objects: Folder, digest: str, most: int) -> tuple[bytes, str]:
    """Return the module with that digest, of at most so many bytes, and where it is."""
    with objects.enter(digest) as folder:
        data = folder.read(MODULE, most)
        _require_digest(data, digest, folder.path)
        return data, f"{folder.path}/{MODULE}"


def read_fixtures(objects: Folder, digest: str, manifest: Manifest) -> tuple[Fixture, ...]:
    """Return the fixtures that the manifest with that digest names, checked against it.

    There are none where it names none, whatever there may be. Raises what :func:`fixtures_of` does.
    """
    if manifest.fixtures is None:
        return ()
    with objects.enter(digest) as folder:
        data = folder.read_if_there(FIXTURES, FIXTURES_BYTES)
        return fixtures_of(manifest, data, path=f"{folder.path}/{FIXTURES}")


#: Digests of what was passed over, and why.
Foreign = dict[str, StoreError]


def all_releases(objects: Folder, foreign: Foreign | None = None) -> Iterator[Release]:
    """Yield every manifest that is what its folder says.

    Another is nobody's release, and whoever needs it hears why. What is not of a store's making is passed over, named
    in the log, and put into ``foreign``. Raises :class:`StoreError` (``io``) where one could not be looked at: it may
    be anybody's.
    """
    for digest in filter(is_digest, objects.names()):
        release = read_release(objects, digest, foreign)
        if release is not None:
            yield release


def releases_of(objects: Folder, name: str, foreign: Foreign | None = None) -> tuple[Release, ...]:
    """Return the releases of that name in the folder ``sha256``, the highest version first."""
    named = [release for release in all_releases(objects, foreign) if release.manifest.name == name]
    return tuple(sorted(named, key=lambda release: (-release.manifest.version, release.digest)))


def read_release(objects: Folder, digest: str, foreign: Foreign | None = None) -> Release | None:
    """Return the release in the folder of that digest; ``None`` where there is none, or it is not what it should be."""
    try:
        with passing_over_foreign({} if foreign is None else foreign, digest), objects.enter(digest) as folder:
            data = folder.read_if_there(MANIFEST, MANIFEST_BYTES)
            if data is not None:  # else it is that of a module
                _require_digest(data, digest, folder.path)
                return Release(digest, Manifest.from_bytes(data, path=folder.path))
    except ArtifactNotFound as error:  # removed by another process meanwhile?
        if objects.has(digest):
            raise StoreError("was not there for a moment", reason="io", path=objects.path) from error
    except (DigestMismatch, ManifestError):
        pass
    except StoreError as error:
        if error.reason != "corrupt":
            raise
    return None


def put_module(objects: Folder, artifact: WasmArtifact) -> None:
    """Put the module there, unless it is."""
    try:
        read_module(objects, artifact.sha256, len(artifact.data))
    except ArtifactError:
        objects.write_folder(artifact.sha256, {MODULE: artifact.data})


def put_manifest(
    objects: Folder, data: bytes, signatures: bytes | None, keys: TrustedKeys | None, fixtures: bytes | None = None
) -> str:
    """Put a manifest there with its fixtures and its signatures, beside those that it has; return its digest."""
    digest = sha256_of(data)
    try:
        _, present, _ = read_manifest(objects, digest)
        with objects.enter(digest) as folder:
            tested = folder.read_if_there(FIXTURES, FIXTURES_BYTES) == fixtures
    except ArtifactError:
        files = {MANIFEST: data, SIGNATURE: signatures, FIXTURES: fixtures}
        objects.write_folder(digest, {name: content for name, content in files.items() if content is not None})
        return digest
    merged = signatures if signatures is None or present is None else _merged(data, present, signatures, keys)
    with objects.enter(digest) as folder:
        if fixtures is not None and not tested:
            folder.write(FIXTURES, fixtures)
        if merged is not None and merged != present:
            folder.write(SIGNATURE, merged)
    return digest


def unused_modules(objects: Folder, unused: set[str], in_use: set[str]) -> list[str]:
    """Return the modules that only the manifests ``unused``, or none, are about, and that are not ``in_use``."""
    used = in_use | {release.manifest.sha256 for release in all_releases(objects) if release.digest not in unused}
    unused_digests = []
    for digest in filter(is_digest, objects.names()):
        if digest not in used:
            with passing_over_foreign(), objects.enter(digest) as folder:
                if folder.has(MODULE) and not folder.has(MANIFEST):
                    unused_digests.append(digest)
    return unused_digests


def _merged(data: bytes, present: bytes, added: bytes, keys: TrustedKeys | None) -> bytes:
    """Return both files' signatures, or ``added`` alone where what is there would spoil it."""
    try:
        merged = format_signatures((*parse_signatures(present), *parse_signatures(added)))
        if keys is not None:
            keys.verify(data, merged)
    except (SignatureInvalid, ValueError):
        return added
    return merged


def _require_digest(data: bytes, digest: str, path: str) -> None:
    actual = sha256_of(data)
    if actual != digest:
        raise DigestMismatch(expected=digest, actual=actual, path=path)


def open_objects(root: Folder) -> Folder:
    """Open the folder ``sha256`` of a store.

    Raises :class:`ArtifactNotFound` where nothing was ever published.
    """
    try:
        return root.enter(OBJECTS)
    except ArtifactNotFound as error:
        raise ArtifactNotFound("nothing was published here", path=root.path) from error
