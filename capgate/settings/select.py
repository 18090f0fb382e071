"""Which checker settings describe: :func:`select_checker`."""

from __future__ import annotations

import logging
import os

import msgspec

from ..artifact.load import WasmArtifact, artifact_of, load_policy
from ..checker.cached import QuickChecker
from ..checker.following import FollowingChecker
from ..checker.generation import Probation
from ..checker.local import LocalPolicyChecker, PolicyChecker, WasmPolicyChecker
from ..errors import ConfigError
from ..policy import RuntimePolicy
from ..runtime.pool import WasmPool
from ..store import PolicyStore
from ..store.clock import steady_clock
from ..store.manifest import Manifest
from ..store.verifier import VerifiedPolicy, Verifier
from .settings import Settings
from .trust import configured_artifact, verifier_for

_log = logging.getLogger("capgate.store")


def select_checker(settings: Settings) -> PolicyChecker:
    """The checker that ``settings`` describe: Wasm if an artifact or a store is configured, else local. To be called
    once, at start-up.

    Raises :class:`~capgate.errors.ConfigError` if neither is configured, :class:`~capgate.errors.ArtifactError` (with
    both digests, where they differ), :class:`~capgate.errors.WasmError` or
    :class:`~capgate.errors.EngineUnavailable`. With ``settings.safe`` or ``settings.cache_size``, a
    :class:`~capgate.checker.cached.QuickChecker` is in front of it.
    """
    if settings.store is not None:
        return _quick(_from_store(settings.store, settings), settings)
    if settings.artifact is not None:
        return _quick(_from_artifact(settings.artifact, settings), settings)
    if settings.policy is not None:
        given = settings.policy
        limits = settings.limits
        policy = RuntimePolicy.from_document(given) if isinstance(given, dict) else load_policy(given, limits=limits)
        return _quick(LocalPolicyChecker(policy, limits=settings.limits), settings)
    valid = "a policy document (policy=...), a Wasm module (artifact=...) or a policy store (store=...)"
    raise ConfigError("policy", None, valid)


def _from_artifact(path: str | os.PathLike[str], settings: Settings) -> WasmPolicyChecker:
    """The module at ``path``. With trusted keys it is taken only with a manifest that they have signed."""
    if settings.trusted_keys is None:
        artifact, clock = configured_artifact(settings), steady_clock()
        return WasmPolicyChecker(_pool(artifact, settings), expires=_expiry(artifact, None, settings), clock=clock)
    verifier = verifier_for(settings)
    return _verified(verifier.load(path, settings.artifact_sha256), verifier, settings)


def _from_store(path: str | os.PathLike[str], settings: Settings) -> FollowingChecker | WasmPolicyChecker:
    """What is active in the store, now and later; or the one version that is pinned, whatever is active."""
    name = settings.policy_name
    if name is None:
        raise ConfigError("policy_name", None, "the name of a policy, together with store")
    verifier = verifier_for(settings)
    store = PolicyStore(path, verifier)
    if verifier.keys is None and settings.artifact_sha256 is None:
        _log.warning("policy store %s: no signature is asked for; whoever may write there decides", store.path)
    if settings.artifact_sha256 is not None:
        policy = store.load_release(name, settings.artifact_sha256)
        return _verified(_as_pinned(policy, settings, verifier), verifier, settings)
    if settings.contract is not None:
        raise ConfigError("contract", settings.contract, "none with a store, unless artifact_sha256 pins a version")
    share = settings.rollback_share
    return FollowingChecker(
        store,
        name,
        lambda policy: _verified(policy, verifier, settings),
        poll=settings.store_poll,
        probation=Probation(share) if share else None,
        rollback=lambda sequence: store.rollback(name, sequence=sequence, note="its answers were faults"),
    )


def _as_pinned(policy: VerifiedPolicy, settings: Settings, verifier: Verifier) -> VerifiedPolicy:
    """What of ``policy`` is certain. Where nobody's signature is asked for, a pin of the module covers no more than it:
    which rule of it is asked, and what it looks at, is then not for the manifest to say, but for the settings."""
    artifact, manifest = policy.artifact, policy.manifest
    if verifier.keys is not None or settings.artifact_sha256 != manifest.sha256:  # else the pin is the manifest's own
        return policy
    bare = artifact_of(artifact.data, artifact.path, artifact.sha256, settings.limits)
    return msgspec.structs.replace(policy, artifact=bare, manifest=msgspec.structs.replace(manifest, inputs=None))


def _verified(policy: VerifiedPolicy, verifier: Verifier, settings: Settings) -> WasmPolicyChecker:
    manifest = policy.manifest
    expires = _expiry(policy.artifact, manifest, settings)
    inputs = None if manifest.inputs is None else frozenset(manifest.inputs)
    return WasmPolicyChecker(_pool(policy.artifact, settings), expires=expires, clock=verifier.clock, inputs=inputs)


def _expiry(artifact: WasmArtifact, manifest: Manifest | None, settings: Settings) -> float | None:
    """When the policy stops answering: with its manifest or with the signature of its bundle, whichever is sooner."""
    signature = None if artifact.bundle is None else artifact.bundle.signature
    moments = [
        None if manifest is None or manifest.expires is None else manifest.expires.timestamp(),
        None if signature is None else signature.expires,
    ]
    return None if settings.keep_expired else min((moment for moment in moments if moment is not None), default=None)


def _pool(artifact: WasmArtifact, settings: Settings) -> WasmPool:
    return WasmPool(
        artifact, settings.pool_size, settings.engine, settings.limits, reuse=settings.reuse, entrypoint=settings.entry
    )


def _quick(checker: LocalPolicyChecker | WasmPolicyChecker | FollowingChecker, settings: Settings) -> PolicyChecker:
    if not settings.safe and not settings.cache_size:
        return checker
    return QuickChecker(checker, safe=settings.safe, size=settings.cache_size)
