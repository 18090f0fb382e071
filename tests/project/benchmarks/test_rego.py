"""The benchmark of OPA's ABI runs, and its large module is what it says. No figure is judged here."""

from __future__ import annotations

import pytest

from benchmarks.rego import ENTRYPOINT, LARGE, large_policy, measure
from capgate.artifact.load import WasmArtifact
from capgate.errors import PolicyTimeout
from capgate.limits import Limits
from capgate.model import Deny, PolicyInput, Resource
from capgate.runtime.engine import load_engine
from capgate.runtime.interpreter import WasmInterpreter

pytestmark = pytest.mark.slow


def test_the_large_module_is_the_same_each_time_and_answers(engine_name: str) -> None:
    data = large_policy()
    assert LARGE <= len(data) <= LARGE + 2_000
    assert data == large_policy()
    interpreter = WasmInterpreter(WasmArtifact.from_bytes(data), engine=engine_name, entrypoint=ENTRYPOINT)
    write = PolicyInput("db.write", resource=Resource("sql_query", "nobody has this"))
    assert interpreter.call_policy_check(write) == Deny("not_in_allowlist")


def test_metering_holds_for_the_large_module(engine_name: str) -> None:
    """What is spent is bounded by the limits there, too: with too little fuel, the question is not answered."""
    artifact, limits = WasmArtifact.from_bytes(large_policy()), Limits(fuel=1_000)
    interpreter = WasmInterpreter(artifact, engine=engine_name, entrypoint=ENTRYPOINT, limits=limits)
    with pytest.raises(PolicyTimeout):
        interpreter.call_policy_check(PolicyInput("db.write"))


@pytest.mark.parametrize("size", [30_000, 60_000])
def test_each_step_is_measured(engine_name: str, size: int) -> None:
    found = measure(large_policy(size), load_engine(engine_name), 2, 3)
    assert set(found.loading) == {"decode", "restrict, meter, prove", "compile in a child", "compile", "instance"}
    assert set(found.asking) == {"a question", "of it: the input as JSON", "of it: restoring"}
    assert all(milliseconds > 0 for milliseconds in found.loading.values())
    assert all(median >= least > 0 for median, least in found.asking.values())
