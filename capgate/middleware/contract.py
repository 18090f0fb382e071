"""Makes the handler contract of an application, and checks whether what runs is still that of a contract.

A contract says what routes declare when it is made, or when the gate starts. Routes that are added later, as in a
lifespan, are not in it. Their requests are asked about by what they declare like any other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from starlette.applications import Starlette

from ..actions import VOCABULARY, policy_hash
from ..artifact.load import load_policy, read_bytes
from ..checker.base import Checker, PolicyChecker
from ..checker.foreign import as_checker
from ..errors import ConfigError, ContractDrift, ManifestError
from ..limits import Limits
from ..model import DEFAULT_ENVIRONMENT
from ..policy import RuntimePolicy
from ..routes.contract import (
    ZEROS,
    ContractAction,
    ContractArgument,
    ContractRequirement,
    ContractRoute,
    HandlerContract,
    requirement_key,
    route_key,
)
from ..routes.declare import Requirement, Requirements, as_written
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
    """Return what the routes of ``app`` declare, with the digests of the policy that they are judged by.

    The policy is that of ``checker``, or else the one that ``settings`` name. Without either, or with a checker that is
    not capgate's own, the digests are all zeros. The service is named where it is not the default. ``within`` is the
    application that ``app`` is the inside of, if any.

    Raises :class:`~capgate.errors.ConfigError` and :class:`~capgate.errors.ArtifactError` for settings that lead to no
    policy, and for declarations that no contract can hold.
    """
    settings = settings or Settings()
    digests = digests_of(as_checker(checker)) if checker is not None else _digests_named(settings)
    try:
        target = around(find_target(app), within)
    except (Unresolvable, TypeError) as error:
        raise ConfigError("app", type(app).__name__, f"an application that can be seen into: {error}") from error
    return describe(target, settings, digests)


def around(target: Target, app: object) -> Target:
    """Return ``target`` with what ``app`` declares, where ``app`` is the application of its router.

    Middleware of an application is inside of it, so that it finds the router, and not what is declared around that.
    """
    return target.below(app) if isinstance(app, Starlette) and app.router is target.router else target


def describe(target: Target, settings: Settings, digests: Digests = _NO_POLICY) -> HandlerContract:
    """Return the contract of the routes that can be seen from ``target``."""
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
        actions=_actions({requirement.action for route in routes for requirement in route.requirements}),
    )


def _requirements(declared: Requirements) -> tuple[ContractRequirement, ...]:
    return tuple(sorted({*map(_requirement, declared)}, key=requirement_key))


def _requirement(part: Requirement) -> ContractRequirement:
    written: dict[str, Any] = {**as_written(part)}
    fields = msgspec.structs.asdict(part)
    args = tuple(ContractArgument(name, source) for name, source in sorted(written.get("args", {}).items()))
    looks_up = fields.get("facts") is not None
    return ContractRequirement(
        part.action, written.get("resource"), bool(part.parameters), part.args_hash, looks_up, args
    )


def _actions(names: Iterable[str]) -> tuple[ContractAction, ...]:
    actions = []
    for name in sorted(names):
        action = VOCABULARY.get(name)
        if action is None:
            raise ConfigError("action", name, f"a registered action: {', '.join(sorted(VOCABULARY.names))}")
        operations = tuple(sorted(action.operations))
        actions.append(ContractAction(name, action.section, action.kind, action.resource_required, operations))
    return tuple(actions)


# -- the policy


def digests_of(checker: Checker) -> Digests:
    """Return the digests of the policy that ``checker`` asks; zeros where that is not certain."""
    policy = checker.policy if checker.knows_policy else None
    if policy is None:
        return _NO_POLICY
    return policy.sha256 if policy.is_wasm else ZEROS, policy.sha256


def _digests_named(settings: Settings) -> Digests:
    """Return the digests of the policy that ``settings`` name, read and checked, and not run."""
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
    """Return the contract in the file at ``path``, read once.

    Raises :class:`~capgate.errors.ArtifactError` where there is no regular file that can be read, or one of more than
    ``limits.module_bytes``. One that is no contract raises :class:`~capgate.errors.ManifestError`. Its ``__cause__`` is
    the :class:`~capgate.errors.ConfigError` that names the key.
    """
    data = read_bytes(path, (limits or Limits()).module_bytes)
    try:
        return HandlerContract.from_json(data)
    except ConfigError as error:
        raise ManifestError(f"is no handler contract: {error}", path=os.fsdecode(path)) from error


def check_application(contract: HandlerContract, target: Target, settings: Settings) -> None:
    """Raise :class:`ContractDrift` unless vocabulary, service, routes and what they need are those of ``contract``.

    The order of routes does not count, but among those with the same path and methods. A contract that names no service
    fits any.
    """
    path = None if settings.contract is None else os.fsdecode(settings.contract)
    if contract.policy_hash != policy_hash():
        raise ContractDrift("policyHash", contract.policy_hash, policy_hash(), path=path)
    if contract.service not in (None, settings.service):
        raise ContractDrift("service", contract.service, settings.service, path=path)
    running = describe(target, settings)
    for field, listed, runs in (
        ("routes", contract.routes, running.routes),
        ("actions", contract.actions, running.actions),
    ):
        if listed != runs:
            raise ContractDrift(field, *_differing(listed, runs), path=path)


def check_policy(contract: HandlerContract, checker: Checker, settings: Settings) -> None:
    """Raise :class:`ContractDrift`, with both digests, unless the policy to be asked is the one of ``contract``."""
    path = None if settings.contract is None else os.fsdecode(settings.contract)
    wasm, artifact = digests_of(checker)
    for field, expected, actual in (
        ("wasmPolicyHash", contract.wasm_policy_hash, wasm),
        ("artifactSha256", contract.artifact_sha256, artifact),
    ):
        if expected != actual:
            raise ContractDrift(field, expected, actual, path=path)


def _differing(listed: tuple[object, ...], runs: tuple[object, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the text of what only one of them has; of everything where they differ in order or number alone."""
    only = [part for part in listed if part not in runs], [part for part in runs if part not in listed]
    listed_only, runs_only = only if any(only) else (listed, runs)
    return tuple(map(str, listed_only)), tuple(map(str, runs_only))
