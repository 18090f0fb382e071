"""What was allowed before is known without a question: only if asking would give an allow, whatever is in the parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capgate.checker.base import Checker
from capgate.checker.cached import KEYED, PATIENCE, SETTLED, CachedChecker, Memory
from capgate.checker.local import LocalPolicyChecker
from capgate.model import (
    ALLOW,
    ANONYMOUS,
    Actor,
    Attribute,
    Deny,
    Environment,
    PolicyInput,
    PolicyResult,
    Resource,
    Service,
    User,
)
from capgate.policy import RuntimePolicy
from capgate.routes.declare import Parameter, Requirement

from ..support.tools import examples
from .test_cache_keys import Asked, actors, inputs, make, texts

ENV = Environment("orders", "prod")
PLAIN = ("action", "resource")
NO_PARAMS: dict[str, str] = {}
NAME = (Parameter("name"),)


def read(id: str = "good") -> Requirement:
    return Requirement.parse("db.read", resource=f"sql_query:{id}")


def memory(answer: Callable[[PolicyInput], PolicyResult] = lambda _: ALLOW, *looks_at: str) -> tuple[Memory, Asked]:
    inner = Asked(answer, *(looks_at or PLAIN))
    return Memory(inner, frozenset(), 100), inner


def question(part: Requirement, actor: Any = ANONYMOUS, params: dict[str, str] = NO_PARAMS) -> PolicyInput:
    return PolicyInput(part.action, actor, part.resource(params), None, ENV, 1)


@pytest.mark.sampled
@settings(max_examples=examples(100), deadline=None)
@given(
    names=st.sets(st.sampled_from(sorted(KEYED))),
    asked=st.lists(st.tuples(inputs, st.booleans()), max_size=30),
    known=st.lists(st.tuples(inputs, st.booleans()), max_size=30),
)
def test_what_is_known_to_be_allowed_is_allowed(
    names: set[str], asked: list[tuple[PolicyInput, bool]], known: list[tuple[PolicyInput, bool]]
) -> None:
    def answer(input: PolicyInput) -> PolicyResult:
        seen = [getattr(input, name) for name in ("action", "actor", "args_hash", "resource") if name in names]
        seen += [getattr(input.env, name) for name in ("mode", "service") if name in names]
        return ALLOW if len(ascii(seen)) % 2 else Deny("odd")

    remembering, inner = Memory(told := Asked(answer, *names), frozenset(), 50), told
    for input, _ in known:
        remembering.answer_now(input)
    for input, by_parameter in asked * 2:
        resource = input.resource
        part = Requirement(input.action, resource)
        params = NO_PARAMS
        if by_parameter and resource is not None and resource.id is not None:
            part, params = (
                Requirement(input.action, None, resource.kind, (Parameter("id"),), sole="id"),
                {"id": resource.id},
            )
        wanted = (part,)
        before = len(inner.asked)
        if remembering.allowed(wanted, params, input.actor, input.env):
            assert answer(PolicyInput(input.action, input.actor, resource, None, input.env, 1)) == ALLOW
        assert len(inner.asked) == before


@pytest.mark.parametrize("looks_at", [PLAIN, ("action", "resource", "actor", "mode")])
def test_one_answer_is_enough(looks_at: tuple[str, ...]) -> None:
    remembering, inner = memory(lambda _: ALLOW, *looks_at)
    for part, params in (
        (read(), NO_PARAMS),
        (read("{name}"), {"name": "x"}),
        (Requirement("compute.long"), NO_PARAMS),
    ):
        wanted = (part,)
        assert not remembering.allowed(wanted, params, ANONYMOUS, ENV)
        remembering.answer_now(question(part, params=params))
        for _ in range(3):
            assert remembering.allowed(wanted, params, ANONYMOUS, ENV)
            assert remembering.allowed((part, part), params, ANONYMOUS, ENV)
    assert len(inner.asked) == 3


def test_who_asks_counts_where_the_policy_looks_at_it() -> None:  # H-1
    remembering, _ = memory(lambda input: ALLOW if input.actor == User("ada") else Deny("no"), *PLAIN, "actor")
    wanted = (read(),)
    for actor in (User("ada"), User("bob"), Service("ada"), ANONYMOUS):
        remembering.answer_now(question(wanted[0], actor))
    for _ in range(2):
        assert remembering.allowed(wanted, NO_PARAMS, User("ada"), ENV)
        for actor in (User("bob"), Service("ada"), ANONYMOUS, User("")):
            assert not remembering.allowed(wanted, NO_PARAMS, actor, ENV)


def test_a_denial_among_several_is_no_allow() -> None:
    remembering, _ = memory(lambda input: Deny("no") if input.resource == Resource("sql_query", "bad") else ALLOW)
    good, bad = read("good"), read("bad")
    for part in (good, bad):
        remembering.answer_now(question(part))
    for wanted in ((good, bad), (bad, good), (bad,), (good, read("unknown"))):
        for _ in range(2):
            assert not remembering.allowed(wanted, NO_PARAMS, ANONYMOUS, ENV)
    assert remembering.allowed((good, good), NO_PARAMS, ANONYMOUS, ENV)


def test_nothing_wanted_is_nothing_allowed() -> None:
    remembering, _ = memory()
    assert not remembering.allowed((), NO_PARAMS, ANONYMOUS, ENV)


class Odd(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("actor", "env"),
    [
        (User("a" * 300), ENV),
        (User("\ud800"), ENV),
        (User("\u00e9" * 100), ENV),
        (User(Odd("ada")), ENV),
        (User(None), ENV),  # type: ignore[arg-type]
        ("ada", ENV),
        (None, ENV),
        (ANONYMOUS, Environment("s" * 200)),
        (ANONYMOUS, Environment("\ud800")),
        (ANONYMOUS, Environment(Odd("orders"))),
        (ANONYMOUS, None),
    ],
)
def test_what_no_policy_may_be_asked_is_not_known(actor: Any, env: Any) -> None:
    """Though the policy looks at none of it, and allowed the same to others."""
    remembering, _ = memory()
    fixed, filled = (read(),), (read("{name}"),)
    remembering.answer_now(question(fixed[0]))
    assert not remembering.allowed(fixed, NO_PARAMS, actor, env)
    for _ in range(2):
        assert remembering.allowed(fixed, NO_PARAMS, ANONYMOUS, ENV)
        assert remembering.allowed(filled, {"name": "good"}, ANONYMOUS, ENV)
        assert not remembering.allowed(fixed, NO_PARAMS, actor, env)
        assert not remembering.allowed(filled, {"name": "good"}, actor, env)


@pytest.mark.parametrize(
    "part",
    [
        Requirement("db.read", Resource("sql_query", "good", {"a": "b"})),
        Requirement("db.read", Resource("sql_query", "good"), args_hash="body"),
        Requirement("db.read", None, "sql_query", NAME, args_hash="body", sole="name"),
        Requirement("db.read", None, Odd("sql_query"), NAME, sole="name"),
        Requirement("db.read", Resource("sql_query", "bad"), "sql_query", NAME, sole="name"),
        Requirement("db.read", Resource("sql_query", "bad"), "sql_query", sole="name"),
        Requirement("db.read", kind="sql_query", sole="name"),
        Requirement("db.read", Resource("sql_query", "good"), "sql_query", (Parameter("tail"),)),
        Requirement(Odd("db.read"), Resource("sql_query", "good")),
        Requirement("db.read", Resource("sql_query", Odd("good"))),
        Requirement("db.read", Resource(None)),  # type: ignore[arg-type]
        Requirement("db.read", object()),  # type: ignore[arg-type]
        Requirement.parse("db.read", resource="sql_query:go{tail}"),
        Requirement("db.read", None, "sql_query", (Parameter("number"),), sole="number"),
    ],
)
def test_what_is_not_the_same_question_is_not_known(part: Requirement) -> None:
    remembering, _ = memory()
    remembering.answer_now(question(read()))
    remembering.answer_now(PolicyInput("db.read", env=ENV))
    params = {"name": "good", "tail": "od", "number": 7}
    for _ in range(2):
        assert not remembering.allowed((part,), params, ANONYMOUS, ENV)


def test_a_missing_parameter_is_an_error() -> None:
    remembering, _ = memory()
    with pytest.raises(LookupError):
        remembering.allowed((read("{name}"),), NO_PARAMS, ANONYMOUS, ENV)


def test_attributes_that_come_later_are_seen() -> None:
    remembering, _ = memory()
    attributes: dict[str, Attribute] = {}
    resource = Resource("sql_query", "good", attributes)
    remembering.answer_now(PolicyInput("db.read", resource=resource, env=ENV))
    alone = (Requirement("db.read", resource),)
    both = (read(), *alone)
    for _ in range(3):
        for wanted in (alone, both):
            assert remembering.allowed(wanted, NO_PARAMS, ANONYMOUS, ENV)
    attributes["a"] = "b"
    for wanted in (alone, both, (*alone,), (*both,)):
        assert not remembering.allowed(wanted, NO_PARAMS, ANONYMOUS, ENV)
    attributes.clear()
    for wanted in (alone, both):
        assert remembering.allowed(wanted, NO_PARAMS, ANONYMOUS, ENV)


def test_it_is_known_for_no_more_declarations_than_there_is_room_for() -> None:
    remembering, inner = memory()
    remembering.answer_now(question(read()))
    kept = [(read(),) for _ in range(SETTLED + 50)]
    assert all(remembering.allowed(wanted, NO_PARAMS, ANONYMOUS, ENV) for wanted in kept)
    assert all(remembering.allowed((read(),), NO_PARAMS, ANONYMOUS, ENV) for _ in range(SETTLED))
    assert len(inner.asked) == 1


def test_each_is_counted_as_an_answer() -> None:  # as probations of a new policy need it
    counted: list[int] = []

    class Counting(Asked):
        __slots__ = ()

        @property
        def count_answer(self) -> Callable[[], None]:
            return lambda: counted.append(1)

    remembering = Memory(Counting(lambda _: ALLOW, *PLAIN), frozenset(), 10)
    wanted = (read(), read())
    remembering.answer_now(question(wanted[0]))
    for answered in (2, 4, 6):
        assert remembering.allowed(wanted, NO_PARAMS, ANONYMOUS, ENV)
        assert len(counted) == answered


def test_where_nothing_comes_again_it_is_not_looked_for() -> None:
    inner = Asked(lambda _: ALLOW, *PLAIN)
    remembering = Memory(inner, frozenset(), 1)
    for number in range(PATIENCE + 20):
        remembering.answer_now(question(read(f"q{number}")))
    assert not remembering.allowed((read("q0"),), NO_PARAMS, ANONYMOUS, ENV)


class Mortal(Asked):
    """A policy that expires when it is told so."""

    __slots__ = ("over",)

    over: bool

    @property
    def expires(self) -> float | None:
        return 1.0

    @property
    def expired(self) -> bool:
        return self.over


def test_what_expired_allows_nothing() -> None:
    inner = Mortal(lambda _: ALLOW, *PLAIN)
    inner.over = False
    remembering = Memory(inner, frozenset(), 10)
    wanted = (read(),)
    remembering.answer_now(question(wanted[0]))
    assert remembering.allowed(wanted, NO_PARAMS, ANONYMOUS, ENV)
    inner.over = True
    assert not remembering.allowed(wanted, NO_PARAMS, ANONYMOUS, ENV)


async def test_all_is_forgotten_when_the_checker_is_closed() -> None:
    checker = CachedChecker(make("local"), size=10)
    steady: Checker | None = checker.steady
    assert type(steady) is Memory
    wanted = (read(),)
    async with checker:
        assert steady.answer_now(question(wanted[0])) == ALLOW
        assert steady.allowed(wanted, NO_PARAMS, ANONYMOUS, ENV)
    assert not steady.allowed(wanted, NO_PARAMS, ANONYMOUS, ENV)


def test_another_policy_starts_with_nothing() -> None:
    class Swapping(LocalPolicyChecker):
        __slots__ = ("now",)

        now: Checker

        @property
        def current(self) -> Checker:
            return self.now

    first, second = make("local"), make("local", {"sql": []})
    inner = Swapping(RuntimePolicy.from_document({"sql": ["good"]}))
    inner.now = first
    checker = CachedChecker(inner, size=10)
    wanted = (read(),)
    checker.answer_now(question(wanted[0]))
    assert checker.current.allowed(wanted, NO_PARAMS, ANONYMOUS, ENV)
    inner.now = second
    assert not checker.current.allowed(wanted, NO_PARAMS, ANONYMOUS, ENV)
    assert type(checker.answer_now(question(wanted[0]))) is Deny


@given(actor=actors, text=texts)
def test_who_asks_makes_no_difference_where_nobody_looks(actor: Actor, text: str) -> None:
    remembering, inner = memory()
    wanted = (read(),)
    remembering.answer_now(question(wanted[0]))
    assert remembering.allowed(wanted, NO_PARAMS, ANONYMOUS, ENV)
    known = remembering.allowed(wanted, NO_PARAMS, actor, Environment(text, "prod"))
    assert known or type(actor) is not User or not actor.id.isascii() or not text.isascii()
    assert len(inner.asked) == 1
