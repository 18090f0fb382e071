"""Rules in the guest: the answers that the rules give as they read, in bounded work."""

from __future__ import annotations

import itertools
import random
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capgate.artifact.build import build_policy
from capgate.artifact.load import WasmArtifact
from capgate.limits import Limits
from capgate.model import ALLOW, Actor, Anonymous, CompilerTool, Deny, PolicyInput, Resource, Service, User
from capgate.policy import RuntimePolicy
from capgate.policy.index import MAX_NESTED
from capgate.policy.wildcards import normal_network
from capgate.runtime.interpreter import WasmInterpreter

from ...support.documents import documents, questions
from ...support.judgement import judge
from ...support.tools import examples
from .guest import CountedGuest, Guest


@pytest.mark.slow
@settings(
    max_examples=examples(50, quick=20), suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example]
)
@given(data=st.data(), document=documents())
def test_the_guest_judges_as_the_rules_read(engine_name: str, data: st.DataObject, document: dict[str, Any]) -> None:
    instance = Guest(engine_name, build_policy(document))
    asked = data.draw(st.lists(questions(document), min_size=8, max_size=20))
    found = [instance.ask(question) for question in asked]
    for question, answer in zip(asked, found, strict=True):
        assert answer == judge(document, question)[0], question
    assert found[::-1] == [instance.ask(question) for question in reversed(asked)]  # G21


LENGTHS = [*range(1, 40), 63, 64, 65, 127, 200]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["path", "tool"])
def test_beginnings_of_every_length(engine_name: str, kind: str) -> None:
    """Where an id differs from a beginning in any one character, or ends with it, the beginning does not match."""
    action = {"path": "fs.read", "tool": "tool.inspect"}[kind]
    for length in LENGTHS[1:]:
        stem = "".join(chr(97 + at % 26) for at in range(length - 1)) + "/"
        document = {"rules": [{"effect": "allow", "actions": [action], "resources": [f"{kind}:{stem}*"]}]}
        instance = Guest(engine_name, build_policy(document))
        ids = [
            stem + "x",
            stem + "xyz" * 9,
            stem,
            stem[:-1],
            *(stem[:at] + "~" + stem[at + 1 :] + "x" for at in range(length)),
        ]
        answers = [instance.ask(PolicyInput(action, resource=Resource(kind, id))) for id in ids]
        assert [answer is ALLOW for answer in answers] == [True, True] + [False] * (length + 2)


@pytest.mark.slow
def test_many_beginnings(engine_name: str) -> None:
    """Of two letters, so that nearly all of them have something in common, of up to three words of memory."""
    draw = random.Random(7)
    stems = {"".join(draw.choices("ab", k=draw.randrange(1, 26))) + "/" for _ in range(400)}
    stems |= {stem + "".join(draw.choices("ab", k=3)) + "/" for stem in draw.sample(sorted(stems), 150)}
    listed = draw.sample(sorted(stems), 300)
    rules = [
        {"effect": "deny", "actions": ["x.y"], "resources": [f"k:{stem}*"], "reason": stem}
        for stem in sorted(listed, key=len, reverse=True)
    ]
    document = {"rules": rules, "actions": {"x.y": "any"}}
    instance = Guest(engine_name, build_policy(document))
    answers = set()
    for stem in sorted(stems):
        for id in (stem, stem + "a", stem[:-1], stem[:-2] + "b/a", stem + "bbb/x"):
            question = PolicyInput("x.y", resource=Resource("k", id))
            answer = instance.ask(question)
            assert answer == judge(document, question)[0]
            answers.add(answer)
    assert len(answers) > 200


def test_names_are_found_among_many(engine_name: str) -> None:
    endings = [f"{first}{second}.example" for first in "abmyz_-" for second in "a9-z"]
    nested = ["a.a.example", "b.a.a.example"]
    rules = [
        {"effect": "allow", "actions": ["http.outbound"], "resources": [f"host:*.{ending}" for ending in endings]},
        {"effect": "deny", "actions": ["http.outbound"], "resources": [f"host:*.{each}" for each in nested[1:]]},
    ]
    policy = RuntimePolicy.from_document({"rules": rules, "egress": [f"*.{nested[0]}"]})
    instance = Guest(engine_name, build_policy(policy))
    for ending, change in itertools.product(endings, (str.lower, str.upper, str.title)):
        for name, is_allowed in (("x.", True), ("y.x.", True), ("x", False), ("", False)):
            question = PolicyInput("http.outbound", resource=Resource("host", change(name + ending)))
            assert (instance.ask(question) is ALLOW) == is_allowed
    for name in ("a.a.example", "x.a.a.example", "b.a.a.example", "x.b.a.a.example", "y.x.b.a.a.example"):
        question = PolicyInput("http.outbound", resource=Resource("host", name))
        assert instance.ask(question) == policy.evaluate(question)


