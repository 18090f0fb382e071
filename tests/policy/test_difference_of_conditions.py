"""What changes between documents with conditions: the facts of which answers differ, each with a question."""

from __future__ import annotations

from typing import Any

import pytest

from capgate.errors import ConfigError
from capgate.model import PolicyInput, User
from capgate.policy.analysis.branching import PATHS_LIMIT, FactRegion
from capgate.policy.analysis.difference import difference

from .test_rules_with_conditions import allow, deny, policy

Change = tuple[str, FactRegion]


def changes(old: list[dict[str, Any]], new: list[dict[str, Any]], **more: Any) -> set[Change]:
    """What is said to change, each of which has an example that does."""
    before, after = policy(*old, **more), policy(*new, **more)
    told = difference(before, after)
    assert told.is_exact
    for change in told.changes:
        if change.facts:
            assert change.example is not None
            answers = before.evaluate(change.example), after.evaluate(change.example)
            assert answers == (change.before, change.after)
    return {(change.effect, region) for change in told.changes for region in change.facts or (FactRegion(),)}


OWNED = "has(resource.owner)"
SMALL, LARGE = "args.amount <= 1000", "args.amount <= 2000"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([allow(SMALL)], [allow(LARGE)], {("allowed", FactRegion(true=(LARGE,), not_true=(SMALL,)))}),
        ([allow(LARGE)], [allow(SMALL)], {("denied", FactRegion(true=(LARGE,), not_true=(SMALL,)))}),
        ([allow(SMALL)], [allow("1000 >= args.amount")], set()),
        ([allow(SMALL)], [allow("!(args.amount > 1000)")], set()),
        ([allow(SMALL)], [allow("args.amount < 1001")], set()),
        ([allow("context.mfa"), allow(SMALL)], [allow(f"context.mfa || {SMALL}")], set()),
        ([allow(SMALL), allow(LARGE)], [allow(LARGE)], set()),
        ([allow(SMALL)], [allow()], {("allowed", FactRegion(not_true=(SMALL,)))}),
        ([allow()], [allow(SMALL)], {("denied", FactRegion(not_true=(SMALL,)))}),
        (
            [allow()],
            [allow(), deny("!context.mfa", reason="mfa")],
            {("denied", FactRegion(true=("!context.mfa",))), ("denied", FactRegion(unknown=("!context.mfa",)))},
        ),
        ([allow(), deny(SMALL)], [allow(), deny(SMALL, reason="x")], {("reason", FactRegion(true=(SMALL,)))}),
        (
            [allow(), deny(SMALL, reason="a"), deny("context.mfa", reason="b")],
            [allow(), deny("context.mfa", reason="b"), deny(SMALL, reason="a")],
            {
                ("reason", FactRegion(true=(SMALL, "context.mfa"))),
                ("reason", FactRegion(true=(SMALL,), unknown=("context.mfa",))),
                ("reason", FactRegion(true=("context.mfa",), unknown=(SMALL,))),
            },
        ),
        ([allow("actor.kind == 'user'")], [allow(actors=["user"])], set()),
        ([allow("env.mode == 'dev' || env.mode == 'test'")], [allow(modes=["dev", "test"])], set()),
        ([allow("actor.id == 'ada'", actors=["user"])], [allow(actors=["user:ada"])], set()),
        ([allow("resource.id == '7'", resources=["order"])], [allow(resources=["order:7"])], set()),
        ([allow("action == 'order.refund'")], [allow()], set()),
        ([allow("now >= timestamp('1970-01-01T00:00:00Z')")], [allow()], set()),
        ([allow("'a' in actor.roles", actors=["anonymous"])], [], set()),
        ([allow(OWNED, resources=["order"])], [allow(OWNED)], {("allowed", FactRegion(true=(OWNED,)))}),
    ],
)
def test_the_facts_of_which_answers_differ_are_named(
    old: list[dict[str, Any]], new: list[dict[str, Any]], expected: set[Change]
) -> None:
    assert changes(old, new) == expected


def test_what_lists_and_conditions_say_is_joined() -> None:
    told = difference(policy(allow(SMALL)), policy(allow(LARGE, actors=["user"], modes=["dev"])))
    assert {change.effect for change in told.changes} == {"allowed", "denied"}
    (allowed,) = (change for change in told.changes if change.effect == "allowed")
    assert [selector.kind for selector in allowed.actors.include] == ["user"]
    assert [selector.text for selector in allowed.modes.include] == ["dev"]
    assert isinstance(allowed.example, PolicyInput)
    assert isinstance(allowed.example.actor, User)


def test_where_it_is_not_decided_it_says_so() -> None:
    never = "args.amount + 1 > 5 && args.amount < 3"
    told = difference(policy(), policy(allow(never)))
    assert not told.is_exact
    (change,) = told.changes
    assert (change.is_certain, change.example) == (False, None)


def test_too_many_ways_through_conditions_are_rejected() -> None:
    one = [deny(f"args.amount == {number}", reason=f"a{number}") for number in range(70)]
    other = [deny(f"args.amount > {number}", reason=f"b{number}") for number in range(70)]
    with pytest.raises(ConfigError) as caught:
        difference(policy(*one), policy(*other))
    assert str(PATHS_LIMIT) in str(caught.value.seen)


def test_too_many_regions_of_facts_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    old = [allow(f"args.amount == {number}", resources=[f"order:{number}"]) for number in range(8)]
    new = [allow(f"args.amount > {number}", resources=[f"order:{number}"]) for number in range(8)]
    assert len(changes(old, new)) == 16
    monkeypatch.setattr("capgate.policy.analysis.asked_class.DECIDED_LIMIT", 7)
    with pytest.raises(ConfigError):
        difference(policy(*old), policy(*new))


def test_rules_that_monitor_are_compared_apart() -> None:
    told = difference(policy(allow()), policy(allow(), deny(SMALL, monitor=True)))
    assert told.changes == ()
    assert {change.effect for change in told.recorded} == {"denied"}
    assert {region for change in told.recorded for region in change.facts} == {
        FactRegion(true=(SMALL,)),
        FactRegion(unknown=(SMALL,)),
    }
