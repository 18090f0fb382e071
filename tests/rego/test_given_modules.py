"""Modules that OPA itself compiled, which only somebody with its compiler can give: ``OPA_MODULES=FOLDER``.

The compiler is no part of this project, nor is what it makes. So these tests ask the modules (``.wasm``) and bundles
(``.tar.gz``) in a folder that a person gives, and in the folders in it. Without one they are skipped, and a run says
how many. Where golden fixtures lie beside a module, in ``NAME.fixtures`` for ``NAME.wasm``, they are run, too; the
entry point is then the only one, or that of a file ``NAME.entrypoint``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from capgate.artifact.load import WasmArtifact
from capgate.errors import AbiError, PolicyError, PolicyTimeout, PolicyTrap
from capgate.limits import Limits
from capgate.model import (
    Actor,
    Allow,
    Anonymous,
    Deny,
    Entrypoint,
    Environment,
    PolicyInput,
    PolicyResult,
    Resource,
    Service,
    User,
)
from capgate.runtime.engine import available_engines, load_engine
from capgate.runtime.interpreter import CompiledPolicy, PreparedPolicy, WasmInterpreter
from capgate.testing.golden import PolicyUnderTest, read_fixtures, run_fixtures

#: Names the folder. ``examples/rego`` looks there as well for what its ``opa build`` makes.
VARIABLE: Final = "OPA_MODULES"
FOLDER: Final = os.environ.get(VARIABLE)
LIMITS: Final = Limits(fuel=500_000_000, deadline=20.0)
_ASKED: Final = (
    ("db.read", Resource("sql_query", "list_orders")),
    ("db.write", Resource("sql_query", "place_order", {"region": "eu"})),
    ("net.egress", Resource("host", "\u00e9.example")),
    ("env.read", None),
)
_ASKING: Final[tuple[tuple[Actor, str, str | None], ...]] = (
    (Anonymous(), "prod", None),
    (User("ana"), "dev", "ab" * 32),
    (Service("billing"), "frozen", ""),
)
#: Questions that differ in every part.
INPUTS: Final = tuple(
    PolicyInput(action, actor, resource, args_hash, Environment("orders", mode), 1_700_000_000 * 10**9)
    for (action, resource), (actor, mode, args_hash) in product(_ASKED, _ASKING)
)

pytestmark = pytest.mark.skipif(FOLDER is None, reason=f"no modules that OPA compiled: {VARIABLE} names no folder")


def given() -> list[Path]:
    """The modules of the folder. One without any is a mistake, and no reason to skip."""
    if FOLDER is None:
        return []
    paths = [path for path in sorted(Path(FOLDER).rglob("*")) if path.name.endswith((".wasm", ".tar.gz"))]
    if not paths:
        raise pytest.UsageError(f"{VARIABLE}={FOLDER}: no .wasm and no .tar.gz is there")
    return paths


#: One parameter in any case: without a folder it is one test that is skipped.
MODULES: Final = pytest.mark.parametrize("path", given() or [Path("none")], ids=lambda path: path.name)


@cache
def compiled(path: Path, engine_name: str, entrypoint: str | None = None) -> CompiledPolicy:
    return CompiledPolicy(PreparedPolicy(_artifact(path), LIMITS, Entrypoint(entrypoint)), load_engine(engine_name))


@cache
def _artifact(path: Path) -> WasmArtifact:
    return WasmArtifact.from_bytes(path.read_bytes())


def entrypoints(path: Path, engine_name: str) -> Iterator[CompiledPolicy]:
    """The policy once for each of its entry points."""
    for name in compiled(path, engine_name).listing().entrypoints:
        yield compiled(path, engine_name, name)


class Formless(NamedTuple):
    """An answer that is no decision: the rule of the ABI that it breaks. An entry point may be anything."""

    rule: str


def outcome(ask: Callable[[PolicyInput], PolicyResult], input: PolicyInput) -> PolicyResult | Formless | str:
    try:
        return ask(input)
    except AbiError as error:
        return Formless(error.rule) if error.rule.startswith(("result_", "reason_")) else f"AbiError {error.rule}"
    except PolicyTrap as error:
        return f"PolicyTrap {error.kind}"
    except PolicyError as error:
        return f"{type(error).__name__} {error}"


@MODULES
def test_it_is_of_an_abi_that_is_known_and_lists_its_entry_points(engine_name: str, path: Path) -> None:
    policy = compiled(path, engine_name)
    assert policy.prepared.facts is not None
    listing = policy.listing()
    assert listing.entrypoints
    assert all((*listing.entrypoints, *listing.builtins))


@MODULES
def test_whatever_was_asked_before_the_answer_is_the_same(engine_name: str, path: Path) -> None:
    """An instance that was restored answers as a fresh one, forwards and backwards."""
    for policy in entrypoints(path, engine_name):
        expected = [outcome(policy.instantiate().call_policy_check, input) for input in INPUTS]
        interpreter = policy.instantiate()

        def again(input: PolicyInput, policy: CompiledPolicy = policy) -> PolicyResult | Formless | str:
            nonlocal interpreter
            if interpreter.broken:
                interpreter = policy.instantiate()
            return outcome(interpreter.call_policy_check, input)

        assert [again(input) for input in INPUTS] == expected
        assert [again(input) for input in reversed(INPUTS)] == expected[::-1]


@MODULES
def test_each_engine_gives_the_same_answers(path: Path) -> None:
    names = available_engines()
    for policies in zip(*(entrypoints(path, name) for name in names), strict=True):
        for input in INPUTS:
            assert len({repr(outcome(policy.instantiate().call_policy_check, input)) for policy in policies}) == 1


@MODULES
def test_nothing_fails_but_what_is_no_decision(engine_name: str, path: Path) -> None:
    """An answer of another form is a denial. A trap is not expected, nor a builtin that cannot be computed here."""
    for policy in entrypoints(path, engine_name):
        for input in INPUTS:
            answer = outcome(policy.instantiate().call_policy_check, input)
            assert isinstance(answer, (Allow, Deny, Formless)), (policy.prepared.entrypoint, input, answer)


@MODULES
def test_it_pays_for_what_it_does(engine_name: str, path: Path) -> None:
    """With hardly any fuel for a question there is no answer."""
    artifact = _artifact(path)
    for name in compiled(path, engine_name).listing().entrypoints:
        interpreter = WasmInterpreter(
            artifact, engine=engine_name, limits=Limits(fuel=1_000), entrypoint=Entrypoint(name)
        )
        with pytest.raises(PolicyTimeout):
            interpreter.call_policy_check(INPUTS[0])


@MODULES
def test_the_fixtures_beside_it(path: Path) -> None:
    stem = path.name.removesuffix(".wasm").removesuffix(".tar.gz")
    folder, named = path.with_name(f"{stem}.fixtures"), path.with_name(f"{stem}.entrypoint")
    if not folder.exists():
        pytest.skip(f"{folder.name} is not there")
    entrypoint = Entrypoint(named.read_text().strip() if named.exists() else None)
    outcomes = run_fixtures(PolicyUnderTest.load(path, entrypoint=entrypoint), read_fixtures(folder))
    assert [outcome for outcome in outcomes if not outcome.passed] == []
    assert outcomes
