"""Rules with conditions in the guest: which of them decides, and images that no document gives."""

from __future__ import annotations

import contextlib
import itertools
import random
import struct
from collections.abc import Callable, Mapping
from functools import partial

import pytest

from capgate.artifact.build import build_policy
from capgate.artifact.guest import IMAGE_BASE, image, make_image
from capgate.artifact.guest.rule_tables import CONDITIONAL
from capgate.conditions import Conditions, Declaration, compile_conditions
from capgate.conditions.fact_table import pack_facts
from capgate.model import ALLOW, Deny, PolicyInput, PolicyResult, Reason, Resource, User
from capgate.policy import RuntimePolicy

from ...support.engines import EXPECTED_ENGINES
from ...support.tools import examples
from .guest import CountedGuest, Guest, GuestTrap, facts_record

DECLARATION = Declaration({"args": dict.fromkeys("abcdef", "bool")})
ACTION = "order.refund"
#: effect, condition, or none
Rules = list[tuple[str, str | None]]
#: What each argument is; absent where it has none.
Given = Mapping[str, bool | None]


def policy_of(rules: Rules) -> RuntimePolicy:
    """A policy with these rules, all about one action, whose reasons are their numbers."""
    written = [
        {"effect": effect, "actions": [ACTION], "when": when, "reason": f"r{number}"}
        for number, (effect, when) in enumerate(rules)
    ]
    for rule in written:
        for key in [*(["when"] if rule["when"] is None else []), *(["reason"] if rule["effect"] == "allow" else [])]:
            del rule[key]
    attributes = {"args": dict.fromkeys("abcdef", "bool")}
    return RuntimePolicy.from_document({"actions": {ACTION: "by_rule"}, "attributes": attributes, "rules": written})


def expected(rules: Rules, given: Given) -> PolicyResult:
    """What the rules say, by the words of the specification."""
    facts = {f"args.{name}": value for name, value in given.items() if value is not None}
    allowed = False
    for number, (effect, when) in enumerate(rules):
        answer = True if when is None else compile_conditions([when], DECLARATION).answer(0, facts)
        if effect == "deny" and answer is not False:
            return Deny(f"r{number}" if answer is True else Reason.MISSING_FACT)
        allowed = allowed or (effect == "allow" and answer is True)
    return ALLOW if allowed else Deny(Reason.NOT_IN_ALLOWLIST)


class FactsGuest:
    """A guest that is asked with facts."""

    def __init__(self, policy: RuntimePolicy, guest: Callable[[bytes], Guest]) -> None:
        self.guest = guest(build_policy(policy))
        conditions = policy.conditions
        assert isinstance(conditions, Conditions)
        self._spoken = image.image_facts(make_image(policy))

    def ask(self, given: Given) -> PolicyResult:
        facts = {f"args.{name}": value for name, value in given.items() if value is not None}
        return self.ask_packed(pack_facts(self._spoken, facts))

    def ask_packed(self, block: bytes) -> PolicyResult:
        self.guest.write(self.guest.buffer, facts_record(QUESTION, block, self.guest.buffer))
        return self.guest.ask_raw(self.guest.buffer, "capgate_check_with_facts")


QUESTION = PolicyInput(ACTION, User("u-1"), Resource("order", "17"))
CONDITIONS = (None, "args.a", "args.b", "!args.a", "args.a && args.b", "args.b || args.c", "has(args.c)", "args.d")


def test_the_first_denial_decides_and_one_that_is_not_known_denies(engine_name: str) -> None:
    seed = random.Random(7)
    seen: set[str] = set()
    for _ in range(examples(60)):
        count = seed.randrange(1, 8)
        rules = [(seed.choice(("allow", "deny")), seed.choice(CONDITIONS)) for _ in range(count)]
        if not any(when for _, when in rules):
            continue
        guest = FactsGuest(policy_of(rules), partial(Guest, engine_name))
        for values in itertools.product((True, False, None), repeat=4):
            given = dict(zip("abcd", values, strict=True))
            answer = guest.ask(given)
            assert answer == expected(rules, given), (rules, given)
            seen.add(str(answer))
    assert {"Allow()", str(Deny(Reason.MISSING_FACT)), str(Deny(Reason.NOT_IN_ALLOWLIST)), str(Deny("r3"))} <= seen


def test_a_question_of_version_1_knows_no_facts(engine_name: str) -> None:
    allowing = FactsGuest(policy_of([("allow", "args.a"), ("allow", "!args.a")]), partial(Guest, engine_name))
    assert allowing.guest.ask(QUESTION) == Deny(Reason.NOT_IN_ALLOWLIST)
    denying = FactsGuest(policy_of([("allow", None), ("deny", "args.a")]), partial(Guest, engine_name))
    assert denying.guest.ask(QUESTION) == Deny(Reason.MISSING_FACT)
    assert denying.ask({"a": False}) is ALLOW
    assert denying.ask_packed(b"") == Deny(Reason.MISSING_FACT)


