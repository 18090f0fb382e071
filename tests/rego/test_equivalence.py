"""Every equivalence fixture through the ABI of OPA, on each engine: ``fixtures/policy``, asked in JSON."""

from __future__ import annotations

from functools import cache

import pytest

from capgate.limits import Limits
from capgate.model import ALLOW as ALLOW_RESULT
from capgate.model import Allow, Deny, Entrypoint, canonical
from capgate.runtime.engine import load_engine
from capgate.runtime.interpreter import CompiledPolicy, PreparedPolicy, WasmInterpreter

from ..support.policy_fixtures import Fixture, load_fixtures
from ..support.rego_guests import opa_artifact
from ..support.tools import FULL

DECISION = Entrypoint("capgate/decision")
ALLOW = Entrypoint("capgate/allow")
DENIALS = Entrypoint("capgate/denials", "denials")
#: Engines with which a child has compiled the guest. All fixtures have its code, and differ in data.
COMPILED: set[str] = set()


@cache
def prepared(fixture_name: str, minor: int) -> PreparedPolicy:
    fixture = next(one for one in load_fixtures() if one.name == fixture_name)
    return PreparedPolicy(opa_artifact(fixture.runtime_policy(), minor=minor), Limits(), DECISION)


def opened(engine_name: str, fixture: Fixture, minor: int, entrypoint: Entrypoint = DECISION) -> WasmInterpreter:
    found = prepared(fixture.name, minor)
    found.entrypoint = entrypoint
    found.compilable_with |= COMPILED
    compiled = CompiledPolicy(found, load_engine(engine_name))
    COMPILED.add(engine_name)
    return compiled.instantiate()


@pytest.mark.slow
@pytest.mark.parametrize("fixture", load_fixtures()[:: 1 if FULL else 12], ids=lambda fixture: fixture.name)
def test_the_fixtures_are_answered_the_same(engine_name: str, fixture: Fixture) -> None:
    interpreter = opened(engine_name, fixture, minor=len(fixture.name) % 4)
    for _ in range(2):  # the second time restored
        assert canonical(interpreter.call_policy_check(fixture.input)) == fixture.answer


@pytest.mark.slow
@pytest.mark.parametrize("entrypoint", [ALLOW, DENIALS], ids=lambda entrypoint: entrypoint.name)
def test_the_other_rules_of_the_guest_say_the_same(engine_name: str, entrypoint: Entrypoint) -> None:
    """A boolean has no reason, so any of the policy's is ``not_in_allowlist``."""
    for fixture in load_fixtures()[:: 10 if FULL else 60]:
        result = opened(engine_name, fixture, 2, entrypoint).call_policy_check(fixture.input)
        assert (type(result) is Allow) == (fixture.answer == canonical(ALLOW_RESULT))
        if entrypoint is DENIALS:
            assert canonical(result) == fixture.answer
        elif isinstance(result, Deny):
            assert result.reason == "not_in_allowlist"
