"""What makes a remembered answer the answer to another question: attempts to be told what somebody else was told."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capgate.actions import Vocabulary
from capgate.artifact.build import build_policy
from capgate.artifact.load import WasmArtifact
from capgate.checker.base import Checker
from capgate.checker.cached import KEYED, CachedChecker, Memory, is_keyed, key_function
from capgate.checker.foreign import as_checker
from capgate.checker.local import LocalPolicyChecker
from capgate.checker.wasm import WasmPolicyChecker
from capgate.enforcement.point import EnforcementPoint
from capgate.errors import ConfigError
from capgate.limits import RANGES, Limits
from capgate.model import (
    ALLOW,
    ANONYMOUS,
    Actor,
    Allow,
    Anonymous,
    CompilerTool,
    Deny,
    Entrypoint,
    Environment,
    PolicyInput,
    PolicyResult,
    Reason,
    Resource,
    Service,
    User,
)
from capgate.policy import RuntimePolicy
from capgate.runtime.abi.fixed import SLOTS
from capgate.runtime.pool import WasmPool
from capgate.store.manifest import INPUTS

from ..support.engines import EXPECTED_ENGINES
from ..support.guests import ALLOW as ALLOW_ALL
from ..support.guests import artifact, guest
from ..support.rego_guests import opa_artifact
from ..support.tools import examples

KINDS = ("local", *EXPECTED_ENGINES)
PATIENT = Limits(deadline=20.0)
#: Nothing but action and resource counts: one answer serves every user.
PLAIN: dict[str, Any] = {"sql": ["good"], "egress": ["api.example.com"], "compute": "any"}
GOOD = PolicyInput("db.read", User("ada"), Resource("sql_query", "good"))
MALFORMED = Deny(Reason.MALFORMED_INPUT)


def make(kind: str, document: dict[str, Any] = PLAIN, limits: Limits = PATIENT, **options: Any) -> Any:
    if kind == "local":
        return LocalPolicyChecker(RuntimePolicy.from_document(document), limits=limits, **options)
    built = WasmArtifact.from_bytes(build_policy(document))
    return WasmPolicyChecker(WasmPool(built, 1, kind, limits), **options)


class Asked(Checker):
    """Answers by a function, says what that looks at, and keeps what it was asked."""

    __slots__ = ("_answer", "_inputs", "asked")

    def __init__(self, answer: Callable[[PolicyInput], PolicyResult], *inputs: str) -> None:
        super().__init__()
        self._answer, self._inputs = answer, frozenset(inputs)
        self.asked: list[PolicyInput] = []

    @property
    def inputs(self) -> frozenset[str] | None:
        return self._inputs

    def answer_now(self, input: PolicyInput) -> PolicyResult | None:
        self.asked.append(input)
        return self._answer(input)

    def answer_many_now(self, inputs: Sequence[PolicyInput]) -> list[PolicyResult] | None:
        return [self._answer(input) for input in inputs]


# -- what a policy looks at


def seen(input: PolicyInput, names: set[str]) -> tuple[Any, ...]:
    """What of ``input`` a policy sees that looks at ``names``."""
    resource = input.resource
    parts: dict[str, Any] = {
        "action": input.action,
        "actor": (type(input.actor).__name__, getattr(input.actor, "id", None)),
        "args_hash": input.args_hash,
        "mode": input.env.mode,
        "resource": None if resource is None else (resource.kind, resource.id),
        "service": input.env.service,
    }
    return tuple(parts[name] for name in sorted(names))


texts = st.sampled_from(["", "a", "b", "a\0b", "A", "a/b", "\u00e9", "\u212a", "K", "k"])
hosts = st.sampled_from(["api.example.com", "API.example.com", "api.exampl\u212ae.com", "api.example.com."])
actors = st.sampled_from([Anonymous(), ANONYMOUS]) | st.builds(
    lambda actor, id: actor(id), st.sampled_from([User, Service, CompilerTool]), texts
)
resources = st.none() | st.builds(
    Resource,
    st.sampled_from(["sql_query", "host", "namespace", "", "a", "a\0b"]),
    st.none() | texts | hosts | st.just("good"),
)
inputs = st.builds(
    PolicyInput,
    st.sampled_from(["db.read", "db.write", "http.outbound", "cache.read", "compute.long", "no.such"]),
    actors,
    resources,
    st.none() | texts,
    st.builds(Environment, texts, texts),
    st.integers(0, 2**64 - 1),
)


@pytest.mark.sampled
@settings(max_examples=examples(100), deadline=None)
@given(names=st.sets(st.sampled_from(sorted(KEYED))), asked=st.lists(inputs, max_size=30), size=st.integers(1, 8))
def test_inputs_share_an_answer_only_if_they_agree_in_what_it_looks_at(
    names: set[str], asked: list[PolicyInput], size: int
) -> None:
    """The answer says all that the policy saw, so one that was meant for another input shows."""

    def answer(input: PolicyInput) -> PolicyResult:
        what = seen(input, names)
        return ALLOW if len(ascii(what)) % 3 == 0 else Deny(ascii(what)[:200])

    checker = CachedChecker(Asked(answer, *names), size=size)
    for input in asked:
        assert checker.evaluate_now(input) == answer(input)
    assert checker.current.answer_many_now(asked) == [answer(input) for input in asked]
    assert checker.remembered <= size


def test_what_is_remembered_is_within_every_limit() -> None:
    assert sum(SLOTS.values()) <= RANGES["input_bytes"][0]


def test_every_part_that_a_manifest_can_name_is_keyed_but_for_facts_and_the_time() -> None:
    assert set(INPUTS) - KEYED == {"facts", "timestamp"}


@pytest.mark.parametrize("names", [{"timestamp"}, {"action", "attributes"}, {"env"}, {"action", "resource", "x"}])
async def test_what_has_no_key_is_asked_each_time(names: set[str]) -> None:
    inner = Asked(lambda input: ALLOW, *names)
    assert not is_keyed(inner.inputs)
    with pytest.raises(ConfigError) as caught:
        CachedChecker(inner, size=1)
    assert caught.value.setting == "cache_size"
    checker = CachedChecker(inner, size=None)
    for _ in range(2):
        assert await checker.evaluate(GOOD) == ALLOW
    assert (len(inner.asked), checker.remembered) == (2, 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_one_answer_serves_every_user_of_a_document_without_rules(kind: str) -> None:
    inner = make(kind)
    assert inner.inputs == {"action", "resource"}
    who: list[Actor] = [ANONYMOUS, Anonymous(), User("ada"), User("j\u00f6rg"), Service("ada"), CompilerTool("x" * 256)]
    async with CachedChecker(inner, size=None) as checker:
        for actor in who:
            for env in (Environment(), Environment("shop", "dev")):
                for digest in (None, "0" * 64):
                    for timestamp in (0, 2**64 - 1):
                        input = PolicyInput(GOOD.action, actor, GOOD.resource, digest, env, timestamp)
                        assert await checker.check(input) == ALLOW
                        assert checker.remembered == 1
        if kind != "local":
            assert inner.statistics().calls == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_hosts_are_remembered_in_one_spelling(kind: str) -> None:
    async with CachedChecker(make(kind), size=None) as checker:
        for id, answer in [
            ("api.example.com", Allow),
            ("API.EXAMPLE.com", Allow),
            ("api.exampl\u212a.com", Deny),
            ("api.example.com.", Allow),
            ("api.example.com\0", Deny),
        ] * 2:
            assert type(await checker.check(PolicyInput("http.outbound", resource=Resource("host", id)))) is answer


# -- who a rule is about


BY_ACTOR: dict[str, Any] = {
    "rules": [
        {"effect": "allow", "actions": ["db.write"], "actors": ["user:ada"], "modes": ["dev"]},
        {"effect": "allow", "actions": ["db.read"], "actors": ["service"]},
    ]
}
WRITE = Resource("sql_query", "x")
DEV, PROD = Environment("s", "dev"), Environment("s", "prod")


@pytest.mark.parametrize("kind", KINDS)
async def test_nobody_is_told_what_somebody_else_was_told(kind: str) -> None:
    others: list[Actor] = [
        ANONYMOUS,
        Service("ada"),
        CompilerTool("ada"),
        User("Ada"),
        User("ada "),
        User("ad"),
        User(""),
    ]
    async with CachedChecker(make(kind, BY_ACTOR), size=None) as checker:
        for _ in range(3):
            assert await checker.check(PolicyInput("db.write", User("ada"), WRITE, env=DEV)) == ALLOW
            assert await checker.check(PolicyInput("db.read", Service("x"), WRITE, env=PROD)) == ALLOW
            for env in (DEV, PROD, Environment("s", "Dev")):
                for actor in [*others, *([] if env is DEV else [User("ada")])]:
                    assert type(await checker.check(PolicyInput("db.write", actor, WRITE, env=env))) is Deny
            for actor in (User("x"), CompilerTool("x"), ANONYMOUS):
                assert type(await checker.check(PolicyInput("db.read", actor, WRITE, env=PROD))) is Deny


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPECTED_ENGINES)
async def test_a_rego_policy_whose_manifest_says_what_it_looks_at(kind: str) -> None:
    """It sees attributes with a resource, so an input that has any is asked about each time."""
    pool = WasmPool(opa_artifact(BY_ACTOR), 1, kind, PATIENT, entrypoint=Entrypoint("capgate/decision"))
    inner = WasmPolicyChecker(pool, inputs=frozenset({"action", "actor", "mode", "resource"}))
    async with CachedChecker(inner, size=None) as checker:
        input = PolicyInput("db.write", User("ada"), WRITE, env=DEV)
        for _ in range(3):
            assert await checker.check(input) == ALLOW
            assert type(await checker.check(PolicyInput("db.write", User("eve"), WRITE, env=DEV))) is Deny
        assert (inner.statistics().calls, checker.remembered) == (2, 2)
        for number in range(2):
            more = Resource("sql_query", "x", {"n": str(number)})
            await checker.check(PolicyInput("db.write", User("ada"), more, env=DEV))
        assert (inner.statistics().calls, checker.remembered) == (4, 2)


async def test_whoever_signs_a_manifest_is_taken_at_its_word(engine_name: str) -> None:
    """What a module of somebody else's looks at cannot be seen. Here it denies whoever has a name of four letters."""
    who = "(i32.load offset=8 (local.get 0))"
    policy = artifact(guest(f"(if (i32.eq {who} (i32.const 4)) (then (unreachable))) {ALLOW_ALL}"))

    async def answers(*names: str) -> list[type]:
        inner = WasmPolicyChecker(WasmPool(policy, 1, engine_name, PATIENT), inputs=frozenset(names))
        async with CachedChecker(inner, size=None) as checker:
            asked = [PolicyInput("db.read", User(id), Resource("sql_query", "x")) for id in ("ada", "evil", "ada")]
            return [type(await checker.check(input)) for input in asked]

    assert await answers("action", "actor", "resource") == [Allow, Deny, Allow]
    assert await answers("action", "resource") == [Allow, Allow, Allow]  # it lies, and the signature says it does not


