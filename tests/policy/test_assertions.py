"""What a document asserts of itself: proven only where no question violates it, and refuted with one that does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
import pytest

from capgate.errors import ConfigError
from capgate.model import Allow, PolicyInput
from capgate.policy import RuntimePolicy
from capgate.policy.analysis.proofs import Proof, prove
from capgate.policy.document import read_document
from capgate.policy.mistakes import find_mistakes
from capgate.policy.strict import parse
from capgate.policy.wellformed import is_well_formed

from ..support.judged_conditions import ATTRIBUTES as JUDGED
from ..support.judged_conditions import CONDITIONS, condition_of, with_conditions, with_facts
from ..support.judgement import judge, matches
from ..support.random_documents import a_document, a_question
from ..support.tools import examples
from .test_brute_force import SEEDS, some
from .test_rules_with_conditions import allow, deny, document

ACTIONS: Final = ["order.refund"]
ADMIN: Final = "'admin' in actor.roles"
NO_ADMIN: Final = f"!({ADMIN})"


def never(when: str | None = None, **more: Any) -> dict[str, Any]:
    return {"never": ACTIONS, **({} if when is None else {"when": when}), **more}


def always(when: str | None = None, **more: Any) -> dict[str, Any]:
    return {"always": ACTIONS, **({} if when is None else {"when": when}), **more}


def proofs(asserted: list[dict[str, Any]], *rules: dict[str, Any], **more: Any) -> list[Proof]:
    return list(prove(read_document(document(*rules, **more, **{"assert": asserted}))))


PROVEN: Final[list[tuple[dict[str, Any], list[dict[str, Any]]]]] = [
    (never(), []),
    (never(NO_ADMIN), [allow(ADMIN)]),
    (never(NO_ADMIN), [allow(f"{ADMIN} && context.mfa"), allow(f"{ADMIN} && args.amount <= 3")]),
    (never(NO_ADMIN), [allow(), deny(NO_ADMIN)]),
    (never(NO_ADMIN), [allow(), deny(f"{NO_ADMIN} || context.mfa")]),
    (never("args.amount > 1000"), [allow("args.amount <= 500")]),
    (never("args.amount > 1000"), [allow(), deny("args.amount > 500")]),
    (never(actors=["anonymous"]), [allow(actors=["user", "service"])]),
    (never(actors=["anonymous"]), [allow("actor.kind == 'user'")]),
    (never(ADMIN, actors=["anonymous"]), [allow()]),  # who has no roles
    (never(modes=["dev"]), [allow(), deny(modes=["dev"])]),
    (never("env.mode == 'dev'"), [allow(), deny(modes=["dev"])]),
    (never("actor.id == 'eve'"), [allow(actors=["user:ada", "service:ci/*"])]),
    (never(resources=["order:7"]), [allow(resources=["order:8", "order:9/*"])]),
    (never("!context.mfa"), [allow("context.mfa ? true : args.amount > 3"), deny("!context.mfa")]),
    (always(), [allow()]),
    (always(ADMIN), [allow(ADMIN)]),
    (always(ADMIN), [allow(f"{ADMIN} || context.mfa")]),
    (always(f"{ADMIN} && args.amount < 3"), [allow(ADMIN), deny("args.amount > 3")]),
    (always(actors=["user:ada"]), [allow(actors=["user"]), deny("actor.id == 'eve'")]),
    (always(ADMIN), [allow(), deny(NO_ADMIN)]),
    (always("context.mfa"), [allow("context.mfa && args.amount > 3"), allow("context.mfa")]),
]
REFUTED: Final[list[tuple[dict[str, Any], list[dict[str, Any]]]]] = [
    (never(), [allow()]),
    (never(NO_ADMIN), [allow(f"{ADMIN} || context.mfa")]),
    (never(NO_ADMIN), [allow(f"context.mfa ? {ADMIN} : args.amount > 3")]),
    (never(NO_ADMIN), [allow(ADMIN), allow(actors=["user:root"])]),
    (never("args.amount > 1000"), [allow("args.amount <= 1001")]),
    (never("args.amount > 1000"), [allow(), deny("args.amount > 1001")]),
    (never("args.amount > 1000"), [allow(), deny("args.amount > 1000", modes=["prod"])]),
    (never(actors=["anonymous"]), [allow("actor.kind != 'user'")]),
    (never("actor.id == 'eve'"), [allow(actors=["user"])]),
    (never("now >= timestamp('2027-01-01T00:00:00Z')"), [allow("now < timestamp('2027-01-01T00:00:01Z')")]),
    (always(), [allow("has(context.mfa)")]),
    (always(ADMIN), [allow(ADMIN), deny("args.amount > 3")]),  # where it is absent, for one
    (always(ADMIN), [allow(ADMIN, modes=["prod"])]),
    (always(ADMIN), []),
    (always("args.amount < 3"), [allow("args.amount < 2")]),
]


@pytest.mark.parametrize(("assertion", "rules"), PROVEN)
def test_what_holds_of_each_question_is_proven(assertion: dict[str, Any], rules: list[dict[str, Any]]) -> None:
    (proof,) = proofs([assertion], *rules)
    assert (proof.outcome, proof.example) == ("proven", None)


@pytest.mark.parametrize(("assertion", "rules"), REFUTED)
def test_what_does_not_hold_is_refuted_with_a_question(assertion: dict[str, Any], rules: list[dict[str, Any]]) -> None:
    (proof,) = proofs([assertion], *rules)
    assert proof.outcome == "refuted"
    assert proof.example is not None
    assert is_well_formed(proof.example)
    policy = RuntimePolicy.from_document(document(*rules))
    assert isinstance(policy.evaluate(proof.example), Allow) is ("never" in assertion)
    lists = {key: value for key, value in assertion.items() if key not in ("never", "always")}
    about = RuntimePolicy.from_document(document({**allow(), **lists}))
    assert isinstance(about.evaluate(proof.example), Allow)


def test_what_is_not_decided_is_said_to_be_so() -> None:
    (proof,) = proofs([never("args.amount < 3")], allow("args.amount + 1 > 5"))
    assert (proof.outcome, proof.example) == ("undecided", None)
    assert proof.why is not None
    rules = [deny(f"args.amount == {number}", reason=f"{number}") for number in range(1_100)]
    (proof,) = proofs([never("context.mfa")], allow(), *rules)
    assert (proof.outcome, proof.why is not None) == ("undecided", True)


def test_questions_that_lack_what_the_action_needs_violate_nothing() -> None:
    (proof,) = proofs([always()], allow(), actions={ACTIONS[0]: ["7"]})
    assert proof.outcome == "proven"


def test_an_assertion_changes_no_answer_and_is_not_built() -> None:
    plain = read_document(document(allow(ADMIN)))
    asserting = read_document(document(allow(ADMIN), **{"assert": [never("context.mfa")]}))
    assert plain.conditions is not None
    assert asserting.conditions is not None
    assert plain.conditions.data == asserting.conditions.data
    assert (plain.rules, plain.sections) == (asserting.rules, asserting.sections)


# -- mistakes


@pytest.mark.parametrize(
    ("asserted", "setting", "nearest"),
    [
        ({}, "assert", None),
        ([7], "assert[0]", None),
        ([{}], "assert[0]", None),
        ([{"when": ADMIN}], "assert[0]", None),
        ([{"never": ACTIONS, "always": ACTIONS}], "assert[0].always", None),
        ([{"nevr": ACTIONS}], "assert[0].nevr", "never"),
        ([{"never": ACTIONS, "actor": ["user"]}], "assert[0].actor", "actors"),
        ([{"never": ACTIONS, "if": ADMIN}], "assert[0].if", "when"),
        ([{"never": ACTIONS, "effect": "deny"}], "assert[0].effect", None),
        ([{"never": "order.refund"}], "assert[0].never", None),
        ([{"never": []}], "assert[0].never", None),
        ([never(), {"always": ["order.refnd"]}], "assert[1].always[0]", "order.refund"),
        ([never(actors=["usr"])], "assert[0].actors[0]", "user"),
        ([never(modes=["prd"])], "assert[0].modes[0]", "prod"),
        ([never(resources=["order:"])], "assert[0].resources[0]", None),
        ([never("args.amuont > 3")], "assert[0].when", "args.amount"),
        ([never("args.amount > 3 && args.amount < 2")], "assert[0].when", None),
        ([never("true")], "assert[0].when", None),
    ],
)
def test_a_slip_in_an_assertion_is_told_with_its_place(asserted: Any, setting: str, nearest: str | None) -> None:
    text = json.dumps(document(allow(), **{"assert": asserted}), indent=1)
    with pytest.raises(ConfigError) as caught:
        RuntimePolicy.from_document(text)
    assert (caught.value.setting, caught.value.nearest) == (setting, nearest)
    assert caught.value.line is not None
    (finding,) = find_mistakes(text, "json")
    assert (finding.setting, finding.nearest, finding.line) == (setting, nearest, caught.value.line)


TOML: Final = """\
[actions]
"order.refund" = "by_rule"

