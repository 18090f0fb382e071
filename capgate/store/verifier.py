"""Verifies everything that has to hold before a policy is used: signature, manifest, time, audience, digest, module.

In this order, each over the bytes that were read once: nothing in a manifest is looked at before its signature holds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

import msgspec

from ..artifact.bundle import BundleKeys
from ..artifact.load import DEFAULT_LIMITS, WasmArtifact, artifact_of, read_bytes
from ..errors import ArtifactNotFound, ConfigError, DigestMismatch, ManifestError, SignatureInvalid
from ..limits import Limits, check_digest
from .manifest import MANIFEST_BYTES, Audience, Manifest, check_audience, check_time
from .records import Active
from .release_fixtures import Fixture
from .signing import SIGNATURE_BYTES, TrustedKeys

#: What is appended to the path of a module for the files that belong to it.
MANIFEST_SUFFIX: Final = ".manifest.json"
SIGNATURE_SUFFIX: Final = ".signature.json"
FIXTURES_SUFFIX: Final = ".fixtures.json"

#: Gives seconds since the epoch. It is asked each time, and nothing keeps what it said.
Clock = Callable[[], float]


class VerifiedPolicy(msgspec.Struct, frozen=True):
    """A policy of which everything was verified when it was read.

    ``signers``   the ids of the trusted keys that signed it; none where no keys are trusted
    ``active``    the record of the store that led to it; ``None`` where it was loaded by other means
    ``fixtures``  those of the release, where they were asked for: what is to become active needs them, what only
                  runs does not
    """

    artifact: WasmArtifact
    manifest: Manifest
    signers: tuple[str, ...] = ()
    active: Active | None = None
    fixtures: tuple[Fixture, ...] = ()


class Verifier:
    """The signatures, the audience, the limits and the clock that count. Immutable; may be shared by threads.

    Without ``keys`` signatures are not looked at; ``require_signature`` makes that a :class:`ConfigError`. With
    ``keys`` a signature is required, always. With ``bundle_keys`` the module has to be a bundle with a signature of its
    own, as well.
    """

    def __init__(
        self,
        keys: TrustedKeys | None = None,
        *,
        require_signature: bool = False,
        audience: Audience | None = None,
        limits: Limits = DEFAULT_LIMITS,
        clock: Clock | None = None,
        bundle_keys: BundleKeys | None = None,
    ) -> None:
        if bundle_keys is not None and not isinstance(bundle_keys, BundleKeys):
            raise ConfigError("bundle_keys", type(bundle_keys).__name__, "a capgate.artifact.bundle.BundleKeys")
        if keys is not None and not isinstance(keys, TrustedKeys):
            raise ConfigError("trusted_keys", keys, "a capgate.store.TrustedKeys")
        if require_signature and keys is None:
            raise ConfigError("trusted_keys", None, "the keys to require signatures of, with require_signature")
        self.keys = keys
        self.audience = audience or Audience()
        self.limits = limits
        self.clock = clock or time.time
        self.bundle_keys = bundle_keys

    def manifest(
        self, data: bytes, signatures: bytes | None, *, path: str | None = None, name: str | None = None
    ) -> tuple[Manifest, tuple[str, ...]]:
        """Return the manifest that ``data`` is, and the ids of the keys that signed it.

        ``name`` is the policy that it has to be of. Raises :class:`SignatureInvalid` or :class:`ManifestError`.
        """
        signers = () if self.keys is None else self.keys.verify(data, signatures, path=path)
        manifest = Manifest.from_bytes(data, path=path)
        audience = self.audience if name is None else msgspec.structs.replace(self.audience, name=name)
        check_time(manifest, self.clock(), path=path)
        check_audience(manifest, audience, path=path)
        return manifest, signers

    def artifact(self, manifest: Manifest, data: bytes, *, path: str | None = None) -> WasmArtifact:
        """Return the module that ``manifest`` is about, which ``data`` has to be. Raises :class:`ArtifactError`."""
        entrypoint = manifest.entrypoint
        artifact = artifact_of(data, path, manifest.sha256, self.limits, self.bundle_keys, entrypoint)
        return _require_agreement(artifact, manifest)

    def load(self, path: str | os.PathLike[str], sha256: str | None = None) -> VerifiedPolicy:
        """Return the policy of a module file and the two beside it, ``….manifest.json`` and ``….signature.json``.

        Raises what :func:`load_wasm_artifact` raises, :class:`SignatureInvalid` and :class:`ManifestError`. A missing
        file is a missing signature.
        """
        if sha256 is not None:
            check_digest("sha256", sha256)
        shown = os.fsdecode(path)
        data = _read_beside(shown + MANIFEST_SUFFIX, MANIFEST_BYTES)
        signatures = None if self.keys is None else _read_beside(shown + SIGNATURE_SUFFIX, SIGNATURE_BYTES)
        manifest, signers = self.manifest(data, signatures, path=shown + MANIFEST_SUFFIX)
        if sha256 is not None and sha256 != manifest.sha256:
            raise DigestMismatch(expected=sha256, actual=manifest.sha256, path=shown + MANIFEST_SUFFIX)
        artifact = self.artifact(manifest, read_bytes(path, self.limits.module_bytes), path=shown)
        return VerifiedPolicy(artifact, manifest, signers)


def _read_beside(path: str, most: int) -> bytes:
    try:
        return read_bytes(path, most)
    except ArtifactNotFound as error:
        raise SignatureInvalid("is not there, and the module is to be signed", reason="missing", path=path) from error


def _require_agreement(artifact: WasmArtifact, manifest: Manifest) -> WasmArtifact:
    """Raise :class:`ManifestError` for a manifest that contradicts the module.

    It names another interface than the module has, or fewer inputs than it looks at.
    """
    if manifest.abi != artifact.interface:
        message = f"the module has {artifact.interface!r}, the manifest says {manifest.abi!r}"
        raise ManifestError(message, field="abi", path=artifact.path)
    known = artifact.inputs
    if manifest.inputs is not None and known is not None and not known <= set(manifest.inputs):
        message = f"the module looks at {sorted(known)}, the manifest says {list(manifest.inputs)}"
        raise ManifestError(message, field="inputs", path=artifact.path)
    return artifact
