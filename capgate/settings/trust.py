"""Makes a :class:`~capgate.store.Verifier` of what settings say about trust."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, Final

from ..actions import VOCABULARY, Vocabulary
from ..artifact.bundle import BundleKeys
from ..artifact.bundle.bundle_keys import HIDDEN, are_themselves
from ..artifact.bundle.bundle_keys import VALID as VALID_BUNDLE_KEYS
from ..artifact.load import WasmArtifact, document_format, load_wasm_artifact
from ..errors import ArtifactError, ConfigError
from ..policy.strict import parse
from ..store.folders import Folder
from ..store.manifest import Audience
from ..store.public_keys import parse_key_file
from ..store.signing import TrustedKeys
from ..store.verifier import Clock, Verifier
from .settings import Settings

#: Bytes of a file of public keys.
KEY_FILE_BYTES: Final = 65_536


def load_trusted_keys(given: tuple[str, ...] | str | os.PathLike[str], threshold: int = 1) -> TrustedKeys:
    """Return the keys of lines, or of the file at a path, one on each line. Raises :class:`ConfigError`.

    A link is followed, but neither the file at its end nor its folder may be writable by others. Who can change the
    keys decides what is signed.
    """
    if isinstance(given, tuple):
        return TrustedKeys(given, threshold)
    data = _read_keys(os.fsdecode(given), "trusted_keys", "a file of public keys")
    return TrustedKeys(parse_key_file(data), threshold)


def _read_keys(path: str, setting: str, what: str) -> bytes:
    try:
        folder, name = os.path.split(os.path.realpath(path))
        with Folder.root(folder) as parent:
            return parent.read(name, KEY_FILE_BYTES)
    except (ArtifactError, ValueError) as error:  # ValueError: NUL in the path
        valid = f"the path of {what} that only its owner may write"
        # Not the cause where that shows what was given: it may be a key and no path, and a private one.
        raise ConfigError(setting, path, valid) from (None if "\n" in path else error)


def load_bundle_keys(
    given: Mapping[str, Any] | str | os.PathLike[str], scope: str | None = None, *, clock: Clock | None = None
) -> BundleKeys:
    """Return the keys that verify bundles, as given or from the file at a path.

    The file is TOML where its name ends in ``.toml``, else JSON. It has to be as safe as for :func:`load_trusted_keys`.
    Raises :class:`ConfigError`, which shows no key.
    """
    if not isinstance(given, Mapping):
        path = os.fsdecode(given)
        if are_themselves(path):
            raise ConfigError("bundle_keys", HIDDEN, VALID_BUNDLE_KEYS)
        data = _read_keys(path, "bundle_keys", "a file of keys")
        try:
            value = parse(data, document_format(path), path)
        except ConfigError as error:  # which may show a part of a secret
            line, column = error.line, error.column
            seen, valid = HIDDEN, "strict JSON, or TOML"
            raise ConfigError("bundle_keys", seen, valid, path=path, line=line, column=column) from None
        if not isinstance(value, dict):
            raise ConfigError("bundle_keys", type(value).__name__, VALID_BUNDLE_KEYS, path=path)
        given = value
    return BundleKeys(given, scope, clock=clock or time.time)


def configured_artifact(settings: Settings) -> WasmArtifact:
    """Return the artifact of an application without trusted keys.

    It is pinned, and signed by the ``bundle_keys``, where settings say so. Raises what :func:`load_wasm_artifact`
    raises.
    """
    if settings.artifact is None:
        raise ConfigError("artifact", None, "the path of a Wasm module, or of an OPA bundle")
    return load_wasm_artifact(
        settings.artifact,
        settings.artifact_sha256,
        limits=settings.limits,
        bundle_keys=_bundle_keys(settings),
    )


def _bundle_keys(settings: Settings, clock: Clock | None = None) -> BundleKeys | None:
    given = settings.bundle_keys
    return None if given is None else load_bundle_keys(given, settings.bundle_scope, clock=clock)


def verifier_for(settings: Settings, *, vocabulary: Vocabulary = VOCABULARY, clock: Clock | None = None) -> Verifier:
    """Return the verifier of an application with these settings: its keys, mode, service, actions and limits.

    Reads the keys where they are in a file. Raises :class:`ConfigError`.
    """
    given = settings.trusted_keys
    return Verifier(
        None if given is None else load_trusted_keys(given, settings.signature_threshold),
        require_signature=settings.require_signature is True,
        audience=Audience(
            name=settings.policy_name,
            mode=settings.mode,
            service=settings.service,
            policy_hash=vocabulary.policy_hash(),
            limits=settings.limits,
        ),
        limits=settings.limits,
        clock=clock,
        bundle_keys=_bundle_keys(settings, clock),
    )
