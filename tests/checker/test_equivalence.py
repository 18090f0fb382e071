"""The two checkers give the same answer, byte for byte, to every question: the fixtures, and generated ones."""

from __future__ import annotations

import json
import os
import string
from enum import Enum
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capgate.actions import BUILTIN_ACTIONS, Vocabulary
from capgate.artifact.build import build_policy
from capgate.checker.local import LocalPolicyChecker
from capgate.checker.wasm import WasmPolicyChecker
from capgate.limits import Limits
from capgate.model import (
    ANONYMOUS,
    Allow,
    Anonymous,
    CompilerTool,
    Deny,
    Environment,
    PolicyInput,
    PolicyResult,
    Resource,
    Service,
    User,
    canonical,
)
from capgate.policy import RuntimePolicy
from capgate.policy.document import SECTION_KINDS
from capgate.policy.spelled import is_writable
from capgate.runtime.pool import WasmPool
from capgate.spelling import normal_id

from ..support.documents import OWN, REASONS, own_actions, rule_lists
from ..support.documents import questions as questions_about
from ..support.guests import artifact
from ..support.policy_fixtures import Fixture, load_fixtures
from ..support.tools import examples

LIMITS = Limits(deadline=30.0)
ANSWERS = {"unknown_action", "missing_resource", "not_in_allowlist", "malformed_input", *REASONS}


def wasm_checker(document: dict[str, Any], engine: str, vocabulary: Vocabulary) -> WasmPolicyChecker:
    pool = WasmPool(artifact(build_policy(document)), 1, engine, LIMITS)
    return WasmPolicyChecker(pool, vocabulary=vocabulary)


def fixture_checker(fixture: Fixture, engine: str) -> WasmPolicyChecker:
    """One for all fixtures with the same policy."""
    return _fixture_checker(json.dumps(fixture.policy), tuple(fixture.register), engine)


@cache
def _fixture_checker(policy: str, register: tuple[str, ...], engine: str) -> WasmPolicyChecker:
    same = (f for f in load_fixtures() if json.dumps(f.policy) == policy and tuple(f.register) == register)
    return wasm_checker(json.loads(policy), engine, next(same).vocabulary())


@pytest.mark.slow
@pytest.mark.parametrize("fixture", load_fixtures(), ids=lambda fixture: fixture.name)
def test_each_fixture_has_its_answer_from_both(fixture: Fixture, engine_name: str) -> None:
    local = LocalPolicyChecker(fixture.runtime_policy(), vocabulary=fixture.vocabulary())
    wasm = fixture_checker(fixture, engine_name)
    assert canonical(local.evaluate_now(fixture.input)) == fixture.answer
    assert canonical(wasm.evaluate_now(fixture.input)) == fixture.answer


@pytest.mark.slow
async def test_each_fixture_has_its_answer_on_an_event_loop(engine_name: str) -> None:
    for fixture in load_fixtures():
        local = LocalPolicyChecker(fixture.runtime_policy(), vocabulary=fixture.vocabulary())
        for checker in (local, fixture_checker(fixture, engine_name)):
            assert canonical(await checker.check(fixture.input)) == fixture.answer
            assert canonical(await checker.evaluate(fixture.input)) == fixture.answer


# -- generated documents and questions

APPLICATION_ACTIONS = OWN
NAMES = (
    *("a", "A", "ab", "b", " a", "a\0b", "any", "x" * 400),
    *("api.example.com", "API.example.com", "\u212a.example", "k.example", "straße", "\u00e9", "e\u0301", "\U0001f511"),
)
text = st.sampled_from(NAMES) | st.text(string.ascii_letters + ".\u212a\u0130 \0", min_size=1, max_size=6)


def entries(section: str) -> st.SearchStrategy[list[str]]:
    """Any spelling that a document may have, and no two of one thing: either is an error in it."""
    kind = SECTION_KINDS[section]
    spelled = text.filter(lambda id: normal_id(kind, id) is not None and is_writable(kind, id))
    return st.lists(spelled, max_size=6, unique_by=lambda id: normal_id(kind, id))


sql_names = text.filter(lambda id: normal_id("sql_query", id) is not None)
sql_operations = st.sampled_from(["select", "read", "upsert", "migrate"])
sql_entries = st.lists(
    sql_names | st.fixed_dictionaries({"name": sql_names, "operation": sql_operations}),
    max_size=6,
    unique_by=lambda entry: (
        (normal_id("sql_query", entry), None)
        if isinstance(entry, str)
        else (normal_id("sql_query", entry["name"]), entry["operation"])
    ),
)
own_entries = st.lists(text.filter(lambda id: is_writable("", id)), max_size=6, unique=True)
documents = st.fixed_dictionaries(
    {},
    optional={
        **{
            section: st.just("any") | entries(section)
            for section in ("env", "egress", "cache", "fs", "config", "compute", "tools")
        },
        "sql": st.just("any") | sql_entries,
        "actions": st.dictionaries(st.sampled_from(APPLICATION_ACTIONS), st.just("any") | own_entries, max_size=2),
    },
)


