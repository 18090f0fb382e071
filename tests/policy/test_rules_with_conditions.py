"""Rules with conditions: which answers they give, what a fact that is absent does, and what of them is in the index."""

from __future__ import annotations

from typing import Any, Final

import pytest

from capgate.conditions import MISSING_FACT, TOO_LONG, WRONG_TYPE, Unknown
from capgate.errors import ConfigError
from capgate.model import ALLOW, ANONYMOUS, Anonymous, Deny, Environment, PolicyInput, Reason, Resource, Service, User
from capgate.policy import RuntimePolicy
from capgate.policy.document import read_document
from capgate.policy.index import NO_RULE, Indexer, Matching
from capgate.policy.mistakes import find_mistakes
from capgate.policy.rules import MAX_ENTRIES

ATTRIBUTES: Final = {
    "actor": {"tenant": "string"},
    "resource": {"owner": "string", "total": "int", "tags": "list", "price": "float"},
    "args": {"amount": "int"},
    "context": {"mfa": "bool"},
}
ACTION: Final = "order.refund"
#: Nanoseconds at which 2027 begins.
NEW_YEAR: Final = 1_798_761_600_000_000_000
MISSING: Final = Deny(Reason.MISSING_FACT)
DEFAULT: Final = Deny("not_in_allowlist")


def document(*rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"actions": {ACTION: "by_rule"}, "attributes": ATTRIBUTES, "rules": list(rules), **more}


def allow(when: str | None = None, **more: Any) -> dict[str, Any]:
    return {"effect": "allow", "actions": [ACTION], **({} if when is None else {"when": when}), **more}


def deny(when: str | None = None, **more: Any) -> dict[str, Any]:
    return {**allow(when, **more), "effect": "deny"}


def policy(*rules: dict[str, Any], **more: Any) -> RuntimePolicy:
    return RuntimePolicy.from_document(document(*rules, **more))


def ask(actor: Any = ANONYMOUS, resource: Resource | None = None, **more: Any) -> PolicyInput:
    return PolicyInput(ACTION, actor, resource, **more)


ADA: Final = User("ada", ("editor", "support"), ("orders:read",), {"tenant": "acme"})
ORDER: Final = Resource("order", "17", {"owner": "ada", "total": 250, "tags": ["eu"], "price": 2.5})


@pytest.mark.parametrize(
    "when",
    [
        "action == 'order.refund'",
        "actor.id == 'ada' && actor.kind == 'user'",
        "'support' in actor.roles && 'orders:read' in actor.scopes",
        "actor.tenant == 'acme'",
        "resource.kind == 'order' && resource.id == '17' && resource.owner == actor.id",
        "resource.total < 1000 && resource.tags == ['eu'] && resource.price > 2.0",
        "args.amount <= 250 && context.mfa",
        "env.mode == 'dev' && env.service == 'orders'",
        "now == timestamp('2027-01-01T00:00:00Z')",
        "!has(actor.on_behalf_of)",
    ],
)
def test_each_fact_of_a_question_is_there(when: str) -> None:
    asked = ask(
        ADA,
        ORDER,
        args={"amount": 250},
        context={"mfa": True},
        env=Environment("orders", "dev"),
        timestamp=NEW_YEAR,
    )
    allowing, denying = policy(allow(when)), policy(deny(when, reason="no"), allow())
    assert allowing.evaluate(asked) is ALLOW
    assert denying.evaluate(asked) == Deny("no")
    assert allowing.inputs == frozenset({"action", "resource", "facts"})
    of_nobody = PolicyInput("order.cancel", env=Environment("capgate", "prod"))
    both = policy(allow(when, actions=["order.*"]), actions={ACTION: "by_rule", "order.cancel": "by_rule"})
    assert both.evaluate(asked) is ALLOW
    assert (both.evaluate(of_nobody) is ALLOW) == (when == "!has(actor.on_behalf_of)")


