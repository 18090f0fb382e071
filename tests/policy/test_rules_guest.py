"""Rules in the guest: the answers of the judgement in Python, in bounded work, under any image."""

from __future__ import annotations

import itertools
import random
import struct
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capgate.build import build_policy
from capgate.guest import IMAGE_BASE, image, make_image
from capgate.guest.tables import DENIAL
from capgate.limits import Limits
from capgate.model import ALLOW, Actor, Anonymous, CompilerTool, Deny, Environment, PolicyInput, Resource, Service, User
from capgate.policy import RuntimePolicy
from capgate.policy.index import MAX_NESTED

from ..conftest import EXPECTED_ENGINES
from .guest import CHECK, CountedGuest, Guest, GuestTrap, record
from .reference import judge
from .strategies import questions
from .test_image import Open, module_of
from .test_rules import documents


@pytest.fixture(params=["counted", *EXPECTED_ENGINES])
def opened(request: pytest.FixtureRequest) -> Open:
    """Makes a guest on each engine; "counted" is wasmtime with a count of instructions."""
    return CountedGuest if request.param == "counted" else partial(Guest, request.param)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example])
@given(data=st.data(), document=documents())
def test_the_guest_judges_as_the_rules_read(engine_name: str, data: st.DataObject, document: dict[str, Any]) -> None:
    instance = Guest(engine_name, build_policy(document))
    asked = data.draw(st.lists(questions(document), min_size=8, max_size=20))
    found = [instance.ask(question) for question in asked]
    for question, answer in zip(asked, found, strict=True):
        assert answer == judge(document, question)[0], question
    assert found[::-1] == [instance.ask(question) for question in reversed(asked)]  # G21


LENGTHS = [*range(1, 40), 63, 64, 65, 127, 200]


@pytest.mark.parametrize("kind", ["path", "host"])
def test_beginnings_of_every_length(engine_name: str, kind: str) -> None:
    """Where an id differs from a beginning in any one character, or ends with it, the beginning does not match."""
    action = {"path": "fs.read", "host": "http.outbound"}[kind]
    for length in LENGTHS:
        stem = "".join(chr(97 + at % 26) for at in range(length - 1)) + "/"
        document = {"rules": [{"effect": "allow", "actions": [action], "resources": [f"{kind}:{stem}*"]}]}
        instance = Guest(engine_name, build_policy(document))
        ids = [
            stem + "x",
            stem + "xyz" * 9,
            stem,
            stem[:-1],
            *(stem[:at] + "~" + stem[at + 1 :] + "x" for at in range(length)),
        ]
        answers = [instance.ask(PolicyInput(action, resource=Resource(kind, id))) for id in ids]
        assert [answer is ALLOW for answer in answers] == [True, True] + [False] * (length + 2)


def test_hosts_fold_in_beginnings(engine_name: str) -> None:
    rule = {
        "effect": "allow",
        "actions": ["http.outbound", "x.y"],
        "resources": ["host:Abcdefghijk@[`{.Zz.*", "k:Ab/*"],
    }
    instance = Guest(engine_name, build_policy({"rules": [rule]}))
    host = "aBCDEFGHIJK@[`{.zZ.x"
    assert instance.ask(PolicyInput("http.outbound", resource=Resource("host", host))) is ALLOW
    assert instance.ask(PolicyInput("x.y", resource=Resource("host", host))) is ALLOW
    for odd in (host.replace("@", "`"), host.replace("[", "{"), host.replace("K", "\u212a"), host.replace(".x", ".")):
        assert instance.ask(PolicyInput("http.outbound", resource=Resource("host", odd))) == Deny("not_in_allowlist")
    assert instance.ask(PolicyInput("x.y", resource=Resource("k", "Ab/x"))) is ALLOW
    assert instance.ask(PolicyInput("x.y", resource=Resource("k", "ab/x"))) == Deny("not_in_allowlist")


def test_hosts_are_found_among_many(engine_name: str) -> None:
    """Their order is that of small letters, also for a question in capitals."""
    stems = [f"{first}{second}." for first in "abmyz[`{" for second in "a9-z"]
    rule = {"effect": "allow", "actions": ["http.outbound"], "resources": [f"host:{stem}*" for stem in stems]}
    instance = Guest(engine_name, build_policy({"rules": [rule]}))
    for stem, change in itertools.product(stems, (str.lower, str.upper, str.title)):
        host = change(stem + "x")
        assert instance.ask(PolicyInput("http.outbound", resource=Resource("host", host))) is ALLOW
        other = PolicyInput("http.outbound", resource=Resource("host", host.replace(".", "/")))
        assert instance.ask(other) == Deny("not_in_allowlist")


