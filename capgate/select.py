"""Which checker settings describe: :func:`select_checker`."""

from __future__ import annotations

import os

from .cache import QuickChecker
from .checker import LocalPolicyChecker, PolicyChecker, WasmPolicyChecker
from .errors import ConfigError
from .policy import RuntimePolicy
from .pool import WasmPool
from .settings import Settings
from .store.configured import verifier_for
from .store.loader import WasmArtifact, load_wasm_artifact, read_document


def select_checker(settings: Settings) -> PolicyChecker:
    """The checker that ``settings`` describe: Wasm if an artifact is configured, else local. To be called once, at
    start-up.

    Raises :class:`~capgate.errors.ConfigError` if neither is configured, :class:`~capgate.errors.ArtifactError` (with
    both digests, where they differ), :class:`~capgate.errors.WasmError` or
    :class:`~capgate.errors.EngineUnavailable`. With ``settings.safe`` or ``settings.cache_size``, a
    :class:`~capgate.cache.QuickChecker` is in front of it.
    """
    if settings.artifact is not None:
        artifact = _artifact(settings.artifact, settings)
        pool = WasmPool(artifact, settings.pool_size, settings.engine, settings.limits, reuse=settings.reuse)
        return _quick(WasmPolicyChecker(pool), settings)
    if settings.policy is not None:
        given = settings.policy
        document = given if isinstance(given, dict) else read_document(given, limits=settings.limits)
        policy = RuntimePolicy.from_document(document)
        return _quick(LocalPolicyChecker(policy, limits=settings.limits), settings)
    raise ConfigError("policy", None, "a policy document (policy=...) or a Wasm module (artifact=...)")


def _artifact(path: str | os.PathLike[str], settings: Settings) -> WasmArtifact:
    """The module at ``path``. With trusted keys it is taken only with a manifest that they have signed."""
    if settings.trusted_keys is None:
        return load_wasm_artifact(path, settings.artifact_sha256, limits=settings.limits)
    return verifier_for(settings).load(path, settings.artifact_sha256).artifact


def _quick(checker: LocalPolicyChecker | WasmPolicyChecker, settings: Settings) -> PolicyChecker:
    if not settings.safe and not settings.cache_size:
        return checker
    return QuickChecker(checker, safe=settings.safe, size=settings.cache_size)