def test_delegation_goes_four_actors_down() -> None:
    chain = User("ada", ("editor",))
    for number in range(4):
        chain = Service(f"s{number}", on_behalf_of=chain)  # type: ignore[assignment]
    fact = "actor." + "on_behalf_of." * 4
    allowing = policy(allow(f"{fact}id == 'ada' && 'editor' in {fact}roles && {fact}kind == 'user'"))
    assert allowing.evaluate(ask(chain)) is ALLOW
    assert allowing.evaluate(ask(chain.on_behalf_of)) == DEFAULT
    assert policy(allow("has(actor.on_behalf_of)")).evaluate(ask(Service("a", on_behalf_of=Anonymous()))) is ALLOW
    nobody = "!has(actor.on_behalf_of.id) && actor.on_behalf_of.roles == []"
    assert policy(allow(nobody)).evaluate(ask(Service("a", on_behalf_of=Anonymous()))) is ALLOW


def test_whoever_is_anonymous_has_no_roles_and_no_id() -> None:
    assert policy(allow("size(actor.roles) + size(actor.scopes) == 0 && !has(actor.id)")).evaluate(ask()) is ALLOW
    assert policy(deny("actor.id == 'ada'"), allow()).evaluate(ask()) == MISSING


@pytest.mark.parametrize(
    ("when", "asked", "unknown"),
    [
        ("args.amount > 1000", ask(), Unknown(MISSING_FACT, "args.amount")),
        ("args.amount > 1000", ask(args={"amount": "2"}), Unknown(WRONG_TYPE, "args.amount")),
        ("args.amount > 1000", ask(args={"amount": 2.0}), Unknown(WRONG_TYPE, "args.amount")),
        ("!context.mfa", ask(), Unknown(MISSING_FACT, "context.mfa")),
        ("!context.mfa", ask(context={"mfa": 1}), Unknown(WRONG_TYPE, "context.mfa")),
        ("resource.owner != 'ada'", ask(), Unknown(MISSING_FACT, "resource.owner")),
        (
            "resource.price > 1.0",
            ask(resource=Resource("order", "1", {"price": 2})),
            Unknown(WRONG_TYPE, "resource.price"),
        ),
        ("actor.on_behalf_of.id == 'x'", ask(ADA), Unknown(MISSING_FACT, "actor.on_behalf_of.id")),
        ("'a' in resource.tags", ask(resource=Resource("order", "1", {"tags": ["b"] * 10_001})), Unknown(TOO_LONG)),
    ],
)
def test_what_is_not_known_denies(when: str, asked: PolicyInput, unknown: Unknown) -> None:
    denying = policy(allow(), deny(when, reason="no"))
    explanation = denying.explain(asked)
    assert (explanation.result, explanation.by, explanation.rule) == (MISSING, "rule", 1)
    assert explanation.unknown == unknown
    assert denying.evaluate(asked) == MISSING
    assert policy(allow(when)).evaluate(asked) == DEFAULT
    watched = policy(allow(), deny(when, reason="no", monitor=True))
    assert watched.explain(asked).result is ALLOW
    assert watched.explain(asked).monitored == 1
    assert watched.inputs == frozenset({"action", "resource"})
    assert watched.monitored is not None
    recorded = watched.monitored.first(asked)
    assert recorded is not None
    assert (recorded.number, recorded.rule.reason) == (1, Reason.MISSING_FACT)


def test_the_first_denial_in_the_order_of_the_document_decides() -> None:
    denying = policy(
        allow(),
        deny("args.amount > 3", reason="three"),
        deny("args.amount > 2", actors=["user"], reason="two"),
        deny(actors=["user:ada"], reason="ada"),
        deny("args.amount > 1", reason="one"),
    )
    answers = {}
    for amount in range(5):
        for who in (User("ada"), User("bob"), Service("ada")):
            explanation = denying.explain(ask(who, args={"amount": amount}))
            answers[amount, type(who).__name__, who.id] = explanation.rule
    assert answers == {
        **{(amount, "User", "ada"): rule for amount, rule in enumerate((3, 3, 3, 2, 1))},
        **{(amount, "User", "bob"): rule for amount, rule in enumerate((0, 0, 4, 2, 1))},
        **{(amount, "Service", "ada"): rule for amount, rule in enumerate((0, 0, 4, 4, 1))},
    }


