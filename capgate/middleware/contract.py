"""From an application to its handler contract, and from a contract to whether what runs is still that.

A contract says what routes declare when it is made, or when the gate starts. Routes that are added later, as in a
lifespan, are not in it; they are judged by what they declare like any other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from starlette.applications import Starlette

from ..actions import VOCABULARY, policy_hash
from ..artifact.load import load_policy, read_bytes
from ..checker.cached import QuickChecker
from ..checker.following import FollowingChecker
from ..checker.local import LocalPolicyChecker, PolicyChecker, WasmPolicyChecker
from ..errors import ConfigError, ContractDrift, ManifestError
from ..limits import Limits
from ..model import DEFAULT_ENVIRONMENT
from ..policy import RuntimePolicy
from ..routes.contract import (
    ZEROS,
    ContractAction,
    ContractRequirement,
    ContractRoute,
    HandlerContract,
    requirement_key,
    route_key,
)
from ..routes.declare import Requirements, as_written
from ..routes.framework import Unresolvable
from ..routes.route_report import report_routes
from ..routes.target import Target, find_target
from ..settings.settings import Settings
from ..settings.trust import configured_artifact

#: SHA-256 of the Wasm policy, and of the policy artifact whatever it is: 64 hex digits each.
Digests = tuple[str, str]
_NO_POLICY: Final[Digests] = (ZEROS, ZEROS)


def contract_of(
    app: object,
    settings: Settings | None = None,
    *,
    checker: PolicyChecker | None = None,
    within: object | None = None,
) -> HandlerContract:
    """What the routes of ``app`` declare, with the digests of the policy that ``checker``, or else ``settings``, name.

    Without either, or with a checker that is not capgate's own, the digests are all zeros. The service is named where
    it is not the default. ``within`` is the application that ``app`` is the inside of, if any.

    Raises :class:`~capgate.errors.ConfigError` and :class:`~capgate.errors.ArtifactError` for settings that lead to no
    policy, and for declarations that no contract can hold.
    """
    settings = settings or Settings()
    digests = digests_of(checker) if checker is not None else _digests_named(settings)
    try:
        target = around(find_target(app), within)
    except (Unresolvable, TypeError) as error:
        raise ConfigError("app", type(app).__name__, f"an application that can be seen into: {error}") from error
    return describe(target, settings, digests)


def around(target: Target, app: object) -> Target:
    """``target`` with what ``app`` declares, where ``app`` is the application of its router. Middleware of an
    application is inside of it, so that it finds the router, and not what is declared around that."""
    return target.below(app) if isinstance(app, Starlette) and app.router is target.router else target


def describe(target: Target, settings: Settings, digests: Digests = _NO_POLICY) -> HandlerContract:
    """The contract of the routes that can be seen from ``target``."""
    routes = [
        ContractRoute(
            route.template,
            tuple(sorted({*route.methods})),
            route.status,
            _requirements((*route.requirements, *route.asked)),
        )
        for route in report_routes(target, frozenset(settings.public))
    ]
    wasm, artifact = digests
    return HandlerContract(
        policy_hash=policy_hash(),
        wasm_policy_hash=wasm,
        artifact_sha256=artifact,
        service=None if settings.service == DEFAULT_ENVIRONMENT.service else settings.service,
        routes=tuple(sorted(routes, key=route_key)),
        actions=_actions({one.action for route in routes for one in route.requirements}),
    )


def _requirements(found: Requirements) -> tuple[ContractRequirement, ...]:
    made = {
        ContractRequirement(one.action, as_written(one).get("resource"), bool(one.parameters), one.args_hash): None
        for one in found
    }
    return tuple(sorted(made, key=requirement_key))


def _actions(names: Iterable[str]) -> tuple[ContractAction, ...]:
    found = []
    for name in sorted(names):
        action = VOCABULARY.get(name)
        if action is None:
            raise ConfigError("action", name, f"a registered action: {', '.join(sorted(VOCABULARY.names))}")
        operations = tuple(sorted(action.operations))
        found.append(ContractAction(name, action.section, action.kind, action.resource_required, operations))
    return tuple(found)


# -- the policy


def digests_of(checker: PolicyChecker) -> Digests:
    """The digests of the policy that a checker of capgate's own asks; zeros for another's."""
    if isinstance(checker, QuickChecker):
        checker = checker.inner
    if isinstance(checker, (WasmPolicyChecker, FollowingChecker)):
        return checker.policy.sha256, checker.policy.sha256
    return (ZEROS, checker.policy.sha256) if isinstance(checker, LocalPolicyChecker) else _NO_POLICY


def _digests_named(settings: Settings) -> Digests:
    """The digests of the policy that ``settings`` name, read and checked, and not run."""
    if settings.artifact is not None:
        artifact = configured_artifact(settings)
        return artifact.sha256, artifact.sha256
    if settings.policy is None:
        return _NO_POLICY
    given = settings.policy
    limits = settings.limits
    policy = RuntimePolicy.from_document(given) if isinstance(given, dict) else load_policy(given, limits=limits)
    return ZEROS, policy.sha256


# -- a contract and what runs


def read_contract(path: str | os.PathLike[str], *, limits: Limits | None = None) -> HandlerContract:
    """The contract in the file at ``path``, read once.

    Raises :class:`~capgate.errors.ArtifactError` where there is no regular file that can be read, or one of more than
    ``limits.module_bytes``, and :class:`~capgate.errors.ManifestError` for one that is no contract, with the
    :class:`~capgate.errors.ConfigError` that names the key as its ``__cause__``.
    """
    data = read_bytes(path, (limits or Limits()).module_bytes)
    try:
        return HandlerContract.from_json(data)
    except ConfigError as error:
        raise ManifestError(f"is no handler contract: {error}", path=os.fsdecode(path)) from error


def check_application(contract: HandlerContract, target: Target, settings: Settings) -> None:
    """That vocabulary, service, routes and what they need are those of ``contract``; else :class:`ContractDrift`.

    The order of routes does not count, but among those with the same path and methods. A contract that names no service
    fits any.
    """
    path = None if settings.contract is None else os.fsdecode(settings.contract)
    if contract.policy_hash != policy_hash():
        raise ContractDrift("policyHash", contract.policy_hash, policy_hash(), path=path)
    if contract.service not in (None, settings.service):
        raise ContractDrift("service", contract.service, settings.service, path=path)
    running = describe(target, settings)
    for field, listed, found in (
        ("routes", contract.routes, running.routes),
        ("actions", contract.actions, running.actions),
    ):
        if listed != found:
            raise ContractDrift(field, *_differing(listed, found), path=path)


def check_policy(contract: HandlerContract, checker: PolicyChecker, settings: Settings) -> None:
    """That the policy to be asked is the one of ``contract``; else :class:`ContractDrift`, with both digests."""
    path = None if settings.contract is None else os.fsdecode(settings.contract)
    wasm, artifact = digests_of(checker)
    for field, expected, actual in (
        ("wasmPolicyHash", contract.wasm_policy_hash, wasm),
        ("artifactSha256", contract.artifact_sha256, artifact),
    ):
        if expected != actual:
            raise ContractDrift(field, expected, actual, path=path)


def _differing(listed: tuple[object, ...], found: tuple[object, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The text of what only one of them has; of everything where they differ in nothing but order or number."""
    only = [one for one in listed if one not in found], [one for one in found if one not in listed]
    listed_only, found_only = only if any(only) else (listed, found)
    return tuple(map(str, listed_only)), tuple(map(str, found_only))
