"""What no policy may allow, whatever it answers."""

from __future__ import annotations

import pytest
from starlette.routing import Route

from capgate.artifact.build import build_policy
from capgate.artifact.load import WasmArtifact
from capgate.checker.wasm import WasmPolicyChecker
from capgate.limits import Limits
from capgate.model import Allow, Deny, PolicyInput, Reason, Resource
from capgate.policy import RuntimePolicy
from capgate.routes.declare import requires
from capgate.runtime.interpreter import WasmInterpreter
from capgate.runtime.pool import WasmPool
from capgate.spelling import SPELLINGS, UNCERTAIN

from ..support.asgi import Call, http_scope
from ..support.engines import EXPECTED_ENGINES
from ..support.gates import Ran, gated, make_checker
from ..support.guests import artifact, guest

PATIENT = Limits(deadline=20.0)


@pytest.mark.parametrize("engine", EXPECTED_ENGINES)
async def test_no_policy_allows_without_the_resource_that_an_action_needs(engine: str) -> None:
    """Not even one that looks at nothing: it is the host that knows which actions need one."""
    pool = WasmPool(artifact(guest()), size=8, engine=engine, limits=PATIENT)
    async with WasmPolicyChecker(pool) as checker:
        for resource in (None, Resource("sql_query")):
            input = PolicyInput("db.write", resource=resource)
            assert await checker.evaluate(input) == Deny(Reason.MISSING_RESOURCE)
            assert checker.evaluate_now(input) == Deny(Reason.MISSING_RESOURCE)
            assert await checker.evaluate_many([input]) == [Deny(Reason.MISSING_RESOURCE)]
        assert await checker.evaluate(PolicyInput("db.write", resource=Resource("sql_query", "x"))) == Allow()
        assert await checker.evaluate(PolicyInput("compute.long")) == Allow()


@pytest.mark.parametrize("kind", ["local", *EXPECTED_ENGINES])
async def test_an_empty_id_names_nothing(kind: str) -> None:  # P-6
    """A ``*`` stands for one character or more, so no denial with one covers it."""
    document = {
        **{"compute": "any", "tools": "any"},
        "rules": [{"effect": "deny", "actions": ["compute.long", "tool.*"], "resources": ["job:*", "tool:*"]}],
    }
    async with make_checker(kind, document) as checker:
        for action, of in (("compute.long", "job"), ("tool.compile", "tool")):
            input = PolicyInput(action, resource=Resource(of, ""))
            assert await checker.evaluate(input) == Deny(Reason.MISSING_RESOURCE)
            assert checker.evaluate_now(input) == Deny(Reason.MISSING_RESOURCE)
            assert await checker.evaluate_many([input]) == [Deny(Reason.MISSING_RESOURCE)]
        ran = Ran()
        endpoint = requires("compute.long", resource="job:{name}")(ran.endpoint("job"))
        app = gated([Route("/jobs/{name:path}", endpoint)], checker)
        assert [(await Call(http_scope(f"/jobs/{name}")).to(app)).status for name in ("a", "")] == [403, 403]
        assert ran.names == []


@pytest.mark.parametrize("engine", EXPECTED_ENGINES)
def test_a_policy_itself_allows_nothing_that_is_nameless(engine: str) -> None:  # P-6
    """The guest and Python give one answer where no checker is in between, by a section and by a rule alike."""
    for document in (
        {"tools": "any", "compute": "any", "actions": {"own.act": "any"}},
        {"actions": {"own.act": "by_rule"}, "rules": [{"effect": "allow", "actions": ["*"]}]},
    ):
        policy = RuntimePolicy.from_document(document)
        interpreter = WasmInterpreter(WasmArtifact.from_bytes(build_policy(document)), engine=engine)
        for action, kind, id in (
            ("tool.compile", "tool", ""),
            ("compute.long", "job", ""),
            *(("own.act", kind, "") for kind in ("", "invoice", *sorted(set(SPELLINGS) - {"path"}))),
            *(("own.act", kind, None) for kind in sorted(UNCERTAIN)),
        ):
            input = PolicyInput(action, resource=Resource(kind, id))
            assert interpreter.call_policy_check(input) == policy.evaluate(input) == Deny(Reason.MISSING_RESOURCE)
            assert policy.explain(input).by == "missing_resource"
        for resource in (None, Resource("invoice"), Resource("job"), Resource("path", ""), Resource("host", "a")):
            input = PolicyInput("own.act", resource=resource)
            assert interpreter.call_policy_check(input) == policy.evaluate(input) == Allow()
