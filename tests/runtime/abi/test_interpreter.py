"""The life of one instance: what it counts, when it is broken, what cannot be done with it."""

from __future__ import annotations

import copy
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, Final

import pytest

from capgate.artifact.build import build_policy
from capgate.errors import (
    AbiError,
    ConfigError,
    MalformedInput,
    PolicyError,
    PolicyTimeout,
    PolicyTrap,
    PolicyUnavailable,
    RestrictedModule,
)
from capgate.limits import FUEL, KNOWN_PAGES, Limits
from capgate.model import Allow, Deny, PolicyInput, Resource, User
from capgate.policy import RuntimePolicy
from capgate.runtime.engine import load_engine
from capgate.runtime.interpreter import CompiledPolicy, PreparedPolicy, WasmInterpreter

from ...support.guests import ALLOW, BUMP, REASON, RESULT, artifact, data, denies, guest, wat

DOCUMENT: Final = {"name": "shop", "version": "3", "env": ["TZ"]}
BUILT: Final = build_policy(DOCUMENT)
ASKED: Final = PolicyInput("env.read", resource=Resource("env_var", "TZ"))
OTHER: Final = PolicyInput("env.read", User("alice"), Resource("env_var", "HOME"))


def test_what_it_says_about_itself(engine_name: str) -> None:
    loaded = artifact(BUILT)
    interpreter = WasmInterpreter(loaded, engine=engine_name)
    assert (interpreter.info.name, interpreter.info.version) == ("shop", "3")
    assert (interpreter.info.sha256, interpreter.info.engine) == (loaded.sha256, engine_name)
    assert (interpreter.uses, interpreter.broken) == (0, False)
    assert interpreter.prepared.artifact is loaded


def test_it_counts_its_questions_malformed_ones_too(engine_name: str) -> None:
    interpreter = WasmInterpreter(artifact(BUILT), engine=engine_name)
    assert interpreter.call_policy_check(ASKED) == Allow()
    assert interpreter.call_policy_check(OTHER) == Deny("not_in_allowlist")
    with pytest.raises(MalformedInput):
        interpreter.call_policy_check(PolicyInput("\ud800"))
    assert (interpreter.uses, interpreter.broken) == (3, False)
    assert interpreter.call_policy_check(ASKED) == Allow()


@pytest.mark.parametrize(
    ("module", "is_pure"),
    [
        (BUILT, True),
        (build_policy({}), True),
        (guest(), False),
        (BUILT + b"\0\2\1x", False),  # with one more custom section
        (BUILT.replace(b"not_in_allowlist", b"not_in_allowlisT", 1), False),
    ],
    ids=["built", "empty", "any", "one section more", "one byte changed"],
)
def test_only_what_capgate_built_is_known_to_be_pure(module: bytes, is_pure: bool) -> None:
    """Of any other it is known only where it is set back before each question; see ``test_restoring.py``."""
    prepared = PreparedPolicy(artifact(module), Limits())
    assert (prepared.pure, prepared.restores) == (True, not is_pure)  # G21
    assert PreparedPolicy(artifact(module), Limits(), restore=False).pure is is_pure


ENDLESS: Final = "(loop $again (br $again))"
BREAKING: Final = {
    "trap": (guest("unreachable"), PolicyTrap, "policy_trap"),
    "abi": (guest("(i32.const -4)"), AbiError, "malformed_result"),
    "fuel": (guest(f"{ENDLESS} unreachable"), PolicyTimeout, "policy_timeout"),
    "depth": (guest("(call $deep) " + ALLOW, extra="(func $deep (call $deep))"), PolicyTrap, "policy_trap"),
    "allocator": (
        guest(realloc=f'(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) {ENDLESS} unreachable)'),
        PolicyTimeout,
        "policy_timeout",
    ),
    "post": (guest(post="unreachable"), PolicyTrap, "policy_trap"),
    "post without end": (guest(post=ENDLESS), PolicyTimeout, "policy_timeout"),
}


