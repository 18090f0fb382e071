"""Rules in the guest, under images that no document gives: a trap or an answer, in bounded work, from what is asked."""

from __future__ import annotations

import itertools
import struct
from functools import partial
from typing import Any

import pytest

from capgate.artifact.build import build_policy
from capgate.artifact.guest import IMAGE_BASE, image, make_image
from capgate.artifact.guest.rule_tables import DENIAL
from capgate.model import ALLOW, Actor, Anonymous, CompilerTool, Deny, Environment, PolicyInput, Resource, Service, User
from capgate.policy import RuntimePolicy

from ...support.engines import EXPECTED_ENGINES
from .guest import CHECK, CountedGuest, Guest, GuestTrap, record
from .test_image import Open, module_of

pytestmark = pytest.mark.slow


@pytest.fixture(params=["counted", *EXPECTED_ENGINES])
def opened(request: pytest.FixtureRequest) -> Open:
    """Makes a guest on each engine; "counted" is wasmtime with a count of instructions."""
    return CountedGuest if request.param == "counted" else partial(Guest, request.param)


READABLE = ["sql_query:q", "sql_query:r/*"]
DOCUMENT: dict[str, Any] = {
    "rules": [
        {"effect": "deny", "actions": ["db.read"], "actors": ["service:a/*", "user"], "modes": ["dev"], "reason": "no"},
        {"effect": "allow", "actions": ["db.read"], "actors": ["service:a/b"], "resources": READABLE},
        {"effect": "allow", "actions": ["http.outbound"], "resources": ["host:a.example", "host:*.b"]},
        {"effect": "deny", "actions": ["http.outbound"], "resources": ["host:*.c.b", "host:10.0.0.0/8"]},
        {"effect": "allow", "actions": ["fs.read"], "resources": ["path:a/*"]},
    ],
    "egress": ["*.d", "fd00::/8"],
}  # fmt: skip
POLICY = RuntimePolicy.from_document(DOCUMENT)
IMAGE = make_image(POLICY)
QUESTIONS = [
    PolicyInput("db.read", Service("a/b"), Resource("sql_query", "r/x"), env=Environment("s", "dev")),
    PolicyInput("db.read", Service("a/b"), Resource("sql_query", "q")),
    PolicyInput("db.read", User("a"), Resource("sql_query", "x" * 300), env=Environment("s", "dev")),
    PolicyInput("http.outbound", resource=Resource("host", "D.c.B")),
    PolicyInput("http.outbound", resource=Resource("host", "a.EXAMPLE")),
    PolicyInput("http.outbound", resource=Resource("host", "10.255.0.1")),
    PolicyInput("http.outbound", resource=Resource("host", "fd00::1:2")),
    PolicyInput("http.outbound", resource=Resource("host", "x.y.d")),
    PolicyInput("fs.read", resource=Resource("path", "a/b")),
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
    assert [answer.rule for answer in answers] == [0, 1, 0, 3, 2, 3, None, None, 4]
    assert [answer.section for answer in answers[6:8]] == ["egress", "egress"]


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


REACHED: dict[str, Any] = {
    "effect": "deny",
    "actions": ["x.y"],
    "modes": ["mode"],
    "actors": ["user:who", "user:a/*"],
    "resources": ["kind:which", "kind:b/*"],
}

DOCUMENT_OF_REACHED = {"rules": [REACHED], "actions": {"x.y": "by_rule"}, "modes": ["mode"]}


def _positions(data: bytes | bytearray) -> dict[str, int]:
    """Where in the image of :data:`REACHED` the offset of each part is."""
    (first,) = struct.unpack_from("<I", data, 16)
    (number,) = struct.unpack_from("<I", data, data.index(b"x.y\0") - 4)
    found = {"by mode": first + image.ACTION.size * number + 20, "denials": 32}
    for name, text in (("by actor", b"mode"), ("by resource", b"who\0"), ("kind", b"kind")):
        assert data.count(text) == 1
        found[name] = data.index(text) - 4
    (by_actor,) = struct.unpack_from("<I", data, found["by actor"])
    found["beginnings"] = by_actor + 4 + 12 + 8
    (beginnings,) = struct.unpack_from("<I", data, found["beginnings"])
    return {**found, "text": beginnings + 4, "by resource, of a beginning": beginnings + 16}


_IMAGE_OF_REACHED = make_image(RuntimePolicy.from_document(DOCUMENT_OF_REACHED))


@pytest.mark.parametrize("part", sorted(_positions(_IMAGE_OF_REACHED)))
def test_a_part_that_is_not_in_the_image_traps(opened: Open, part: str) -> None:
    data, position = _IMAGE_OF_REACHED, _positions(_IMAGE_OF_REACHED)[part]
    environment, which = Environment("s", "mode"), Resource("kind", "which")
    who = User("a/x" if part in ("beginnings", "text", "by resource, of a beginning") else "who")
    question = PolicyInput("x.y", who, which, env=environment)
    assert opened(module_of(data)).ask(question) == Deny("not_in_allowlist")
    edge = len(data) - (1 if part == "text" else 3)
    for offset in (edge, edge + 3, 65_536, 2**31, 2**32 - IMAGE_BASE, 2**32 - 1):
        changed = bytearray(data)
        struct.pack_into("<I", changed, position, offset)
        instance = opened(module_of(bytes(changed)))
        with pytest.raises(GuestTrap):
            instance.ask(question)


@pytest.mark.parametrize("size", [8, 12, 20, 52])
def test_a_part_that_ends_behind_the_image_traps(opened: Open, size: int) -> None:
    """One byte too few for it, and nothing but zeros there."""
    part = {8: "by mode", 12: "denials", 20: "kind", 52: "by actor"}[size]
    data, position = _IMAGE_OF_REACHED, _positions(_IMAGE_OF_REACHED)[part]
    question = PolicyInput("x.y", User("who"), Resource("kind", "which"), env=Environment("s", "mode"))
    (offset,) = struct.unpack_from("<I", data, position)
    copy = data[offset : offset + size]
    for left in (size, size - 4):
        changed = bytearray(data + bytes(-len(data) % 4) + copy[:left])
        struct.pack_into("<I", changed, position, len(changed) - left)
        struct.pack_into("<I", changed, 4, len(changed))
        instance = opened(module_of(bytes(changed)))
        if left == size:
            assert instance.ask(question) == Deny("not_in_allowlist")
            continue
        with pytest.raises(GuestTrap):
            instance.ask(question)


def test_a_beginning_behind_the_image_is_not_read(opened: Open) -> None:
    """There lies text of this question and of earlier ones."""
    data, position = _IMAGE_OF_REACHED, _positions(_IMAGE_OF_REACHED)["beginnings"]
    (offset,) = struct.unpack_from("<I", data, position)
    copy = data[offset : offset + 20]
    for left in (20, 4):  # 4: nothing but how many there are
        changed = bytearray(data + bytes(-(len(data) + left) % 16) + copy[:left])
        struct.pack_into("<I", changed, position, len(changed) - left)
        struct.pack_into("<I", changed, 4, len(changed))
        instance = opened(module_of(bytes(changed)))
        assert instance.buffer == IMAGE_BASE + len(changed)
        for id in ("a/x", "", "b"):
            at = instance.buffer + 96
            question = PolicyInput("x.y", User(id), Resource("kind", "which"), env=Environment("s", "mode"))
            instance.write(instance.buffer, copy[left:])
            instance.write(at, record(question, at))
            if left == 20:
                assert isinstance(instance.ask_raw(at), Deny)
                continue
            with pytest.raises(GuestTrap):
                instance.ask_raw(at)


@pytest.mark.parametrize("count", [10_000, 2**28, 2**28 + 1, 2**32 - 1])
def test_more_beginnings_than_there_are_trap(opened: Open, count: int) -> None:
    data = bytearray(_IMAGE_OF_REACHED)
    (beginnings,) = struct.unpack_from("<I", data, _positions(data)["beginnings"])
    struct.pack_into("<I", data, beginnings, count)
    instance = opened(module_of(bytes(data)))
    for id in ("a/x", "", "zzz", "A"):
        with pytest.raises(GuestTrap):
            instance.ask(PolicyInput("x.y", User(id), env=Environment("s", "mode")))


@pytest.mark.parametrize("count", [4, 2**20, 214_748_365, 2**32 - 1])
def test_more_networks_than_there_are_trap(opened: Open, count: int) -> None:
    data = bytearray(make_image(RuntimePolicy.from_document({"egress": ["10.0.0.0/8"]})))
    (at,) = (at for at in range(40, len(data) - 63, 4) if _starts(data, at) == (3, 0, 10 << 24, 11 << 24))
    question = PolicyInput("http.outbound", resource=Resource("host", "10.0.0.1"))
    assert opened(module_of(bytes(data))).ask(question) is ALLOW
    struct.pack_into("<I", data, at, count)
    if count == 4:
        del data[at + 64 :]
        data += bytes(-len(data) % 4)
        struct.pack_into("<I", data, 4, len(data))
    instance = opened(module_of(bytes(data)))
    with pytest.raises(GuestTrap):
        instance.ask(question)


def _starts(data: bytes | bytearray, at: int) -> tuple[int, ...]:
    """How many, and where three begin among the IPv4 addresses, if networks lie at this offset."""
    count, *numbers = struct.unpack_from("<I" + "QQI" * 3, data, at)
    return count, *(max(0, lower - (0xFFFF << 32)) for lower in numbers[1::3])


def test_parents_in_a_circle_trap(opened: Open) -> None:
    """A beginning that names itself, or a later one, as what it begins with: the way up has a limit. Or one that is
    not there."""
    stems = ["a/", "a/b/", "a/c/"]
    rule = {"effect": "allow", "actions": ["x.y"], "actors": [f"user:{stem}*" for stem in stems]}
    document = {"rules": [rule], "actions": {"x.y": "by_rule"}}
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
    data = bytearray(
        make_image(RuntimePolicy.from_document({"rules": [rule], "sql": ["q"], "actions": {"x.y": "by_rule"}}))
    )
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
