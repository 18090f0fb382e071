"""Rules of a document: what may be written, how they judge, and that an index of them judges as they read."""

from __future__ import annotations

import enum
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from capgate.errors import ConfigError
from capgate.model import ALLOW, Actor, Anonymous, CompilerTool, Deny, Environment, PolicyInput, Resource, Service, User
from capgate.policy import Explanation, Pattern, RuntimePolicy
from capgate.policy import rules as rules_module
from capgate.policy.document import read_document
from capgate.policy.index import MAX_NESTED
from capgate.policy.rules import MAX_REASON, MAX_RULES
from capgate.policy.wildcards import BEGINNING, ENDING, NETWORK

from ..support.documents import documents, questions
from ..support.judgement import judge, recorded
from ..support.tools import examples


def deny(**more: Any) -> dict[str, Any]:
    return {"effect": "deny", "actions": ["db.read"], **more}


def allow(**more: Any) -> dict[str, Any]:
    return {"effect": "allow", "actions": ["db.read"], **more}


class Text(str):
    """What JSON never gives."""

    __slots__ = ()


BAD: list[tuple[Any, str]] = [
    (None, "rules"),
    ({}, "rules"),
    ("any", "rules"),
    ([None], "rules[0]"),
    ([allow(), ["deny"]], "rules[1]"),
    ([{}], "rules[0].effect"),
    ([{"actions": ["db.read"]}], "rules[0].effect"),
    ([allow(effect="Deny")], "rules[0].effect"),
    ([allow(effect=["deny"])], "rules[0].effect"),
    ([allow(effect=Text("deny"))], "rules[0].effect"),
    ([{"effect": "deny"}], "rules[0].actions"),
    ([deny(actions=None)], "rules[0].actions"),
    ([deny(actions=[])], "rules[0].actions"),
    ([deny(actions="db.read")], "rules[0].actions"),
    ([deny(actions={"db.read": 1})], "rules[0].actions"),
    ([deny(actions=["db.read", "db.read"])], "rules[0].actions[1]"),
    ([deny(actions=["db.read", 3])], "rules[0].actions[1]"),
    ([deny(actions=[Text("db.read")])], "rules[0].actions[0]"),
    ([deny(actions=[""])], "rules[0].actions[0]"),
    ([deny(actions=["DB.read"])], "rules[0].actions[0]"),
    ([deny(actions=["read"])], "rules[0].actions[0]"),
    ([deny(actions=["db"])], "rules[0].actions[0]"),
    ([deny(actions=["db."])], "rules[0].actions[0]"),
    ([deny(actions=["db*"])], "rules[0].actions[0]"),
    ([deny(actions=[".*"])], "rules[0].actions[0]"),
    ([deny(actions=["*.read"])], "rules[0].actions[0]"),
    ([deny(actions=["**"])], "rules[0].actions[0]"),
    ([deny(actions=["db.*.*"])], "rules[0].actions[0]"),
    ([deny(actions=["*."])], "rules[0].actions[0]"),
    ([deny(actions=["db.read "])], "rules[0].actions[0]"),
    ([deny(actions=["x." + "y" * 127])], "rules[0].actions[0]"),
    ([deny(actions=["bd.*"])], "rules[0].actions[0]"),  # that no action begins so
    ([deny(), deny(actions=["db.*", "db.read.*"])], "rules[1].actions[1]"),
    ([deny(actions=["invoice.*"])], "rules[0].actions[0]"),
    ([allow(monitor=True)], "rules[0].monitor"),
    ([allow(monitor=False)], "rules[0].monitor"),
    ([deny(), deny(monitor=1)], "rules[1].monitor"),
    ([deny(monitor="true")], "rules[0].monitor"),
    ([deny(monitor=None)], "rules[0].monitor"),
    ([deny(actions=["invoice.send"], monitor=True)], "rules[0].actions[0]"),
    ([deny(actors=None)], "rules[0].actors"),
    ([deny(actors=[])], "rules[0].actors"),
    ([deny(actors="user")], "rules[0].actors"),
    ([deny(actors=["user", None])], "rules[0].actors[1]"),
    ([deny(actors=[""])], "rules[0].actors[0]"),
    ([deny(actors=["alice"])], "rules[0].actors[0]"),
    ([deny(actors=["User:alice"])], "rules[0].actors[0]"),
    ([deny(actors=["*"])], "rules[0].actors[0]"),
    ([deny(actors=["user*"])], "rules[0].actors[0]"),
    ([deny(actors=["user:"])], "rules[0].actors[0]"),
    ([deny(actors=[":alice"])], "rules[0].actors[0]"),
    ([deny(actors=["anonymous:"])], "rules[0].actors[0]"),
    ([deny(actors=["anonymous:x"])], "rules[0].actors[0]"),
    ([deny(actors=["anonymous:*"])], "rules[0].actors[0]"),
    ([deny(actors=["user:al*"])], "rules[0].actors[0]"),
    ([deny(actors=["user:a*ice"])], "rules[0].actors[0]"),
    ([deny(actors=["user:**"])], "rules[0].actors[0]"),
    ([deny(actors=["user:*/x"])], "rules[0].actors[0]"),
    ([deny(actors=["user:team/*/*"])], "rules[0].actors[0]"),
    ([deny(actors=["user:a", "user", "user:a"])], "rules[0].actors[2]"),
    ([deny(actors=["user:\ud800"])], "rules[0].actors[0]"),
    ([deny(modes=[])], "rules[0].modes"),
    ([deny(modes="prod")], "rules[0].modes"),
    ([deny(modes=[True])], "rules[0].modes[0]"),
    ([deny(modes=[""])], "rules[0].modes[0]"),
    ([deny(modes=["*"])], "rules[0].modes[0]"),
    ([deny(modes=["dev", "test/*"])], "rules[0].modes[1]"),
    ([deny(modes=["dev", "dev"])], "rules[0].modes[1]"),
    ([deny(resources=[])], "rules[0].resources"),
    ([deny(resources=["*"])], "rules[0].resources[0]"),
    ([deny(resources=[":x"])], "rules[0].resources[0]"),
    ([deny(resources=["sql_query:"])], "rules[0].resources[0]"),
    ([deny(resources=["sql_query*"])], "rules[0].resources[0]"),
    ([deny(resources=["sql_*:x"])], "rules[0].resources[0]"),
    ([deny(resources=["sql_query:x*"])], "rules[0].resources[0]"),
    ([deny(resources=["sql_query:x*/y"])], "rules[0].resources[0]"),
    ([deny(resources=["sql_query:x/**"])], "rules[0].resources[0]"),
    ([deny(resources=["sql_query:x-*"])], "rules[0].resources[0]"),
    ([deny(resources=["sql_query:x", "sql_query:x"])], "rules[0].resources[1]"),
    ([deny(resources=["sql_querry:x"])], "rules[0].resources[0]"),  # a kind that the action does not act on
    ([deny(resources=["sql_query:x", "path"])], "rules[0].resources[1]"),
    ([deny(actions=["http.*"], resources=["host:A.example", "host:a.EXAMPLE"])], "rules[0].resources[1]"),
    ([deny(actions=["http.*"], resources=["host:*.A", "host:*.a"])], "rules[0].resources[1]"),
    ([allow(reason="because")], "rules[0].reason"),
    ([deny(reason="")], "rules[0].reason"),
    ([deny(reason=None)], "rules[0].reason"),
    ([deny(reason=3)], "rules[0].reason"),
    ([deny(reason="a\nb")], "rules[0].reason"),
    ([deny(reason="\x1b[1m")], "rules[0].reason"),
    ([deny(reason="\ud800")], "rules[0].reason"),
    ([deny(reason="\u202eevil")], "rules[0].reason"),
    ([deny(reason="x" * (MAX_REASON + 1))], "rules[0].reason"),
    ([deny(reason=Text("no"))], "rules[0].reason"),
    ([deny(), deny(actor=["user"])], "rules[1].actor"),
    ([deny(**{"mode": ["dev"]})], "rules[0].mode"),
    ([{**deny(), 3: 1}], "rules[0].3"),
    ([{**deny(), Text("modes"): ["dev"]}], "rules[0].modes"),
    ([deny()] * (MAX_RULES + 1), "rules"),
]


