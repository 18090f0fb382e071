"""Modules of documents with conditions: deterministic, told apart from others, and retired where they trap."""

from __future__ import annotations

import itertools
import random
import struct
from typing import Any

import pytest

from capgate.artifact import guest
from capgate.artifact.build import PAGE, build_policy, is_built_by_capgate, read_label, spoken_facts
from capgate.artifact.guest import IMAGE_BASE, make_image
from capgate.artifact.guest.image import image_facts, image_inputs
from capgate.artifact.load import WasmArtifact
from capgate.errors import ConfigError, PolicyTrap
from capgate.limits import Limits
from capgate.model import ALLOW, Deny, PolicyInput, Reason
from capgate.policy import RuntimePolicy
from capgate.runtime.interpreter import WasmInterpreter
from capgate.runtime.pool import WasmPool
from capgate.wasm import decode

DOCUMENT: dict[str, Any] = {
    "attributes": {"args": {"amount": "int", "note": "string"}, "context": {"mfa": "bool"}},
    "actions": {"order.refund": "by_rule", "order.list": "by_rule", "order.see": "any"},
    "rules": [
        {"effect": "allow", "actions": ["order.refund"], "when": "args.amount <= 1000"},
        {"effect": "deny", "actions": ["order.list"], "when": "!context.mfa", "reason": "mfa"},
        {"effect": "allow", "actions": ["order.list"]},
    ],
}
WITHOUT: dict[str, Any] = {**DOCUMENT, "rules": [DOCUMENT["rules"][2]]}
POLICY = RuntimePolicy.from_document(DOCUMENT)
MODULE = build_policy(POLICY)
IMAGE = make_image(POLICY)
TABLE = struct.unpack_from("<I", IMAGE, 40)[0]
SPOKEN = (("args.amount", "int"), ("context.mfa", "bool"))


def test_the_module_says_what_it_looks_at_and_which_facts() -> None:
    assert is_built_by_capgate(MODULE)
    label = read_label(decode(MODULE))
    assert label is not None
    assert label.inputs == ("action", "facts", "resource")
    assert image_inputs(IMAGE) == frozenset({"action", "facts", "resource"}) == POLICY.inputs
    assert spoken_facts(decode(MODULE)) == WasmArtifact(MODULE).spoken == SPOKEN
    assert WasmArtifact(MODULE).inputs == POLICY.inputs


def test_a_document_without_conditions_has_the_other_guest_and_no_facts() -> None:
    """Its attributes alone are not looked at."""
    module = build_policy(WITHOUT)
    assert WasmArtifact(module).spoken == ()
    assert "facts" not in (WasmArtifact(module).inputs or ())
    assert decode(module).export("capgate_check_with_facts") is None
    assert decode(MODULE).export("capgate_check_with_facts") is not None
    assert len(guest.evaluator()) < len(guest.evaluator(facts=True)) / 2
    assert struct.unpack_from("<II", make_image(RuntimePolicy.from_document(WITHOUT)), 36) == (0, 0)


def test_a_rule_that_only_monitors_has_no_condition_in_the_image() -> None:
    monitor = {"effect": "deny", "actions": ["order.see"], "when": "args.note == 'x'", "monitor": True}
    monitored = {**DOCUMENT, "rules": [monitor, *DOCUMENT["rules"]]}
    assert make_image(RuntimePolicy.from_document(monitored)) == IMAGE
    assert "facts" not in RuntimePolicy.from_document({**WITHOUT, "rules": [monitor]}).inputs
    assert WasmArtifact(build_policy({**WITHOUT, "rules": [monitor]})).spoken == ()


def test_the_same_document_gives_the_same_bytes() -> None:
    assert build_policy(RuntimePolicy.from_document(DOCUMENT)) == MODULE
    assert build_policy({**DOCUMENT, "attributes": dict(reversed(DOCUMENT["attributes"].items()))}) == MODULE


@pytest.mark.parametrize("input_bytes", [1_024, 65_536, 1_000_000])
def test_there_is_room_for_the_facts_of_the_largest_question(engine_name: str, input_bytes: int) -> None:
    module = build_policy(DOCUMENT, input_bytes=input_bytes)
    interpreter = WasmInterpreter(WasmArtifact(module), engine=engine_name, limits=Limits(input_bytes=input_bytes))
    asked = PolicyInput("order.refund", args={"amount": 7, "note": "x" * (input_bytes - 100)})
    assert interpreter.call_policy_check(asked) is ALLOW
    too_large = Limits(input_bytes=input_bytes + 2 * PAGE)
    with pytest.raises(ConfigError):
        WasmInterpreter(WasmArtifact(module), engine=engine_name, limits=too_large)


def with_image(image: bytes) -> bytes:
    """The module with another image of the same length."""
    assert len(image) == len(IMAGE)
    assert MODULE.count(IMAGE) == 1
    return MODULE.replace(IMAGE, image)


def test_conditions_that_nobody_compiled_make_it_no_built_module() -> None:
    """They say which facts the host is to give, by number."""
    assert is_built_by_capgate(with_image(IMAGE))
    size = struct.unpack_from("<I", IMAGE, TABLE + 4)[0]
    seed = random.Random(14)
    kept = 0
    for at, bit in itertools.product(range(TABLE, TABLE + size), (0, seed.randrange(1, 8))):
        changed = bytearray(IMAGE)
        changed[at] ^= 1 << bit
        if is_built_by_capgate(with_image(bytes(changed))):  # other conditions, byte for byte as they are compiled
            assert len(image_facts(bytes(changed))) == len(SPOKEN)
            kept += 1
    assert kept < size / 2  # of twice so many


@pytest.mark.parametrize("at", [0, 4, TABLE - 4, TABLE + 4, len(IMAGE) - 4, len(IMAGE), 2**31, 2**32 - 4])
def test_conditions_that_are_elsewhere_make_it_no_built_module(at: int) -> None:
    assert not is_built_by_capgate(with_image(IMAGE[:40] + struct.pack("<I", at) + IMAGE[44:]))


def test_a_header_that_names_no_facts_has_no_conditions() -> None:
    """Else a module would look at more than its label says."""
    other = make_image(RuntimePolicy.from_document(WITHOUT))
    with pytest.raises(ConfigError):
        image_facts(other[:40] + struct.pack("<I", 44) + other[44:])
    assert not is_built_by_capgate(with_image(IMAGE[:36] + struct.pack("<I", 0) + IMAGE[40:]))


def test_a_module_that_traps_is_retired_and_others_answer(engine_name: str) -> None:
    """A trap leaves the stack of an instance where it was."""
    record = struct.pack("<4I", 0, 0, 1, 0)  # an allow of order.refund, by the first condition
    assert IMAGE.count(record) == 1
    broken = with_image(IMAGE.replace(record, struct.pack("<4I", 0, 0, 1, 2)))
    assert is_built_by_capgate(broken)
    pool = WasmPool(WasmArtifact(broken), 1, engine_name)
    assert pool.call(PolicyInput("order.list", context={"mfa": True})) is ALLOW
    for _ in range(3):
        retired = pool.statistics().retired
        with pytest.raises(PolicyTrap):
            pool.call(PolicyInput("order.refund", args={"amount": 1}))
        assert pool.statistics().retired > retired
        assert pool.call(PolicyInput("order.list", context={"mfa": False})) == Deny("mfa")
        assert pool.call(PolicyInput("order.list")) == Deny(Reason.MISSING_FACT)
    assert (IMAGE_BASE + len(IMAGE)) < 2 * PAGE