def test_the_first_allow_is_the_one_that_is_named() -> None:
    allowing = policy(
        allow("args.amount > 3"),
        allow("args.amount > 2", actors=["user"]),
        allow(actors=["user:ada"]),
        allow("args.amount > 1"),
    )
    named = [allowing.explain(ask(User("ada"), args={"amount": amount})).rule for amount in range(5)]
    assert named == [2, 2, 2, 1, 0]
    assert [allowing.explain(ask(User("bob"), args={"amount": amount})).rule for amount in range(5)] == [
        None,
        None,
        3,
        1,
        0,
    ]
    assert allowing.explain(ask(User("bob"))).by == "default"


def test_a_section_admits_what_no_condition_denies() -> None:
    whole = policy(deny("args.amount > 3", reason="no"), allow("args.amount > 2"), actions={ACTION: "any"})
    seen = [whole.explain(ask(args={"amount": amount})) for amount in range(5)]
    assert [(each.by, each.rule) for each in seen] == [("section", None)] * 3 + [("rule", 1), ("rule", 0)]


def test_what_is_malformed_is_never_allowed() -> None:
    allowing = policy(allow("args.amount > 2"))
    assert allowing.evaluate(ask(args={"amount": 3})) is ALLOW
    asked = ask(args={"amount": 3}, timestamp=-1)
    assert allowing.evaluate(asked) == Deny("malformed_input")
    for actor in ("ada", None, 7, object()):
        assert isinstance(policy(allow("actor.id == 'ada'")).evaluate(ask(actor)), Deny)
    bad: Any
    for bad in (None, 7, [], "amount"):
        assert isinstance(policy(allow("args.amount > 2")).evaluate(ask(args=bad)), Deny)
        assert policy(allow(), deny("args.amount > 2")).evaluate(ask(args=bad)) == MISSING
    assert isinstance(policy(allow("has(actor.on_behalf_of)")).evaluate(ask(Service("a", on_behalf_of="x"))), Deny)  # type: ignore[arg-type]


# -- what is made of a document


def test_conditions_that_say_the_same_are_one() -> None:
    read = read_document(
        document(
            allow("args.amount<3"),
            deny("args.amount < 3 && context.mfa"),
            deny("(args.amount < 3)", reason="x"),
            deny(),
        )
    )
    assert [rule.when for rule in read.rules] == [0, 1, 0, None]
    assert [rule.when_text for rule in read.rules] == [
        "args.amount<3",
        "args.amount < 3 && context.mfa",
        "(args.amount < 3)",
        None,
    ]
    assert read.conditions is not None
    assert len(read.conditions) == 2
    assert dict(read.conditions.facts) == {"args.amount": "int", "context.mfa": "bool"}
    assert read.declaration.type_of("resource.owner") == "string"
    assert read_document(document(allow())).conditions is None


def test_conditions_of_rules_that_monitor_are_carried_by_themselves() -> None:
    watched = policy(allow("args.amount < 3"), deny("context.mfa", monitor=True), deny("args.amount < 3", monitor=True))
    monitored = watched.monitored
    assert monitored is not None
    again = type(monitored).decode(monitored.encode())
    assert [each.rule.when for each in again.rules] == [0, 1]
    assert again.conditions is not None
    assert [name for name, _ in again.conditions.facts] == ["args.amount", "context.mfa"]
    for asked in (ask(args={"amount": 1}, context={"mfa": False}), ask(args={"amount": 2}, context={"mfa": True})):
        assert again.first(asked) == monitored.first(asked) is not None
    assert again.first(ask(args={"amount": 5}, context={"mfa": False})) is None