@pytest.mark.parametrize("case", BREAKING)
def test_a_broken_instance_answers_no_more(engine_name: str, case: str) -> None:
    module, kind, code = BREAKING[case]
    interpreter = WasmInterpreter(artifact(module), engine=engine_name)
    with pytest.raises(kind) as caught:
        interpreter.call_policy_check(ASKED)  # G1, G2, G4, M8
    assert isinstance(caught.value, PolicyError)
    assert caught.value.code == code
    assert interpreter.broken
    for input in (ASKED, OTHER, PolicyInput("\ud800")):
        with pytest.raises(PolicyUnavailable):
            interpreter.call_policy_check(input)
    assert interpreter.broken


def test_too_deep_a_recursion_is_a_stack_overflow(engine_name: str) -> None:
    interpreter = WasmInterpreter(artifact(BREAKING["depth"][0]), engine=engine_name)
    with pytest.raises(PolicyTrap) as caught:
        interpreter.call_policy_check(ASKED)
    assert caught.value.kind == "stack_overflow"  # G4, G19


def test_fuel_that_just_suffices_gives_an_answer_and_one_less_gives_none(engine_name: str) -> None:
    def outcome(rounds: int) -> str:
        spin = f"""(local $left i32) (local.set $left (i32.const {rounds}))
            (loop $again (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))"""
        interpreter = WasmInterpreter(artifact(guest(spin + ALLOW)), engine=engine_name, limits=Limits(fuel=20_000))
        try:
            return type(interpreter.call_policy_check(ASKED)).__name__
        except PolicyTimeout:
            return "out of fuel"

    low, high = 1, 20_000
    assert (outcome(low), outcome(high)) == ("Allow", "out of fuel")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if outcome(middle) == "Allow" else (low, middle)
    assert [outcome(rounds) for rounds in (low - 1, low, low + 1, low + 2)] == ["Allow"] * 2 + ["out of fuel"] * 2  # M9


def test_instances_of_one_policy_break_alone(engine_name: str) -> None:
    body = f"(if (i32.load8_u (local.get $input)) (then unreachable)) {ALLOW}"
    compiled = CompiledPolicy(PreparedPolicy(artifact(guest(body)), Limits()), load_engine(engine_name))
    first, second = compiled.instantiate(), compiled.instantiate()
    with pytest.raises(PolicyTrap):
        first.call_policy_check(OTHER)  # G20
    assert second.call_policy_check(ASKED) == Allow()
    assert compiled.instantiate().call_policy_check(ASKED) == Allow()
    assert (first.broken, second.broken) == (True, False)


@pytest.mark.parametrize("start", ["unreachable", ENDLESS, "(call $s)"])
def test_start_code_that_does_not_end_well_is_an_error_when_it_is_made(engine_name: str, start: str) -> None:
    module = guest(extra=f"(func $s {start}) (start $s)")
    with pytest.raises(PolicyError):
        WasmInterpreter(artifact(module), engine=engine_name)  # G2


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy, lambda item: item.__reduce_ex__(4)])
def test_it_cannot_be_copied(engine_name: str, duplicate: Callable[[Any], object]) -> None:
    interpreter = WasmInterpreter(artifact(BUILT), engine=engine_name)
    with pytest.raises(TypeError):
        duplicate(interpreter)  # P11
    assert interpreter.call_policy_check(ASKED) == Allow()


def test_the_default_engine_and_limits() -> None:
    interpreter = WasmInterpreter(artifact(BUILT))
    assert interpreter.info.engine == load_engine().name
    assert interpreter.prepared.limits == Limits(fuel=FUEL, memory_pages=KNOWN_PAGES)
    with pytest.raises(ConfigError) as caught:
        WasmInterpreter(artifact(BUILT), engine="v8")
    assert caught.value.setting == "engine"


def test_an_invalid_module_is_refused_by_the_engine_even_where_rewriting_would_mend_it(engine_name: str) -> None:
    mute = wat(f'(module (memory (export "memory") 1) {BUMP})')
    with pytest.raises(RestrictedModule):
        PreparedPolicy(artifact(mute), Limits())
    ill_typed = guest("(local.get $input) (i64.const 1) (i32.add)")
    with pytest.raises(RestrictedModule) as caught:
        CompiledPolicy(PreparedPolicy(artifact(ill_typed), Limits()), load_engine(engine_name))
    assert caught.value.rule == "invalid_module"  # G27