@pytest.mark.parametrize(("rules", "setting"), BAD, ids=range(len(BAD)))
def test_a_mistake_is_named_by_its_path(rules: Any, setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_document({"rules": rules})
    assert caught.value.setting == setting
    assert caught.value.valid


@pytest.mark.parametrize(("key", "text"), [("actors", "user:a*"), ("resources", "sql_query:a*b")])
def test_a_star_that_is_no_segment_is_explained(key: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_document({"rules": [deny(**{key: [text]})]})
    assert caught.value.seen == text
    assert "last segment" in caught.value.valid
    assert "cannot be written" in caught.value.valid


def test_an_unknown_key_and_a_wrong_kind_are_answered_with_the_valid_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        read_document({"rules": [deny(until="now")]})
    keys = set(caught.value.valid.replace("the keys ", "").split(", "))
    assert keys == {"effect", "actions", "actors", "modes", "resources", "when", "reason", "monitor"}
    with pytest.raises(ConfigError) as caught:
        read_document({"rules": [deny(actions=["db.*", "http.outbound"], resources=["hosts:x"])]})
    assert caught.value.valid.endswith(": host, sql_query")


def test_what_is_read() -> None:
    whole = deny(
        actions=["tool.*", "x.y"],
        actors=["anonymous", "user", "user:a:b", "user:a.*", "service:*", "compiler_tool:x"],
        modes=["dev"],
        resources=["tool", "host:*.API", "host:0x7f.1", "host:10.0.0.0/8", "path:a b", "path:a//*"],
        reason="no",
    )
    bare = allow(actions=["*"])
    rules = read_document({"rules": [whole, bare], "actions": {"a.b": [], "x.y": "by_rule"}}).rules
    first, second = rules
    assert first.denies
    assert first.covers == tuple(sorted({*("tool." + t for t in TOOLS), "x.y"}))
    assert first.actors == (
        *(Pattern("anonymous"), Pattern("user"), Pattern("user", "a:b"), Pattern("user", "a.", BEGINNING)),
        *(Pattern("service", "", BEGINNING), Pattern("compiler_tool", "x")),
    )
    assert first.resources == (
        *(Pattern("tool"), Pattern("host", "api", ENDING), Pattern("host", "127.0.0.1")),
        *(Pattern("host", "10.0.0.0/8", NETWORK), Pattern("path", "a b"), Pattern("path", "a/", BEGINNING)),
    )
    assert (first.modes, first.reason) == (("dev",), "no")
    assert (second.denies, second.actors, second.modes, second.resources) == (False, None, None, None)
    assert {"a.b", "x.y", "env.read"} <= set(second.covers)
    assert read_document({"rules": []}).rules == ()


TOOLS = ("compile", "inspect", "generate", "modify", "run_build", "query_skill")


def test_the_longest_that_is_accepted() -> None:
    read_document({"rules": [deny(reason="é" * MAX_REASON)]})
    longest = "x." + "y" * 126
    read_document({"rules": [deny(actions=[longest])], "actions": {longest: "by_rule"}})
    assert len(read_document({"rules": [deny()] * MAX_RULES}).rules) == MAX_RULES


# The order of judgement, and what says so.

Q = Resource("sql_query", "q")
ASKED = PolicyInput("db.read", User("alice"), Q)
EXPLAINED: list[tuple[dict[str, Any], PolicyInput, Explanation]] = [
    ({"rules": [allow(actions=["*"])]}, PolicyInput("x.y"), Explanation(Deny("unknown_action"), "unknown_action")),
    ({"rules": [deny()]}, PolicyInput("db.read"), Explanation(Deny("missing_resource"), "missing_resource")),
    ({"rules": [allow()]}, PolicyInput("db.read"), Explanation(Deny("missing_resource"), "missing_resource")),
    (
        {"rules": [allow(), deny(reason="no")]},
        PolicyInput("db.read", resource=Resource("host", "q")),
        Explanation(Deny("not_in_allowlist"), "wrong_kind"),
    ),
    ({"sql": "any", "rules": [allow(), deny(reason="no")]}, ASKED, Explanation(Deny("no"), "rule", rule=1)),
    (
        {"sql": ["q"], "rules": [deny(), deny(reason="no")]},
        ASKED,
        Explanation(Deny("not_in_allowlist"), "rule", rule=0),
    ),
    ({"sql": ["q"], "rules": [deny(modes=["dev"]), allow()]}, ASKED, Explanation(ALLOW, "rule", rule=1)),
    ({"sql": ["q"], "rules": [deny(modes=["dev"])]}, ASKED, Explanation(ALLOW, "section", section="sql")),
    ({"sql": "any", "rules": [deny(modes=["dev"])]}, ASKED, Explanation(ALLOW, "section", section="sql")),
    ({"sql": ["p"], "rules": [deny(modes=["dev"])]}, ASKED, Explanation(Deny("not_in_allowlist"), "default")),
    ({"rules": [allow(modes=["dev"])]}, ASKED, Explanation(Deny("not_in_allowlist"), "default")),
    (
        {"actions": {"a.b": "any"}, "rules": [deny()]},
        PolicyInput("a.b"),
        Explanation(ALLOW, "section", section="actions.a.b"),
    ),
    (
        {"actions": {"a.b": "by_rule"}, "rules": [deny(actions=["a.b"])]},
        PolicyInput("a.b"),
        Explanation(Deny("not_in_allowlist"), "rule", rule=0),
    ),
    (
        {"actions": {"a.b": "by_rule"}, "modes": ["x"], "rules": [deny(actions=["a.b"], modes=["x"])]},
        PolicyInput("a.b"),
        Explanation(Deny("not_in_allowlist"), "default"),
    ),
]


@pytest.mark.parametrize(("document", "asked", "expected"), EXPLAINED, ids=range(len(EXPLAINED)))
def test_an_answer_is_explained(document: dict[str, Any], asked: PolicyInput, expected: Explanation) -> None:
    policy = RuntimePolicy.from_document(document)
    assert policy.explain(asked) == expected
    assert policy.evaluate(asked) == expected.result == judge(document, asked)[0]


@pytest.mark.parametrize(
    ("document", "inputs"),
    [
        ({"sql": "any"}, {"action", "resource"}),
        ({"rules": [deny()]}, {"action", "resource"}),
        ({"rules": [deny(resources=["sql_query"])]}, {"action", "resource"}),
        ({"rules": [deny(), allow(actors=["anonymous"])]}, {"action", "resource", "actor"}),
        ({"rules": [deny(modes=["dev"]), allow()]}, {"action", "resource", "mode"}),
        ({"rules": [deny(modes=["dev"]), allow(actors=["user"])]}, {"action", "resource", "actor", "mode"}),
    ],
)
def test_a_policy_says_what_it_looks_at(document: dict[str, Any], inputs: set[str]) -> None:
    assert RuntimePolicy.from_document(document).inputs == inputs


# The index against the rules, read one after the other.


@pytest.mark.sampled
@settings(
    max_examples=examples(120),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
)
@given(data=st.data(), document=documents())
def test_the_index_judges_as_the_rules_read(data: st.DataObject, document: dict[str, Any]) -> None:
    policy = RuntimePolicy.from_document(document)
    for asked in data.draw(st.lists(questions(document), min_size=4, max_size=16)):
        found = policy.explain(asked)
        assert (found.result, found.rule) == judge(document, asked), asked
        assert found.monitored == recorded(document, asked), asked


@pytest.mark.slow
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example])
@given(data=st.data(), document=documents())
def test_an_answer_depends_on_nothing_but_the_inputs(data: st.DataObject, document: dict[str, Any]) -> None:
    policy = RuntimePolicy.from_document(document)
    asked, other = data.draw(st.tuples(questions(document), questions(document)))
    same = PolicyInput(
        asked.action,
        asked.actor if "actor" in policy.inputs else other.actor,
        None if asked.resource is None else Resource(asked.resource.kind, asked.resource.id, {"a": "b"}),
        args_hash="00",
        env=Environment("elsewhere", asked.env.mode if "mode" in policy.inputs else other.env.mode),
        timestamp=2**63,
    )
    # What a rule that only monitors would have said is no part of it: that is looked up for each question.
    assert msgspec.structs.replace(policy.explain(same), monitored=None) == msgspec.structs.replace(
        policy.explain(asked), monitored=None
    )