def with_rules(document: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Mostly the document with rules, sometimes without. What rules name and nothing knows is declared."""
    declared = document.get("actions", {})
    return rule_lists(tuple(declared)).map(
        lambda rules: (
            {
                **document,
                "rules": rules,
                "actions": {**dict.fromkeys(own_actions(rules), "by_rule"), **declared},
                "modes": ["compiler_author"],
            }
            if rules
            else document
        )
    )


def near(value: str) -> st.SearchStrategy[str]:
    """``value``, and what is nearly the same."""
    changes = (
        *(value, value + ".", value + "\0", value + " ", value[:-1], value[1:], value.upper(), value.lower()),
        *(value.swapcase(), value.replace("k", "\u212a"), value.replace("a", "\u0430"), value + value, "." + value),
    )
    return st.sampled_from(changes)


names = st.sampled_from(NAMES).flatmap(near) | text
kinds = st.sampled_from([*{action.kind or "thing" for action in BUILTIN_ACTIONS}, "thing", "", "HOST"])
actions = st.sampled_from(
    [*(action.name for action in BUILTIN_ACTIONS), *APPLICATION_ACTIONS, "Env.read", "env.read ", ""]
)
actors = (
    st.sampled_from([ANONYMOUS, Anonymous()])
    | st.builds(User, names)
    | st.builds(Service, names)
    | st.builds(CompilerTool, names)
)
resources = st.none() | st.builds(
    Resource, kinds, st.none() | names, st.dictionaries(st.sampled_from(["a", "tenant", "id", "A"]), names, max_size=2)
)
fitting = st.sampled_from(BUILTIN_ACTIONS).flatmap(
    lambda action: st.builds(
        PolicyInput, st.just(action.name), actors, st.builds(Resource, st.just(action.kind or "x"), names)
    )
)
stamps = st.sampled_from([0, 1, 2**63, 2**64 - 1])
any_input = st.builds(
    PolicyInput, actions, actors, resources, st.none() | names, st.builds(Environment, names, names), stamps
)


class Text(str):
    """Text of another type, which says something else when it is asked to encode itself."""

    def encode(self, *arguments: Any, **more: Any) -> bytes:
        return b"a"


class Named(str, Enum):
    ENV = "env_var"
    ID = "a"


class OtherInput(PolicyInput, frozen=True):
    """A subclass."""


class OtherUser(User, frozen=True, tag="other"):
    """A subclass."""


class OtherResource(Resource, frozen=True):
    """A subclass."""


class OtherEnvironment(Environment, frozen=True):
    """A subclass."""


class Indexed:
    """Not a number, but usable as one."""

    def __index__(self) -> int:
        return 5


class Encodable:
    """Not text, but usable as such."""

    def encode(self) -> bytes:
        return b"a"


_make: Any = Resource  # of what its type does not allow
_actors: tuple[Any, ...] = (User, Service, CompilerTool)
_NO_ATTRIBUTES: tuple[Any, ...] = ({"x": 1}, {"\ud800": "x"}, {1: "x"}, None, [], (("x", "y"),))
_NO_TEXTS: tuple[Any, ...] = (None, 5, b"a")
ODD: tuple[Any, ...] = (
    *(None, 0, 1, -1, True, 1.5, b"a", bytearray(b"a"), [], {}, {"a": 1}, (), object(), Encodable(), Indexed()),
    *("", "\ud800", "a\udfff", "\0", "x" * 1_000_000, "\u00e9" * 500_000, Text("b"), Text("env_var"), *Named, str),
    *(2**64, 2**200, -(2**63), float("nan")),
    *(User("a"), OtherUser("a"), User("\ud800"), User(Text("a")), CompilerTool("x" * 300)),
    *(kind(odd) for kind in _actors for odd in _NO_TEXTS),
    *(OtherEnvironment(), Environment("\ud800"), Environment("a", cast("str", b"x")), Environment(Text("a"))),
    *(Resource("env_var", "a"), OtherResource("env_var", "a"), Resource(Named.ENV, Named.ID)),
    *(_make("env_var", "a", odd) for odd in _NO_ATTRIBUTES),
    *(_make(kind, id) for kind, id in (("env_var", 5), ("env_var", Text("a")), (None, "a"), (b"env_var", "a"))),
    *(SimpleNamespace(kind="env_var", id="a", attributes={}), SimpleNamespace(id="a")),
    SimpleNamespace(service="a", mode="b"),
)
FIELDS = ("action", "actor", "resource", "args_hash", "env", "timestamp")
GOOD: dict[str, Any] = {"action": "env.read", "resource": Resource("env_var", "a")}
odd_fields = st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(ODD), min_size=1, max_size=3)
malformed = odd_fields.map(lambda odd: PolicyInput(**{**GOOD, **odd})) | st.sampled_from(
    [*ODD, PolicyInput, OtherInput("env.read", resource=Resource("env_var", "a"))]
)


def questions(document: dict[str, Any]) -> st.SearchStrategy[list[Any]]:
    """About the document's sections, its rules, and nothing in particular; some of them twice."""
    asked = fitting | questions_about(document) | questions_about(document) | any_input | malformed
    return st.lists(asked, min_size=1, max_size=12).map(lambda asked: asked + asked[:3])


cases = documents.flatmap(with_rules).flatmap(lambda document: st.tuples(st.just(document), questions(document)))

CASES = settings(
    max_examples=examples(60, quick=40),
    deadline=None,
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def known_actions(document: dict[str, Any]) -> Vocabulary:
    vocabulary = Vocabulary()
    for action in APPLICATION_ACTIONS:
        vocabulary.register(action, resource_required=isinstance(document.get("actions", {}).get(action), list))
    return vocabulary


def check_same(document: dict[str, Any], asked: list[Any], engine: str) -> list[PolicyResult]:
    """Ask both, in a row and with one instance, so that what it keeps of a question shows in the next answer."""
    vocabulary = known_actions(document)
    local = LocalPolicyChecker(RuntimePolicy.from_document(document), vocabulary=vocabulary)
    wasm = wasm_checker(document, engine, vocabulary)
    answers = []
    for input in asked:
        here, there = local.evaluate_now(input), wasm.evaluate_now(input)
        assert type(here) in (Allow, Deny)
        assert canonical(here) == canonical(there), input
        answers.append(here)
    statistics = wasm.pool.statistics()
    assert (statistics.retired, statistics.made) in ((0, 1), (0, 0))
    return answers


@pytest.mark.slow
@given(case=cases)
@CASES
def test_no_difference_is_found(engine_name: str, case: tuple[dict[str, Any], list[Any]]) -> None:
    document, asked = case
    answers = check_same(document, asked, engine_name)
    assert {answer.reason for answer in answers if isinstance(answer, Deny)} <= ANSWERS


RULES: list[dict[str, Any]] = [
    {"effect": "deny", "actions": ["*"], "actors": ["user:a", "service:5"], "modes": ["b", "5"], "reason": "no"},
    {"effect": "allow", "actions": ["env.*"], "actors": ["user"], "resources": ["env_var:a", "env_var:b/*"]},
]


@pytest.mark.slow
@pytest.mark.parametrize("rules", [[], RULES], ids=["sections", "rules"])
@pytest.mark.parametrize("field", FIELDS)
def test_every_odd_value_in_every_field(engine_name: str, field: str, rules: list[dict[str, Any]]) -> None:
    document = {"env": ["a", "b", "5"], "egress": "any", "sql": ["a"], "modes": ["b", "5"], "rules": rules}
    asked = [PolicyInput(**{**GOOD, field: odd}) for odd in ODD]
    answers = check_same(document, [*asked, PolicyInput(**GOOD), *asked], engine_name)
    assert answers[: len(ODD)] == answers[len(ODD) + 1 :]
    assert answers[len(ODD)] == Allow()
    assert {answer.reason for answer in answers if isinstance(answer, Deny)} <= ANSWERS
    denied = [odd for odd, answer in zip(ODD, answers, strict=False) if answer == Deny("malformed_input")]
    assert len(denied) >= 20


def test_what_is_no_input_at_all(engine_name: str) -> None:
    inputs = [*ODD, PolicyInput, OtherInput("env.read", resource=Resource("env_var", "a"))]
    answers = check_same({"env": "any"}, inputs, engine_name)
    assert answers == [Deny("malformed_input")] * len(inputs)


@pytest.mark.slow
@pytest.mark.parametrize("size", [65_535, 65_536, 65_537])
@pytest.mark.parametrize("part", ["actor", "resource", "args_hash", "env"])
def test_the_same_bytes_are_too_many(engine_name: str, part: str, size: int) -> None:
    rest = len("env.read" + "env_var" + "a" + "capgate" + "prod") - (7 + 4 if part == "env" else 0)
    rest -= 1 if part == "resource" else 0
    padding = "é" * ((size - rest) // 2) + "x" * ((size - rest) % 2)
    fields: dict[str, Any] = {
        "actor": User(padding),
        "resource": Resource("env_var", padding),
        "args_hash": padding,
        "env": Environment(padding, ""),
    }
    question = PolicyInput(**{**GOOD, part: fields[part]})
    expected = Deny("malformed_input") if size > LIMITS.input_bytes else Allow()
    assert check_same({"env": ["a", padding]}, [question, PolicyInput(**GOOD), question], engine_name) == [
        expected,
        Allow(),
        expected,
    ]
