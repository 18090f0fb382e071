"""A policy in a component binary: the same answers here, and from an independent host of components."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest
from hypothesis import given, settings

from capgate.artifact.build import build_policy
from capgate.artifact.load import WasmArtifact
from capgate.limits import Limits
from capgate.model import Deny, PolicyInput, PolicyResult, canonical
from capgate.runtime.engine import load_engine
from capgate.runtime.interpreter import CompiledPolicy, PreparedPolicy, WasmInterpreter
from capgate.wasm import decode

from ...support.guests import HEAP, REASON, RESULT, data, denies, guest
from ...support.policy_fixtures import load_fixtures
from .hosts import Host, wrapped, wrapped_by_jco
from .inputs import INPUTS

Component = Callable[[bytes], bytes]
DOCUMENT = {
    "name": "shop",
    "version": "7",
    "env": ["TZ", "k" * 300],
    "egress": ["api.example.com"],
    "cache": "any",
    "sql": ["upsert"],
}


def echo(at: int) -> str:
    """The body of a guest that denies with the string whose pointer and length are at that offset of the record."""
    words = "".join(
        f"(i32.store offset={4 + word} (i32.const {RESULT}) (i32.load offset={at + word} (local.get $input)))"
        for word in (0, 4)
    )
    return f"{words} (i32.const {RESULT})"


_AT = {"actor": 4, "action": 12, "kind": 24, "id": 36, "args_hash": 48, "service": 56, "mode": 64}
#: Guests that capgate did not build, each of which says a part of what it was given.
ECHOES = {
    name: guest(echo(at), extra=data(RESULT, b"\1"), post=f"(global.set $next (i32.const {HEAP}))")
    for name, at in _AT.items()
}
#: Denies with the last byte of the record's timestamp as a letter.
STAMP = guest(
    f"""(i32.store8 (i32.const {REASON}) (i32.add (i32.const 64) (i32.and (i32.const 31)
        (i32.load8_u offset=72 (local.get $input))))) (i32.const {RESULT})""",
    extra=denies("?"),
    post="",
)


@pytest.fixture(scope="session", params=["text", "jco"])
def component_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Component:
    """Makes a component of a core module, in each of the two ways."""
    if request.param == "text":
        return wrapped
    cores = sorted({build_policy(fixture.policy) for fixture in load_fixtures()} | {*ECHOES.values(), STAMP, BUILT})
    made = dict(zip(cores, wrapped_by_jco(cores, tmp_path_factory.mktemp("components")), strict=True))
    return made.__getitem__


BUILT = build_policy(DOCUMENT)


@pytest.fixture(scope="module", autouse=True)
def nothing_stays() -> Iterator[None]:
    """wasmtime keeps a descriptor for each compiled module, and a process has not many more than 1,000."""
    yield
    compiled.cache_clear()
    hosted.cache_clear()


#: The id of the section with the code.
CODE = 10
#: Engine and code with which a child has compiled: what has the same code, and differs in data, needs no other one.
COMPILED: set[tuple[str, bytes]] = set()


@cache
def compiled(engine_name: str, binary: bytes) -> CompiledPolicy:
    artifact = WasmArtifact.from_bytes(binary)
    policy = PreparedPolicy(artifact, Limits())
    [code] = [section.payload for section in decode(artifact.module).sections if section.id == CODE]
    if (engine_name, code) in COMPILED:
        policy.compilable_with.add(engine_name)
    compiled = CompiledPolicy(policy, load_engine(engine_name))
    COMPILED.add((engine_name, code))
    return compiled


@cache
def hosted(binary: bytes) -> Host:
    return Host(binary)


def answer(engine_name: str, binary: bytes, input: PolicyInput) -> PolicyResult:
    return compiled(engine_name, binary).instantiate().call_policy_check(input)


@pytest.mark.slow
def test_every_fixture_has_its_answer_in_a_component_on_either_host(engine_name: str, component_of: Component) -> None:
    for fixture in load_fixtures():
        binary = component_of(build_policy(fixture.policy))
        assert canonical(answer(engine_name, binary, fixture.input)) == fixture.answer, fixture.name
        assert canonical(hosted(binary).ask(fixture.input)) == fixture.answer, fixture.name


@pytest.mark.slow
def test_what_is_known_of_a_component(engine_name: str, component_of: Component) -> None:
    loaded = WasmArtifact.from_bytes(component_of(BUILT))
    assert loaded.is_component
    info = WasmInterpreter(loaded, engine=engine_name).info
    assert info.sha256 == loaded.sha256 != WasmArtifact.from_bytes(loaded.module).sha256
    assert (info.name, info.version, info.engine) == ("shop", "7", engine_name)


@pytest.mark.slow
@pytest.mark.parametrize("part", ECHOES)
@settings(max_examples=25, deadline=None)
@given(input=INPUTS)
def test_a_guest_is_given_the_same_by_both_hosts(
    engine_name: str, component_of: Component, part: str, input: PolicyInput
) -> None:
    binary = component_of(ECHOES[part])
    found = answer(engine_name, binary, input)
    assert isinstance(found, Deny)
    if _is_there(part, input):
        assert found == hosted(binary).ask(input)  # M12


def _is_there(part: str, input: PolicyInput) -> bool:
    """Whether the record has that string; where it has not, what lies there is nothing that a host owes."""
    resource = input.resource
    return {
        "actor": hasattr(input.actor, "id"),
        "kind": resource is not None,
        "id": resource is not None and resource.id is not None,
        "args_hash": input.args_hash is not None,
    }.get(part, True)


@pytest.mark.parametrize("stamp", [0, 1, 31, 2**64 - 1, 2**63 + 5])
def test_a_timestamp_is_the_same_for_both_hosts(engine_name: str, component_of: Component, stamp: int) -> None:
    binary, input = component_of(STAMP), PolicyInput("a", timestamp=stamp)
    assert answer(engine_name, binary, input) == hosted(binary).ask(input) == Deny(chr(64 + stamp % 32))


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(input=INPUTS)
def test_a_built_policy_answers_the_same_on_both_hosts(
    engine_name: str, component_of: Component, input: PolicyInput
) -> None:
    binary = component_of(BUILT)
    assert answer(engine_name, binary, input) == hosted(binary).ask(input)
