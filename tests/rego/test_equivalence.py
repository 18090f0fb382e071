"""Every equivalence fixture through the ABI of OPA, on each engine: ``fixtures/policy``, asked in JSON."""

from __future__ import annotations

from functools import cache

import pytest

from capgate.engine import load_engine
from capgate.interpreter import CompiledPolicy, PreparedPolicy, WasmInterpreter
from capgate.limits import Limits
from capgate.model import Entrypoint, canonical

from ..policy.fixtures import Fixture, load_fixtures
from ..tools import IN_CI
from .guests import opa_artifact

DECISION = Entrypoint("capgate/decision")
ALLOW = Entrypoint("capgate/allow")
DENIALS = Entrypoint("capgate/denials", "denials")
#: Engines with which a child has compiled the guest. All fixtures have its code, and differ in data.
TRIED: set[str] = set()


@cache
def prepared(fixture_name: str, minor: int) -> PreparedPolicy:
    fixture = next(one for one in load_fixtures() if one.name == fixture_name)
    return PreparedPolicy(opa_artifact(fixture.runtime_policy(), minor=minor), Limits(), DECISION)


def opened(engine_name: str, fixture: Fixture, minor: int, entrypoint: Entrypoint = DECISION) -> WasmInterpreter:
    found = prepared(fixture.name, minor)
    found.entrypoint = entrypoint
    found._tried |= TRIED
    compiled = CompiledPolicy(found, load_engine(engine_name))
    TRIED.add(engine_name)
    return compiled.instantiate()


@pytest.mark.parametrize("fixture", load_fixtures()[:: 1 if IN_CI else 12], ids=lambda fixture: fixture.name)
def test_the_fixtures_are_answered_the_same(engine_name: str, fixture: Fixture) -> None:
    interpreter = opened(engine_name, fixture, minor=len(fixture.name) % 4)
    for _ in range(2):  # the second time restored
        assert canonical(interpreter.call_policy_check(fixture.input)) == fixture.answer
