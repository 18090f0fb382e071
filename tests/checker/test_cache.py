"""Operations that are safe, and decisions that are remembered: the same answers as without, and fewer questions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capgate.artifact.build import build_policy
from capgate.artifact.load import WasmArtifact
from capgate.checker.cached import ADMITTED, PATIENCE, USUAL, CachedChecker, is_keyed
from capgate.checker.local import LocalPolicyChecker
from capgate.checker.wasm import WasmPolicyChecker
from capgate.enforcement.current import capabilities_for
from capgate.enforcement.point import EnforcementPoint
from capgate.errors import ConfigError
from capgate.limits import Limits
from capgate.model import (
    ALLOW,
    ANONYMOUS,
    Allow,
    CompilerTool,
    Deny,
    Environment,
    PolicyInput,
    Reason,
    Resource,
    Service,
    User,
)
from capgate.policy import RuntimePolicy
from capgate.runtime.pool import WasmPool
from capgate.settings.select import select_checker
from capgate.settings.settings import Settings

from ..support.engines import EXPECTED_ENGINES
from ..support.guests import ALLOW as ALLOW_ALL
from ..support.guests import guest
from ..support.tools import examples

PATIENT = Limits(deadline=20.0)
KINDS = ("local", *EXPECTED_ENGINES)
DOCUMENT: dict[str, Any] = {
    "sql": ["good"],
    "cache": "any",
    "rules": [
        {"effect": "allow", "actions": ["db.write"], "actors": ["user:grace"], "modes": ["dev"]},
        {"effect": "deny", "actions": ["cache.write"], "actors": ["anonymous"], "reason": "who are you"},
    ],
}


def answering(checker: Any, answer: Callable[[PolicyInput], Any], **more: Any) -> None:
    """Have ``answer`` answer for ``checker``. Instances take no method of their own, so that takes a class."""
    body = {"__slots__": (), "answer_now": lambda self, input: answer(input), **more}
    checker.__class__ = type("Told", (type(checker),), body)


class Counting:
    """How often the policy behind a checker was asked."""

    def __init__(self, checker: Any) -> None:
        self.asked = 0
        self._ask = checker.answer_now

    def __call__(self, input: PolicyInput) -> Any:
        self.asked += 1
        return self._ask(input)


def make(kind: str, document: dict[str, Any] = DOCUMENT) -> LocalPolicyChecker | WasmPolicyChecker:
    if kind == "local":
        return LocalPolicyChecker(RuntimePolicy.from_document(document), limits=PATIENT)
    artifact = WasmArtifact.from_bytes(build_policy(document))
    return WasmPolicyChecker(WasmPool(artifact, 1, kind, PATIENT))


def quick(kind: str = "local", **options: Any) -> tuple[CachedChecker, Counting]:
    inner = make(kind)
    counting = Counting(inner)
    answering(inner, counting)
    return CachedChecker(inner, **options), counting


def ask(id: str | None = "good", action: str = "db.read", **more: Any) -> PolicyInput:
    kind = {"db": "sql_query", "cache": "namespace", "env": "env_var"}.get(action.partition(".")[0], "x")
    return PolicyInput(action, resource=Resource(kind, id), **more)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_decision_is_remembered(kind: str) -> None:
    checker, counting = quick(kind, size=10)
    async with checker:
        for _ in range(3):
            assert await checker.check(ask("good")) == ALLOW
            assert await checker.check(ask("bad")) == Deny(Reason.NOT_IN_ALLOWLIST)
            assert await checker.check(ask("x", "cache.write")) == Deny("who are you")
            assert checker.evaluate_now(ask("good")) == ALLOW
            assert await checker.check_many([ask("good"), ask("bad")]) == [ALLOW, Deny(Reason.NOT_IN_ALLOWLIST)]
    assert counting.asked == 3
    assert checker.remembered == 0  # closed


@pytest.mark.parametrize("kind", KINDS)
async def test_what_handlers_ask_is_remembered_too(kind: str) -> None:
    checker, counting = quick(kind, size=10)
    questions = [("db.read", "sql_query:good"), ("db.read", "sql_query:bad")]
    async with checker:
        gate = capabilities_for(checker, ANONYMOUS)
        assert [type(one) for one in await gate.check_many(questions)] == [Allow, Deny]
        assert checker.remembered == 2
        assert gate.check_now(*questions[0]) == await gate.check(*questions[0]) == ALLOW
        assert gate.check_now("db.read", "sql_query:other") == Deny(Reason.NOT_IN_ALLOWLIST)
        assert checker.remembered == 3
        assert [type(one) for one in gate.check_many_now(questions)] == [Allow, Deny]
    assert counting.asked == (0 if kind == "local" else 3)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_the_policy_looks_at_tells_questions_apart(kind: str) -> None:
    checker, _ = quick(kind, size=100)
    dev, prod = Environment("s", "dev"), Environment("s", "prod")
    async with checker:
        for _ in range(2):
            assert await checker.check(ask("x", "db.write", actor=User("grace"), env=dev)) == ALLOW
            assert type(await checker.check(ask("x", "db.write", actor=User("grace"), env=prod))) is Deny
            assert type(await checker.check(ask("x", "db.write", actor=Service("grace"), env=dev))) is Deny
            assert type(await checker.check(ask("x", "db.write", actor=User("ada"), env=dev))) is Deny
            assert type(await checker.check(ask("x", "db.write", env=dev))) is Deny
            assert await checker.check(ask(None)) == Deny(Reason.MISSING_RESOURCE)
            assert await checker.check(PolicyInput("db.read")) == Deny(Reason.MISSING_RESOURCE)


async def test_what_it_does_not_look_at_does_not() -> None:
    checker, counting = quick(size=10)
    for time, digest in ((0, "1" * 64), (1, "0" * 64), (2**64 - 1, "x" * 64)):
        assert await checker.check(ask(timestamp=time, args_hash=digest)) == ALLOW
    assert counting.asked == 1


async def test_an_input_that_is_too_long_is_no_input_that_was_shorter() -> None:
    id = "x" * 256
    actor, env = User(id), Environment(id, id[:-40])
    small = LocalPolicyChecker(RuntimePolicy.from_document({"sql": [id]}), limits=Limits(input_bytes=1_024))
    checker = CachedChecker(small, size=10)
    for digest, expected in ((None, ALLOW), ("0" * 64, Deny(Reason.MALFORMED_INPUT)), ("0", ALLOW)):
        assert await checker.evaluate(ask(id, actor=actor, env=env, args_hash=digest)) == expected


MALFORMED: list[Any] = [
    ask(timestamp=-1),
    ask(timestamp=2**64),
    ask(timestamp=1.0),
    ask(timestamp=True),
    ask(args_hash=5),
    ask(args_hash="\ud800"),
    ask(actor=User(5)),  # type: ignore[arg-type]
    ask(actor="grace"),
    ask(env=Environment("\ud800", "prod")),
    ask(env=None),
    PolicyInput("db.read", resource=Resource("sql_query", "good", {"a": None})),  # type: ignore[dict-item]
    PolicyInput("db.read", resource=Resource("sql_query", "good", {"\ud800": ""})),
    PolicyInput("db.read", resource="good"),  # type: ignore[arg-type]
    PolicyInput("db.read", resource=SimpleNamespace(kind="sql_query", id="good", attributes={})),  # type: ignore[arg-type]
    PolicyInput("db.read", resource=Resource("sql_query", "good", None)),  # type: ignore[arg-type]
    PolicyInput("db.read", resource=Resource("sql_query", "good", [])),  # type: ignore[arg-type]
    PolicyInput(5),  # type: ignore[arg-type]
    PolicyInput(["db.read"]),  # type: ignore[arg-type]
    None,
    5,
    {"action": "db.read"},
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("input", MALFORMED, ids=repr)
async def test_a_malformed_question_is_no_question_that_was_asked_before(kind: str, input: Any) -> None:
    checker, _ = quick(kind, size=10, safe=("db.read sql_query:good",) if kind == "local" else ())
    async with checker:
        assert await checker.check(ask()) == ALLOW
        plain = make(kind)
        async with plain:
            expected = await plain.evaluate(input)
            assert type(expected) is Deny or input == ask(timestamp=True)
            for _ in range(2):
                assert await checker.evaluate(input) == expected
                assert checker.evaluate_now(input) == expected


@pytest.mark.parametrize(
    "fault",
    sorted(
        {
            Reason.POLICY_TIMEOUT,
            Reason.POLICY_TRAP,
            Reason.POOL_EXHAUSTED,
            "internal_error",
            "malformed_result",
            "policy_unavailable",
            "unknown_action",
            "malformed_input",
        }
    ),
)
async def test_faults_are_not_remembered(fault: str) -> None:
    inner = make("local")
    answers: list[Any] = [Deny(fault), ALLOW]
    answering(inner, lambda input: answers.pop(0))
    checker = CachedChecker(inner, size=10)
    assert await checker.check(ask()) == Deny(fault)
    assert await checker.check(ask()) == ALLOW
    assert await checker.check(ask()) == ALLOW  # remembered: there is no third answer


@pytest.mark.parametrize("junk", [None, True, "allow", Deny(5)])  # type: ignore[arg-type]
async def test_what_is_no_decision_is_not_remembered(junk: Any) -> None:
    inner = make("local")
    answers: list[Any] = [junk, Deny("no")]
    answering(inner, lambda input: answers.pop(0), evaluate=lambda self, input: _later(junk))
    checker = CachedChecker(inner, size=10)
    await checker.evaluate(ask())
    assert checker.remembered == 0
    assert await checker.check(ask()) == Deny("no")


async def _later(value: Any) -> Any:
    return value


async def test_the_number_of_decisions_is_bounded_and_the_oldest_goes_first() -> None:
    checker, counting = quick(size=3)
    for id in ("a", "b", "c", "d"):
        await checker.evaluate(ask(id))
    assert checker.remembered == 3
    asked = counting.asked
    # Once it is full, one of so many new ones gets in, and the oldest goes.
    for id in ("a", "b", "c"):
        await checker.evaluate(ask(id))
    assert counting.asked == asked
    for number in range(1, 3 * ADMITTED - 1):
        await checker.evaluate(ask(f"new {number}"))
        asked += 1
        assert counting.asked == asked
        assert checker.remembered == 3
    # "d" was the first that was turned away, so these are the last of each turn.
    for id in ("c", f"new {ADMITTED - 1}", f"new {2 * ADMITTED - 1}"):
        await checker.evaluate(ask(id))
        assert counting.asked == asked
    for id in ("a", "b", "d"):
        await checker.evaluate(ask(id))
    assert counting.asked == asked + 3


async def test_where_nothing_comes_again_it_is_hardly_looked_for_and_found_once_it_does() -> None:
    checker, counting = quick(size=10)
    for number in range(10 + 2 * PATIENCE):
        await checker.evaluate(ask(f"new {number}"))
    assert (counting.asked, checker.remembered) == (10 + 2 * PATIENCE, 10)
    before = counting.asked
    for _ in range(100):  # it comes again and again, so it gets in, is found, and from then on it is never asked about
        assert await checker.evaluate(ask("good")) == ALLOW
    assert counting.asked <= before + ADMITTED * (ADMITTED + 1)
    before = counting.asked
    for _ in range(100):
        assert await checker.evaluate(ask("good")) == ALLOW
    assert counting.asked == before


async def test_what_is_safe_is_so_whatever_comes_between() -> None:
    checker, counting = quick(size=1, safe=("db.write sql_query:audit",))
    for number in range(3 * PATIENCE):
        await checker.evaluate(ask(f"new {number}"))
        assert await checker.evaluate(ask("audit", "db.write")) == ALLOW
    assert counting.asked == 3 * PATIENCE


async def test_long_texts_are_not_remembered() -> None:
    checker, counting = quick(size=10)
    long, longer = "x" * 257, "x" * 377
    short_but_wide = "\U0001f512" * 88  # every character counts as four bytes, those of the kind too
    inputs = [ask(longer), ask(short_but_wide), ask(actor=User(long)), ask(args_hash=long), ask(args_hash="x" * 129)]
    inputs += [ask(env=Environment("s" * 100, "m" * 29)), ask(actor=User("\u00fc" * 65))]
    for input in inputs * 2:
        await checker.evaluate(input)
    assert checker.remembered == 0
    assert counting.asked == 2 * len(inputs)
    for input in [ask("x" * 375), ask("\U0001f512" * 87), ask(actor=User("\u00fc" * 64)), ask(args_hash="x" * 128)] * 2:
        await checker.evaluate(input)
    assert checker.remembered == 4


async def test_attributes_that_a_policy_does_not_look_at_need_no_question() -> None:
    checker, counting = quick(size=10)
    for attributes in ({"a": "b"}, {}, {"a": 1}):
        input = PolicyInput("db.read", resource=Resource("sql_query", "good", attributes))
        assert await checker.evaluate(input) == ALLOW
    assert (checker.remembered, counting.asked) == (1, 1)


async def test_another_policy_is_asked_afresh() -> None:
    checker, _ = quick(size=10)
    assert await checker.check(ask()) == ALLOW
    other = make("local", {"sql": ["other"]})
    inner: Any = checker.inner
    inner.policy, inner.inputs = other.policy, other.inputs
    answering(inner, other.answer_now)
    assert await checker.check(ask()) == Deny(Reason.NOT_IN_ALLOWLIST)
    # One that looks at the time, or does not say what it looks at: nothing is remembered at all.
    for inputs in (None, frozenset({"action", "timestamp"})):
        inner.policy, inner.inputs = make("local", {"sql": ["x"]}).policy, inputs
        for _ in range(2):
            await checker.evaluate(ask())
        assert checker.remembered == 0


async def test_a_policy_that_is_swapped_while_it_answers_leaves_nothing_behind() -> None:
    checker, _ = quick(size=10)
    inner: Any = checker.inner
    old, other = inner.answer_now, make("local", {"sql": ["other"]})

    def answer(input: PolicyInput) -> Any:
        result = old(input)
        inner.policy = other.policy
        return result

    answering(inner, answer)
    assert await checker.check(ask()) == ALLOW
    assert checker.remembered == 0


def test_a_policy_that_does_not_say_what_it_looks_at_is_not_cached() -> None:
    for inputs in (None, frozenset({"timestamp"})):
        inner = make("local")
        inner.inputs = inputs
        with pytest.raises(ConfigError) as caught:
            CachedChecker(inner, size=1)
        assert caught.value.setting == "cache_size"
        CachedChecker(inner, safe=("compute.long",))


@pytest.mark.parametrize("size", [-1, 1_000_001, True, 1.0, "1", float("nan")])
def test_sizes_are_checked(size: Any) -> None:
    with pytest.raises(ConfigError):
        CachedChecker(make("local"), size=size)


# -- safe


@pytest.mark.parametrize("kind", KINDS)
async def test_safe_operations_reach_no_policy(kind: str) -> None:
    checker, counting = quick(kind, safe=("db.write sql_query:audit", "compute.long"))
    async with checker:
        assert await checker.check(ask("audit", "db.write")) == ALLOW
        assert await checker.check(PolicyInput("compute.long")) == ALLOW
        assert checker.evaluate_now(ask("AUDIT", "db.write")) == ALLOW  # another spelling of it
        assert counting.asked == 0
        for input in (
            ask("audit2", "db.write"),
            ask("audit", "db.read"),
            ask(None, "db.write"),
            PolicyInput("compute.long", resource=Resource("job", "x")),
            PolicyInput("db.write"),
            PolicyInput("db.write", resource=Resource("query", "audit")),
        ):
            assert type(await checker.evaluate(input)) is Deny, input
        assert counting.asked == 6


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no.such",
        "db.write ",
        "db.write sql_query",
        "db.write sql_query:",
        "db.write :x",
        "db.write host:x",
        " db.write",
        "db.write  sql_query:x",
        5,
        None,
    ],
)
def test_safe_operations_are_checked(text: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        CachedChecker(make("local"), safe=(text,))
    assert caught.value.setting == "safe"


# -- chosen by settings, and asked by the gate


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, USUAL),
        ({"cache_size": 5}, 5),
        ({"safe": ("compute.long",)}, USUAL),
        ({"safe": ("compute.long",), "cache_size": 0}, 0),
    ],
)
def test_settings_choose_it(options: Any, size: int) -> None:
    checker = select_checker(Settings(policy={"sql": ["good"]}, **options))
    assert isinstance(checker, CachedChecker)
    assert isinstance(checker.inner, LocalPolicyChecker)
    assert checker.current.size == size
    assert EnforcementPoint(checker).checker is checker


def test_nothing_is_in_front_where_nothing_is_to_be_remembered(tmp_path: Path) -> None:
    assert isinstance(select_checker(Settings(policy={"sql": ["good"]}, cache_size=0)), LocalPolicyChecker)
    # A module of somebody else's does not say what it looks at.
    path = tmp_path / "policy.wasm"
    path.write_bytes(guest(ALLOW_ALL))
    assert type(select_checker(Settings(artifact=path))) is WasmPolicyChecker
    guarded = select_checker(Settings(artifact=path, safe=("compute.long",)))
    assert isinstance(guarded, CachedChecker)
    assert not is_keyed(guarded.inputs)
    with pytest.raises(ConfigError) as caught:
        select_checker(Settings(artifact=path, cache_size=1))
    assert caught.value.setting == "cache_size"


async def test_threads_and_tasks_at_once() -> None:  # nothing is lost or mixed up while entries come and go
    checker, _ = quick(size=4)
    wrong: list[Any] = []

    def hammer(seed: int) -> None:
        for step in range(2_000):
            id = f"{'good' if step % 3 == 0 else 'bad'}{'' if step % 3 == 0 else (seed * step) % 11}"
            result = checker.evaluate_now(ask(id))
            if (type(result) is Allow) != (id == "good"):
                wrong.append((id, result))

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    assert wrong == []
    assert checker.remembered <= 4


INPUTS = st.builds(
    PolicyInput,
    st.sampled_from(["db.read", "db.write", "cache.read", "cache.write", "no.such", "compute.long"]),
    st.sampled_from([ANONYMOUS, User("grace"), User("ada"), Service("grace"), CompilerTool("grace")]),
    st.one_of(
        st.none(),
        st.builds(
            Resource, st.sampled_from(["sql_query", "namespace", "x"]), st.sampled_from(["good", "bad", "", None])
        ),
    ),
    st.sampled_from([None, "", "0" * 64]),
    st.builds(Environment, st.sampled_from(["s", "t"]), st.sampled_from(["dev", "prod"])),
    st.sampled_from([0, 1, 2**64 - 1, -1, 2**64]),
)
PLAIN = make("local")


@pytest.mark.slow
@settings(max_examples=examples(80), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(inputs=st.lists(INPUTS, max_size=40), size=st.integers(1, 6))
async def test_the_same_answers_as_without(inputs: list[PolicyInput], size: int) -> None:
    checker = CachedChecker(make("local"), size=size)
    for input in inputs:
        assert await checker.evaluate(input) == await PLAIN.evaluate(input)
    assert await checker.evaluate_many(inputs) == await PLAIN.evaluate_many(inputs)
