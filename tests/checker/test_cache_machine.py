"""With and without memory: the same answers and the same events, in any order of questions, whoever swaps between."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from capgate.actions import Vocabulary
from capgate.artifact.build import build_policy
from capgate.artifact.load import WasmArtifact
from capgate.checker import cached
from capgate.checker.base import ChangingChecker, Checker
from capgate.checker.cached import PATIENCE, CachedChecker
from capgate.checker.local import LocalPolicyChecker
from capgate.checker.wasm import WasmPolicyChecker
from capgate.events import DecisionEvent, add_sink, remove_sink
from capgate.limits import Limits
from capgate.model import PolicyInfo, PolicyInput, PolicyResult, canonical
from capgate.policy import RuntimePolicy
from capgate.runtime.pool import WasmPool

from ..support.documents import OWN, documents, questions
from ..support.engines import EXPECTED_ENGINES
from ..support.tools import examples

pytestmark = [pytest.mark.sampled, pytest.mark.timeout(900)]

LIMITS = Limits(deadline=20.0, input_bytes=1_024)
#: Of an event, what two events about the same question have in common.
OWN_FIELDS = {"decision_id", "timestamp"}

digests = st.sampled_from([None, None, "", "0" * 64, "x" * 129, "\ud800"])
stamps = st.sampled_from([0, 1, 2**64 - 1, -1, 2**64])
services = st.sampled_from(["s", "t", "", "s" * 200, "s" * 900, "\ud800"])


class Swapped(ChangingChecker):
    """Asks whichever checker is put there."""

    __slots__ = ("now",)

    def __init__(self, now: Checker) -> None:
        super().__init__()
        self.now = now

    @property
    def policy(self) -> PolicyInfo | None:
        return self.now.policy

    @property
    def inputs(self) -> frozenset[str] | None:
        return self.now.inputs

    @property
    def current(self) -> Checker:
        return self.now


class Events:
    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def emit(self, event: DecisionEvent) -> None:
        fields = msgspec.structs.asdict(event)
        self.seen.append({name: value for name, value in fields.items() if name not in OWN_FIELDS})


class MemoryMachine(RuleBasedStateMachine):
    kind = "local"

    @initialize(document=documents(), size=st.sampled_from([None, 1, 3, 50]))
    def begin(self, document: dict[str, Any], size: int | None) -> None:
        self.vocabulary = Vocabulary()
        self.documents = [document]
        self.asked: list[PolicyInput] = []
        self.plain, self.behind = Swapped(self.made(document)), Swapped(self.made(document))
        self.remembering = CachedChecker(self.behind, size=size)
        self.size = self.remembering.current.size

    def made(self, document: dict[str, Any]) -> Checker:
        if self.kind == "local":
            policy = RuntimePolicy.from_document(document)
            return LocalPolicyChecker(policy, limits=LIMITS, vocabulary=self.vocabulary)
        artifact = WasmArtifact.from_bytes(build_policy(document))
        return WasmPolicyChecker(WasmPool(artifact, 1, self.kind, LIMITS), vocabulary=self.vocabulary)

    @rule(data=st.data(), digest=digests, stamp=stamps, service=services)
    def ask(self, data: st.DataObject, digest: str | None, stamp: int, service: str) -> None:
        """A question about a document that answers, or did."""
        drawn = data.draw(questions(data.draw(st.sampled_from(self.documents))))
        changed = {"args_hash": digest, "timestamp": stamp, "env": msgspec.structs.replace(drawn.env, service=service)}
        some = data.draw(st.sets(st.sampled_from(sorted(changed)), max_size=2))
        input = msgspec.structs.replace(drawn, **{name: changed[name] for name in some})
        self.asked.append(input)
        self.compare([input], data.draw(st.sampled_from(["check", "evaluate", "evaluate_now", "check_many"])))

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        """Several of the questions before, in another order, by other hands."""
        inputs = data.draw(st.lists(st.sampled_from(self.asked), min_size=1, max_size=6))
        if data.draw(st.booleans()):
            other = data.draw(st.sampled_from(self.asked))
            inputs = [msgspec.structs.replace(input, actor=other.actor, env=other.env) for input in inputs]
        self.compare(inputs, data.draw(st.sampled_from(["check", "evaluate", "evaluate_now", "check_many"])))

    @rule(data=st.data())
    def swap(self, data: st.DataObject) -> None:
        """Another policy, or one that was there before."""
        if data.draw(st.booleans()):
            self.documents.append(data.draw(documents()))
        document = data.draw(st.sampled_from(self.documents))
        self.plain.now, self.behind.now = self.made(document), self.made(document)

    @rule(name=st.sampled_from(OWN))
    def register(self, name: str) -> None:
        """An action becomes known."""
        self.vocabulary.register(name, kind=None)

    @rule()
    def close(self) -> None:
        """The memory is closed and used again, as by an application that starts twice."""
        anyio.run(self.reopened)

    async def reopened(self) -> None:
        # The pools stay as they are: what is behind is not closed here.
        self.remembering._memory.empty(0)
        assert self.remembering.remembered == 0
        await self.remembering.start()

    def compare(self, inputs: list[PolicyInput], way: str) -> None:
        expected, found = (anyio.run(answers, checker, inputs, way) for checker in (self.plain, self.remembering))
        assert found == expected

    @invariant()
    def bounded(self) -> None:
        if hasattr(self, "remembering"):
            assert self.remembering.remembered <= self.size


async def answers(checker: Checker, inputs: list[PolicyInput], way: str) -> tuple[list[bytes], list[dict[str, Any]]]:
    """The answers as bytes, and the events."""
    sink, results = Events(), list[PolicyResult]()
    add_sink(sink)
    try:
        if way == "check_many":
            results = await checker.check_many(inputs)
        else:
            for input in inputs:
                asked = getattr(checker, way)(input)
                results.append(asked if way == "evaluate_now" else await asked)
    finally:
        remove_sink(sink)
    return [canonical(result) for result in results], sink.seen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "patience"), [("local", PATIENCE), *((kind, 2) for kind in ("local", *EXPECTED_ENGINES))]
)
def test_what_is_remembered_changes_no_answer_and_no_event(
    kind: str, patience: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With little patience, most questions soon pass the memory by."""
    monkeypatch.setattr(cached, "PATIENCE", patience)
    machine = type("Machine", (MemoryMachine,), {"kind": kind})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples(16 if kind == "local" else 6),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
