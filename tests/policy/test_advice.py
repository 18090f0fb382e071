"""Why a document answers as it does: what it is told to change does change the answer, and nothing else is told."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capgate.errors import ConfigError
from capgate.model import Allow, Deny, Environment, PolicyInput, Resource, User
from capgate.policy import RuntimePolicy
from capgate.policy.analysis.advice import Account, RuleMatch, account_for
from capgate.policy.analysis.patch import apply

from ..support.documents import documents, questions
from ..support.judged_conditions import condition_of
from ..support.judgement import ACTORS, BUILTIN, action_fits, fits, judge, recorded
from ..support.policy_fixtures import Fixture, load_fixtures
from ..support.tools import examples

#: What no edit of a document can turn round.
BEYOND = ("malformed_input", "wrong_kind", "unknown_action", "missing_resource")


def standings(document: dict[str, Any], asked: PolicyInput) -> list[RuleMatch]:
    """How the rules stand to the question, as the README tells it."""
    found = []
    who, id = ACTORS[type(asked.actor)], getattr(asked.actor, "id", None)
    for number, rule in enumerate(document.get("rules", [])):
        if not any(action_fits(pattern, asked.action) for pattern in rule["actions"]):
            continue
        unmet = []
        if "actors" in rule and not any(fits(pattern, who, id) for pattern in rule["actors"]):
            unmet.append("actors")
        if "modes" in rule and asked.env.mode not in rule["modes"]:
            unmet.append("modes")
        about = asked.resource
        if "resources" in rule and not (about and any(fits(p, about.kind, about.id) for p in rule["resources"])):
            unmet.append("resources")
        holds = condition_of(rule, asked)
        if holds is False or (holds is None and rule["effect"] == "allow"):
            unmet.append("when")
        found.append(RuleMatch(number, rule["effect"], tuple(unmet), rule.get("monitor", False)))
    return found


def in_order(document: dict[str, Any], patch: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """The document after the patch, one operation after the other, as RFC 6902 has it."""
    changed = copy.deepcopy(document)
    for one in patch:
        *way, last = [part.replace("~1", "/").replace("~0", "~") for part in one["path"].split("/")[1:]]
        parent: Any = changed
        for part in way:
            parent = parent[int(part)] if isinstance(parent, list) else parent[part]
        if isinstance(parent, list) and one["op"] == "add":
            parent.insert(len(parent) if last == "-" else int(last), one["value"])
        elif one["op"] == "remove":
            parent.pop(int(last) if isinstance(parent, list) else last)
        else:
            parent[last] = one["value"]
    return changed


def check(document: dict[str, Any], asked: PolicyInput) -> Account:
    before = copy.deepcopy(document)
    account = account_for(document, asked)
    found = RuntimePolicy.from_document(document).explain(asked)
    assert document == before
    assert (account.result, account.by, account.rule, account.section) == (
        *(found.result, found.by, found.rule, found.section),
    )
    assert account.monitored == recorded(document, asked)
    assert list(account.rules) == (standings(document, asked) if account.by not in BEYOND else [])
    was_allowed = isinstance(found.result, Allow)
    for needs in account.remedies:
        for at in range(len(needs)):
            for way in needs[at].ways:
                chosen = [*(need.ways[0] for need in needs[:at]), way, *(need.ways[0] for need in needs[at + 1 :])]
                changed = apply(document, [one for each in chosen for one in each.patch])
                RuntimePolicy.from_document(changed)
                assert isinstance(judge(changed, asked)[0], Allow) is not was_allowed, way
                assert apply(document, way.patch) == in_order(document, way.patch)
    return account


@pytest.mark.sampled
@settings(
    max_examples=examples(120),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
)
@given(data=st.data(), document=documents())
def test_each_remedy_turns_the_answer_round(data: st.DataObject, document: dict[str, Any]) -> None:
    for asked in data.draw(st.lists(questions(document), min_size=2, max_size=6)):
        account = check(document, asked)
        assert account.remedies or account.by in BEYOND
        if isinstance(account.result, Allow):
            assert len(account.remedies) >= 1


@pytest.mark.parametrize("fixture", load_fixtures(), ids=lambda fixture: fixture.name)
def test_each_fixture_has_an_account(fixture: Fixture) -> None:
    account = check(fixture.policy, fixture.input)
    assert account.result == fixture.expected
    in_vain = account.by in BEYOND and (fixture.input.action in BUILTIN or account.by != "missing_resource")
    assert account.remedies or in_vain


def remedies(document: dict[str, Any], asked: PolicyInput) -> list[list[list[tuple[Any, ...]]]]:
    """Of each remedy and need the operations of each way, and where."""
    return [
        [
            [tuple((one["op"], one["path"], one.get("value")) for one in way.patch) for way in need.ways]
            for need in needs
        ]
        for needs in check(document, asked).remedies
    ]


ALICE = User("alice")
READ = PolicyInput("db.read", ALICE, Resource("sql_query", "audit"))
RULE = {"effect": "allow", "actions": ["db.read"]}
OWN_RULE = {**RULE, "actors": ["user:alice"], "resources": ["sql_query:audit"], "modes": ["prod"]}


def test_what_is_not_in_a_section() -> None:
    entry = {"name": "audit", "operation": "read"}
    rule = ("add", "/rules", [OWN_RULE])
    assert remedies({}, READ) == [[[(("add", "/sql", [entry]),), (rule,)]]]
    assert remedies({"sql": ["x"]}, READ) == [[[(("add", "/sql/-", entry),), (rule,)]]]
    other = {"sql": [{"name": "audit", "operation": "insert"}]}
    assert remedies(other, READ) == [[[(("add", "/sql/-", entry),), (rule,)]]]
    outbound = PolicyInput("http.outbound", ALICE, Resource("host", "a.example"))
    assert remedies({}, outbound)[0][0][0] == (("add", "/egress", ["a.example"]),)
    assert remedies({"rules": [RULE]}, outbound)[0][0][0] == (("add", "/egress", ["a.example"]),)


def test_rules_that_only_just_do_not_match() -> None:
    near = [{**RULE, "actors": ["user:bob"]}, {**RULE, "modes": ["dev"]}, {**RULE, "resources": ["sql_query:x/*"]}]
    far = {**RULE, "actors": ["user:bob"], "modes": ["dev"]}
    found = remedies({"rules": [*near, far]}, READ)
    assert found[0][0][1:4] == [
        (("add", "/rules/0/actors/-", "user:alice"),),
        (("add", "/rules/1/modes/-", "prod"),),
        (("add", "/rules/2/resources/-", "sql_query:audit"),),
    ]
    assert len(found[0][0]) == 5


def test_each_rule_that_denies_stands_in_the_way() -> None:
    deny = {"effect": "deny", "actions": ["db.*"]}
    document = {
        "sql": "any",
        "rules": [deny, RULE, {**deny, "modes": ["dev", "prod"], "actors": ["user", "user:alice"]}],
    }
    whole, narrow = remedies(document, READ)[0]
    assert whole == [(("remove", "/rules/0", None),)]
    assert narrow == [(("remove", "/rules/2", None),), (("remove", "/rules/2/modes/1", None),)]
    (both,) = check(document, READ).remedies
    assert [need.words for need in both] == ["rules[0] denies it", "rules[2] denies it"]


def test_what_allows_has_to_go_all_of_it() -> None:
    document = {"sql": ["audit", {"name": "audit", "operation": "select"}, "x"], "rules": [RULE]}
    denial, rest = remedies(document, READ)
    assert denial == [[(("add", "/rules/-", {**OWN_RULE, "effect": "deny"}),)]]
    assert rest == [[(("remove", "/rules/0", None),)], [(("remove", "/sql/1", None), ("remove", "/sql/0", None))]]
    assert remedies({"sql": "any"}, READ)[1] == [[(("replace", "/sql", []),)]]


def test_an_action_that_only_rules_admit() -> None:
    asked = PolicyInput("x.y", ALICE, Resource("k", "1"))
    declared = {"actions": {"x.y": "by_rule"}}
    denying = {**declared, "rules": [{"effect": "deny", "actions": ["x.y"]}, {"effect": "allow", "actions": ["*"]}]}
    assert remedies(denying, asked) == [[[(("remove", "/rules/0", None),)]]]
    assert remedies(declared, asked)[0][0][0] == (("replace", "/actions/x.y", "any"),)


def test_an_action_of_ones_own() -> None:
    asked = PolicyInput("x.y", ALICE)
    assert remedies({}, asked) == [[[(("add", "/actions", {"x.y": "any"}),)]]]
    assert remedies({"actions": {}}, asked) == [[[(("add", "/actions/x.y", "any"),)]]]
    assert remedies({"actions": {"x.y": ["1"]}}, asked) == [[[(("replace", "/actions/x.y", "any"),)]]]
    about = PolicyInput("x.y", ALICE, Resource("k", "a*b/~"))  # which no entry can say
    assert remedies({"actions": {"x.y": ["1"]}}, about) == [[[(("replace", "/actions/x.y", "any"),)]]]
    about = PolicyInput("x.y", ALICE, Resource("k", "ab/~"))
    assert remedies({"actions": {"x.y": ["1"]}}, about)[0][0][0] == (("add", "/actions/x.y/-", "ab/~"),)


@pytest.mark.parametrize(
    "asked",
    [
        PolicyInput("db.read", ALICE),
        PolicyInput("db.read", ALICE, Resource("sql_query")),
        PolicyInput("db.read", ALICE, Resource("path", "x")),
        PolicyInput("Nonsense", ALICE),
        PolicyInput("db.read", User("\ud800"), Resource("sql_query", "audit")),
    ],
    ids=repr,
)
def test_some_questions_no_document_allows(asked: PolicyInput) -> None:
    account = account_for({"sql": "any"}, asked)
    assert isinstance(account.result, Deny)
    assert account.remedies == ()
    assert account.by in BEYOND


def test_what_cannot_be_written_in_a_rule_is_not_offered() -> None:
    odd = PolicyInput("db.read", User("a*"), Resource("sql_query", "q"), env=Environment("s", "prod*"))
    for way in check({"rules": [{**RULE, "actors": ["user:bob"]}]}, odd).remedies[0][0].ways:
        assert way.patch[0]["path"] == "/sql"
    assert remedies({"sql": "any"}, odd)[0][0][0][0][2][0] == {
        "effect": "deny",
        "actions": ["db.read"],
        "resources": ["sql_query:q"],
    }


def test_an_actor_that_looks_like_a_template_is_not_offered() -> None:
    odd = PolicyInput("db.read", User("{id}"), Resource("sql_query", "q"))
    account = check({"sql": "any", "rules": [{**RULE, "effect": "deny", "resources": ["sql_query:q"]}]}, odd)
    assert not isinstance(account.result, Allow)
    assert "{id}" not in repr(account.remedies)
    assert "{id}" not in repr(check({"sql": "any"}, odd).remedies)


def test_no_document_admits_an_empty_id() -> None:
    empty = PolicyInput("tool.compile", ALICE, Resource("tool", ""))
    for tools in (["x"], "any"):
        account = check({"tools": tools}, empty)
        assert (account.by, account.remedies) == ("missing_resource", ())


def test_of_many_rules_only_some_are_offered() -> None:
    document = {"rules": [{**RULE, "actors": [f"user:{number}"]} for number in range(50)]}
    account = check(document, READ)
    assert len(account.rules) == 50
    assert len(account.remedies[0][0].ways) < 10


def test_a_bad_document_has_none() -> None:
    with pytest.raises(ConfigError) as caught:
        account_for({"sqll": []}, READ)
    assert caught.value.setting == "sqll"


def test_an_entry_for_every_operation_beside_a_denial() -> None:  # P-7
    document = {"sql": [{"name": "x"}], "rules": [{"effect": "deny", "actions": ["db.read"]}]}
    asked = PolicyInput("db.read", ALICE, Resource("sql_query", "x"))
    assert remedies(document, asked) == [[[(("remove", "/rules/0", None),)]]]
    assert remedies({"sql": [{"name": "y"}]}, asked)[0][0][0][0][:2] == ("add", "/sql/-")


def test_no_rule_is_said_to_match_that_was_not_looked_at() -> None:  # P-8
    account = check({"rules": [RULE]}, PolicyInput("db.read"))
    assert (account.by, account.rules, account.remedies) == ("missing_resource", (), ())


def test_an_unknown_action_that_a_star_would_deny() -> None:  # P-9
    document = {"rules": [{"effect": "deny", "actions": ["*"]}]}
    asked = PolicyInput("db.raed", ALICE, Resource("sql_query", "x"))
    account = check(document, asked)
    assert account.nearest == "db.read"
    denied, admitted = remedies(document, asked)[0]
    assert denied == [(("remove", "/rules/0", None),)]
    assert admitted[0] == (("add", "/actions", {"db.raed": ["x"]}),)
