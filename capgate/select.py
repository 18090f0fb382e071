"""Which checker settings describe: :func:`select_checker`."""

from __future__ import annotations

from .cache import QuickChecker
from .checker import LocalPolicyChecker, PolicyChecker, WasmPolicyChecker
from .errors import ConfigError
from .policy import RuntimePolicy
from .pool import WasmPool
from .settings import Settings
from .store.loader import load_policy, load_wasm_artifact


def select_checker(settings: Settings) -> PolicyChecker:
    """The checker that ``settings`` describe: Wasm if an artifact is configured, else local. To be called once, at
    start-up.

    Raises :class:`~capgate.errors.ConfigError` if neither is configured, :class:`~capgate.errors.ArtifactError` (with
    both digests, where they differ), :class:`~capgate.errors.WasmError` or
    :class:`~capgate.errors.EngineUnavailable`. With ``settings.safe`` or ``settings.cache_size``, a
    :class:`~capgate.cache.QuickChecker` is in front of it.
    """
    if settings.artifact is not None:
        artifact = load_wasm_artifact(settings.artifact, settings.artifact_sha256, limits=settings.limits)
        pool = WasmPool(artifact, settings.pool_size, settings.engine, settings.limits, reuse=settings.reuse)
        return _quick(WasmPolicyChecker(pool), settings)
    if settings.policy is not None:
        given = settings.policy
        limits = settings.limits
        policy = RuntimePolicy.from_document(given) if isinstance(given, dict) else load_policy(given, limits=limits)
        return _quick(LocalPolicyChecker(policy, limits=settings.limits), settings)
    raise ConfigError("policy", None, "a policy document (policy=...) or a Wasm module (artifact=...)")


def _quick(checker: LocalPolicyChecker | WasmPolicyChecker, settings: Settings) -> PolicyChecker:
    if not settings.safe and not settings.cache_size:
        return checker
    return QuickChecker(checker, safe=settings.safe, size=settings.cache_size)
