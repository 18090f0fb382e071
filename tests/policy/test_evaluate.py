"""The judgement in Python: the order of the steps, the fixtures, and that nothing malformed is ever allowed."""

from __future__ import annotations

import enum
from typing import Any

import pytest

from capgate.actions import BUILTIN_ACTIONS, SECTIONS, Action
from capgate.model import ALLOW, Deny, Environment, PolicyInput, Reason, Resource, Service, User, canonical
from capgate.policy import RuntimePolicy, is_well_formed

from ..support.judgement import judge
from ..support.policy_fixtures import Fixture, load_fixtures

EVERYTHING = RuntimePolicy.from_document({section: "any" for section in SECTIONS if section != "actions"})


@pytest.mark.parametrize("fixture", load_fixtures(), ids=lambda fixture: fixture.name)
def test_fixtures(fixture: Fixture) -> None:
    assert canonical(fixture.runtime_policy().evaluate(fixture.input)) == fixture.answer
    assert fixture.runtime_policy().explain(fixture.input).result == fixture.expected
    assert judge(fixture.policy, fixture.input)[0] == fixture.expected


def test_fixtures_cover_each_action_and_actor_both_ways() -> None:
    seen = {(fixture.input.action, type(fixture.expected)) for fixture in load_fixtures()}
    assert {(action.name, kind) for action in BUILTIN_ACTIONS for kind in (type(ALLOW), Deny)} <= seen
    actors = {(type(fixture.input.actor).__name__, type(fixture.expected)) for fixture in load_fixtures()}
    assert len(actors) == 8
    reasons = {fixture.expected.reason for fixture in load_fixtures() if isinstance(fixture.expected, Deny)}
    own = {rule.reason for fixture in load_fixtures() for rule in fixture.runtime_policy().rules if rule.denies}
    assert reasons - own == {Reason.UNKNOWN_ACTION, Reason.MISSING_RESOURCE}
    assert Reason.NOT_IN_ALLOWLIST in reasons
    assert len(reasons) >= 10


@pytest.mark.parametrize("action", BUILTIN_ACTIONS, ids=lambda action: action.name)
def test_each_section_opens_its_own_actions_only(action: Action) -> None:
    question = PolicyInput(action.name, resource=Resource(action.kind or "", "x"))
    for section in SECTIONS:
        if section != "actions":
            result = RuntimePolicy.from_document({section: "any"}).evaluate(question)
            assert (result is ALLOW) == (section == action.section)


WELL: dict[str, Any] = {"action": "env.read", "resource": Resource("env_var", "TZ")}
MALFORMED: list[dict[str, Any]] = [
    {"action": 3},
    {"action": None},
    {"action": ["env.read"]},
    {"action": b"env.read"},
    {"actor": None},
    {"actor": "anonymous"},
    {"actor": User},
    {"actor": User(3)},  # type: ignore[arg-type]
    {"actor": Service("\ud800")},
    {"resource": "TZ"},
    {"resource": ("env_var", "TZ")},
    {"resource": Resource(3, "TZ")},  # type: ignore[arg-type]
    {"resource": Resource("env_var", 3)},  # type: ignore[arg-type]
    {"resource": Resource("env_var", ["TZ"])},  # type: ignore[arg-type]
    {"resource": Resource("env_var", "\ud800")},
    {"resource": Resource("env_var", "TZ", {"a": "\udfff"})},
    {"resource": Resource("env_var", "TZ", {"a": None})},  # type: ignore[dict-item]
    {"resource": Resource("env_var", "TZ", None)},  # type: ignore[arg-type]
    {"args_hash": 3},
    {"args_hash": "\ud800"},
    {"env": None},
    {"env": Environment("\ud800")},
    {"env": Environment("a", None)},  # type: ignore[arg-type]
    {"timestamp": -1},
    {"timestamp": 2**64},
    {"timestamp": 1.0},
    {"timestamp": "0"},
]


@pytest.mark.parametrize("change", MALFORMED, ids=repr)
@pytest.mark.parametrize("document", [{"env": ["TZ"]}, {"env": "any"}], ids=["list", "any"])
def test_malformed_input_is_never_allowed(change: dict[str, Any], document: dict[str, Any]) -> None:
    question = PolicyInput(**{**WELL, **change})
    policy = RuntimePolicy.from_document(document)
    assert not is_well_formed(question)
    assert isinstance(policy.evaluate(question), Deny)
    assert policy.evaluate(PolicyInput(**WELL)) is ALLOW


@pytest.mark.parametrize("question", [None, 3, "env.read", {"action": "env.read"}])
def test_something_else_than_an_input_is_malformed(question: Any) -> None:
    assert EVERYTHING.evaluate(question) == Deny(Reason.MALFORMED_INPUT)
    assert not is_well_formed(question)


def test_surrogates_under_any_are_malformed() -> None:
    question = PolicyInput("env.read", resource=Resource("env_var", "\ud800"))
    assert EVERYTHING.evaluate(question) == Deny(Reason.MALFORMED_INPUT)


class Liar(str):
    """A text that claims to equal everything, and to be an entry."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return hash("TZ")

    def __str__(self) -> str:
        return "TZ"


class Name(str, enum.Enum):
    """Hashes as its name, not as its text."""

    ACTION = "env.read"
    KIND = "env_var"
    ID = "TZ"


def test_a_subclass_of_str_counts_by_its_characters() -> None:
    policy = RuntimePolicy.from_document({"env": ["TZ"]})
    assert policy.evaluate(PolicyInput(Name.ACTION, resource=Resource(Name.KIND, Name.ID))) is ALLOW
    liars = [
        PolicyInput("env.read", resource=Resource("env_var", Liar("PATH"))),
        PolicyInput("env.read", resource=Resource(Liar("host"), "TZ")),
        PolicyInput(Liar("env.write"), resource=Resource("env_var", "TZ")),
    ]
    assert not [question for question in liars if policy.evaluate(question) is ALLOW]


def test_a_policy_cannot_be_changed_by_its_answers() -> None:
    first = EVERYTHING.evaluate(PolicyInput("nothing.known"))
    with pytest.raises(AttributeError):
        first.reason = "allow"  # type: ignore[union-attr, misc]
    assert EVERYTHING.evaluate(PolicyInput("nothing.known")) == Deny(Reason.UNKNOWN_ACTION)