# -- inputs that are no inputs


class Sly(str):
    """Text that says it is another one."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash(self.shown)

    @property
    def shown(self) -> str:
        return "db.read" if self == "bad.action" else "good"

    def __len__(self) -> int:
        return 1

    def isascii(self) -> bool:
        return True


class SlyType(type):
    def __eq__(cls, other: object) -> bool:
        return True

    def __hash__(cls) -> int:
        return hash(User)


class SlyUser(metaclass=SlyType):
    id = "ada"


class Resource2(Resource, frozen=True):
    pass


class Input2(PolicyInput, frozen=True):
    pass


ODD: dict[str, Any] = {
    "id that equals anything": PolicyInput("db.read", User("ada"), Resource("sql_query", Sly("bad"))),
    "kind that equals anything": PolicyInput("db.read", User("ada"), Resource(Sly("bad"), "good")),
    "action that equals anything": PolicyInput(Sly("db.write"), User("ada"), Resource("sql_query", "good")),
    "actor's id that equals anything": PolicyInput("db.read", User(Sly("x" * 70_000)), GOOD.resource),
    "actor's class that equals anything": PolicyInput("db.read", SlyUser(), GOOD.resource),  # type: ignore[arg-type]
    "hash that says it is short": PolicyInput("db.read", User("ada"), GOOD.resource, Sly("x" * 70_000)),
    "mode that says it is short": PolicyInput(
        "db.read", User("ada"), GOOD.resource, None, Environment("s", Sly("\ud800"))
    ),
    "surrogate in the actor": PolicyInput("db.read", User("\ud800"), GOOD.resource),
    "surrogate in the hash": PolicyInput("db.read", User("ada"), GOOD.resource, "\ud800"),
    "surrogate in the service": PolicyInput("db.read", User("ada"), GOOD.resource, None, Environment("\ud800")),
    "surrogate in an attribute": PolicyInput("db.read", User("ada"), Resource("sql_query", "good", {"\ud800": ""})),
    "number in an attribute": PolicyInput("db.read", User("ada"), Resource("sql_query", "good", {"a": None})),  # type: ignore[dict-item]
    "no actor": PolicyInput("db.read", None, GOOD.resource),  # type: ignore[arg-type]
    "no environment": PolicyInput("db.read", User("ada"), GOOD.resource, None, None),  # type: ignore[arg-type]
    "derived resource": PolicyInput("db.read", User("ada"), Resource2("sql_query", "good")),
    "derived input": Input2("db.read", User("ada"), GOOD.resource),
    "time before": PolicyInput("db.read", User("ada"), GOOD.resource, timestamp=-1),
    "time after": PolicyInput("db.read", User("ada"), GOOD.resource, timestamp=2**64),
    "time that is none": PolicyInput("db.read", User("ada"), GOOD.resource, timestamp=0.0),  # type: ignore[arg-type]
    "long actor": PolicyInput("db.read", User("x" * 65_536), GOOD.resource),
    "long hash": PolicyInput("db.read", User("ada"), GOOD.resource, "x" * 65_536),
    "long environment": PolicyInput("db.read", User("ada"), GOOD.resource, None, Environment("x" * 65_536, "prod")),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("document", [PLAIN, {**PLAIN, **BY_ACTOR}], ids=["plain", "by actor"])
@pytest.mark.parametrize("odd", ODD)
async def test_an_odd_input_is_answered_as_without(kind: str, document: dict[str, Any], odd: str) -> None:
    input = ODD[odd]
    plain = make(kind, document)
    async with plain, CachedChecker(make(kind, document), size=None) as checker:
        assert await checker.evaluate(GOOD) == ALLOW
        expected = await plain.evaluate(input)
        for _ in range(2):
            assert await checker.evaluate(input) == expected
            assert checker.evaluate_now(input) == expected
            assert checker.current.answer_many_now([GOOD, input]) == [ALLOW, expected]
            assert await checker.evaluate(GOOD) == ALLOW
        assert checker.remembered == 1


@pytest.mark.sampled
@settings(max_examples=examples(100), deadline=None)
@given(
    st.integers(0, 400),
    st.integers(0, 300),
    st.integers(0, 300),
    st.integers(0, 300),
    st.sampled_from(["x", "\u00e9", "\U0001f512"]),
)
def test_what_is_too_long_is_denied_whatever_is_remembered(
    id: int, who: int, digest: int, env: int, letter: str
) -> None:
    """With the least that ``input_bytes`` can be; the same resource was asked about with nothing else to it before."""
    limits = Limits(input_bytes=1_024)
    plain = make("local", {"sql": "any"}, limits)
    checker = CachedChecker(make("local", {"sql": "any"}, limits), size=None)
    resource = Resource("sql_query", id * letter)
    short = PolicyInput("db.read", resource=resource)
    long = PolicyInput("db.read", User(who * letter), resource, digest * letter, Environment(env * letter, "prod"))
    for input in (short, long, short, long):
        assert checker.evaluate_now(input) == plain.evaluate_now(input)


async def test_attributes_that_come_while_it_is_asked_leave_nothing_behind() -> None:
    attributes: dict[str, str] = {}
    input = PolicyInput("db.read", resource=Resource("sql_query", "x", attributes))

    def answer(input: PolicyInput) -> PolicyResult:
        attributes["owner"] = "eve"
        return ALLOW

    inner = Asked(answer, "action", "resource")
    checker = CachedChecker(inner, size=10)
    assert await checker.evaluate(input) == ALLOW
    assert checker.remembered == 0


# -- time, and what changes with it


@pytest.mark.parametrize("kind", KINDS)
async def test_an_action_that_is_registered_later_is_known_then(kind: str) -> None:
    vocabulary = Vocabulary()
    inner = make(kind, {"actions": {"invoice.send": "any"}}, vocabulary=vocabulary)
    input = PolicyInput("invoice.send", resource=Resource("invoice", "1"))
    async with CachedChecker(inner, size=None, vocabulary=vocabulary) as checker:
        for _ in range(2):
            assert await checker.check(input) == Deny(Reason.UNKNOWN_ACTION)
        vocabulary.register("invoice.send", kind="invoice")
        for _ in range(2):
            assert await checker.check(input) == ALLOW
            assert await checker.check(PolicyInput("invoice.send")) == Deny(Reason.MISSING_RESOURCE)
        vocabulary.register("invoice.send.now", kind="invoice", resource_required=False)
        assert await checker.check(input) == ALLOW


@pytest.mark.parametrize("kind", KINDS)
async def test_a_resource_that_is_missing_is_none_that_is_there(kind: str) -> None:
    ways = [None, Resource("sql_query"), Resource("sql_query", ""), Resource("job"), Resource("", None)]
    asked = [PolicyInput(action, resource=way) for action in ("db.read", "compute.long") for way in ways]
    plain = make(kind, {"sql": "any", "compute": "any"})
    async with plain, CachedChecker(make(kind, {"sql": "any", "compute": "any"}), size=None) as checker:
        for input in asked * 2 + asked[::-1]:
            assert await checker.check(input) == await plain.check(input)


async def test_what_is_answered_after_the_end_is_not_remembered() -> None:
    checkers: list[CachedChecker] = []

    def answer(input: PolicyInput) -> PolicyResult:
        if checkers:
            anyio.from_thread.run(checkers.pop().aclose)
        return ALLOW

    inner = Asked(answer, "action", "resource")
    checker = CachedChecker(inner, size=10)
    checkers.append(checker)
    assert await anyio.to_thread.run_sync(checker.evaluate_now, GOOD) == ALLOW
    assert checker.remembered == 0
    assert checker.evaluate_now(GOOD) == ALLOW
    assert (checker.remembered, len(inner.asked)) == (0, 2)


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_is_remembered_beyond_the_end(kind: str) -> None:
    inner = make(kind)
    checker = CachedChecker(inner, size=10)
    steady = EnforcementPoint(checker).steady
    assert isinstance(steady, Memory)
    async with checker:
        assert steady.answer_now(GOOD) == ALLOW
        assert checker.remembered == 1
    assert checker.remembered == 0
    assert await checker.evaluate(GOOD) == (ALLOW if kind == "local" else Deny(Reason.POLICY_UNAVAILABLE))
    assert steady.answer_now(GOOD) == (ALLOW if kind == "local" else Deny(Reason.POLICY_UNAVAILABLE))
    assert checker.remembered == 0
    if kind == "local":
        async with checker:  # once more, as an application that is started twice
            for _ in range(2):
                assert steady.answer_now(GOOD) == ALLOW
            assert checker.remembered == 1


# -- who may stand behind it


def test_a_checker_of_one_policy_is_asked_without_a_detour() -> None:
    for kind in KINDS:
        inner = make(kind)
        checker = CachedChecker(inner, size=None)
        assert checker.steady is checker.current
        assert EnforcementPoint(checker).steady is checker.current
        assert EnforcementPoint(inner).steady is inner


def test_a_derived_class_may_have_any_policy() -> None:
    class Changing(LocalPolicyChecker):
        pass

    inner = Changing(RuntimePolicy.from_document(PLAIN))
    assert CachedChecker(inner, size=10).steady is None

    class Other(CachedChecker):
        steady = None

    with pytest.raises(ConfigError) as caught:
        as_checker(Other(inner))
    assert caught.value.setting == "checker"


def test_by_default_a_checker_that_is_made_by_hand_remembers_nothing() -> None:
    assert CachedChecker(make("local")).current.size == 0


# -- how much it takes


@pytest.mark.parametrize("names", [("action", "resource"), sorted(KEYED)])
@pytest.mark.parametrize("letter", ["x", "\U0001f512"])
def test_it_takes_no_more_memory_than_it_says(names: tuple[str, ...], letter: str) -> None:
    """An entry with the longest texts that are remembered takes at most 2,200 bytes."""
    count, width = 500, len(letter.encode())

    def text(number: int, room: int) -> str:
        return f"{number:05d}" + letter * ((room if width == 1 else room // 4) - 5)

    def question(number: int) -> PolicyInput:
        resource = Resource("sql_query", text(number, 384 - (9 if width == 1 else 36)))
        env = Environment(text(number, 64), text(number, 64))
        return PolicyInput("db.read", User(text(number, 256)), resource, text(number, 128), env, number)

    checker = CachedChecker(Asked(lambda input: Deny(text(input.timestamp, 256)), *names), size=count)
    inner: Any = checker.inner
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(count):
            checker.evaluate_now(question(number))
            inner.asked.clear()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert checker.remembered == count
    assert taken / count <= 2_200, taken / count


def test_keys_are_made_of_what_is_there_already() -> None:
    key = key_function(frozenset({"action", "resource"}))
    assert key(GOOD) == ("db.read", "sql_query", "good")
    made = key(GOOD)
    assert made is not None
    assert sys.getsizeof(made) <= 64