texts = st.text(st.sampled_from("a/.:é\U0001f511\uffff\0"), max_size=7)


@pytest.mark.slow
@settings(max_examples=300)
@given(stems=st.sets(texts.map(lambda text: text + "/"), max_size=12), ids=st.lists(texts, min_size=1, max_size=12))
@example(stems={"a/", "a/b/", "a/b/c/"}, ids=["a/", "a/b", "a/b/", "a/b/c", "a/b/c/d", "a/bb/c", "a0", "a"])
def test_the_most_specific_beginning_decides(stems: set[str], ids: list[str]) -> None:
    """Each beginning longer than another denies what the other allows, or the reverse."""
    rules = [
        {"effect": "deny", "actions": ["x.y"], "actors": [f"user:{stem}*"], "reason": f"{len(stem)}"}
        for stem in sorted(stems, key=len, reverse=True)
    ]
    by_actor = RuntimePolicy.from_document({"rules": rules, "actions": {"x.y": "any"}})
    by_resource = RuntimePolicy.from_document(
        {
            "rules": [
                {**{k: v for k, v in rule.items() if k != "actors"}, "resources": [f"k:{rule['actors'][0][5:]}"]}
                for rule in rules
            ],
            "actions": {"x.y": "any"},
        }
    )
    for id in (*ids, *stems, *(stem + "x" for stem in stems)):
        fitting = [stem for stem in stems if id.startswith(stem) and id != stem]
        expected = Deny(f"{max(map(len, fitting))}") if fitting else ALLOW
        assert by_actor.evaluate(PolicyInput("x.y", User(id))) == expected
        expected = expected if id else Deny("missing_resource")  # it names nothing
        assert by_resource.evaluate(PolicyInput("x.y", resource=Resource("k", id))) == expected


