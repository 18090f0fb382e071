"""How much fuel a question has: what was stated, or what the modules of its kind need."""

from __future__ import annotations

import pytest

from capgate import WasmArtifact, WasmPool
from capgate.errors import PolicyTimeout
from capgate.limits import FUEL, REGO_FUEL, Limits
from capgate.model import Allow, PolicyInput, Resource, User
from capgate.runtime.interpreter import PreparedPolicy

from ..support.guests import guest
from ..support.rego_guests import liar, opa_artifact
from .outcomes import opened, outcome

#: A question with 3 kB of text.
LONG = PolicyInput("fs.read", User("u" * 1_000), Resource("path", "p" * 2_000))
#: Takes about 300 units for each byte of the text, as what OPA compiles does.
PARSES = """(local $left i32) (local.set $left (i32.mul (local.get $b) (i32.const 50)))
(loop $on (br_if $on (local.tee $left (i32.sub (local.get $left) (i32.const 1))))) (local.get $a)"""


def test_a_long_question_is_answered_under_the_defaults(engine_name: str) -> None:
    interpreter = opened(engine_name, liar(opa_json_parse=PARSES), limits=Limits())
    assert outcome(interpreter, LONG) == "allow"
    assert FUEL < interpreter.fuel_spent < REGO_FUEL / 4


def test_what_is_stated_holds(engine_name: str) -> None:
    assert outcome(opened(engine_name, liar(opa_json_parse=PARSES), limits=Limits(fuel=FUEL)), LONG) == "timeout"
    pool = WasmPool(WasmArtifact.from_bytes(liar(opa_json_parse=PARSES)), 1, engine_name, Limits(fuel=FUEL))
    with pytest.raises(PolicyTimeout):
        pool.call(LONG)


def test_a_pool_has_the_fuel_of_its_module(engine_name: str) -> None:
    pool = WasmPool(WasmArtifact.from_bytes(liar(opa_json_parse=PARSES)), 1, engine_name)
    assert pool.limits.fuel == REGO_FUEL
    assert pool.call(LONG) == Allow()


@pytest.mark.parametrize(
    ("artifact", "fuel"), [(opa_artifact({}), REGO_FUEL), (WasmArtifact.from_bytes(guest()), FUEL)], ids=["OPA", "own"]
)
def test_the_fuel_of_a_module(artifact: WasmArtifact, fuel: int) -> None:
    assert PreparedPolicy(artifact, Limits(deadline=0.5)).limits == Limits(deadline=0.5, fuel=fuel)
    assert PreparedPolicy(artifact, Limits(fuel=12_345)).limits.fuel == 12_345