@st.composite
def networks(draw: st.DrawFn) -> str:
    address = draw(st.ip_addresses() | st.sampled_from(["10.0.0.0", "::", "fd00::", "255.255.255.255"]).map(ip_address))
    length = draw(st.integers(0, address.max_prefixlen))
    network = ip_network(f"{address}/{length}", strict=False)
    return "10.0.0.0/8" if normal_network(str(network)) is None else str(network)


@pytest.mark.slow
@settings(
    max_examples=examples(80, quick=30), suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example]
)
@given(data=st.data(), entries=st.lists(networks(), min_size=1, max_size=12, unique=True))
def test_addresses_lie_in_networks_as_numbers(engine_name: str, data: st.DataObject, entries: list[str]) -> None:
    """At the edges of each network, and beside them, in both engines, in Python and by ``ipaddress``."""
    cut = data.draw(st.integers(0, len(entries)))
    denied = [f"host:{network}" for network in entries[:cut]]
    rules = [{"effect": "deny", "actions": ["http.outbound"], "resources": denied, "reason": "no"}] if denied else []
    document = {"egress": entries[cut:], "rules": rules}
    policy = RuntimePolicy.from_document(document)
    instance = Guest(engine_name, build_policy(policy))
    edges = []
    for network in map(ip_network, entries):
        edges += [network[0], network[-1], *(at for at in (_beside(network[0], -1), _beside(network[-1], 1)) if at)]
    for address in [*edges, *data.draw(st.lists(st.ip_addresses(), max_size=5))]:
        question = PolicyInput("http.outbound", resource=Resource("host", str(address)))
        answer = instance.ask(question)
        assert answer == policy.evaluate(question) == judge(document, question)[0], address


def _beside(address: IPv4Address | IPv6Address, step: int) -> IPv4Address | IPv6Address | None:
    number = int(address) + step
    return type(address)(number) if 0 <= number < 2**address.max_prefixlen else None


def test_a_deep_nest_in_both(engine_name: str) -> None:
    nested = ["a/" * depth + "*" for depth in range(MAX_NESTED)]
    rule = {
        "effect": "allow",
        "actions": ["x.y"],
        "actors": [f"user:{text}" for text in nested],
        "resources": [f"k:{text}" for text in nested],
    }
    policy = RuntimePolicy.from_document({"rules": [rule], "actions": {"x.y": "by_rule"}})
    instance = Guest(engine_name, build_policy(policy))
    ids = ["a/" * depth + end for depth in (0, 1, 2, MAX_NESTED - 1, MAX_NESTED) for end in ("", "x", ".", "0")]
    for who, what in itertools.product(ids, ids):
        question = PolicyInput("x.y", User(who), Resource("k", what))
        assert instance.ask(question) == policy.evaluate(question)
        assert (policy.evaluate(question) is ALLOW) == bool(who and what)


# Bounded work, whatever the document and the question.


def many(count: int) -> dict[str, Any]:
    draw = random.Random(count)
    rules = []
    for number in range(count):
        rule: dict[str, Any] = {"effect": draw.choice(["allow", "deny"]), "actions": [draw.choice(["db.*", "db.read"])]}
        if draw.random() < 0.7:
            rule["actors"] = [f"service:team{number}/*", f"user:u{number}", "compiler_tool"]
        if draw.random() < 0.3:
            rule["modes"] = draw.sample(["dev", "test", "prod"], 2)
        if draw.random() < 0.7:
            rule["resources"] = [f"sql_query:q{number}", f"sql_query:area{number}/*", "sql_query:area/*"]
        rules.append(rule)
    return {"rules": rules, "sql": ["audit"]}