def test_nothing_is_written_but_the_stack(engine_name: str) -> None:
    guest = FactsGuest(policy_of([("allow", "args.a"), ("deny", "args.b && args.c")]), partial(Guest, engine_name))
    guest.ask({"a": True, "b": False})
    before = guest.guest.memory()
    for values in itertools.product((True, False, None), repeat=3):
        guest.ask(dict(zip("abc", values, strict=True)))
    guest.ask({"a": True, "b": False})
    after = guest.guest.memory()
    assert after[STACK:] == before[STACK:]  # G21
    assert after[:STACK] != bytes(STACK)


#: Below this there is the stack alone.
STACK = 32_768
RULES: Rules = [("deny", "args.a"), ("deny", "args.b"), ("allow", "args.c"), ("allow", "args.d")]


@pytest.fixture(params=["counted", *EXPECTED_ENGINES])
def opened(request: pytest.FixtureRequest) -> Callable[[bytes], Guest]:
    return CountedGuest if request.param == "counted" else partial(Guest, request.param)


def conditional_record(data: bytes) -> int:
    """Where the record with the conditions of :data:`RULES` is."""
    at = data.index(struct.pack("<3I", 0, 2, 2))
    assert data.count(struct.pack("<I", CONDITIONAL | at // 4)) == 1
    return at


HOSTILE = {
    "no condition of that number": (12, 4),
    "no denial": (16, 0),
    "a denial beyond all": (16, 0x20000000),
    "a denial that there is not": (16, 6),
    "more denials than there is room for": (4, 0x7FFFFFFF),
    "more allows than there is room for": (8, 0xFFFFFFFF),
    "a match in a match": (0, CONDITIONAL | 16),
    "an unknown match": (0, 2),
}


@pytest.mark.parametrize(("at", "number"), HOSTILE.values(), ids=HOSTILE)
def test_a_record_that_is_none_traps(opened: Callable[[bytes], Guest], at: int, number: int) -> None:
    policy = policy_of(RULES)
    guest = FactsGuest(policy, opened)
    assert guest.ask({"a": True}) == Deny("r0")
    assert guest.ask({"a": False, "b": False, "d": True}) is ALLOW
    place = conditional_record(make_image(policy)) + at
    guest.guest.write(IMAGE_BASE + place, struct.pack("<I", number))
    with pytest.raises(GuestTrap):
        guest.ask({"a": True})


def test_conditions_that_the_header_does_not_name_trap(opened: Callable[[bytes], Guest]) -> None:
    """Else an answer that is remembered by what the header says would depend on more."""
    guest = FactsGuest(policy_of(RULES), opened)
    guest.guest.write(IMAGE_BASE + 36, struct.pack("<I", 0))
    with pytest.raises(GuestTrap):
        guest.ask({"a": True})


@pytest.mark.parametrize("block", [(0, 4), (65_536, 4), (2**32 - 1, 4), (2**31, 4), (-16, 17)])
def test_a_block_outside_the_arena_traps(opened: Callable[[bytes], Guest], block: tuple[int, int]) -> None:
    guest = FactsGuest(policy_of(RULES), opened)
    assert guest.ask({}) == Deny(Reason.MISSING_FACT)
    address, length = block
    if address < 0:
        address += guest.guest.memory_size()
    guest.guest.write(guest.guest.buffer + 80, struct.pack("<II", address, length))
    with pytest.raises(GuestTrap):
        guest.guest.ask_raw(guest.guest.buffer, "capgate_check_with_facts")


@pytest.mark.slow
def test_every_byte_of_the_image_changed(opened: Callable[[bytes], Guest]) -> None:
    policy = policy_of(RULES)
    data = make_image(policy)
    guest = FactsGuest(policy, opened)
    questions = [
        dict(zip("abcd", values, strict=True))
        for values in itertools.product((True, None), (False,), (True,), (False,))
    ]
    sound = [guest.ask(given) for given in questions]
    statics = guest.guest.read(STACK, IMAGE_BASE - STACK)
    trapped = 0
    for index, change in itertools.product(range(len(data)), (1, 0x80)):
        guest.guest.write(IMAGE_BASE + index, bytes([data[index] ^ change]))
        for given in questions:
            try:
                with contextlib.suppress(UnicodeDecodeError):  # a reason that is none, which hosts do not take
                    guest.ask(given)
            except GuestTrap:
                trapped += 1
                guest = FactsGuest(policy, opened)  # it left its stack as it was
                guest.guest.write(IMAGE_BASE + index, bytes([data[index] ^ change]))
            if isinstance(guest.guest, CountedGuest):
                assert guest.guest.spent < 50_000
        guest.guest.write(IMAGE_BASE + index, data[index : index + 1])
    assert guest.guest.read(STACK, IMAGE_BASE - STACK) == statics
    assert [guest.ask(given) for given in questions] == sound
    assert trapped
