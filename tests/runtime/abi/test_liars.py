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
from capgate.runtime.abi.canonical_abi import PLAIN, WITH_FACTS, Interface
from capgate.runtime.interpreter import WasmInterpreter

from ...support.guests import HEAP, PAGE, REASON, RESULT, artifact, guest
from ...support.tools import examples
from .liar import LIMITS, TEXT, Asked, Liar, Liars, Outcome, encode, judge, layout

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
#: Those of 0.2.0, which have lists, lists of lists, and lists of records with texts.
FACTS_INPUTS: Final = [
    PolicyInput(
        "db.write",
        Service("ci", ("a",), attributes={"tags": ["x"]}, on_behalf_of=User("alice")),
        Resource("sql_query", "upsert_user", {"n": -1}),
        None,
        Environment("billing", "test"),
        2**63,
    ),
    PolicyInput("a", User("", (), ("\u20ac",)), None, "", timestamp=1, args={"b": True, "f": 0.5, "t": "x"}),
    PolicyInput("", Anonymous(), None, None, Environment("", "")),
]
QUESTIONS: Final = {PLAIN: INPUTS, WITH_FACTS: FACTS_INPUTS}
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


@pytest.fixture(scope="module", params=[PLAIN, WITH_FACTS], ids=["plain", "facts"])
def interface(request: pytest.FixtureRequest) -> Interface:
    return request.param  # type: ignore[no-any-return]


@cache
def liars(engine_name: str, interface: Interface) -> Liars:
    return Liars(engine_name, interface)


def calls(interface: Interface) -> int:
    """How often the allocator is called for the first question."""
    return len(first(interface).calls)


@cache
def first(interface: Interface) -> Asked:
    return encode(QUESTIONS[interface][0], interface)


def outcome(interpreter: WasmInterpreter, input: PolicyInput) -> Outcome:
    try:
        result = interpreter.call_policy_check(input)
    except AbiError as error:
        return "abi", error.rule
    except PolicyTrap as error:
        return "trap", error.kind
    assert not interpreter.broken
    return ("allow", None) if type(result) is Allow else ("deny", result.reason if isinstance(result, Deny) else result)


def hold(engine_name: str, liar: Liar, input: PolicyInput, interface: Interface = PLAIN) -> str:
    """Ask a guest that lies like that; the answer is the one that is right, or the error names what is wrong.

    Returns which: "allow", "deny", the kind of a trap, or the rule that was broken.
    """
    interpreter = liars(engine_name, interface)(liar)
    what, fact = outcome(interpreter, input)
    expected, right = judge(liar, input, interface)
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


def near(liar: Liar, asked: Asked) -> list[int]:
    """Addresses at the ends of what the host wrote."""
    pointers, _ = layout(liar, asked)
    ends = [p + size for p, (_, size) in zip(pointers, asked.calls, strict=True)]
    return sorted({address + delta for address in (*pointers, *ends) for delta in (-12, -8, -4, 0, 4, 8)})


def allocation_lies(interface: Interface) -> Iterator[Liar]:
    """Each call of the allocator gives each edge, the pointer of each other call, and neighbours of those."""
    count = calls(interface)
    for call, pointer in product(range(count), EDGES):
        yield Liar(pointers={call: pointer})
    honest, _ = layout(Liar(), first(interface))
    for call, other in product(range(count), range(count)):
        for delta in (-80, -8, -1, 0, 1, 4, 8):
            yield Liar(pointers={call: honest[other] + delta})
        yield Liar(pointers={call: HEAP, other: HEAP})


def result_lies(interface: Interface) -> Iterator[Liar]:
    for result, discriminant in product((*EDGES, *near(Liar(), first(interface))), (0, 1, 2)):
        yield Liar(result=result, discriminant=discriminant)
        yield Liar(result=result, record_at=result, discriminant=discriminant)
    for discriminant in DISCRIMINANTS:
        yield Liar(discriminant=discriminant)


def reason_lies(interface: Interface) -> Iterator[Liar]:
    for reason, length in product((*EDGES, REASON, RESULT, HEAP), LENGTHS):
        yield Liar(discriminant=1, reason=reason, length=length)
    for length in range(len(TEXT) + 2):
        yield Liar(discriminant=1, length=length)
        yield Liar(discriminant=1, reason=REASON + length, length=len(TEXT) - length + 1)


def growing_lies(interface: Interface) -> Iterator[Liar]:
    count = calls(interface)
    size = first(interface).calls[-1][1]
    for call, pages in product(range(count), (1, 2)):
        yield Liar(grows={call: pages})
        yield Liar(grows={call: pages}, pointers={call: PAGE})
        yield Liar(grows={call: pages}, pointers={count - 1: (1 + pages) * PAGE - size})
        yield Liar(grows={call: pages}, pointers={count - 1: (1 + pages) * PAGE - size + 8})
        yield Liar(grows={call: pages}, record_at=PAGE, result=PAGE, discriminant=1)
    for discriminant in (0, 1):
        yield Liar(grows_in_check=1, result=PAGE, discriminant=discriminant)
        yield Liar(grows_in_check=1, result=2 * PAGE - 8, discriminant=discriminant)
        yield Liar(grows_in_check=1, discriminant=discriminant, reason=PAGE + 16, length=16)


def trapping_lies(interface: Interface) -> Iterator[Liar]:
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
def test_each_lie_alone(
    engine_name: str, interface: Interface, lies: Callable[[Interface], Iterator[Liar]], outcomes: set[str]
) -> None:
    input = QUESTIONS[interface][0]
    assert {hold(engine_name, liar, input, interface) for liar in lies(interface)} == outcomes


