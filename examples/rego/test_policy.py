"""The document, the Rego and, once it is built, the bundle answer every fixture alike.

The Rego is evaluated by another implementation of the language than OPA's, so that it is tested where there is no
compiler. What ``opa build`` made of it is tested where somebody built it: here, or in the folder that the environment
names with ``OPA_MODULES``.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from capgate import Allow, Anonymous, Deny, Environment, PolicyInput, PolicyResult, Resource, Service, User
from capgate.artifact.bundle import read_bundle
from capgate.model import Actor, Entrypoint
from capgate.policy import RuntimePolicy
from capgate.testing.golden import PolicyUnderTest, read_fixtures, run_fixtures

HERE = Path(__file__).parent
FIXTURES = read_fixtures(HERE / "fixtures")
DOCUMENT = HERE / "policy.json"
ENTRYPOINT = Entrypoint("orders/decision")
BUILD = "opa build -t wasm -e orders/decision -b policy -o bundle.tar.gz"


def test_the_document_answers_as_expected() -> None:
    outcomes = run_fixtures(DOCUMENT, FIXTURES)
    assert [outcome for outcome in outcomes if not outcome.passed] == []
    assert len(outcomes) == len(FIXTURES) == 22


@pytest.mark.parametrize("name", ["bundle.tar.gz", "policy.wasm"])
def test_what_opa_built_answers_as_expected(name: str) -> None:
    path = Path(os.environ.get("OPA_MODULES", HERE)) / name
    if not path.exists():
        pytest.skip(f"no modules that OPA compiled: {name} was not built; in {HERE.name}: {BUILD}")
    outcomes = run_fixtures(PolicyUnderTest.load(path, entrypoint=ENTRYPOINT), FIXTURES)
    assert [outcome for outcome in outcomes if not outcome.passed] == []


def files() -> dict[str, bytes]:
    """What is in the bundle, but for the module."""
    folder = HERE / "policy"
    return {f"/{path.relative_to(folder)}": path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_manifest_and_data_fit_together() -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in {**files(), "/policy.wasm": b""}.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    found = read_bundle(packed.getvalue(), 1 << 20)
    assert (found.bundle.revision, found.bundle.roots) == ("1", ("orders",))
    assert list(json.loads(found.data)) == ["orders"]


class Rego:
    """The policy in Rego, without OPA."""

    def __init__(self) -> None:
        regopy = pytest.importorskip("regopy", reason="no wheel of an interpreter of Rego for this platform")
        self._interpreter = regopy.Interpreter()
        self._interpreter.add_data({"orders": json.loads(files()["/orders/data.json"])})
        self._interpreter.add_module("policy.rego", files()["/orders/policy.rego"].decode())

    def ask(self, input: PolicyInput) -> PolicyResult:
        self._interpreter.set_input(msgspec.to_builtins(input))
        output = self._interpreter.query("data.orders.decision")
        assert output.ok()
        decision: dict[str, Any] = output.results[0].expressions[0]
        assert set(decision) == ({"allow"} if decision["allow"] else {"allow", "reason"})
        return Allow() if decision["allow"] is True else Deny(decision["reason"])


@pytest.fixture(scope="module")
def rego() -> Rego:
    return Rego()


def test_the_rego_answers_as_expected(rego: Rego) -> None:
    for fixture in FIXTURES:
        assert rego.ask(fixture.input) == fixture.expected, fixture


def test_both_answer_every_question_alike(rego: Rego) -> None:
    """Not only what somebody thought of: each action with each resource, by everyone, in each mode."""
    document = RuntimePolicy.from_document(json.loads(DOCUMENT.read_text()))
    actors: tuple[Actor, ...] = Anonymous(), User("ana"), User("bo"), Service("billing"), Service("ana")
    queries = ("list_orders", "place_order", "refund_order", "", "list_orders ")
    resources = (
        None,
        Resource("sql_query"),
        Resource("namespace", "list_orders"),
        *(Resource("sql_query", q) for q in queries),
    )
    answers = set()
    for action, actor, resource, mode in itertools.product(
        ("db.read", "db.write", "db.drop"), actors, resources, ("prod", "frozen")
    ):
        input = PolicyInput(action, actor, resource, env=Environment("orders", mode))
        assert rego.ask(input) == document.evaluate(input), input
        answers.add(document.evaluate(input))
    assert len(answers) == 5  # allowed, and each of the reasons
