"""Guests that lie about pointers, lengths and discriminants: an answer only where there is one, else a named error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from typing import Final

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from capgate.errors import AbiError, PolicyTrap, PolicyUnavailable
from capgate.model import Allow, Anonymous, CompilerTool, Deny, Environment, PolicyInput, Resource, Service, User
from capgate.runtime.interpreter import WasmInterpreter

from ...support.guests import HEAP, PAGE, REASON, RESULT, artifact, guest
from ...support.tools import examples
from .liar import CALLS, LIMITS, RECORD, TEXT, Liar, Liars, Outcome, encode, judge, layout

INPUTS: Final = [
    PolicyInput(
        "db.write",
        User("alice"),
        Resource("sql_query", "upsert_user"),
        "ab" * 32,
        Environment("billing", "test"),
        2**63,
    ),
    PolicyInput("fs.read", Service("\u00e9\u20ac\U0001d11e\0"), Resource("path"), "", timestamp=2**64 - 1),
    PolicyInput("env.read", CompilerTool(""), Resource("", ""), None, Environment("", "")),
    PolicyInput("", Anonymous(), None, None, Environment("", "")),
]
#: Lengths and pointers at which arithmetic goes wrong, for one page of memory.
EDGES: Final = (
    *(0, 1, 2, 4, 8, PAGE - 81, PAGE - 80, PAGE - 13, PAGE - 12, PAGE - 8, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE - 12),
    *(2**31 - 1, 2**31, 2**31 + 8, 2**32 - 80, 2**32 - 12, 2**32 - 8, 2**32 - 1),
)
LENGTHS: Final = (0, 1, LIMITS.output_bytes - 1, LIMITS.output_bytes, LIMITS.output_bytes + 1, *EDGES)
DISCRIMINANTS: Final = (0, 1, 2, 3, 127, 128, 255, 256, 257, 2**31, 2**32 - 256, 2**32 - 1)


ALLOCATION_RULES: Final = tuple(
    f"allocation{rule}" for rule in ("_misaligned", "_out_of_bounds", "_failed", "s_overlap")
)
RESULT_RULES: Final = (
    *(f"result_{rule}" for rule in ("null", "misaligned", "out_of_bounds", "overlaps_input")),
    "discriminant",
)
REASON_RULES: Final = tuple(f"reason_{rule}" for rule in ("too_long", "out_of_bounds", "not_utf8"))


@cache
def liars(engine_name: str) -> Liars:
    return Liars(engine_name)


def outcome(interpreter: WasmInterpreter, input: PolicyInput) -> Outcome:
    try:
        result = interpreter.call_policy_check(input)
    except AbiError as error:
        return "abi", error.rule
    except PolicyTrap as error:
        return "trap", error.kind
    assert not interpreter.broken
    return ("allow", None) if type(result) is Allow else ("deny", result.reason if isinstance(result, Deny) else result)


def hold(engine_name: str, liar: Liar, input: PolicyInput) -> str:
    """Ask a guest that lies like that; the answer is the one that is right, or the error names what is wrong.

    Returns which: "allow", "deny", the kind of a trap, or the rule that was broken.
    """
    interpreter = liars(engine_name)(liar)
    what, fact = outcome(interpreter, input)
    expected, right = judge(liar, input)
    assert what == expected, (liar, input, fact, right)
    if what == "abi":
        assert isinstance(right, set)
        assert fact in right, (liar, input)
    else:
        assert fact == right, (liar, input)
    if what in ("abi", "trap"):
        assert interpreter.broken
        with pytest.raises(PolicyUnavailable):
            interpreter.call_policy_check(input)
        return str(fact)
    return what


def near(liar: Liar, input: PolicyInput) -> list[int]:
    """Addresses at the ends of what the host wrote."""
    texts = encode(input)
    pointers, _ = layout(liar, texts)
    ends = [p + n for p, n in zip(pointers, [*map(len, texts), 80], strict=True)]
    return sorted({address + delta for address in (*pointers, *ends) for delta in (-12, -8, -4, 0, 4, 8)})


def allocation_lies() -> Iterator[Liar]:
    """Each call of the allocator gives each edge, the pointer of each other call, and neighbours of those."""
    for call, pointer in product(range(CALLS), EDGES):
        yield Liar(pointers={call: pointer})
    for call, other in product(range(CALLS), range(CALLS)):
        honest, _ = layout(Liar(), encode(INPUTS[0]))
        for delta in (-80, -8, -1, 0, 1, 4, 8):
            yield Liar(pointers={call: honest[other] + delta})
        yield Liar(pointers={call: HEAP, other: HEAP})


def result_lies() -> Iterator[Liar]:
    for result, discriminant in product((*EDGES, *near(Liar(), INPUTS[0])), (0, 1, 2)):
        yield Liar(result=result, discriminant=discriminant)
        yield Liar(result=result, record_at=result, discriminant=discriminant)
    for discriminant in DISCRIMINANTS:
        yield Liar(discriminant=discriminant)


def reason_lies() -> Iterator[Liar]:
    for reason, length in product((*EDGES, REASON, RESULT, HEAP), LENGTHS):
        yield Liar(discriminant=1, reason=reason, length=length)
    for length in range(len(TEXT) + 2):
        yield Liar(discriminant=1, length=length)
        yield Liar(discriminant=1, reason=REASON + length, length=len(TEXT) - length + 1)


def growing_lies() -> Iterator[Liar]:
    for call, pages in product(range(CALLS), (1, 2)):
        yield Liar(grows={call: pages})
        yield Liar(grows={call: pages}, pointers={call: PAGE})
        yield Liar(grows={call: pages}, pointers={RECORD: (1 + pages) * PAGE - 80})
        yield Liar(grows={call: pages}, pointers={RECORD: (1 + pages) * PAGE - 72})
        yield Liar(grows={call: pages}, record_at=PAGE, result=PAGE, discriminant=1)
    for discriminant in (0, 1):
        yield Liar(grows_in_check=1, result=PAGE, discriminant=discriminant)
        yield Liar(grows_in_check=1, result=2 * PAGE - 8, discriminant=discriminant)
        yield Liar(grows_in_check=1, discriminant=discriminant, reason=PAGE + 16, length=16)


def trapping_lies() -> Iterator[Liar]:
    for liar in (Liar(), Liar(discriminant=1), Liar(discriminant=2), Liar(result=0), Liar(result=PAGE)):
        yield liar.but(traps_in_check=1)
        yield liar.but(traps_in_post=1)


# M2 the allocator, M3 growth, M4 pointers and lengths, M6 discriminants, M8 a result and then a trap, M16 the sign.
@pytest.mark.parametrize(
    ("lies", "outcomes"),
    [
        (allocation_lies, {"allow", *ALLOCATION_RULES}),
        (result_lies, {"allow", "deny", "memory_out_of_bounds", *RESULT_RULES}),
        (reason_lies, {"deny", *REASON_RULES}),
        (growing_lies, {"allow", "deny", "allocation_out_of_bounds", "result_out_of_bounds"}),
        (trapping_lies, {"unreachable", "discriminant", "result_null", "result_out_of_bounds"}),
    ],
)
def test_each_lie_alone(engine_name: str, lies: Callable[[], Iterator[Liar]], outcomes: set[str]) -> None:
    assert {hold(engine_name, liar, INPUTS[0]) for liar in lies()} == outcomes


@pytest.mark.parametrize("input", INPUTS)
def test_an_honest_guest_is_believed(engine_name: str, input: PolicyInput) -> None:
    assert hold(engine_name, Liar(), input) == "allow"
    assert hold(engine_name, Liar(discriminant=1), input) == "deny"


def test_a_result_in_zeros_is_an_allow_only_where_a_result_may_be(engine_name: str) -> None:
    """Zeros are an allow, so every place that is no place for a result has to be refused before it is read."""
    zeros = Liar(record_at=512, discriminant=1)
    assert hold(engine_name, zeros.but(result=RESULT), INPUTS[3]) == "allow"
    for result in (0, PAGE - 8, PAGE, 2**31, 2**32 - 12, *range(HEAP - 8, HEAP + 80, 4)):
        assert hold(engine_name, zeros.but(result=result), INPUTS[3]) in RESULT_RULES  # M4


def test_a_reason_may_be_a_part_of_the_input(engine_name: str) -> None:
    pointers, _ = layout(Liar(), encode(INPUTS[0]))
    echo = Liar(discriminant=1, reason=pointers[3], length=len("upsert_user"))
    assert hold(engine_name, echo, INPUTS[0]) == "deny"
    assert judge(echo, INPUTS[0]) == ("deny", "upsert_user")


EDGE = st.one_of(st.sampled_from(EDGES), st.sampled_from(near(Liar(), INPUTS[0])), st.integers(0, 2**32 - 1))
CALL = st.integers(0, CALLS - 1)
LIARS = st.builds(
    Liar,
    pointers=st.dictionaries(CALL, EDGE, max_size=3),
    grows=st.dictionaries(CALL, st.integers(1, 3), max_size=2),
    record_at=st.one_of(st.just(RESULT), EDGE),
    discriminant=st.one_of(st.sampled_from(DISCRIMINANTS[:3]), st.sampled_from(DISCRIMINANTS)),
    reason=st.one_of(st.just(REASON), EDGE),
    length=st.one_of(st.just(len(TEXT)), st.sampled_from(LENGTHS)),
    result=st.one_of(st.just(RESULT), EDGE),
    grows_in_check=st.sampled_from([0, 0, 1]),
    traps_in_check=st.sampled_from([0, 0, 0, 1]),
    traps_in_post=st.sampled_from([0, 0, 0, 1]),
)


@pytest.mark.sampled
@settings(max_examples=examples(300), deadline=None)
@given(liar=LIARS, input=st.sampled_from(INPUTS))
def test_lies_together(engine_name: str, liar: Liar, input: PolicyInput) -> None:
    event(hold(engine_name, liar, input))


BLOCK: Final = 80 + sum(map(len, encode(INPUTS[0])))


@pytest.mark.parametrize(
    ("gives", "rule"),
    [
        *((address, "allocation_failed") for address in (0,)),
        *((address, "allocation_misaligned") for address in (1, 4, HEAP + 1, PAGE - 1, 2**32 - 1)),
        *((address, "allocation_out_of_bounds") for address in (PAGE, 2**31, 2**32 - 8, (PAGE - BLOCK) // 8 * 8 + 8)),
        *((address, "result_overlaps_input") for address in (RESULT, RESULT - BLOCK // 8 * 8)),
    ],
)
@pytest.mark.parametrize("pages", [0, 1])
def test_lies_about_one_block(engine_name: str, gives: int, rule: str, pages: int) -> None:
    """T-9: a guest that declares to want record and texts in one allocation, and gives no such one."""
    grows = f"(drop (memory.grow (i32.const {pages})))"
    at = gives + pages * PAGE if rule == "allocation_out_of_bounds" and gives < 2 * PAGE else gives
    realloc = f'(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) {grows} (i32.const {at}))'
    module = guest(realloc=realloc, extra='(func (export "capgate_one_block"))')
    interpreter = WasmInterpreter(artifact(module), engine=engine_name)
    with pytest.raises(AbiError) as caught:
        interpreter.call_policy_check(INPUTS[0])
    assert caught.value.rule == rule
    assert interpreter.broken


@pytest.mark.parametrize("pages", [0, 1])
def test_one_block_up_to_the_last_byte(engine_name: str, pages: int) -> None:
    input = PolicyInput("x" * (8 - (BLOCK - 2) % 8) + "db", env=Environment("", ""))
    size = 80 + len(input.action)
    at = (1 + pages) * PAGE - (size + 7) // 8 * 8
    realloc = f"""(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (drop (memory.grow (i32.const {pages}))) (i32.const {at}))"""
    module = guest(realloc=realloc, extra='(global (export "capgate_one_block") i32 (i32.const 0))')
    assert outcome(WasmInterpreter(artifact(module), engine=engine_name), input) == ("allow", None)
