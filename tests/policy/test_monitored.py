"""Rules that only monitor: no answer depends on them, in Python or as a module, and they say what they would deny."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capgate.artifact.build import MONITOR_SECTION, build_policy, is_built_by_capgate
from capgate.artifact.guest import make_image
from capgate.artifact.load import WasmArtifact
from capgate.conditions import Declaration, compile_conditions
from capgate.errors import ArtifactError, ConfigError
from capgate.model import Allow, Environment, PolicyInput, Resource, User
from capgate.policy import MonitoredRules, RuntimePolicy
from capgate.policy.rules import MAX_RULES
from capgate.wasm import decode, encode, with_custom

from ..support.documents import documents, questions
from ..support.tools import examples

WATCHED: dict[str, Any] = {
    "sql": "any",
    "rules": [
        {"effect": "deny", "actions": ["db.*"], "resources": ["sql_query:a"], "reason": "not a", "monitor": True},
        {"effect": "deny", "actions": ["db.read"], "resources": ["sql_query:b"], "reason": "no b"},
        {"effect": "deny", "actions": ["db.read"], "actors": ["user:eve"], "modes": ["prod"], "monitor": True},
        {"effect": "deny", "actions": ["db.read"], "resources": ["sql_query:a"], "reason": "second", "monitor": True},
    ],
}


def without_monitored(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "rules": [rule for rule in document.get("rules", []) if not rule.get("monitor")]}


def counting(document: dict[str, Any]) -> dict[str, Any]:
    rules = [{key: value for key, value in rule.items() if key != "monitor"} for rule in document["rules"]]
    return {**document, "rules": rules}


def ask(id: str, who: str = "ada", mode: str = "prod", action: str = "db.read") -> PolicyInput:
    return PolicyInput(action, User(who), Resource("sql_query", id), env=Environment("s", mode))


@pytest.mark.sampled
@settings(max_examples=examples(200), suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example])
@given(data=st.data(), document=documents())
def test_no_answer_depends_on_them(data: st.DataObject, document: dict[str, Any]) -> None:
    policy, bare = (RuntimePolicy.from_document(each) for each in (document, without_monitored(document)))
    as_if = RuntimePolicy.from_document(counting(document))
    assert policy.inputs == bare.inputs
    assert {name: entry.required for name, entry in policy.actions.items()} == {
        name: entry.required for name, entry in bare.actions.items()
    }
    assert make_image(policy) == make_image(bare)
    for asked in data.draw(st.lists(questions(document), min_size=4, max_size=12)):
        explained = policy.explain(asked)
        assert policy.evaluate(asked) == explained.result == bare.evaluate(asked)
        assert policy.counting_all().evaluate(asked) == as_if.evaluate(asked)
        if explained.monitored is None:
            assert type(as_if.evaluate(asked)) is type(explained.result)
            continue
        assert type(explained.result) is Allow  # what is denied is denied already
        assert document["rules"][explained.monitored]["monitor"] is True
        assert type(as_if.evaluate(asked)) is not Allow


def test_the_first_that_matches_is_told() -> None:
    policy = RuntimePolicy.from_document(WATCHED)
    for asked, number in (
        (ask("a"), 0),
        (ask("a", "eve"), 0),
        (ask("a", action="db.write"), 0),
        (ask("c", "eve"), 2),
        (ask("c", "eve", "dev"), None),
        (ask("c"), None),
        (ask("b", "eve"), None),  # denied
    ):
        assert policy.explain(asked).monitored == number
    assert policy.inputs == {"action", "resource"}  # who asks and in which mode matters for no answer


def test_false_is_what_it_is_without_it() -> None:
    rule = {"effect": "deny", "actions": ["db.read"]}
    plain, said = (
        RuntimePolicy.from_document({"sql": "any", "rules": [each]}) for each in (rule, {**rule, "monitor": False})
    )
    assert plain.rules == said.rules
    assert said.monitored is None


# -- as a module


def test_a_module_carries_them_beside_its_image() -> None:
    data = build_policy(WATCHED)
    artifact = WasmArtifact.from_bytes(data)
    policy = RuntimePolicy.from_document(WATCHED)
    assert artifact.monitored is not None
    assert policy.monitored is not None
    assert artifact.monitored.rules == policy.monitored.rules
    assert [each.number for each in artifact.monitored.rules] == [0, 2, 3]
    assert artifact.inputs == frozenset({"action", "resource"})
    assert is_built_by_capgate(data)
    assert build_policy(WATCHED) == data
    bare = build_policy(without_monitored(WATCHED))
    assert WasmArtifact.from_bytes(bare).monitored is None
    assert encode(with_custom(decode(bare), MONITOR_SECTION, policy.monitored.encode())) == data


def encoded(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    monitored = RuntimePolicy.from_document(WATCHED).monitored
    assert monitored is not None
    rules = msgspec.json.decode(monitored.encode())["rules"]
    for at, change in enumerate(changes):
        rules[at]["rule"].update(change)
    return list(rules)


def section(rules: list[dict[str, Any]], **more: Any) -> bytes:
    return msgspec.json.encode({"rules": rules, **more})


ENCODED: list[dict[str, Any]] = encoded()
#: A condition that is compiled, as JSON has bytes.
TABLE = b64encode(compile_conditions(["has(actor.id)"], Declaration()).data).decode()
BAD: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "none": section([]),
    "a list": msgspec.json.encode(encoded()),
    "an object": b"{}",
    "another member": section(ENCODED, x=1),
    "conditions of no rule": section(ENCODED, conditions=TABLE),
    "a rule without its condition": section(encoded({"when": 0})),
    "a condition of another number": section(encoded({"when": 1}), conditions=TABLE),
    "no condition": section(encoded({"when": 0}), conditions=TABLE[:-4]),
    "an allow": section(encoded({"effect": "allow"})),
    "one that counts": section(encoded({"monitor": False})),
    "a number twice": section([*ENCODED[:1], *ENCODED[:1]]),
    "another order": section(ENCODED[::-1]),
    "a negative number": section([{**ENCODED[0], "number": -1}]),
    "too many": section([{**ENCODED[0], "number": number} for number in range(MAX_RULES + 1)]),
    "spaces": b" " + section(ENCODED),
    "another field": section([{**ENCODED[0], "x": 1}]),
    "another type": section(encoded({"covers": "db.read"})),
    "no Unicode": b'{"rules":[{"number":0,"rule":{"effect":"deny","actions":["\xff"]}}]}',
    "deep": b"[" * 100_000,
    "deep in rules": b'{"rules":' + b"[" * 100_000,
}


def test_there_is_a_limit_to_what_a_module_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    monitored = RuntimePolicy.from_document(WATCHED).monitored
    assert monitored is not None
    content = monitored.encode()
    monkeypatch.setattr("capgate.policy.monitored.MAX_BYTES", len(content))
    assert MonitoredRules.decode(build_and_read()) is not None
    monkeypatch.setattr("capgate.policy.monitored.MAX_BYTES", len(content) - 1)
    with pytest.raises(ConfigError) as caught:
        build_policy(WATCHED)
    assert caught.value.setting == "rules"
    with pytest.raises(ValueError, match="limit"):
        MonitoredRules.decode(content)


def build_and_read() -> bytes:
    content = decode(build_policy(WATCHED)).custom(MONITOR_SECTION)
    assert content is not None
    return content


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_section_that_capgate_does_not_write_is_refused(content: bytes) -> None:
    data = encode(with_custom(decode(build_policy({"sql": "any"})), MONITOR_SECTION, content))
    assert not is_built_by_capgate(data)
    with pytest.raises(ArtifactError):
        WasmArtifact.from_bytes(data)
    with pytest.raises((ValueError, RecursionError)):
        MonitoredRules.decode(content)


def test_they_hold_for_a_module_of_somebody_elses() -> None:
    """No answer depends on them, so whoever made the module may say them."""
    content = section(ENCODED)
    foreign = with_custom(with_custom(decode(build_policy({"sql": "any"})), "other", b"x"), MONITOR_SECTION, content)
    artifact = WasmArtifact.from_bytes(encode(foreign))
    assert artifact.inputs is None
    assert artifact.monitored is not None
    assert artifact.monitored.first(ask("a")) is not None
