"""Coverage: which parts of a document decide nothing, and that nothing changes when such a part is removed."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capgate.errors import ConfigError
from capgate.model import Environment, PolicyInput, Resource, Service, User
from capgate.policy import RuntimePolicy
from capgate.testing.golden import DocumentPart, coverage_of
from capgate.testing.golden.report import describe_part

from ...support.documents import own_actions, questions, rule_lists
from ...support.tools import examples

DOCUMENT: Final[dict[str, Any]] = {
    "egress": ["API.example.com", "b.example"],
    "cache": "any",
    "compute": "any",
    "env": [],
    "sql": [
        "audit",
        {"name": "list", "operation": "select"},
        {"name": "both", "operation": "read"},
        {"name": "both", "operation": "upsert"},
        "x (read)",
        {"name": "x", "operation": "read"},
        "any",
    ],
    "actions": {"invoice.send": ["i"], "report.print": "any"},
    "rules": [
        {"effect": "deny", "actions": ["db.*"], "actors": ["user:bob"]},
        {"effect": "deny", "actions": ["db.write"], "actors": ["user"]},
        {"effect": "allow", "actions": ["fs.read"], "modes": ["dev"]},
        {"effect": "allow", "actions": ["fs.*"]},
    ],
}
POLICY: Final = RuntimePolicy.from_document(DOCUMENT)
PARTS: Final = [
    *(DocumentPart(f"rules[{number}]") for number in range(4)),
    *(DocumentPart("egress", "api.example.com"), DocumentPart("egress", "b.example")),
    DocumentPart("cache"),
    *(
        DocumentPart("sql", "audit"),
        DocumentPart("sql", "list", "read"),
        DocumentPart("sql", "both", "read"),
        DocumentPart("sql", "both", "write"),
    ),
    *(DocumentPart("sql", "x (read)"), DocumentPart("sql", "x", "read"), DocumentPart("sql", "any")),
    DocumentPart("compute"),
    *(DocumentPart("actions.invoice.send", "i"), DocumentPart("actions.report.print")),
]


def ask(action: str, kind: str | None = None, id: str | None = None, **more: Any) -> PolicyInput:
    return PolicyInput(action, resource=None if kind is None else Resource(kind, id), **more)


def sql(action: str, id: str, **more: Any) -> PolicyInput:
    return ask(action, "sql_query", id, **more)


def test_the_parts_of_a_document() -> None:
    found = coverage_of(POLICY, [])
    assert set(found.parts) == set(PARTS)
    assert len(found.parts) == len(PARTS)
    assert found.missing == found.parts
    assert (found.covered, found.percent) == (0, 0.0)


@pytest.mark.parametrize(
    ("input", "part"),
    [
        (ask("http.outbound", "host", "api.EXAMPLE.com"), DocumentPart("egress", "api.example.com")),
        (ask("cache.read", "namespace", "a"), DocumentPart("cache")),
        (ask("cache.write", "namespace", "b"), DocumentPart("cache")),
        (ask("compute.long"), DocumentPart("compute")),
        (ask("compute.long", "job", "j"), DocumentPart("compute")),
        (sql("db.read", "audit"), DocumentPart("sql", "audit")),
        (sql("db.migrate", "audit"), DocumentPart("sql", "audit")),
        (sql("db.read", "list"), DocumentPart("sql", "list", "read")),
        (sql("db.read", "both"), DocumentPart("sql", "both", "read")),
        (sql("db.write", "both"), DocumentPart("sql", "both", "write")),
        (sql("db.read", "x (read)"), DocumentPart("sql", "x (read)")),
        (sql("db.read", "x"), DocumentPart("sql", "x", "read")),
        (sql("db.read", "any"), DocumentPart("sql", "any")),
        (ask("invoice.send", "k", "i"), DocumentPart("actions.invoice.send", "i")),
        (ask("report.print"), DocumentPart("actions.report.print")),
        (sql("db.read", "audit", actor=User("bob")), DocumentPart("rules[0]")),
        (sql("db.write", "audit", actor=User("bob")), DocumentPart("rules[0]")),
        (sql("db.write", "nothing", actor=User("al")), DocumentPart("rules[1]")),
        (ask("fs.read", "path", "p", env=Environment(mode="dev")), DocumentPart("rules[2]")),
        (ask("fs.read", "path", "p"), DocumentPart("rules[3]")),
        # What no part decides:
        (sql("db.migrate", "both"), None),
        (sql("db.write", "list"), None),
        (sql("db.read", "other"), None),
        (ask("db.read"), None),
        (ask("http.outbound", "host", "c.example"), None),
        (ask("http.outbound", "namespace", "b.example"), None),
        (ask("env.read", "env_var", "TZ"), None),
        (ask("tool.modify", "tool", "x"), None),
        (ask("no.such"), None),
        (sql("db.read", "audit", timestamp=-1), None),
        (sql("db.read", "\ud800"), None),
    ],
)
def test_what_a_question_covers(input: PolicyInput, part: DocumentPart | None) -> None:
    found = coverage_of(POLICY, [input])
    assert set(found.parts) - set(found.missing) == ({part} if part else set())
    assert found.covered == (part is not None)


def test_percent() -> None:
    three = RuntimePolicy.from_document({"cache": ["a", "b", "c"]})
    asked = [ask("cache.read", "namespace", id) for id in "abc"]
    found = [coverage_of(three, asked[:count]) for count in range(4)]
    assert [one.percent for one in found] == [0.0, 33.3, 66.6, 100.0]
    assert [one.reaches(66.6) for one in found] == [False, False, True, True]
    assert [one.reaches(66.7) for one in found] == [False, False, False, True]
    assert [one.reaches(0) for one in found] == [True] * 4
    assert [one.reaches(100) for one in found] == [False, False, False, True]
    nothing = coverage_of(RuntimePolicy.from_document({}), asked)
    assert (nothing.parts, nothing.percent, nothing.reaches(100)) == ((), 100.0, True)


def test_a_rule_in_the_shadow_of_others_cannot_be_covered() -> None:
    shadowed = {
        "rules": [{"effect": "allow", "actions": ["fs.*"]}, {"effect": "allow", "actions": ["fs.read"]}],
        "fs": ["a"],
    }
    asked = [ask("fs.read", "path", "a"), ask("fs.write", "path", "a", actor=Service("x"))]
    found = coverage_of(RuntimePolicy.from_document(shadowed), asked)
    assert found.missing == (DocumentPart("rules[1]"), DocumentPart("fs", "a"))


# -- what is not covered could be removed, and no fixture would tell

sections = st.fixed_dictionaries(
    {},
    optional={
        "fs": st.just("any") | st.lists(st.sampled_from(["a", "a/b", "a/b/c"]), unique=True),
        "egress": st.just("any") | st.lists(st.sampled_from(["a.b", "k", "a::b"]), unique=True),
        "cache": st.just("any") | st.lists(st.sampled_from(["a", "a/b"]), unique=True),
        "tools": st.just("any") | st.lists(st.sampled_from(["a", "team"]), unique=True),
    },
)
documents = st.tuples(sections, rule_lists()).map(lambda both: _with_rules(*both) if both[1] else both[0])


def _with_rules(document: dict[str, Any], rules: list[dict[str, Any]]) -> dict[str, Any]:
    """Both together, with what the rules name and nothing else knows."""
    own = dict.fromkeys(own_actions(rules), "by_rule")
    return {**document, "rules": rules, "actions": own, "modes": ["compiler_author"]}


ASKED: Final[list[tuple[dict[str, Any], set[str]]]] = [
    ({"amount": 3}, {"rules[0].when true", "rules[1].when false", "rules[0]"}),
    ({"amount": 9}, {"rules[0].when false", "rules[1].when true", "rules[1]"}),
    ({}, {"rules[1]"}),  # not known, which denies
]


@pytest.mark.parametrize(("args", "covered"), ASKED)
def test_both_outcomes_of_a_condition_are_parts(args: dict[str, Any], covered: set[str]) -> None:
    small, large = "args.amount <= 5", "args.amount > 7"
    rules = [
        {"effect": "allow", "actions": ["order.refund"], "when": small},
        {"effect": "deny", "actions": ["order.refund"], "actors": ["user"], "when": large},
        {"effect": "deny", "actions": ["order.refund"], "actors": ["service"], "when": large},
    ]
    document = {"actions": {"order.refund": "by_rule"}, "attributes": {"args": {"amount": "int"}}, "rules": rules}
    policy = RuntimePolicy.from_document(document)
    seen = coverage_of(policy, [PolicyInput("order.refund", User("ada"), args=args)])
    assert {" ".join(filter(None, (part.path, part.entry))) for part in {*seen.parts} - {*seen.missing}} == covered
    assert len(seen.parts) == 9
    assert describe_part(DocumentPart("rules[1].when", "false"), policy) == f"rules[1].when: {large} is false"


cases = documents.flatmap(lambda one: st.tuples(st.just(one), st.lists(questions(one), max_size=20)))


@pytest.mark.slow
@settings(max_examples=examples(80), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases)
def test_nothing_depends_on_what_is_not_covered(case: tuple[dict[str, Any], list[PolicyInput]]) -> None:
    document, asked = case
    policy = RuntimePolicy.from_document(document)
    answers = [policy.evaluate(input) for input in asked]
    for part in coverage_of(policy, asked).missing:
        try:
            smaller = RuntimePolicy.from_document(_without(document, part))
        except ConfigError:
            continue  # a star that began no other action
        known = [number for number, input in enumerate(asked) if (input.action in smaller.actions)]
        assert [smaller.evaluate(asked[number]) for number in known] == [answers[number] for number in known], part


def _without(document: dict[str, Any], part: DocumentPart) -> dict[str, Any]:
    if part.path.endswith("].when"):
        return document
    if part.path.startswith("rules"):
        number = int(part.path[6:-1])
        return {**document, "rules": [rule for at, rule in enumerate(document["rules"]) if at != number]}
    if part.entry is None:
        return {key: value for key, value in document.items() if key != part.path}
    return {**document, part.path: [entry for entry in document[part.path] if entry != part.entry]}
