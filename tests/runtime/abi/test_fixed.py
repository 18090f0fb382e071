"""One long-lived instance whose input is written piece by piece: what lies there is never that of another question."""

from __future__ import annotations

import enum
from functools import cache
from typing import Any, Final

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from capgate.artifact.build import build_policy
from capgate.errors import AbiError, ConfigError, MalformedInput
from capgate.limits import Limits
from capgate.model import Allow, Deny, Environment, PolicyInput, PolicyResult, Resource, User
from capgate.policy import RuntimePolicy
from capgate.runtime.abi.fixed import fixed_call
from capgate.runtime.abi.lowering import lower
from capgate.runtime.engine import load_engine
from capgate.runtime.interpreter import CompiledPolicy, PreparedPolicy, WasmInterpreter

from ...support.guests import PAGE, RESULT, artifact, guest
from ...support.tools import examples
from .inputs import (
    ACTORS,
    ENVIRONMENTS,
    HASHES,
    INPUTS,
    MALFORMED,
    NAMES,
    RESOURCES,
    STAMPS,
    TEXTS,
    FrozenNoMore,
    LyingText,
    Mutable,
    as_read,
    rebuilt,
    replace,
    sized,
)
from .test_record import Recorder

DOCUMENT: Final[dict[str, Any]] = {
    "env": ["TZ", sized(300, "k"), sized(384, "\u00e9"), "\1", "\u20ac"],
    "egress": ["api.example.com"],
    "sql": ["upsert", {"name": "list", "operation": "select"}],
    "cache": "any",
    "actions": {"report.print": ["list", "a"]},
}
POLICY: Final = RuntimePolicy.from_document(DOCUMENT)
#: Limits under which a slot is as large as all text may be together, and the usual ones.
LIMITS: Final = (Limits(input_bytes=1_024), Limits())

FIELDS: Final[dict[str, st.SearchStrategy[Any]]] = {
    "action": st.one_of(st.sampled_from(NAMES), TEXTS),
    "actor": ACTORS,
    "resource": RESOURCES,
    "args_hash": HASHES,
    "env": ENVIRONMENTS,
    "timestamp": STAMPS,
}


