"""Fixtures about rules that only monitor: what is recorded is judged where a fixture says it, in each runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from capgate.artifact.build import build_policy
from capgate.artifact.load import WasmArtifact
from capgate.errors import FixtureError, FixturesFailed, ManifestError
from capgate.model import ALLOW, Deny, PolicyInput, Resource
from capgate.policy import RuntimePolicy
from capgate.store.release_fixtures import format_fixtures, parse_fixtures
from capgate.testing.golden import DocumentPart, Fixture, check_fixtures, coverage_of, read_fixtures, run_fixtures
from capgate.testing.golden.report import difference, junit

DOCUMENT: dict[str, Any] = {
    "sql": "any",
    "rules": [
        {"effect": "deny", "actions": ["db.*"], "resources": ["sql_query:a"], "reason": "not a", "monitor": True},
        {"effect": "deny", "actions": ["db.*"], "resources": ["sql_query:b"], "monitor": True},
    ],
}
A = PolicyInput("db.read", resource=Resource("sql_query", "a"))
FREE = PolicyInput("db.read", resource=Resource("sql_query", "free"))


def fixture(input: PolicyInput = A, would_deny: str | None = None) -> Fixture:
    return Fixture(input, ALLOW, name="it", would_deny=would_deny)


@pytest.mark.parametrize(
    "policy", [DOCUMENT, WasmArtifact.from_bytes(build_policy(DOCUMENT))], ids=["document", "module"]
)
def test_it_is_judged_where_the_fixture_says_it(policy: Any) -> None:
    for given, passes in (
        (fixture(), True),
        (fixture(would_deny="not a"), True),
        (fixture(would_deny="another"), False),
        (fixture(FREE), True),
        (fixture(FREE, "not a"), False),
    ):
        (outcome,) = run_fixtures(policy, [given])
        assert outcome.passed is passes
        signs = [sign for sign, _ in difference(outcome)]
        assert ("+" in signs) is not passes
        assert (b"<failure" in junit(None, [outcome.answers[0].runtime], [outcome], 0.0)) is not passes
    check_fixtures(policy, [fixture(would_deny="not a")])
    with pytest.raises(FixturesFailed):
        check_fixtures(policy, [fixture(FREE, "not a")])


def test_such_a_rule_is_covered_where_it_records() -> None:
    policy = RuntimePolicy.from_document(DOCUMENT)
    assert coverage_of(policy, [A]).missing == (DocumentPart("rules[1]"),)
    assert DocumentPart("rules[0]") in coverage_of(policy, [FREE]).missing


def test_a_file_and_a_release_hold_it(tmp_path: Path) -> None:
    written = {"input": msgspec.to_builtins(A), "expected": {"kind": "allow"}, "would_deny": "not a"}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(written))
    (read,) = read_fixtures(path)
    assert read.would_deny == "not a"
    assert parse_fixtures(format_fixtures([read]))[0].would_deny == "not a"


@pytest.mark.parametrize(
    "change", [{"expected": {"kind": "deny", "reason": "x"}}, {"would_deny": ""}, {"would_deny": "\ud800"}]
)
def test_what_could_not_be_recorded_is_an_error(change: dict[str, Any], tmp_path: Path) -> None:
    written = {"input": msgspec.to_builtins(A), "expected": {"kind": "allow"}, "would_deny": "not a", **change}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(written))
    with pytest.raises(FixtureError) as caught:
        read_fixtures(path)
    assert caught.value.where == "would_deny"
    result = Deny("x") if "expected" in change else ALLOW
    with pytest.raises(ManifestError):
        format_fixtures([Fixture(A, result, name="it", would_deny=written["would_deny"])])
