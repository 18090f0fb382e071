"""Documents with conditions answer alike in Python and as modules on each engine: generated documents and questions.

``TEST_PAIRS=1000000``, with ``--timeout=0``, asks so many questions on each engine.
"""

from __future__ import annotations

import os
from collections import Counter
from random import Random
from typing import Any, Final

import pytest

from capgate.artifact.build import build_policy
from capgate.artifact.load import WasmArtifact
from capgate.errors import ConfigError, MalformedInput
from capgate.limits import Limits
from capgate.model import Allow, Deny, PolicyInput, PolicyResult, Reason
from capgate.policy import RuntimePolicy
from capgate.runtime.abi.lowering import check_lowerable
from capgate.runtime.interpreter import WasmInterpreter

from ..support.random_facts import a_document_with_conditions, a_question_with_facts, conditions
from ..support.tools import examples

pytestmark = pytest.mark.sampled

#: Questions in all, of which each document is asked so many: compiling its module takes as long as these.
PAIRS: Final = int(os.environ.get("TEST_PAIRS") or examples(30_000, quick=1_000))
ASKED: Final = 100


def test_a_document_with_conditions_answers_alike_in_python_and_as_a_module(engine_name: str) -> None:
    seed = int(os.environ.get("TEST_SEED", "14"))
    random, outcomes = Random(seed), Counter[str]()
    texts = conditions(seed, min(200, 20 + PAIRS // 200))
    asked = 0
    while asked < PAIRS:
        document, policy = a_policy(random, texts)
        interpreter = WasmInterpreter(WasmArtifact(build_policy(policy)), engine=engine_name)
        assert interpreter.prepared.is_own
        for _ in range(ASKED):
            question = a_question_with_facts(random, document)
            expected = evaluated(policy, question)
            assert answer_of(interpreter, question) == expected, (document, question)
            outcomes["allow" if isinstance(expected, Allow) else expected.reason] += 1
        asked += ASKED
    assert {"allow", Reason.MISSING_FACT, Reason.NOT_IN_ALLOWLIST, Reason.MALFORMED_INPUT} <= set(outcomes)


def a_policy(random: Random, texts: tuple[str, ...]) -> tuple[dict[str, Any], RuntimePolicy]:
    """A document without mistakes whose answers depend on facts."""
    while True:
        document = a_document_with_conditions(random, texts)
        try:
            policy = RuntimePolicy.from_document(document)
        except ConfigError:
            continue
        if "facts" in policy.inputs:
            return document, policy


def evaluated(policy: RuntimePolicy, question: PolicyInput) -> PolicyResult:
    """What Python says, as a checker does: of what is malformed that it is, whatever rules would say."""
    try:
        check_lowerable(question, Limits().input_bytes)
    except MalformedInput:
        return Deny(Reason.MALFORMED_INPUT)
    return policy.evaluate(question)


def answer_of(interpreter: WasmInterpreter, question: PolicyInput) -> PolicyResult:
    try:
        return interpreter.ask(question)
    except MalformedInput:
        return Deny(Reason.MALFORMED_INPUT)
