"""Engine objects on the wrong thread, and where the memory of dead instances goes."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from capgate.artifact.build import build_policy
from capgate.errors import PolicyError, PolicyTrap, PolicyUnavailable
from capgate.model import Allow, PolicyInput, Resource
from capgate.runtime.engine import load_engine
from capgate.runtime.interpreter import WasmInterpreter

from ...support.guests import artifact, guest

POLICY = build_policy({"env": ["TZ"]})
ASKED = PolicyInput("env.read", resource=Resource("env_var", "TZ"))
GUESTS = {"built": POLICY, "any": guest()}


def on_another_thread(run: Callable[[], None]) -> None:
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def live_instances() -> int:
    """Instances of either engine that anything still refers to."""
    names = {"WasmerInstance", "WasmtimeInstance", "Store"}
    return sum(type(item).__name__ in names for item in gc.get_objects())


@pytest.mark.parametrize("kind", GUESTS)
def test_a_call_on_another_thread_is_a_trap_where_the_engine_forbids_it(engine_name: str, kind: str) -> None:
    interpreter = WasmInterpreter(artifact(GUESTS[kind]), engine=engine_name)
    assert isinstance(interpreter.call_policy_check(ASKED), Allow)
    outcomes: list[object] = []

    def run() -> None:
        try:
            outcomes.append(interpreter.call_policy_check(ASKED))
        except PolicyTrap as error:
            outcomes.append(error.kind)

    on_another_thread(run)
    if load_engine(engine_name).thread_bound:
        assert outcomes == ["engine_fault"]  # P5, M15, P3: PanicException is a BaseException
        assert interpreter.broken
        with pytest.raises(PolicyUnavailable):
            interpreter.call_policy_check(ASKED)
    else:
        assert [type(item) for item in outcomes] == [Allow]
        assert isinstance(interpreter.call_policy_check(ASKED), Allow)


@pytest.mark.parametrize("kind", GUESTS)
def test_an_instance_on_another_thread_is_a_trap_where_the_engine_forbids_it(engine_name: str, kind: str) -> None:
    module = load_engine(engine_name).compile(GUESTS[kind])
    kinds: list[str] = []

    def run() -> None:
        try:
            module.instantiate()
        except PolicyTrap as error:
            kinds.append(error.kind)

    on_another_thread(run)
    assert kinds == (["engine_fault"] if load_engine(engine_name).thread_bound else [])  # P5


@pytest.mark.slow
@pytest.mark.parametrize("kind", GUESTS)
def test_the_last_reference_may_go_on_another_thread(
    engine_name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    monkeypatch.setattr(threading, "excepthook", unraisable.append)
    held = [WasmInterpreter(artifact(GUESTS[kind]), engine=engine_name) for _ in range(5)]
    for interpreter in held:
        interpreter.call_policy_check(ASKED)
    finished: list[bool] = []
    del interpreter

    def run() -> None:
        while held:
            held.pop()
        gc.collect()
        finished.append(True)

    on_another_thread(run)
    assert (finished, unraisable) == ([True], [])  # P5


def ask_one(engine_name: str, data: bytes) -> str:
    """What becomes of one question to a new instance, of which nothing is kept."""
    interpreter = WasmInterpreter(artifact(data), engine=engine_name)
    try:
        return type(interpreter.call_policy_check(ASKED)).__name__
    except PolicyError as error:
        assert interpreter.broken
        return error.code


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "outcome"),
    [
        (POLICY, "Allow"),
        (guest(), "Allow"),
        (guest("unreachable"), "policy_trap"),
        (guest("(i32.const -4)"), "malformed_result"),
        (guest("(i32.store8 (i32.const 1024) (i32.const 9)) (i32.const 1024)"), "malformed_result"),
    ],
    ids=["built", "any", "trap", "pointer", "discriminant"],
)
@pytest.mark.usefixtures("without_collector")
def test_an_instance_is_gone_with_the_last_reference(engine_name: str, data: bytes, outcome: str) -> None:
    before = live_instances()
    assert {ask_one(engine_name, data) for _ in range(3)} == {outcome}
    # No cycle keeps it until a garbage collection, which may happen on a thread that must not touch it.
    assert live_instances() == before  # P5, P17
