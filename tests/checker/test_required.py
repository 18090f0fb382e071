"""What no policy may allow, whatever it answers."""

from __future__ import annotations

import pytest

from capgate.checker.wasm import WasmPolicyChecker
from capgate.limits import Limits
from capgate.model import Allow, Deny, PolicyInput, Reason, Resource
from capgate.runtime.pool import WasmPool

from ..support.engines import EXPECTED_ENGINES
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
