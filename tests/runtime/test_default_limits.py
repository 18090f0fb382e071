"""How much fuel a question has, and how much memory: what was stated, or what the modules of its kind need."""

from __future__ import annotations

import pytest

from capgate import WasmArtifact, WasmPool, build_policy
from capgate.errors import PolicyTimeout, RestrictedModule
from capgate.limits import FACTS_FUEL, FUEL, KNOWN_PAGES, PAGES, REGO_FUEL, Limits
from capgate.model import Allow, PolicyInput, Resource, User
from capgate.runtime.interpreter import PreparedPolicy
from capgate.testing.golden import PolicyUnderTest

from ..rego.outcomes import opened, outcome
from ..support.guests import guest
from ..support.rego_guests import liar, opa_artifact

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


CONDITIONAL = {
    "attributes": {"args": {"a": "bool"}},
    "actions": {"a.b": "by_rule"},
    "rules": [{"effect": "allow", "actions": ["a.b"], "when": "args.a"}],
}


@pytest.mark.parametrize(
    ("artifact", "fuel", "pages"),
    [
        (opa_artifact({}), REGO_FUEL, KNOWN_PAGES),
        (WasmArtifact.from_bytes(build_policy({})), FUEL, KNOWN_PAGES),
        (WasmArtifact.from_bytes(build_policy(CONDITIONAL)), FACTS_FUEL, KNOWN_PAGES),
        (WasmArtifact.from_bytes(guest()), FUEL, PAGES),
    ],
    ids=["OPA", "built", "with conditions", "own"],
)
def test_the_limits_of_a_module(artifact: WasmArtifact, fuel: int, pages: int) -> None:
    assert PreparedPolicy(artifact, Limits(deadline=0.5)).limits == Limits(deadline=0.5, fuel=fuel, memory_pages=pages)
    assert PolicyUnderTest(artifact).limits == PreparedPolicy(artifact, Limits()).limits
    stated = Limits(fuel=12_345, memory_pages=123)
    assert PreparedPolicy(artifact, stated).limits == stated


def test_a_large_memory_is_taken_of_a_module_whose_questions_do_not_touch_it_anew() -> None:
    """What is made for each question has to be touched for the first time by each, which no fuel pays for."""
    assert PreparedPolicy(WasmArtifact.from_bytes(liar(pages=PAGES + 1)), Limits()).restores
    large = WasmArtifact.from_bytes(guest(pages=PAGES + 1))
    assert not PreparedPolicy(large, Limits(memory_pages=PAGES + 1)).restores
    with pytest.raises(RestrictedModule) as caught:
        PreparedPolicy(WasmArtifact.from_bytes(guest(pages=PAGES + 1)), Limits())
    assert caught.value.rule == "memory_pages"


@pytest.mark.parametrize("pages", [PAGES, PAGES + 1])
def test_of_opa_s_interface_too_what_cannot_be_set_back_has_no_large_memory(pages: int) -> None:
    """OPA compiles nothing that drops a segment, and any module can have that interface."""
    drops = liar(pages=pages, extra='(data $later "x")', opa_heap_ptr_get="(data.drop $later) (global.get $next)")
    artifact = WasmArtifact.from_bytes(drops)
    assert not PreparedPolicy(artifact, Limits(memory_pages=pages)).pure
    if pages <= PAGES:
        assert PreparedPolicy(artifact, Limits()).limits.memory_pages == PAGES
    else:
        with pytest.raises(RestrictedModule) as caught:
            PreparedPolicy(artifact, Limits())
        assert caught.value.rule == "memory_pages"


def test_a_document_is_judged_under_the_limits_of_what_it_builds_into() -> None:
    assert PolicyUnderTest({}).limits == Limits(fuel=FUEL, memory_pages=KNOWN_PAGES)
