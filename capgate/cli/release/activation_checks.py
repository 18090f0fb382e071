"""Checks what a policy answers before it becomes active, in this runtime and under the limits of production."""

from __future__ import annotations

from collections.abc import Sequence

from ...actions import VOCABULARY
from ...artifact.load import OPA
from ...errors import FixturesFailed
from ...limits import Limits
from ...model import ONLY_ENTRYPOINT, Entrypoint, PolicyInput, Resource
from ...runtime.engine import load_engine
from ...runtime.interpreter import CompiledPolicy, PreparedPolicy
from ...store import VerifiedPolicy, WasmArtifact
from ...store.directory import Check
from ...testing.golden import Fixture, check_release
from ...testing.golden.policy_under_test import ALL
from ..configuration import production_entrypoint


def answers(engine: str, limits: Limits) -> Check:
    """Make a check that the policy loads and answers one question of each action."""

    def check(policy: VerifiedPolicy) -> None:
        artifact = policy.artifact
        compiled = CompiledPolicy(PreparedPolicy(artifact, limits, entrypoint_of(artifact)), load_engine(engine))
        for action in VOCABULARY:
            resource = Resource(action.kind, "capgate-trial") if action.kind is not None else None
            compiled.instantiate().call_policy_check(PolicyInput(action.name, resource=resource))

    return check


def passes(engine: str, limits: Limits, more: Sequence[Fixture] = (), *, needed: bool = True) -> Check:
    """Make a check by the fixtures of the release and by ``more``, and then by :func:`answers`.

    With ``needed``, there has to be one fixture at least.
    """
    answering, engines = answers(engine, limits), ALL if engine == "auto" else (engine,)

    def check(policy: VerifiedPolicy) -> None:
        if policy.fixtures or more:
            check_release(policy, more, limits, engines=engines, entrypoint=entrypoint_of(policy.artifact))
        elif needed:
            manifest = policy.manifest
            message = (
                f"version {manifest.version} of {manifest.name!r} was signed without golden fixtures, so nothing says"
                " what it has to answer; sign a version with --fixtures, or activate this one with --fixtures, or with"
                " --without-fixtures"
            )
            raise FixturesFailed(message, failures=(), total=0)
        answering(policy)

    return check


def entrypoint_of(artifact: WasmArtifact) -> Entrypoint:
    """Return what the application's own settings say, where the module has entry points at all."""
    return production_entrypoint() if artifact.abi == OPA else ONLY_ENTRYPOINT