def test_an_honest_guest_is_believed(engine_name: str, interface: Interface) -> None:
    for input in QUESTIONS[interface]:
        assert hold(engine_name, Liar(), input, interface) == "allow"
        assert hold(engine_name, Liar(discriminant=1), input, interface) == "deny"


def test_a_result_in_zeros_is_an_allow_only_where_a_result_may_be(engine_name: str, interface: Interface) -> None:
    """Zeros are an allow, so every place that is no place for a result has to be refused before it is read."""
    zeros = Liar(record_at=512, discriminant=1)
    input = QUESTIONS[interface][-1]
    size = encode(input, interface).calls[-1][1]
    assert hold(engine_name, zeros.but(result=RESULT), input, interface) == "allow"
    for result in (0, PAGE - 8, PAGE, 2**31, 2**32 - 12, *range(HEAP - 8, HEAP + size, 4)):
        assert hold(engine_name, zeros.but(result=result), input, interface) in RESULT_RULES  # M4


def test_a_reason_may_be_a_part_of_the_input(engine_name: str, interface: Interface) -> None:
    pointers, _ = layout(Liar(), first(interface))
    at = pointers[first(interface).texts.index(b"upsert_user")]
    echo, input = Liar(discriminant=1, reason=at, length=len("upsert_user")), QUESTIONS[interface][0]
    assert hold(engine_name, echo, input, interface) == "deny"
    assert judge(echo, input, interface) == ("deny", "upsert_user")


def liars_of(interface: Interface) -> st.SearchStrategy[Liar]:
    edge = st.one_of(st.sampled_from(EDGES), st.sampled_from(near(Liar(), first(interface))), st.integers(0, 2**32 - 1))
    call = st.integers(0, calls(interface) - 1)
    return st.builds(
        Liar,
        pointers=st.dictionaries(call, edge, max_size=3),
        grows=st.dictionaries(call, st.integers(1, 3), max_size=2),
        record_at=st.one_of(st.just(RESULT), edge),
        discriminant=st.one_of(st.sampled_from(DISCRIMINANTS[:3]), st.sampled_from(DISCRIMINANTS)),
        reason=st.one_of(st.just(REASON), edge),
        length=st.one_of(st.just(len(TEXT)), st.sampled_from(LENGTHS)),
        result=st.one_of(st.just(RESULT), edge),
        grows_in_check=st.sampled_from([0, 0, 1]),
        traps_in_check=st.sampled_from([0, 0, 0, 1]),
        traps_in_post=st.sampled_from([0, 0, 0, 1]),
    )


LIARS: Final = {interface: liars_of(interface) for interface in QUESTIONS}


@pytest.mark.sampled
@settings(max_examples=examples(300), deadline=None)
@given(data=st.data())
def test_lies_together(engine_name: str, interface: Interface, data: st.DataObject) -> None:
    liar, input = data.draw(LIARS[interface]), data.draw(st.sampled_from(QUESTIONS[interface]))
    event(hold(engine_name, liar, input, interface))


def block_size(asked: Asked) -> int:
    """Bytes of a question in one allocation: the record, the lists, which are aligned to 8 together, and the texts."""
    lists = sum(size for _, size in asked.calls[len(asked.texts) : -1])
    return asked.calls[-1][1] + (lists + 7) // 8 * 8 + sum(map(len, asked.texts))


@pytest.mark.parametrize(
    ("address_for", "rule"),
    [
        (lambda size: 0, "allocation_failed"),
        *((lambda size, at=at: at, "allocation_misaligned") for at in (1, 4, HEAP + 1, PAGE - 1, 2**32 - 1)),
        *((lambda size, at=at: at, "allocation_out_of_bounds") for at in (PAGE, 2**31, 2**32 - 8)),
        (lambda size: (PAGE - size) // 8 * 8 + 8, "allocation_out_of_bounds"),
        (lambda size: RESULT, "result_overlaps_input"),
        (lambda size: RESULT - size // 8 * 8, "result_overlaps_input"),
    ],
)
@pytest.mark.parametrize("pages", [0, 1])
def test_lies_about_one_block(
    engine_name: str, interface: Interface, address_for: Callable[[int], int], rule: str, pages: int
) -> None:
    """T-9: a guest that declares to want record and texts in one allocation, and gives no such one."""
    grows = f"(drop (memory.grow (i32.const {pages})))"
    gives = address_for(block_size(first(interface)))
    at = gives + pages * PAGE if rule == "allocation_out_of_bounds" and gives < 2 * PAGE else gives
    realloc = f'(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) {grows} (i32.const {at}))'
    module = guest(realloc=realloc, extra='(func (export "capgate_one_block"))', interface=interface)
    interpreter = WasmInterpreter(artifact(module), engine=engine_name)
    with pytest.raises(AbiError) as caught:
        interpreter.call_policy_check(QUESTIONS[interface][0])
    assert caught.value.rule == rule
    assert interpreter.broken


@pytest.mark.parametrize("pages", [0, 1])
def test_one_block_up_to_the_last_byte(engine_name: str, interface: Interface, pages: int) -> None:
    short = block_size(encode(PolicyInput("db", env=Environment("", "")), interface))
    input = PolicyInput("x" * (-short % 8) + "db", env=Environment("", ""))
    size = block_size(encode(input, interface))
    assert size % 8 == 0
    at = (1 + pages) * PAGE - size
    realloc = f"""(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (drop (memory.grow (i32.const {pages}))) (i32.const {at}))"""
    extra = '(global (export "capgate_one_block") i32 (i32.const 0))'
    module = guest(realloc=realloc, extra=extra, interface=interface)
    assert outcome(WasmInterpreter(artifact(module), engine=engine_name), input) == ("allow", None)