# Malformed input, and text of other types than text.

WELL: dict[str, Any] = {"action": "db.read", "actor": User("alice"), "resource": Q}
MALFORMED: list[dict[str, Any]] = [
    {"actor": None},
    {"actor": "anonymous"},
    {"actor": User},
    {"actor": User(3)},  # type: ignore[arg-type]
    {"actor": Service(None)},  # type: ignore[arg-type]
    {"env": None},
    {"env": Environment("a", None)},  # type: ignore[arg-type]
    {"env": Environment("a", b"prod")},  # type: ignore[arg-type]
    {"args_hash": 3},
    {"timestamp": -1},
]


@pytest.mark.parametrize("change", MALFORMED, ids=repr)
@pytest.mark.parametrize("rule", [allow(), allow(actors=["user"]), allow(modes=["prod"]), deny(modes=["test"])])
def test_malformed_input_is_never_allowed(change: dict[str, Any], rule: dict[str, Any]) -> None:
    policy = RuntimePolicy.from_document({"rules": [rule], "sql": "any"})
    assert policy.evaluate(PolicyInput(**WELL)) is ALLOW
    assert policy.evaluate(PolicyInput(**{**WELL, **change})) == Deny("malformed_input")


class Name(str, enum.Enum):
    """Hashes as its name, not as its text."""

    ID = "team/x"
    MODE = "dev"


