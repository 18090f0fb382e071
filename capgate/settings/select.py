"""Makes the checker that settings describe, in three steps: whom to trust, where policies come from, who answers.

:func:`select_checker` takes them: :func:`trust`, :func:`source`, :func:`checker`.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple, Union

import msgspec

from ..artifact.load import WasmArtifact, load_policy
from ..checker.base import Checker
from ..checker.cached import CachedChecker, is_keyed
from ..checker.following import FollowingChecker
from ..checker.local import LocalPolicyChecker
from ..checker.wasm import WasmPolicyChecker
from ..checker.watcher import Probation
from ..errors import ArtifactError, ConfigError
from ..log_writer import BackgroundLogger
from ..policy import RuntimePolicy
from ..runtime.pool import WasmPool
from ..store import PolicyStore
from ..store.verifier import Clock, VerifiedPolicy, Verifier
from .settings import Settings
from .trust import configured_artifact, verifier_for

_log = BackgroundLogger("capgate.store")


class ModuleSource(NamedTuple):
    """A module that answers until ``expires``, in seconds since the epoch by ``clock``, or for ever (``None``).

    ``inputs`` are the parts of a question that its manifest says it looks at; ``None`` where nothing says so.
    """

    artifact: WasmArtifact
    clock: Clock
    expires: float | None
    inputs: frozenset[str] | None = None


class StoreSource(NamedTuple):
    """Whatever is active in ``store`` under ``name``, now and later."""

    store: PolicyStore
    name: str


Source = Union[RuntimePolicy, ModuleSource, StoreSource]


def select_checker(settings: Settings) -> Checker:
    """Make the checker that ``settings`` describe. To be called once, at start-up.

    Wasm answers if an artifact or a store is configured, else Python. A
    :class:`~capgate.checker.cached.CachedChecker` is in front of it, unless nothing is ``safe`` and nothing can be, or
    is to be, remembered. Raises:

    - :class:`~capgate.errors.ConfigError` if there is neither artifact, store nor document;
    - :class:`~capgate.errors.ArtifactError` (with both digests, where they differ);
    - :class:`~capgate.errors.WasmError`;
    - :class:`~capgate.errors.EngineUnavailable`.
    """
    return checker(source(settings, trust(settings)), settings)


# -- whom to trust


def trust(settings: Settings) -> Verifier | None:
    """Return what verifies manifests; ``None`` for a document, and for an artifact without trusted keys."""
    if settings.store is None and settings.trusted_keys is None:
        return None
    return verifier_for(settings)


# -- where policies come from


def source(settings: Settings, verifier: Verifier | None) -> Source:
    """Return the document, the module or the store that ``settings`` name, read and verified."""
    if settings.store is not None and verifier is not None:
        return _of_store(settings.store, settings, verifier)
    if settings.artifact is not None and verifier is not None:
        return _verified(verifier.load(settings.artifact, settings.artifact_sha256), verifier, settings)
    if settings.artifact is not None:
        artifact = configured_artifact(settings)
        return ModuleSource(artifact, time.time, _expiry(artifact, None, settings))
    if isinstance(settings.policy, dict):
        return RuntimePolicy.from_document(settings.policy)
    if settings.policy is not None:
        policy = load_policy(settings.policy, limits=settings.limits)
        settings.check_mode(policy.modes)
        return policy
    valid = "a policy document (policy=...), a Wasm module (artifact=...) or a policy store (store=...)"
    raise ConfigError("policy", None, valid)


def _of_store(path: str | os.PathLike[str], settings: Settings, verifier: Verifier) -> Source:
    """Return what is active in the store; or the one version that is pinned, whatever is active."""
    name, pin = settings.policy_name, settings.artifact_sha256
    if name is None:
        raise ConfigError("policy_name", None, "the name of a policy, together with store")
    store = PolicyStore(path, verifier)
    if pin is not None:
        policy = store.load_release(name, pin)
        if (
            verifier.keys is None and pin == policy.manifest.sha256
        ):  # else the pin is the manifest's own, or it is signed
            policy = _without_manifest(policy)
        return _verified(policy, verifier, settings)
    if verifier.keys is None:
        _log.warning("policy store %s: no signature is asked for; whoever may write there decides", store.path)
    if settings.contract is not None:
        raise ConfigError("contract", settings.contract, "none with a store, unless artifact_sha256 pins a version")
    return StoreSource(store, name)


def _without_manifest(policy: VerifiedPolicy) -> VerifiedPolicy:
    """Return of ``policy`` what a pin of its module makes certain where nobody's signature is asked for.

    The pin covers the module alone. Which rule of it is asked, and what it looks at, is then not for the manifest to
    say, but for the settings.
    """
    bare = policy.artifact.without_entrypoint()
    manifest = msgspec.structs.replace(policy.manifest, inputs=None)
    return msgspec.structs.replace(policy, artifact=bare, manifest=manifest)


def _verified(policy: VerifiedPolicy, verifier: Verifier, settings: Settings) -> ModuleSource:
    manifest = policy.manifest
    expires = None if manifest.expires is None else manifest.expires.timestamp()
    inputs = None if manifest.inputs is None else frozenset(manifest.inputs)
    return ModuleSource(policy.artifact, verifier.clock, _expiry(policy.artifact, expires, settings), inputs)


def _expiry(artifact: WasmArtifact, expires: float | None, settings: Settings) -> float | None:
    """Return when a policy stops answering: with its manifest or its bundle's signature, whichever is sooner."""
    signature = None if artifact.bundle is None else artifact.bundle.signature
    moments = (expires, None if signature is None else signature.expires)
    return None if settings.keep_expired else min((moment for moment in moments if moment is not None), default=None)


# -- who answers


def checker(source: Source, settings: Settings) -> Checker:
    """Make the checker that answers by ``source``, with what is in front of it."""
    answering: LocalPolicyChecker | WasmPolicyChecker | FollowingChecker
    if isinstance(source, ModuleSource):
        answering = _of_module(source, settings)
    elif isinstance(source, StoreSource):
        answering = _following(source, settings)
    else:
        answering = LocalPolicyChecker(source, limits=settings.limits)
    size = settings.cache_size
    if size is None and not isinstance(source, StoreSource) and not is_keyed(answering.inputs):
        size = 0  # and that is so for good, but for a store
    if not settings.safe and size == 0:
        return answering
    return CachedChecker(answering, safe=settings.safe, size=size)


def _of_module(source: ModuleSource, settings: Settings) -> WasmPolicyChecker:
    artifact = source.artifact
    if settings.require_facts and not artifact.sees_facts:
        told = f"its interface is {artifact.interface}, by which a module is told no facts, and require_facts is set"
        raise ArtifactError(f"{told}; build it for capgate:policy@0.2.0", path=artifact.path)
    pool = WasmPool(
        source.artifact,
        settings.pool_size,
        settings.engine,
        settings.limits,
        reuse=settings.reuse,
        entrypoint=settings.entry,
    )
    return WasmPolicyChecker(pool, expires=source.expires, clock=source.clock, inputs=source.inputs)


def _following(source: StoreSource, settings: Settings) -> FollowingChecker:
    store, name = source
    share = settings.rollback_share
    return FollowingChecker(
        store,
        name,
        lambda policy: _of_module(_verified(policy, store.verifier, settings), settings),
        poll=settings.store_poll,
        probation=Probation(share) if share else None,
        rollback=lambda sequence: store.rollback(name, sequence=sequence, note="its answers were faults"),
    )