@pytest.mark.slow
def test_work_hardly_grows_with_rules() -> None:
    most = {}
    for count in (10, 1_000, 10_000):
        policy = RuntimePolicy.from_document(many(count))
        instance = CountedGuest(build_policy(policy))
        spent, answers = [], set()
        for number in range(600):
            at = number * 37 % count
            whom: list[Actor] = [User(f"u{at}"), Service(f"team{at}/x"), CompilerTool("c"), Anonymous()]
            what = [f"q{at}", f"area{at}/x", "area/x", "audit"][number // 4 % 4]
            question = PolicyInput("db.read", whom[number % 4], Resource("sql_query", what))
            answer = instance.ask(question)
            assert answer == policy.evaluate(question)
            answers.add(answer)
            spent.append(instance.spent)
        most[count] = max(spent)
    # Patterns are searched by halving; whatever else there is costs the same. An instruction costs about one fuel, of
    # which a call has 10,000,000 by default.
    assert most[10_000] < 15_000
    assert most[10_000] < 3 * most[10]


def wild(count: int) -> dict[str, Any]:
    """This many wildcards of each kind, in sections and rules."""
    names = [f"*.n{n}.example" for n in range(count)]
    nets = [f"10.{n // 256}.{n % 256}.0/24" for n in range(count // 2)] + [
        f"fd00:{n + 1:x}::/32" for n in range(count // 2)
    ]
    folders = [f"area{n}/part/*" for n in range(count)]
    denied = [f"host:*.bad{n}.example" for n in range(count)] + [
        f"host:11.{n // 256}.{n % 256}.0/24" for n in range(count)
    ]
    return {
        "egress": [*names, *nets],
        "fs": folders,
        "rules": [{"effect": "deny", "actions": ["http.outbound"], "resources": denied}],
    }


@pytest.mark.slow
def test_work_hardly_grows_with_wildcards() -> None:
    most = {}
    for count in (4, 100, 10_000):
        policy = RuntimePolicy.from_document(wild(count))
        instance = CountedGuest(build_policy(policy))
        spent, answers = [], set()
        for number in range(300):
            at = number * 37 % count
            hosts = (
                f"a.b.n{at}.example",
                f"x.bad{at}.example",
                f"10.{at // 256}.{at % 256}.7",
                f"fd00:{at + 1:x}:1::2",
                "1::2",
            )
            resources = [*(Resource("host", host) for host in hosts), Resource("path", f"area{at}/part/x/y")]
            for resource in resources:
                action = "fs.read" if resource.kind == "path" else "http.outbound"
                question = PolicyInput(action, resource=resource)
                answer = instance.ask(question)
                assert answer == policy.evaluate(question)
                answers.add(answer)
                spent.append(instance.spent)
        assert len(answers) == 2
        most[count] = max(spent)
    assert most[10_000] < 2 * most[4]
    assert most[10_000] < 8_000


def test_an_id_longer_than_every_pattern_costs_nothing() -> None:
    document = {
        "rules": [{"effect": "allow", "actions": ["fs.*"], "actors": ["user:a/*"], "resources": ["path:b/c/*"]}]
    }
    instance = CountedGuest(build_policy(document))
    spent = []
    for length in (8, 15_000):
        assert instance.ask(PolicyInput("fs.read", User("a/x"), Resource("path", "b/c/" * length + "x"))) is ALLOW
        spent.append(instance.spent)
    assert spent[0] == spent[1]


def test_the_worst_question_is_affordable(engine_name: str) -> None:
    """All that can nest does, for actor and resource, and everything compares in full: of the fuel that is the default
    a fifth is left."""
    stems = ["a/" * depth for depth in range(MAX_NESTED)]
    rules = [
        {
            "effect": "allow",
            "actions": ["x.y"],
            "actors": [f"user:{stem}*"],
            "modes": ["prod", "dev"],
            "resources": [f"k:{stem}{number}/*" for stem in stems],
        }
        for number, stem in enumerate(stems)
    ]
    rules += [{key: value for key, value in rule.items() if key != "modes"} for rule in rules]
    document = {"rules": rules, "actions": {"x.y": "by_rule"}}
    interpreter = WasmInterpreter(WasmArtifact.from_bytes(build_policy(document)), engine=engine_name)
    id = "a/" * MAX_NESTED + "x"
    question = PolicyInput("x.y", User(id), Resource("k", id))
    assert interpreter.call_policy_check(question) == Deny("not_in_allowlist")
    assert Limits().call_fuel / 3 < interpreter.fuel_spent < Limits().call_fuel * 0.8


def test_the_longest_name_is_affordable(engine_name: str) -> None:
    """As many labels as a name can have, none of which is an ending, for each part of an actor that nests."""
    longest = "a." * 126 + "a"
    stems = ["a/" * depth for depth in range(MAX_NESTED)]
    rules = [
        {
            "effect": "allow",
            "actions": ["http.outbound"],
            "actors": [f"user:{stem}*"],
            "modes": ["prod", "dev"],
            "resources": [f"host:*.{number}b{longest[-30:]}"],
        }
        for number, stem in enumerate(stems)
    ]
    rules += [{key: value for key, value in rule.items() if key != "modes"} for rule in rules]
    interpreter = WasmInterpreter(WasmArtifact.from_bytes(build_policy({"rules": rules})), engine=engine_name)
    question = PolicyInput("http.outbound", User("a/" * MAX_NESTED + "x"), Resource("host", longest))
    assert interpreter.call_policy_check(question) == Deny("not_in_allowlist")
    assert interpreter.fuel_spent < Limits().call_fuel * 0.8