[[rules]]
effect = "allow"
actions = ["order.refund"]
when = '"admin" in actor.roles || actor.kind == "service"'

[[assert]]
always = ["order.refund"]
when = '"admin" in actor.roles'

[[assert]]
never = ["order.refund"]
when = '!("admin" in actor.roles)'
"""


def test_check_fails_with_the_place_and_the_question(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(TOML)
    command = [sys.executable, "-m", "capgate", "check", str(path)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (finding,) = json.loads(done.stdout)["findings"]
    assert (finding["code"], finding["setting"], finding["line"]) == ("refuted", "assert[1]", 13)
    example = msgspec.convert(finding["example"], PolicyInput)
    assert isinstance(RuntimePolicy.from_document(TOML, format="toml").evaluate(example), Allow)
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (told.returncode, f"{path}:13:1: error: assert[1]: " in told.stdout) == (1, True)
    assert ", by service:" in told.stdout
    path.write_text(TOML.replace(' || actor.kind == "service"', ""))
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert isinstance(parse(TOML, "toml"), dict)


# -- brute force

DOCUMENTS: Final = examples(300, 12)
ASKED: Final = 60


def an_assertion(random: Random, of: dict[str, Any]) -> dict[str, Any]:
    """An assertion about what rules are about, often with the condition of one."""
    rules = of.get("rules") or [{"actions": ["db.read"]}]
    rule = random.choice(rules)
    lists = {key: rule[key] for key in ("actors", "modes", "resources") if key in rule and random.random() < 0.5}
    when = random.choice([*(each["when"] for each in rules if "when" in each), *sorted(CONDITIONS)])
    condition = {"when": when} if random.random() < 0.8 else {}
    return {random.choice(("never", "always")): rule["actions"], **lists, **condition}


@pytest.mark.sampled
@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_proof_is_false_and_each_example_violates(seed: int) -> None:
    random, outcomes = Random(seed), Counter[str]()
    for _ in range(DOCUMENTS):
        base = some(lambda: with_conditions(random, a_document(random)))
        asserted = [an_assertion(random, base) for _ in range(4)]
        whole = {**base, "attributes": JUDGED, "assert": asserted}
        for proof in prove(read_document(whole)):
            assertion = asserted[proof.assertion]
            outcomes[proof.outcome] += 1
            if proof.example is not None:
                assert violates(whole, assertion, proof.example), (whole, proof)
                continue
            about = {**whole, "rules": [*base.get("rules", ()), as_rule(assertion)]}
            for _ in range(ASKED if proof.outcome == "proven" else 0):
                asked = with_facts(random, a_question(random, about))
                assert not (is_well_formed(asked) and violates(whole, assertion, asked)), (whole, proof, asked)
    assert min(outcomes["proven"], outcomes["refuted"]) > 0
    assert outcomes["undecided"] <= outcomes["refuted"]


def as_rule(assertion: dict[str, Any]) -> dict[str, Any]:
    effect = "never" if "never" in assertion else "always"
    return {"effect": "deny", "actions": assertion[effect], **{k: v for k, v in assertion.items() if k != effect}}


def violates(whole: dict[str, Any], assertion: dict[str, Any], asked: PolicyInput) -> bool:
    """Whether the answer to a question that gets as far as rules is what the assertion forbids."""
    rule = as_rule(assertion)
    if not matches(rule, asked) or condition_of(rule, asked) is not True:
        return False
    everything = {**whole, "rules": [{"effect": "deny", "actions": ["*"], "reason": "looked at"}]}
    if judge(everything, asked)[0].reason != "looked at":  # type: ignore[union-attr]
        return False
    return isinstance(judge(whole, asked)[0], Allow) is ("never" in assertion)