@pytest.mark.parametrize(
    ("when", "parts"),
    [
        ("args.amount < 3 && args.amount > 5", ("args.amount < 3", "args.amount > 5")),
        ("args.amount < 6 || args.amount > 5", ("args.amount < 6", "args.amount > 5")),
        ("actor.tenant != actor.tenant", ("actor.tenant != actor.tenant",)),
        ("true", ("true",)),
        ("context.mfa && !context.mfa", ("context.mfa", "!context.mfa")),
    ],
)
def test_a_condition_that_can_only_be_one_thing_is_a_mistake(when: str, parts: tuple[str, ...]) -> None:
    for rule in (allow(when), deny(when), deny(when, monitor=True)):
        with pytest.raises(ConfigError) as caught:
            read_document(document(rule))
        assert caught.value.key == ("rules", 0, "when")
        assert caught.value.seen == " and ".join(parts)


def test_a_mistake_in_a_condition_is_placed_in_the_text_of_the_document() -> None:
    toml = """\
[actions]
"order.refund" = "by_rule"
[attributes]
args = { amount = "int" }
[[rules]]
effect = "deny"
actions = ["order.refund"]
when = '''
args.amount > 3 &&
args.amuont < 7'''
"""
    with pytest.raises(ConfigError) as caught:
        RuntimePolicy.from_document(toml, format="toml", path="policy.toml")
    error = caught.value
    assert (error.setting, error.path, error.line, error.column) == ("rules[0].when", "policy.toml", 10, 1)
    assert error.within == (2, 1)
    assert error.nearest == "args.amount"
    (finding,) = find_mistakes(toml, "toml")
    assert (finding.setting, finding.line, finding.column, finding.nearest) == ("rules[0].when", 10, 1, "args.amount")


# -- the index


def matching(*rules: dict[str, Any]) -> Matching:
    index = Indexer(read_document(document(*rules)).rules).index()[ACTION]
    return index.find("prod", ("user", "ada"), "order", "1")


def test_no_rule_is_kept_that_another_one_decides_before() -> None:
    some = "args.amount < 3"
    assert matching(deny(some), deny(), deny(some, reason="x"), allow(some), allow()) == Matching(1, 4, (0,), ())
    assert matching(
        allow(some), deny(some), allow(), allow(some, modes=["prod"]), deny(some, actors=["user"])
    ) == Matching(NO_RULE, 2, (1, 4), (0,))
    assert matching(
        deny(some, actors=["user"]), deny(some, resources=["order:1"]), deny(some, modes=["prod"])
    ) == Matching(NO_RULE, NO_RULE, (0, 1, 2), ())
    assert matching(allow(some, actors=["user", "user:ada"], modes=["prod", "dev"])).conditional == (0,)
    assert matching(allow(some), deny(some)).conditional == (0, 1)


def test_what_conditions_add_to_the_index_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [deny(f"args.amount < {number}", resources=["order", "order:1"]) for number in range(300)]
    rules += [deny("args.amount > 9", resources=[f"order:{number}" for number in range(100)])]
    assert MAX_ENTRIES == 1_000_000
    monkeypatch.setattr("capgate.policy.rules.MAX_ENTRIES", 100 * 301 + 300 * 2 + 100 + 400)
    read_and_indexed = policy(*rules)
    assert read_and_indexed.explain(ask(resource=Resource("order", "5"), args={"amount": 9})).rule == 10
    monkeypatch.setattr("capgate.policy.rules.MAX_ENTRIES", 99 * 301)
    with pytest.raises(ConfigError) as caught:
        policy(*rules)
    assert caught.value.key == ("rules",)


def test_parts_that_add_no_condition_share_theirs() -> None:
    index = Indexer(
        read_document(document(deny("args.amount < 3"), allow(resources=["order:1", "order:2"]))).rules
    ).index()
    found = [index[ACTION].find("prod", ("user", "a"), "order", id) for id in ("1", "2", "3")]
    assert len({id(each.denials) for each in found}) == 1
    assert found[0].denials == (0,)
