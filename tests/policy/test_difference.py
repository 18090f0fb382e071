"""What changes between two documents: for each question, made up or chosen, what the difference says of it is so."""

from __future__ import annotations

import copy
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capgate.actions import BUILTIN_ACTIONS
from capgate.errors import ConfigError
from capgate.model import ALLOW, Actor, Anonymous, Deny, Environment, PolicyInput, PolicyResult, Resource, Service, User
from capgate.policy import RuntimePolicy
from capgate.policy.analysis import difference as difference_module
from capgate.policy.analysis.branching import FactRegion
from capgate.policy.analysis.difference import AnswerChange, Difference, difference
from capgate.policy.analysis.regions import Region
from capgate.policy.analysis.space import Selector

from ..support.documents import documents, questions
from ..support.judged_conditions import CONDITIONS
from ..support.judgement import ACTORS, entry_fits, is_nameless, judge
from ..support.policy_fixtures import load_fixtures
from ..support.tools import examples

pytestmark = pytest.mark.slow

#: Of selectors that fit, the one with the highest rank counts; of beginnings and the like, the longest.
RANKS = ("any", "beginning", "ending", "network", "none", "absent", "exact")


def is_in(region: Region, kind: str | None, id: str | None) -> bool:
    """Whether a region has this: an actor or a resource by kind (``None``: there is none) and id, or a mode."""
    ranked = [
        ((one.kind is not None, RANKS.index(one.match), _length(one)), verdict)
        for verdict, selectors in ((True, region.include), (False, region.exclude))
        for one in selectors
        if selects(one, kind, id)
    ]
    return max(ranked, default=((), False))[1]


def _length(one: Selector) -> int:
    return ip_network(one.text).prefixlen if one.match == "network" else len(one.text)


def selects(one: Selector, kind: str | None, id: str | None) -> bool:
    if one.match == "absent":
        return kind is None
    if one.kind not in (None, kind):
        return False
    if one.match in ("any", "none"):
        return one.match == "any" or (kind is not None and id is None)
    if id is None:
        return False
    if one.match == "beginning":
        return id.startswith(one.text) and id != one.text
    if one.match in ("ending", "network"):
        return entry_fits(f"*.{one.text}" if one.match == "ending" else one.text, str(one.kind), id)
    return id == one.text


def change_of(found: Difference, asked: PolicyInput) -> AnswerChange | None:
    """The one change that is about a question, or none."""
    resource = asked.resource
    kind, id = (None, None) if resource is None else (resource.kind, resource.id)
    covering = [
        change
        for change in found.changes
        if asked.action in change.actions
        and is_in(change.actors, ACTORS[type(asked.actor)], getattr(asked.actor, "id", None))
        and is_in(change.modes, None, asked.env.mode)
        and is_in(change.resources, kind, id)
        and (not change.facts or any(has_facts(each, asked) for each in change.facts))
    ]
    assert len(covering) <= 1
    return covering[0] if covering else None


def has_facts(region: FactRegion, asked: PolicyInput) -> bool:
    """Whether the facts of a question are in a region."""
    return (
        all(CONDITIONS[text](asked) is True for text in region.true)
        and all(CONDITIONS[text](asked) is False for text in region.false)
        and all(CONDITIONS[text](asked) is None for text in region.unknown)
        and all(CONDITIONS[text](asked) is not True for text in region.not_true)
    )


def expected(old: dict[str, Any], new: dict[str, Any], asked: PolicyInput) -> tuple[PolicyResult, PolicyResult] | None:
    before, after = judge(old, asked)[0], judge(new, asked)[0]
    return None if before == after else (before, after)


KINDS = {action.name: action for action in BUILTIN_ACTIONS}


def check(old: dict[str, Any], new: dict[str, Any], asked: list[PolicyInput]) -> Difference:
    found = difference(RuntimePolicy.from_document(old), RuntimePolicy.from_document(new))
    for one in asked:
        if one.resource is not None and is_nameless(one.resource):  # whatever the reason, it is denied
            assert all(isinstance(answer, Deny) for answer in expected(old, new, one) or ())
            continue
        change = change_of(found, one) if is_classed(old, new, one) else None
        told = None if change is None else (change.before, change.after)
        assert told == expected(old, new, one), (one, change)
    return found


