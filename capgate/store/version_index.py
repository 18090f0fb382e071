"""Finds the release that has a version already, without looking at all the others.

``policies/<name>/versions/<version>`` holds the digest of the manifest that was published under that version. It is
written before the release is, so that no crash leaves a release that it does not know. It decides nothing: an entry
counts as far as there is such a release, and where the folder is missing it is made from the releases.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ..limits import is_digest
from .folders import Folder
from .releases import Release, read_release, releases_of

VERSIONS: Final = "versions"
_BYTES: Final = 65


def published_as(policy: Folder, objects: Folder, name: str, version: int) -> Release | None:
    """Return the release of that version of ``name``, if there is one. ``policy`` is the folder of that name."""
    if not policy.has(VERSIONS):
        _make(policy, releases_of(objects, name))
    with policy.enter(VERSIONS) as versions:
        data = versions.read_if_there(_file(version), _BYTES)
    digest = None if data is None else data.decode("ascii", "replace").removesuffix("\n")
    if digest is None or not is_digest(digest) or not objects.has(digest):
        return None
    release = read_release(objects, digest)
    is_it = release is not None and (release.manifest.name, release.manifest.version) == (name, version)
    return release if is_it else None


def enter_version(policy: Folder, version: int, digest: str) -> None:
    """Note that ``version`` is, or is about to be, published as ``digest``."""
    with policy.enter(VERSIONS) as versions:
        versions.write(_file(version), f"{digest}\n".encode("ascii"))


def forget_versions(policy: Folder, gone: Iterable[Release]) -> None:
    """Remove the entries of releases that are not there any more."""
    if policy.has(VERSIONS):
        with policy.enter(VERSIONS) as versions:
            for release in gone:
                if versions.has(_file(release.manifest.version)):
                    versions.remove(_file(release.manifest.version))


def _make(policy: Folder, releases: Iterable[Release]) -> None:
    files = {_file(release.manifest.version): f"{release.digest}\n".encode("ascii") for release in releases}
    policy.write_folder(VERSIONS, files)


def _file(version: int) -> str:
    return f"{version:016}"