ABSENT = {
    "a resource": (PolicyInput("compute.long", resource=Resource("job", "a")), 20, Deny("not_in_allowlist")),
    "an id": (PolicyInput("compute.long", resource=Resource("job", "b")), 32, ALLOW),
    "an actor": (PolicyInput("compute.long", User("u"), Resource("job", "c")), 0, Deny("not_in_allowlist")),
}


@pytest.mark.parametrize(("question", "at", "without"), ABSENT.values(), ids=ABSENT)
def test_what_is_absent_is_not_looked_at(opened: Open, question: PolicyInput, at: int, without: object) -> None:
    """Behind a discriminant that says "none" may lie the text of an earlier question."""
    rules = [
        {"effect": "allow", "actions": ["compute.long"], "resources": ["job"], "actors": ["anonymous"]},
        {"effect": "deny", "actions": ["compute.long"], "resources": ["job:b", "job:c"], "actors": ["anonymous"]},
        {"effect": "allow", "actions": ["compute.long"], "actors": ["user:u"]},
    ]
    data = make_image(RuntimePolicy.from_document({"rules": rules}))
    instance = opened(module_of(data))
    assert instance.ask(question) != without
    raw = bytearray(record(question, instance.buffer))
    raw[at] = 0
    instance.write(instance.buffer, bytes(raw))
    assert instance.ask_raw(instance.buffer) == without


def test_nobody_has_no_id(opened: Open) -> None:
    """Not even under an image that lists ids of nobody's."""
    rule = {"effect": "allow", "actions": ["x.y"], "actors": ["user:u"]}
    data = bytearray(make_image(RuntimePolicy.from_document({"rules": [rule], "sql": ["q"]})))
    ids = next(at for at in range(40, len(data), 4) if struct.unpack_from("<8I", data, at)[:5] == (0, 0, 0, 0, 0))
    numbers = list(struct.unpack_from("<13I", data, ids))
    numbers[1:4] = numbers[4:7]
    struct.pack_into("<13I", data, ids, *numbers)
    instance = opened(module_of(bytes(data)))
    raw = bytearray(record(PolicyInput("x.y", User("u")), instance.buffer))
    instance.write(instance.buffer, bytes(raw))
    assert instance.ask_raw(instance.buffer) is ALLOW
    raw[0] = 0
    instance.write(instance.buffer, bytes(raw))
    assert instance.ask_raw(instance.buffer) == Deny("not_in_allowlist")


def test_a_deep_nest_in_both(engine_name: str) -> None:
    nested = ["a/" * depth + "*" for depth in range(MAX_NESTED)]
    rule = {
        "effect": "allow",
        "actions": ["x.y"],
        "actors": [f"user:{text}" for text in nested],
        "resources": [f"k:{text}" for text in nested],
    }
    policy = RuntimePolicy.from_document({"rules": [rule]})
    instance = Guest(engine_name, build_policy(policy))
    ids = ["a/" * depth + end for depth in (0, 1, 2, MAX_NESTED - 1, MAX_NESTED) for end in ("", "x", ".", "0")]
    for who, what in itertools.product(ids, ids):
        question = PolicyInput("x.y", User(who), Resource("k", what))
        assert instance.ask(question) == policy.evaluate(question)
        assert (policy.evaluate(question) is ALLOW) == bool(who and what)


# Bounded work, whatever the document and the question.


def many(count: int) -> dict[str, Any]:
    draw = random.Random(count)
    rules = []
    for number in range(count):
        rule: dict[str, Any] = {"effect": draw.choice(["allow", "deny"]), "actions": [draw.choice(["db.*", "db.read"])]}
        if draw.random() < 0.7:
            rule["actors"] = [f"service:team{number}/*", f"user:u{number}", "compiler_tool"]
        if draw.random() < 0.3:
            rule["modes"] = draw.sample(["dev", "test", "prod"], 2)
        if draw.random() < 0.7:
            rule["resources"] = [f"sql_query:q{number}", f"sql_query:area{number}/*", "sql_query:area/*"]
        rules.append(rule)
    return {"rules": rules, "sql": ["audit"]}


