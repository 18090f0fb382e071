"""What ``explain`` and ``diff`` say, against the judgement again: a hundred thousand pairs of document and question."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

import msgspec
import pytest

from capgate.conditions import Unknown
from capgate.model import Allow, Deny, PolicyInput
from capgate.policy import RuntimePolicy
from capgate.policy.analysis.advice import UNLOOKED, RuleMatch, account_for
from capgate.policy.analysis.changed_facts import changed_question
from capgate.policy.analysis.difference import difference
from capgate.policy.analysis.patch import apply
from capgate.policy.wellformed import is_well_formed

from ..support.judged_conditions import condition_of, with_conditions, with_facts
from ..support.judgement import is_nameless, judge, recorded
from ..support.random_documents import a_change, a_document, a_question
from ..support.tools import examples
from .test_advice import BEYOND, standings
from .test_difference import change_of, is_classed, is_document

#: Pairs of a document, or two, and a question, from each of so many seeds.
PAIRS: Final = examples(10_000, 200)
SEEDS: Final = 10
#: Questions to one document, and to one pair of documents, which takes some milliseconds to compare.
ASKED, COMPARED = 20, 50

pytestmark = pytest.mark.sampled


def some(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A document without mistakes: few that are made have one, as a rule whose star covers nothing."""
    return next(document for document in iter(make, None) if is_document(document))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_each_account_is_right_and_each_remedy_turns_the_answer_round(seed: int) -> None:
    random, allowed, ways = Random(seed), 0, 0
    for _ in range(PAIRS // ASKED):
        document = some(lambda: a_document(random))
        policy = RuntimePolicy.from_document(document)
        for _ in range(ASKED):
            asked = a_question(random, document)
            tried = check_account(document, policy, asked)
            ways += tried
            allowed += isinstance(policy.evaluate(asked), Allow)
    assert 0 < allowed < PAIRS
    assert ways > PAIRS // 2  # what is made up is worth asking


def check_account(document: dict[str, Any], policy: RuntimePolicy, asked: PolicyInput) -> int:
    """Hold the account of one question against the judgement; returns how many ways were tried."""
    account = account_for(document, asked)
    if not is_well_formed(asked):
        assert isinstance(account.result, Deny)
        assert account.remedies == ()
        return 0
    result, rule = judge(document, asked)
    assert (account.result, account.rule, account.monitored) == (result, rule, recorded(document, asked)), asked
    assert policy.evaluate(asked) == result
    rules = [msgspec.structs.replace(match, condition=None) for match in account.rules]
    assert rules == (standings(document, asked) if account.by not in UNLOOKED else [])
    assert (account.unknown is not None) == (result == Deny("missing_fact"))
    for match in account.rules:
        check_condition(match, document["rules"][match.rule], asked)
    for turn in account.turns:
        otherwise = changed_question(asked, {turn.fact: turn})
        assert otherwise is not None
        assert isinstance(judge(document, otherwise)[0], Allow) is not isinstance(result, Allow), (asked, turn)
    assert account.remedies or account.by in BEYOND, asked
    tried = 0
    for needs in account.remedies:
        first = [need.ways[0] for need in needs]
        for at, need in enumerate(needs):
            for way in need.ways if at == 0 else need.ways[1:]:
                chosen = [*first[:at], way, *first[at + 1 :]]
                changed = apply(document, [operation for each in chosen for operation in each.patch])
                answer, _ = judge(changed, asked)
                assert isinstance(answer, Allow) is not isinstance(result, Allow), (asked, way)
                tried += 1
    return tried


def check_condition(match: RuleMatch, rule: dict[str, Any], asked: PolicyInput) -> None:
    assert (match.condition is not None) == ("when" in rule)
    if match.condition is None:
        return
    holds = condition_of(rule, asked)
    assert match.condition.answer is holds or (holds is None and isinstance(match.condition.answer, Unknown))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_each_account_of_rules_with_conditions_is_right(seed: int) -> None:
    random, allowed, ways, turns, unknown = Random(seed), 0, 0, 0, 0
    for _ in range(PAIRS // ASKED):
        document = some(lambda: with_conditions(random, a_document(random)))
        policy = RuntimePolicy.from_document(document)
        for _ in range(ASKED):
            asked = with_facts(random, a_question(random, document))
            ways += check_account(document, policy, asked)
            account = account_for(document, asked)
            allowed += isinstance(account.result, Allow)
            turns += len(account.turns)
            unknown += account.unknown is not None
    assert 0 < allowed < PAIRS
    assert min(ways, turns) > PAIRS // 100
    assert unknown > 0 or PAIRS < 1_000


@pytest.mark.parametrize("seed", range(SEEDS))
def test_each_difference_is_right(seed: int) -> None:
    random, changes = Random(seed), 0
    for _ in range(PAIRS // COMPARED):
        old = some(lambda: a_document(random))
        new = some(lambda: a_change(random, old))  # noqa: B023 - called at once
        changes += check_difference(old, new, lambda of: a_question(random, of))
    assert changes > 0


@pytest.mark.parametrize("seed", range(SEEDS))
def test_each_difference_of_rules_with_conditions_is_right(seed: int) -> None:
    random, changes = Random(seed), 0
    for _ in range(PAIRS // COMPARED):
        old = some(lambda: with_conditions(random, a_document(random)))
        new = some(lambda: with_conditions(random, a_change(random, old), 0.3))  # noqa: B023 - called at once
        changes += check_difference(old, new, lambda of: with_facts(random, a_question(random, of)))
    assert changes > 0


def check_difference(old: dict[str, Any], new: dict[str, Any], make: Callable[[dict[str, Any]], PolicyInput]) -> int:
    """Hold what is said of two documents against the judgement; returns how many questions changed."""
    changes = 0
    told = difference(RuntimePolicy.from_document(old), RuntimePolicy.from_document(new))
    for change in told.changes:
        if change.facts and change.is_certain:
            assert change.example is not None
            assert change_of(told, change.example) is change
            assert (judge(old, change.example)[0], judge(new, change.example)[0]) == (change.before, change.after)
    for number in range(COMPARED):
        asked = make(new if number % 2 else old)
        if not is_well_formed(asked):
            continue
        before, after = judge(old, asked)[0], judge(new, asked)[0]
        if asked.resource is not None and is_nameless(asked.resource):
            assert {type(before), type(after)} == {Deny}  # whatever the reason
            continue
        seen = change_of(told, asked) if is_classed(old, new, asked) else None
        said = (before, before) if seen is None else (seen.before, seen.after)
        assert said == (before, after), (old, new, asked)
        changes += before != after
    return changes