def _changes(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[tuple[str, Any]]:
    return st.sampled_from(sorted(fields)).flatmap(lambda field: st.tuples(st.just(field), fields[field]))


#: What is asked next, seen from the question before: one field changed, the same objects again, equal but other
#: objects, an earlier question, another one, or one that is malformed in a field.
STEPS: Final = st.lists(
    st.one_of(
        st.tuples(st.just("change"), _changes(FIELDS)),
        st.tuples(st.just("change"), _changes(FIELDS)),
        st.tuples(st.just("same"), st.none()),
        st.tuples(st.just("rebuild"), st.none()),
        st.tuples(st.just("back"), st.integers(1, 6)),
        st.tuples(st.just("new"), INPUTS),
        st.tuples(st.just("malformed"), _changes(MALFORMED)),
    ),
    min_size=1,
    max_size=30,
)


def questions(first: PolicyInput, steps: list[tuple[str, Any]]) -> list[PolicyInput]:
    """Every question of a sequence. Malformed ones are in between and are not built upon."""
    asked, good = [first], [first]
    for step, argument in steps:
        if step == "malformed":
            asked.append(replace(good[-1], **dict([argument])))
            continue
        good.append(_next(step, argument, good))
        asked.append(good[-1])
    return asked


def _next(step: str, argument: Any, good: list[PolicyInput]) -> PolicyInput:
    if step == "change":
        return replace(good[-1], **dict([argument]))
    if step == "rebuild":
        return rebuilt(good[-1])
    if step == "back":
        return good[-argument:][0]
    return argument if step == "new" else good[-1]


def is_malformed(input: PolicyInput, limits: Limits) -> bool:
    try:
        lower(input, limits.input_bytes)
    except MalformedInput:
        return True
    return False


@pytest.mark.slow
@settings(max_examples=examples(100), deadline=None)
@given(first=INPUTS, steps=STEPS, limits=st.sampled_from(LIMITS))
def test_the_record_is_that_of_the_question(
    engine_name: str, first: PolicyInput, steps: list[tuple[str, Any]], limits: Limits
) -> None:
    recorder = Recorder(engine_name, "fixed", limits)
    for input in questions(first, steps):
        if is_malformed(input, limits):
            with pytest.raises(MalformedInput):
                recorder.ask(input)
            event("malformed")
        else:
            recorder.ask(input)
            assert recorder.read() == as_read(input)  # M12, G21


@cache
def compiled(engine_name: str, limits: Limits) -> CompiledPolicy:
    return CompiledPolicy(PreparedPolicy(artifact(build_policy(POLICY)), limits), load_engine(engine_name))


@cache
def long_lived(engine_name: str, limits: Limits) -> WasmInterpreter:
    """One instance for all examples of a test run: what an example leaves behind is there for the next."""
    return compiled(engine_name, limits).instantiate()


def answer(interpreter: WasmInterpreter, input: PolicyInput) -> PolicyResult | None:
    try:
        return interpreter.call_policy_check(input)
    except MalformedInput:
        return None


@pytest.mark.sampled
@settings(max_examples=examples(100), deadline=None)
@given(first=INPUTS, steps=STEPS, limits=st.sampled_from(LIMITS))
def test_one_instance_answers_as_the_policy_and_as_a_fresh_one(
    engine_name: str, first: PolicyInput, steps: list[tuple[str, Any]], limits: Limits
) -> None:
    interpreter = long_lived(engine_name, limits)
    for input in questions(first, steps):
        found = answer(interpreter, input)
        assert found == answer(compiled(engine_name, limits).instantiate(), input)  # G21
        assert (found is None) == is_malformed(input, limits)
        if found is not None:
            assert found == POLICY.evaluate(input)
            event(found.reason if isinstance(found, Deny) else "allow")
    assert not interpreter.broken
    assert interpreter.prepared.pure


# What identity does not tell


def test_an_object_that_can_change_is_no_part_of_an_input(engine_name: str) -> None:
    interpreter, mutable, subclass = long_lived(engine_name, LIMITS[0]), Mutable(), FrozenNoMore("env_var", "TZ")
    for input in (
        PolicyInput("env.read", resource=mutable),  # type: ignore[arg-type]
        PolicyInput("env.read", resource=subclass),
        PolicyInput("env.read", resource=Resource("env_var", "TZ"), env=mutable),  # type: ignore[arg-type]
        PolicyInput("env.read", mutable, Resource("env_var", "TZ")),  # type: ignore[arg-type]
    ):
        assert is_malformed(input, LIMITS[0])
        assert answer(interpreter, input) is None


@pytest.mark.parametrize("way", ["canonical", "fixed"])
def test_text_is_what_it_is_and_not_what_its_class_says(engine_name: str, way: str) -> None:
    class Name(str, enum.Enum):
        TIME = "TZ"

    lying, recorder = LyingText("other"), Recorder(engine_name, way, Limits())
    for text, real in ((lying, "other"), (Name.TIME, "TZ")):
        recorder.ask(PolicyInput(text, User(text), Resource(text, text), text, Environment(text, text)))
        assert recorder.read() == PolicyInput(real, User(real), Resource(real, real), real, Environment(real, real))
    interpreter = long_lived(engine_name, LIMITS[0])
    assert interpreter.call_policy_check(PolicyInput("env.read", resource=Resource("env_var", lying))) == Deny(
        "not_in_allowlist"
    )
    assert isinstance(
        interpreter.call_policy_check(PolicyInput("env.read", resource=Resource("env_var", Name.TIME))), Allow
    )


def test_a_timestamp_is_an_int(engine_name: str) -> None:
    class Index:
        def __index__(self) -> int:
            return 1

    recorder = Recorder(engine_name, "fixed", Limits())
    with pytest.raises(MalformedInput):
        recorder.ask(PolicyInput("a", timestamp=Index()))  # type: ignore[arg-type]
    assert is_malformed(PolicyInput("a", timestamp=Index()), Limits())  # type: ignore[arg-type]
    recorder.ask(PolicyInput("a", timestamp=True))
    assert recorder.read().timestamp == 1


# A module that is not what it seems: not reachable through an artifact, whose bytes are compared; refused all the same.


@pytest.mark.parametrize("pointer", [0, 4, 4_097, 65_528, PAGE, 2**31, 2**32 - 8])
def test_room_that_is_no_room_is_refused(engine_name: str, pointer: int) -> None:
    realloc = f'(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const {pointer}))'
    with pytest.raises(AbiError) as caught:
        _fixed(engine_name, guest(realloc=realloc))
    assert caught.value.rule == "allocation_out_of_bounds"  # M2


def test_more_input_than_the_module_has_room_for_is_a_bad_setting(engine_name: str) -> None:
    data = build_policy({"env": ["TZ"]}, input_bytes=1_024)
    WasmInterpreter(artifact(data), engine=engine_name, limits=Limits(input_bytes=1_024))
    with pytest.raises(ConfigError) as caught:
        WasmInterpreter(artifact(data), engine=engine_name, limits=Limits(input_bytes=1 << 20))
    assert (caught.value.setting, caught.value.seen) == ("input_bytes", 1 << 20)  # M11


@pytest.mark.parametrize("result", [0, 8_192, PAGE - 4, PAGE, 2**31, 2**32 - 4])
def test_a_result_lies_below_the_input(engine_name: str, result: int) -> None:
    with pytest.raises(AbiError) as caught:
        _fixed(engine_name, guest(f"(i32.const {result})"))(PolicyInput("a"))
    assert caught.value.rule == "result_out_of_bounds"  # M4
    assert isinstance(_fixed(engine_name, guest(f"(i32.const {RESULT})"))(PolicyInput("a")), Allow)


def _fixed(engine_name: str, data: bytes) -> Any:
    limits = Limits(input_bytes=1_024)
    prepared = PreparedPolicy(artifact(data), limits)
    instance = CompiledPolicy(prepared, load_engine(engine_name)).instantiate()._instance
    assert instance is not None
    _KEPT.append(instance)
    return fixed_call(instance, limits, prepared.metered.entries)


_KEPT: Final[list[object]] = []