def test_work_hardly_grows_with_rules() -> None:
    most = {}
    for count in (10, 1_000, 10_000):
        policy = RuntimePolicy.from_document(many(count))
        instance = CountedGuest(build_policy(policy))
        spent, answers = [], set()
        for number in range(600):
            at = number * 37 % count
            whom: list[Actor] = [User(f"u{at}"), Service(f"team{at}/x"), CompilerTool("c"), Anonymous()]
            what = [f"q{at}", f"area{at}/x", "area/x", "audit"][number // 4 % 4]
            question = PolicyInput("db.read", whom[number % 4], Resource("sql_query", what))
            answer = instance.ask(question)
            assert answer == policy.evaluate(question)
            answers.add(answer)
            spent.append(instance.spent)
        most[count] = max(spent)
    # Patterns are searched by halving; whatever else there is costs the same. An instruction costs about one fuel, of
    # which a call has 10,000,000 by default.
    assert most[10_000] < 15_000
    assert most[10_000] < 3 * most[10]


def test_an_id_longer_than_every_pattern_costs_nothing() -> None:
    document = {
        "rules": [{"effect": "allow", "actions": ["fs.*"], "actors": ["user:a/*"], "resources": ["path:b/c/*"]}]
    }
    instance = CountedGuest(build_policy(document))
    spent = []
    for length in (8, 15_000):
        assert instance.ask(PolicyInput("fs.read", User("a/x"), Resource("path", "b/c/" * length + "x"))) is ALLOW
        spent.append(instance.spent)
    assert spent[0] == spent[1]


def test_the_worst_question_is_affordable() -> None:
    """All that can nest does, for actor and resource, and everything compares in full."""
    stems = ["a/" * depth for depth in range(MAX_NESTED)]
    rules = [
        {
            "effect": "allow",
            "actions": ["x.y"],
            "actors": [f"user:{stem}*"],
            "modes": ["prod", "dev"],
            "resources": [f"k:{stem}{number}/*" for stem in stems],
        }
        for number, stem in enumerate(stems)
    ]
    instance = CountedGuest(
        build_policy({"rules": [*rules, *({k: v for k, v in r.items() if k != "modes"} for r in rules)]})
    )
    id = "a/" * MAX_NESTED + "x"
    assert instance.ask(PolicyInput("x.y", User(id), Resource("k", id))) == Deny("not_in_allowlist")
    assert instance.spent < Limits().fuel / 10


# Images that no document gives.

READABLE = ["sql_query:q", "sql_query:r/*"]
DOCUMENT: dict[str, Any] = {
    "rules": [
        {"effect": "deny", "actions": ["db.read"], "actors": ["service:a/*", "user"], "modes": ["dev"], "reason": "no"},
        {"effect": "allow", "actions": ["db.read"], "actors": ["service:a/b"], "resources": READABLE},
        {"effect": "allow", "actions": ["http.outbound"], "resources": ["host:a.example", "host:b.*"]},
        {"effect": "deny", "actions": ["http.outbound"], "resources": ["host:b.c.*"]},
    ]
}  # fmt: skip
POLICY = RuntimePolicy.from_document(DOCUMENT)
IMAGE = make_image(POLICY)
QUESTIONS = [
    PolicyInput("db.read", Service("a/b"), Resource("sql_query", "r/x"), env=Environment("s", "dev")),
    PolicyInput("db.read", Service("a/b"), Resource("sql_query", "q")),
    PolicyInput("db.read", User("a"), Resource("sql_query", "x" * 300), env=Environment("s", "dev")),
    PolicyInput("http.outbound", resource=Resource("host", "B.c.D")),
    PolicyInput("http.outbound", resource=Resource("host", "a.EXAMPLE")),
]
WORK = 40_000


def outcomes(instance: Guest) -> list[object]:
    """The raw answers under the image that now lies in memory; checks that each lies where an answer may lie."""
    found: list[object] = []
    for question in QUESTIONS:
        instance.write(instance.buffer, record(question, instance.buffer))
        try:
            pointer = instance.call(CHECK, instance.buffer) & 0xFFFFFFFF
        except GuestTrap:
            found.append("trap")
        else:
            assert 0 < pointer <= instance.buffer - 12
            assert pointer % 4 == 0
            case, text, length = struct.unpack("<III", instance.read(pointer, 12))
            assert case in (0, 1)
            assert case == 0 or (text > 0 and text + length <= instance.buffer)
            found.append((case, instance.read(text, length) if case else b""))
        if isinstance(instance, CountedGuest):
            assert instance.spent <= WORK
    return found


def test_the_questions_reach_every_part() -> None:
    answers = [POLICY.explain(question) for question in QUESTIONS]
    assert [answer.rule for answer in answers] == [0, 1, 0, 3, 2]


def test_every_byte_changed(opened: Open) -> None:
    instance = opened(build_policy(POLICY))
    statics, sound = instance.read(0, IMAGE_BASE), outcomes(instance)
    assert "trap" not in sound
    seen: set[object] = set()
    for index in range(len(IMAGE)):
        for change in (1, 0x80):
            instance.write(IMAGE_BASE + index, bytes([IMAGE[index] ^ change]))
            seen.update(outcomes(instance))
        instance.write(IMAGE_BASE + index, IMAGE[index : index + 1])
    assert instance.read(0, IMAGE_BASE) == statics
    assert instance.read(IMAGE_BASE, len(IMAGE)) == IMAGE
    assert outcomes(instance) == sound
    assert "trap" in seen


def test_every_number_replaced_by_an_edge(opened: Open) -> None:
    instance = opened(build_policy(POLICY))
    size = len(IMAGE)
    edges = [0, 1, 2, 3, 36, 40, size - 12, size - 1, size, size + 1, 2**31 - 1, 2**31, 2**32 - IMAGE_BASE, 2**32 - 1]
    statics = instance.read(0, IMAGE_BASE)
    for at, edge in itertools.product(range(0, size, 4), edges):
        instance.write(IMAGE_BASE + at, struct.pack("<I", edge))
        outcomes(instance)
        instance.write(IMAGE_BASE + at, IMAGE[at : at + 4])
    assert instance.read(0, IMAGE_BASE) == statics


def test_truncated_at_every_length(opened: Open) -> None:
    instance = opened(build_policy(POLICY))
    for length in range(8, len(IMAGE)):
        part = bytearray(IMAGE[:length] + bytes(len(IMAGE) - length))
        part[4:8] = struct.pack("<I", length)
        instance.write(IMAGE_BASE, bytes(part))
        assert (0, b"") not in outcomes(instance)[2:4]


def test_bytes_after_the_image_have_no_say(opened: Open) -> None:
    instance = opened(build_policy(POLICY))
    for length in range(image.HEADER.size, len(IMAGE), 3):
        found = []
        for behind in (IMAGE[length:], bytes(len(IMAGE) - length), b"\xff" * (len(IMAGE) - length)):
            instance.write(IMAGE_BASE, IMAGE[:4] + struct.pack("<I", length) + IMAGE[8:length] + behind)
            found.append(outcomes(instance))
        assert found[0] == found[1] == found[2]  # G21


@pytest.mark.parametrize("looks", [0, 1, 2])
def test_what_the_header_does_not_say_is_not_looked_at(opened: Open, looks: int) -> None:
    """The label of a module is believed to this: a cache of answers goes by it."""
    instance = opened(module_of(IMAGE[:36] + struct.pack("<I", looks) + IMAGE[40:]))
    whom: list[Actor] = [Anonymous(), User("a"), Service("a/b"), Service("a/c"), CompilerTool("a/b")]
    answers: dict[tuple[object, ...], set[object]] = {}
    for who, mode, what in itertools.product(whom, ["dev", "prod"], ["q", "r/x", "z"]):
        seen = (what, who if looks & 1 else None, mode if looks & 2 else None)
        answer = instance.ask(PolicyInput("db.read", who, Resource("sql_query", what), env=Environment("s", mode)))
        answers.setdefault(seen, set()).add(answer)
    assert all(len(found) == 1 for found in answers.values())
    sound = opened(module_of(IMAGE))
    assert sound.ask(QUESTIONS[0]) == Deny("no")
    assert sound.ask(QUESTIONS[1]) is ALLOW


@pytest.mark.parametrize("looks", [4, 8, 0x80000000, 0xFFFFFFFF])
def test_a_header_that_says_more_traps(opened: Open, looks: int) -> None:
    instance = opened(module_of(IMAGE[:36] + struct.pack("<I", looks) + IMAGE[40:]))
    with pytest.raises(GuestTrap):
        instance.ask(QUESTIONS[0])


DENIALS = {
    "an allow": (0, IMAGE_BASE + 8, 2),
    "no case": (2, IMAGE_BASE + 8, 2),
    "a case in another byte": (0x101, IMAGE_BASE + 8, 2),
    "text below the image": (1, IMAGE_BASE - 1, 2),
    "text after the image": (1, IMAGE_BASE + len(IMAGE) - 1, 2),
    "text of 4 GiB": (1, IMAGE_BASE, 0xFFFFFFFF),
    "text at 0": (1, 0, 2),
    "text at the end of memory": (1, 0xFFFFFFFF, 2),
}


@pytest.mark.parametrize("denial", DENIALS.values(), ids=DENIALS)
def test_a_denial_that_is_none_traps(opened: Open, denial: tuple[int, int, int]) -> None:
    at = struct.unpack_from("<I", IMAGE, 32)[0]
    instance = opened(module_of(IMAGE[:at] + DENIAL.pack(*denial) + IMAGE[at + DENIAL.size :]))
    with pytest.raises(GuestTrap):
        instance.ask(QUESTIONS[0])
    assert instance.ask(QUESTIONS[1]) is ALLOW


def test_a_denial_that_is_not_aligned_traps(opened: Open) -> None:
    at = struct.unpack_from("<I", IMAGE, 32)[0]
    for shift in (1, 2, 3):
        moved = b"\0" * shift + IMAGE[at : at + DENIAL.size]
        data = IMAGE[:32] + struct.pack("<I", len(IMAGE) + shift) + IMAGE[36:] + moved
        instance = opened(module_of(data[:4] + struct.pack("<I", len(data)) + data[8:]))
        with pytest.raises(GuestTrap):
            instance.ask(QUESTIONS[0])


def test_what_is_neither_host_nor_not_traps(opened: Open) -> None:
    rule = {"effect": "allow", "actions": ["http.outbound"], "resources": ["host:a"]}
    data = make_image(RuntimePolicy.from_document({"rules": [rule]}))
    (at,) = (at for at in range(40, len(data) - 15, 4) if struct.unpack_from("<4I", data, at) == (0, 1, 1, 0))
    question = PolicyInput("http.outbound", resource=Resource("host", "a"))
    for value in (0, 1, 2, 0xFFFFFFFF):
        instance = opened(module_of(data[: at + 4] + struct.pack("<I", value) + data[at + 8 :]))
        if value <= 1:
            assert instance.ask(question) is ALLOW
            continue
        with pytest.raises(GuestTrap):
            instance.ask(question)


def test_parents_in_a_circle_trap(opened: Open) -> None:
    """A beginning that names itself, or a later one, as what it begins with: the way up has a limit. Or one that is
    not there."""
    stems = ["a/", "a/b/", "a/c/"]
    document = {"rules": [{"effect": "allow", "actions": ["x.y"], "actors": [f"user:{stem}*" for stem in stems]}]}
    data = make_image(RuntimePolicy.from_document(document))
    at = next(at for at in range(0, len(data), 4) if _parents(data, at) == (3, 0, 1, 1))
    for first, second in ((1, 1), (2, 1), (3, 1), (3, 3), (4, 1), (5, 1), (2**28, 1), (2**32 - 1, 1)):
        changed = bytearray(data)
        struct.pack_into("<I", changed, at + 4 + 8, first)
        struct.pack_into("<I", changed, at + 4 + 16 + 8, second)
        instance = opened(module_of(bytes(changed)))
        for id in ("a/b/x", "a/z", "a0", "b") if first <= 3 else ("a0", "b"):
            with pytest.raises(GuestTrap):
                instance.ask(PolicyInput("x.y", User(id)))
    assert opened(module_of(data)).ask(PolicyInput("x.y", User("a/z"))) is ALLOW


def _parents(data: bytes, at: int) -> tuple[int, ...]:
    """How many, and the parents of three, if beginnings lie at this offset."""
    if at + 52 > len(data):
        return ()
    numbers = struct.unpack_from("<13I", data, at)
    return numbers[0], numbers[3], numbers[7], numbers[11]