class Liar(str):
    """Claims to begin with everything and to equal everything."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return hash("dev")

    def startswith(self, *_: object) -> bool:
        return True


def test_a_subclass_of_str_counts_by_its_characters() -> None:
    rule = allow(actors=["user:team/*", "user:root"], modes=["dev"])
    policy = RuntimePolicy.from_document({"rules": [rule]})
    asked = PolicyInput("db.read", User(Name.ID), Q, env=Environment("s", Name.MODE))
    assert policy.evaluate(asked) is ALLOW
    assert policy.evaluate(PolicyInput("db.read", User(Liar("mallory")), Q, env=Environment("s", "dev"))) != ALLOW
    assert policy.evaluate(PolicyInput("db.read", User("root"), Q, env=Environment("s", Liar("prod")))) != ALLOW


def test_each_kind_of_actor_is_its_own() -> None:
    actors: list[Actor] = [Anonymous(), User("a"), Service("a"), CompilerTool("a")]
    for kind, actor in zip(["anonymous", "user", "service", "compiler_tool"], actors, strict=True):
        policy = RuntimePolicy.from_document({"rules": [allow(actors=[kind])]})
        assert [policy.evaluate(PolicyInput("db.read", who, Q)) is ALLOW for who in actors] == [
            a is actor for a in actors
        ]


# Bounds on what a document may ask for.


def test_too_many_combinations_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    actors = [f"user:u{index}" for index in range(40)]
    mixed = [allow(actors=actors, resources=[f"sql_query:q{index}" for index in range(20)])]
    RuntimePolicy.from_document({"rules": mixed})
    own = [allow(actors=[actor], resources=["sql_query:own"]) for actor in actors]
    monkeypatch.setattr(rules_module, "MAX_ENTRIES", 500)
    RuntimePolicy.from_document({"rules": mixed})  # whoever has the same rules shares them
    with pytest.raises(ConfigError) as caught:
        RuntimePolicy.from_document({"rules": [*mixed, *own]})
    assert caught.value.setting == "rules"


def test_too_many_actions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules_module, "MAX_ENTRIES", 100)
    with pytest.raises(ConfigError) as caught:
        read_document({"rules": [deny(actions=["*"])] * 10})
    assert caught.value.setting == "rules"


@pytest.mark.parametrize("key", ["actors", "resources"])
def test_patterns_nest_to_a_limit(key: str) -> None:
    kind = "user" if key == "actors" else "sql_query"
    nested = [f"{kind}:{'a/' * depth}*" for depth in range(MAX_NESTED + 1)]
    policy = RuntimePolicy.from_document({"rules": [allow(**{key: nested[:-1]})]})
    id = "a/" * MAX_NESTED + "x"
    assert policy.evaluate(PolicyInput("db.read", User(id), Resource("sql_query", id))) is ALLOW
    assert policy.evaluate(PolicyInput("db.read", User(""), Resource("sql_query", None))) == Deny("missing_resource")
    with pytest.raises(ConfigError) as caught:
        RuntimePolicy.from_document({"rules": [allow(**{key: nested})]})
    assert caught.value.setting == "rules"