def is_classed(old: dict[str, Any], new: dict[str, Any], asked: PolicyInput) -> bool:
    """Whether the question gets as far as what the documents say of actors, modes and resources, on either side."""
    resource = asked.resource
    builtin = KINDS.get(asked.action)
    if builtin is not None and resource is not None and resource.kind != builtin.kind:
        return False
    missing = Deny("missing_resource")
    return (judge(old, asked)[0], judge(new, asked)[0]) != (missing, missing)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two documents that have nothing in common, or nearly everything."""
    old = draw(documents())
    if draw(st.integers(0, 3)) == 0:
        return old, draw(documents())
    new = copy.deepcopy(old)
    other = draw(documents())
    for key in draw(st.sets(st.sampled_from(["sql", "egress", "fs", "compute", "actions"]), max_size=2)):
        new.pop(key, None)
        if key in other:
            new[key] = other[key]
    rules = new["rules"]
    change = draw(st.sampled_from(["add", "drop", "turn", "monitor", "reverse", "none"]))
    if change == "add":
        rules[:] = [*rules[: len(rules) // 2], *other["rules"][:1], *rules[len(rules) // 2 :]]
    elif change == "drop" and rules:
        del rules[draw(st.integers(0, len(rules) - 1))]
    elif change == "turn" and rules:
        rule = rules[draw(st.integers(0, len(rules) - 1))]
        rule.pop("reason", None)
        rule.pop("monitor", None)
        rule["effect"] = "deny" if rule["effect"] == "allow" else "allow"
    elif change == "monitor" and rules:
        rule = rules[draw(st.integers(0, len(rules) - 1))]
        if rule["effect"] == "deny":
            rule["monitor"] = not rule.get("monitor", False)
    elif change == "reverse":
        rules.reverse()
    return old, new


def is_document(document: dict[str, Any]) -> bool:
    try:
        RuntimePolicy.from_document(document)
    except ConfigError:  # as where a rule's star covers nothing any more
        return False
    return True


@settings(max_examples=examples(60), suppress_health_check=list(HealthCheck))
@given(data=st.data(), pair=pairs())
def test_each_question_changes_as_its_class_does(
    data: st.DataObject, pair: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    old, new = pair
    if not is_document(new):
        return
    asked = data.draw(st.lists(questions(old) | questions(new), min_size=8, max_size=24))
    found = check(old, new, asked)
    if not any(rule.get("monitor") for document in pair for rule in document["rules"]):
        assert found.recorded == ()
        return
    counting = difference(*(RuntimePolicy.from_document(all_counting(document)) for document in pair))
    assert found.recorded == counting.changes


def all_counting(document: dict[str, Any]) -> dict[str, Any]:
    rules = [{key: value for key, value in rule.items() if key != "monitor"} for rule in document["rules"]]
    return {**document, "rules": rules}


OWN_AND_HOST: dict[str, Any] = {
    "actions": {"a.b": ["X.y", "x.y", "z", "(?i)", "host:z"]},
    "rules": [
        {"effect": "deny", "actions": ["a.b"], "resources": ["host:x.Y", "host:*.z", "k:z"], "reason": "no"},
        {"effect": "allow", "actions": ["a.b"], "resources": ["host:q", "k:q/*"]},
    ],
}
ABOUT = [
    None,
    *(Resource(kind, id) for kind in ("host", "k", "other", "") for id in (None, "", "x.y", "X.Y", "X.y", "x.Y", "z")),
    *(
        Resource(kind, id)
        for kind in ("host", "k", "other")
        for id in ("Z", "z.", "z.a", "Z.A", "z/a", "q", "Q", "q/a", "host:z", "a.z", "A.Z.", "b.a.z", "az")
    ),
]


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"actions": {"a.b": "any"}},
        {"actions": {"a.b": []}},
        {**OWN_AND_HOST, "actions": {"a.b": "any"}},
        {**OWN_AND_HOST, "actions": {"a.b": ["X.y", "X.Y", "x.Y", "x.y"]}},
        {**OWN_AND_HOST, "rules": OWN_AND_HOST["rules"][:1]},
        {**OWN_AND_HOST, "rules": OWN_AND_HOST["rules"][1:]},
        {**OWN_AND_HOST, "actions": {"a.b": "by_rule"}},
        {
            "actions": {"a.b": "by_rule"},
            "rules": [{"effect": "allow", "actions": ["a.b"], "resources": ["host", "k:x.y"]}],
        },
        OWN_AND_HOST,
    ],
    ids=range(10),
)
def test_hosts_of_an_action_of_ones_own(other: dict[str, Any]) -> None:
    """Which are in lower case in questions and rules, and in sections as they are written."""
    asked = [PolicyInput("a.b", resource=resource) for resource in ABOUT]
    check(OWN_AND_HOST, other, asked)
    check(other, OWN_AND_HOST, asked)


RULE = {"effect": "allow", "actions": ["db.read"], "actors": ["user:alice"]}


def only(old: dict[str, Any], new: dict[str, Any]) -> AnswerChange:
    (change,) = check(old, new, []).changes
    return change


ALL = Region((Selector("any"),))


def test_a_new_entry() -> None:
    change = only({"cache": ["a"]}, {"cache": ["a", "b"]})
    assert change == AnswerChange(
        *("allowed", Deny("not_in_allowlist"), ALLOW, ("cache.read", "cache.write"), ALL, ALL),
        Region((Selector("exact", "namespace", "b"),)),
        example=change.example,
    )
    assert change.example is not None
    assert (change.example.action, change.example.resource) == ("cache.read", Resource("namespace", "b"))
    assert only({"egress": ["B.example"]}, {}).resources == Region((Selector("exact", "host", "b.example"),))
    assert only({}, {"egress": "any"}).resources == ALL
    rest = Region((Selector("any", "host"),), (Selector("exact", "host", "b"),))
    assert only({"egress": ["b"]}, {"egress": "any"}).resources == rest


def test_operations_are_told_apart() -> None:
    change = only({"sql": [{"name": "q", "operation": "read"}]}, {"sql": ["q"]})
    assert change.actions == ("db.migrate", "db.write")


def test_a_rule_for_some() -> None:
    change = only({}, {"rules": [RULE]})
    assert change.actors == Region((Selector("exact", "user", "alice"),))
    assert change.resources.is_all
    nobody = only({"sql": "any"}, {"sql": "any", "rules": [{**RULE, "effect": "deny", "modes": ["dev"]}]})
    assert (nobody.effect, nobody.modes) == ("denied", Region((Selector("exact", None, "dev"),)))


def test_all_but_some() -> None:
    deny = {"effect": "deny", "actions": ["db.read"]}
    everyone = {"sql": "any", "rules": [{**deny, "actors": ["anonymous", "user", "service", "compiler_tool"]}]}
    change = only({"sql": "any", "rules": [{**deny, "actors": ["user:alice"]}]}, everyone)
    assert change.actors == Region((Selector("any"),), (Selector("exact", "user", "alice"),))


def test_another_reason() -> None:
    deny = {"effect": "deny", "actions": ["db.read"]}
    change = only({"rules": [deny]}, {"rules": [{**deny, "reason": "closed"}]})
    assert (change.effect, change.after, change.actors, change.modes) == ("reason", Deny("closed"), ALL, ALL)
    first, second = {**deny, "reason": "a", "modes": ["dev"]}, {**deny, "reason": "b", "actors": ["user"]}
    swapped = only({"rules": [first, second]}, {"rules": [second, first]})
    assert (swapped.before, swapped.after) == (Deny("a"), Deny("b"))
    assert (swapped.modes.include, swapped.actors.include) == (
        (Selector("exact", None, "dev"),),
        (Selector("any", "user"),),
    )


def test_an_action_that_becomes_known() -> None:
    new = {"actions": {"a.b": ["1"]}}
    asked = [None, Resource("k"), Resource("k", "1"), Resource("k", "2")]
    found = check({}, new, [PolicyInput("a.b", resource=resource) for resource in asked])
    reasons = {getattr(change.after, "reason", "") for change in found.changes}
    assert reasons == {"", "missing_resource", "not_in_allowlist"}


def test_what_is_the_same_in_other_words() -> None:
    rules = [{**RULE, "actors": ["user:alice", "user:bob"], "modes": ["dev", "test"]}]
    same = [
        {**RULE, "actors": ["user:bob", "user:alice"], "modes": ["test", "dev"], "actions": ["db.read", "db.read"][:1]}
    ]
    assert check({"sql": ["x", "y"], "rules": rules}, {"sql": ["y", "x"], "rules": same, "name": "n"}, []).changes == ()
    assert check({"sql": ["x"]}, {"sql": ["x"], "rules": [{**RULE, "resources": ["sql_query:x"]}]}, []).changes == ()
    split = [{**RULE, "actors": ["user:a"]}, {**RULE, "actors": ["user:b"]}]
    assert check({"rules": split}, {"rules": [{**RULE, "actors": ["user:a", "user:b"]}]}, []).changes == ()


@pytest.mark.parametrize("fixture", load_fixtures(), ids=lambda fixture: fixture.name)
def test_fixtures_against_nothing(fixture: Any) -> None:
    asked = [one.input for one in load_fixtures()]
    check(fixture.policy, {"name": "nothing"}, asked)
    assert check(fixture.policy, fixture.policy, []).changes == ()


def large(**changes: Any) -> dict[str, Any]:
    rules = [
        {"effect": "allow", "actions": ["fs.read"], "actors": [f"user:{n}"], "resources": [f"path:home/{n}/*"]}
        for n in range(3_000)
    ]
    return {"sql": [f"q{n}" for n in range(20_000)], "rules": rules, **changes}


def test_a_small_change_of_a_large_document() -> None:
    old, new = large(), large()
    new["rules"][7]["resources"] = ["path:home/8/*"]
    new["sql"][9] = "other"
    found = difference(RuntimePolicy.from_document(old), RuntimePolicy.from_document(new))
    assert {(c.effect, *c.actions, c.resources.include[0].text) for c in found.changes} == {
        ("allowed", "fs.read", "home/8/"),
        ("denied", "fs.read", "home/7/"),
        *((effect, "db.migrate", "db.read", "db.write", q) for effect, q in (("allowed", "other"), ("denied", "q9"))),
    }
    assert found.classes < 100


def test_a_denial_of_everything_in_a_large_document() -> None:
    """Which makes a difference only where something was allowed: no more classes than there were rules."""
    new = large()
    new["modes"] = ["frozen"]
    new["rules"] = [*new["rules"], {"effect": "deny", "actions": ["fs.read"], "modes": ["frozen"]}]
    found = difference(RuntimePolicy.from_document(large()), RuntimePolicy.from_document(new))
    assert [change.effect for change in found.changes] == ["denied"] * 3_000
    assert {change.actors.include[0].text: change.resources.include[0].text for change in found.changes} == {
        f"{number}": f"home/{number}/" for number in range(3_000)
    }
    assert found.classes < 10_000


def test_too_many_classes_are_refused() -> None:
    new = large()
    new["rules"] = [*new["rules"], {"effect": "deny", "actions": ["fs.read"], "reason": "closed"}]
    with pytest.raises(ConfigError) as caught:
        difference(RuntimePolicy.from_document(large()), RuntimePolicy.from_document(new), limit=100_000)
    assert caught.value.setting == "documents"


@settings(max_examples=examples(60), suppress_health_check=list(HealthCheck))
@given(pair=pairs())
def test_looking_for_overlaps_finds_the_same(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    if is_document(pair[1]):
        policies = [RuntimePolicy.from_document(one) for one in pair]
        with pytest.MonkeyPatch.context() as patch:
            found = difference(policies[0], policies[1]).changes
            patch.setattr(difference_module, "SMALL", -1)
            assert difference(policies[0], policies[1]).changes == found


def test_who_asks_counts_by_kind_and_id() -> None:
    old = {"rules": [{**RULE, "actors": ["user:team/*"]}]}
    new = {"rules": [{**RULE, "actors": ["user:team/*", "service:team/*", "user:team/x/*"]}]}
    actors: list[Actor] = [Anonymous(), *(k(id) for k in (User, Service) for id in ("", "team/", "team/a", "team/x/a"))]
    asked = [
        PolicyInput("db.read", who, Resource("sql_query", "q"), env=Environment("s", m)) for who in actors for m in "ab"
    ]
    assert check(old, new, asked).changes[0].actors == Region((Selector("beginning", "service", "team/"),))


def test_what_wildcards_leave_over() -> None:
    """A network that others and single addresses fill has no address of its own, and an ending may have no room."""
    halves = {"egress": ["10.0.0.0/31", "10.0.0.0/32", "10.0.0.1", "::/127", "::1/128", "::"]}
    whole = {"egress": ["10.0.0.0/31", "::/127"]}
    asked = [
        PolicyInput("http.outbound", resource=Resource("host", id)) for id in ("10.0.0.0", "10.0.0.1", "::", "::1")
    ]
    assert check(halves, whole, asked).changes == ()
    change = only(whole, {"egress": ["10.0.0.1", "::1"]})
    assert change.resources == Region(
        (Selector("network", "host", "::/127"), Selector("network", "host", "10.0.0.0/31")),
        (Selector("exact", "host", "10.0.0.1"), Selector("exact", "host", "::1")),
    )
    ending = ".".join(["a" * 49] * 5) + "a"
    assert len(ending) == 250
    long = ending + "a"
    signs = "abcdefghijklmnopqrstuvwxyz0123456789_-"
    all_of = {"egress": [f"{sign}.{long}" for sign in signs]}
    assert check(all_of, {"egress": [f"*.{long}"]}, []).changes == ()
    changes = check(all_of, {"egress": [f"*.{ending}"]}, []).changes
    assert [change.effect for change in changes] == ["allowed", "denied"]


def test_addresses_of_ipv4_are_none_of_ipv6() -> None:
    old, new = {"egress": ["::/0"]}, {"egress": ["::/0", "0.0.0.0/0", "1.2.3.0/24"]}
    asked = [PolicyInput("http.outbound", resource=Resource("host", id)) for id in ("1.2.3.4", "::ffff:1.2.3.4", "::1")]
    change = check(old, new, asked).changes[0]
    assert change.resources == Region((Selector("network", "host", "0.0.0.0/0"),))


def test_ten_thousand_wildcards_are_compared() -> None:
    old = {
        "egress": [*(f"*.n{n}.example" for n in range(5_000)), *(f"10.{n // 256}.{n % 256}.0/24" for n in range(5_000))]
    }
    new = {"egress": old["egress"][1:-1]}
    change = only(old, new)
    assert change.effect == "denied"
    assert {selector.match for selector in change.resources.include} == {"ending", "network"}