@pytest.mark.parametrize("text", ["", "no", "\u00e9\u20ac\U0001d11e", "a\0b", "policy_trap", "x" * 2_048])
def test_a_reason_is_the_policys_own_text(engine_name: str, text: str) -> None:
    interpreter = WasmInterpreter(artifact(guest(extra=denies(text))), engine=engine_name)
    assert interpreter.call_policy_check(ASKED) == Deny(text)


@pytest.mark.parametrize(
    "raw", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc3", b"ok\x80", b"\xfe\xff\0a"]
)
def test_a_reason_is_strict_utf8(engine_name: str, raw: bytes) -> None:
    record = b"\1\0\0\0" + REASON.to_bytes(4, "little") + len(raw).to_bytes(4, "little")
    interpreter = WasmInterpreter(artifact(guest(extra=data(RESULT, record) + data(REASON, raw))), engine=engine_name)
    with pytest.raises(AbiError) as caught:
        interpreter.call_policy_check(ASKED)
    assert caught.value.rule == "reason_not_utf8"  # M4
    assert isinstance(caught.value.__cause__, UnicodeDecodeError)


class Alarm(Exception):
    """What a signal handler of an application raises."""


@pytest.mark.parametrize(("raised", "seen"), [(KeyboardInterrupt, KeyboardInterrupt), (Alarm, PolicyTrap)])
def test_a_signal_during_a_call_breaks_the_instance(
    engine_name: str, raised: type[BaseException], seen: type[BaseException]
) -> None:
    """The handler runs once the guest returns, at any point of what is left of the call."""
    body = f"""(local $left i32) (local.set $left (i32.const 100000000))
        (loop $again (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1))))) {ALLOW}"""
    interpreter = WasmInterpreter(artifact(guest(body)), engine=engine_name, limits=Limits(fuel=10_000_000_000))

    def interrupt(number: int, frame: object) -> None:
        raise raised

    # By the processor time of this process: the clock goes on while others run, and belongs to the limit of the test.
    before = signal.signal(signal.SIGVTALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.02)
        with pytest.raises(seen):
            interpreter.call_policy_check(ASKED)  # P3
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    assert interpreter.broken
    with pytest.raises(PolicyUnavailable):
        interpreter.call_policy_check(ASKED)


def at_depth(depth: int, run: Callable[[], object]) -> object:
    """``run`` called with so many frames on the stack."""
    return run() if depth == 0 else at_depth(depth - 1, run)


@pytest.mark.parametrize("module", [BUILT, guest()], ids=["built", "any"])
def test_a_stack_of_pythons_that_is_full_gives_no_wrong_answer(engine_name: str, module: bytes) -> None:
    """An error may come at any point of writing an input; afterwards the instance is right, or it is broken."""
    policy = RuntimePolicy.from_document(DOCUMENT if module is BUILT else {"env": "any"})
    compiled = CompiledPolicy(PreparedPolicy(artifact(module), Limits()), load_engine(engine_name))
    interpreter, outcomes = compiled.instantiate(), set()
    room = sys.getrecursionlimit() - len(_frames())
    for depth in range(room - 40, room):
        asked = OTHER if depth % 2 else ASKED
        try:
            result = at_depth(depth, lambda: interpreter.call_policy_check(asked))  # noqa: B023
        except (RecursionError, PolicyError) as error:
            outcomes.add(type(error).__name__)  # P3
        else:
            outcomes.add("answer")
            assert result == policy.evaluate(asked)
        if interpreter.broken:
            interpreter = compiled.instantiate()
        assert interpreter.call_policy_check(OTHER) == policy.evaluate(OTHER)
        assert interpreter.call_policy_check(ASKED) == policy.evaluate(ASKED)
    assert "answer" in outcomes
    assert "RecursionError" in outcomes


def _frames() -> list[object]:
    return list(traceback.walk_stack(sys._getframe(1)))
