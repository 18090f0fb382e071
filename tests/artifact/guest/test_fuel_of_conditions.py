"""What conditions cost: by what concerns the question, and less than there is, whatever the facts are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pytest

from capgate.artifact.build import build_policy
from capgate.artifact.load import WasmArtifact
from capgate.limits import FACTS_FUEL, Limits
from capgate.model import ALLOW, Deny, PolicyInput, Reason, Resource, User
from capgate.policy import RuntimePolicy
from capgate.runtime.interpreter import WasmInterpreter

ATTRIBUTES: Final = {
    "actor": {"groups": "list"},
    "resource": {"tags": "list"},
    "args": {"note": "string", "other": "string", "amount": "int"},
}
ACTION: Final = "order.refund"


def document_of(conditions: list[str], others: int = 0) -> dict[str, Any]:
    """Rules about one action, and ``others`` about another."""
    rules = [{"effect": "allow", "actions": [ACTION], "when": text} for text in conditions]
    rules += [
        {"effect": "deny", "actions": ["order.list"], "when": f"args.amount == {number} && 'a' in resource.tags"}
        for number in range(others)
    ]
    return {"attributes": ATTRIBUTES, "actions": {ACTION: "by_rule", "order.list": "by_rule"}, "rules": rules}


def opened(document: dict[str, Any], engine: str, limits: Limits | None = None) -> WasmInterpreter:
    return WasmInterpreter(WasmArtifact(build_policy(document)), engine=engine, limits=limits)


def question(facts: Mapping[str, Any], action: str = ACTION) -> PolicyInput:
    """Facts under the names of :data:`ATTRIBUTES`, without their holders."""
    of = {holder: {name: facts[name] for name in names if name in facts} for holder, names in ATTRIBUTES.items()}
    actor, resource = User("u-1", attributes=of["actor"]), Resource("order", "17", of["resource"])
    return PolicyInput(action, actor, resource, args=of["args"])


@pytest.mark.slow
def test_ten_thousand_rules_that_do_not_concern_a_question_change_nothing(engine_name: str) -> None:
    conditions = ["'a' in actor.groups && args.amount <= 100", "args.note == 'x' || 'b' in resource.tags"]
    asked = question({"groups": ["b", "a"], "amount": 7, "note": "y", "tags": ["b"]})
    spent = []
    for others in (1, 9_998):
        interpreter = opened(document_of(conditions, others), engine_name)
        assert interpreter.call_policy_check(asked) is ALLOW
        spent.append(interpreter.fuel_spent)
    assert abs(spent[1] - spent[0]) < spent[0] / 20  # a bucket of the hash table may have one record more


def test_what_conditions_cost_is_that_of_those_that_are_looked_at(engine_name: str) -> None:
    spent = []
    for count in (1, 10, 100):
        interpreter = opened(document_of([f"args.amount == {number}" for number in range(count)]), engine_name)
        assert interpreter.call_policy_check(question({"amount": -1})) == Deny(Reason.NOT_IN_ALLOWLIST)
        spent.append(interpreter.fuel_spent)
    one = (spent[2] - spent[1]) / 90
    assert spent[1] - spent[0] == pytest.approx(9 * one, rel=0.2)


#: Conditions, each of them five times in one document, and facts that make them as dear as they get.
DEAREST: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "loops in loops": (
        "resource.tags.exists(t, actor.groups.exists(g, g == t || t == g))",
        {"tags": ["a" * 30 + "b"] * 47, "groups": ["a" * 30 + "c"] * 47},
    ),
    "more loops than may be": (
        "resource.tags.exists(t, actor.groups.exists(g, g == t || t == g))",
        {"tags": ["a"] * 3_000, "groups": ["b"] * 3_000},
    ),
    "negations in loops": (
        f"resource.tags.exists(t, actor.groups.exists(g, {'!' * 14}(g == t)))",
        {"tags": ["a" * 30 + "b"] * 47, "groups": ["a" * 30 + "c"] * 47},
    ),
    "lists in lists": (
        "resource.tags.exists(t, t in actor.groups)",
        {"tags": ["a" * 30 + "b"] * 47, "groups": ["a" * 30 + "c"] * 47},
    ),
    "equal lists": (
        "resource.tags.all(t, resource.tags == actor.groups)",
        {"tags": ["a" * 31] * 47, "groups": ["a" * 31] * 47},
    ),
    "long lists": ("resource.tags.exists(t, t == 'b')", {"tags": ["a"] * 1_700}),
    "a part of a text": ("args.note.contains(args.other)", {"note": "a" * 13_000, "other": "a" * 6_500 + "b"}),
    "a part of each text": (
        "resource.tags.exists(t, t.contains('ab') || t.contains('ba'))",
        {"tags": ["aaaaa"] * 1_200},
    ),
    "a part of one text in loops": (
        "resource.tags.exists(t, args.note.contains(t))",
        {"tags": ["ab"] * 1_000, "note": "a" * 19_000},
    ),
    "characters": ("size(args.note) == 1", {"note": "é" * 30_000}),
    "times": (
        "resource.tags.exists(t, timestamp(t) > timestamp('2027-01-01T00:00:00Z'))",
        {"tags": ["2026-01-01T00:00:00.123456789+00:00"] * 1_300},
    ),
}


@pytest.mark.parametrize(("condition", "facts"), DEAREST.values(), ids=DEAREST)
def test_no_facts_cost_more_than_there_is(engine_name: str, condition: str, facts: dict[str, Any]) -> None:
    """Else whoever asks makes a policy fail, which may be counted against it."""
    limits = Limits()
    texts = [f"({condition}) && args.amount != {number}" for number in range(5)]  # five that differ
    document = document_of(texts)
    asked = question({"amount": 77, "note": "", "other": "", "tags": [], "groups": [], **facts})
    interpreter = opened(document, engine_name, limits)
    assert interpreter.prepared.limits.fuel == FACTS_FUEL
    assert interpreter.call_policy_check(asked) == RuntimePolicy.from_document(document).evaluate(asked)
    assert interpreter.fuel_spent < FACTS_FUEL * 0.7
