"""One text for one contract: what is written is read back exactly, and nothing else is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capgate import HandlerContract
from capgate.actions import policy_hash
from capgate.errors import ConfigError
from capgate.routes.contract import ZEROS, ContractAction, ContractArgument, ContractRequirement, ContractRoute
from capgate.routes.contract.handler_contract import KEYS, split_resource
from capgate.routes.declare import Requirement, as_written, escape

from .contracts import ACTIONS, contracts, ids

WRITE = ACTIONS["db.write"]
ARGS = (ContractArgument("amount", "json:/amount"), ContractArgument("page", "query:page"))
FIXED = ContractRequirement("db.write", "sql_query:save", False, None, False, ())
DYNAMIC = ContractRequirement("http.outbound", "host:{host}", True, "body", True, ARGS)
EXAMPLE = HandlerContract(
    policy_hash="cd" * 32,
    wasm_policy_hash="ab" * 32,
    artifact_sha256="ab" * 32,
    service="orders",
    routes=(
        ContractRoute("/calls/{host}", ("POST",), "declared", (FIXED, DYNAMIC)),
        ContractRoute("/health", ("GET", "HEAD"), "public", ()),
    ),
    actions=(WRITE, ACTIONS["http.outbound"]),
)


@pytest.mark.slow
@given(contracts())
def test_reading_back_is_exact(contract: HandlerContract) -> None:
    text = contract.to_json()
    again = HandlerContract.from_json(text)
    assert again == contract
    assert again.to_json() == text
    assert HandlerContract.from_json(text.decode()) == contract
    assert again.sections == contract.sections
    assert hash(again) == hash(contract)


@pytest.mark.slow
@given(contracts(), st.randoms(use_true_random=False))
def test_white_space_and_the_order_of_keys_are_free(contract: HandlerContract, random: Any) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            keys = sorted(value)
            random.shuffle(keys)
            return {key: shuffled(value[key]) for key in keys}
        return [shuffled(one) for one in value] if isinstance(value, list) else value

    text = json.dumps(shuffled(json.loads(contract.to_json())), ensure_ascii=False)
    assert HandlerContract.from_json(text.encode()) == contract


@pytest.mark.slow
@given(contracts())
def test_the_text_is_for_diffs_and_terminals(contract: HandlerContract) -> None:
    text = contract.to_json()
    assert text.endswith(b"}\n")
    assert all(line.isascii() and line.isprintable() for line in text.decode().splitlines())
    assert max(map(len, text.splitlines())) < 400
    assert list(json.loads(text)) == sorted(json.loads(text)) == list(KEYS)


def test_the_keys_of_the_file() -> None:
    raw = json.loads(EXAMPLE.to_json())
    assert (raw["format"], raw["service"], raw["policyHash"]) == (2, "orders", "cd" * 32)
    assert (raw["wasmPolicyHash"], raw["artifactSha256"]) == ("ab" * 32, "ab" * 32)
    assert raw["routes"][0] == {
        "path": "/calls/{host}",
        "methods": ["POST"],
        "status": "declared",
        "requirements": [
            {
                "action": "db.write",
                "resource": "sql_query:save",
                "dynamic": False,
                "argsHash": None,
                "facts": False,
                "args": [],
            },
            {
                "action": "http.outbound",
                "resource": "host:{host}",
                "dynamic": True,
                "argsHash": "body",
                "facts": True,
                "args": [{"name": "amount", "source": "json:/amount"}, {"name": "page", "source": "query:page"}],
            },
        ],
    }
    assert raw["actions"][1] == {
        "name": "http.outbound",
        "section": "egress",
        "kind": "host",
        "resourceRequired": True,
        "operations": [],
    }
    assert raw["sections"] == {
        "egress": {"static": [], "dynamic": True},
        "sql": {"static": ["save"], "dynamic": False},
    }


def test_no_wasm_policy_is_all_zeros() -> None:
    raw = json.loads(HandlerContract(policy_hash=policy_hash()).to_json())
    assert (raw["wasmPolicyHash"], raw["artifactSha256"], raw["service"]) == ("0" * 64, "0" * 64, None)
    assert ZEROS == "0" * 64


Change = Callable[[dict[str, Any]], object]


def at(*path: Any, value: Any) -> Change:
    """Put ``value`` where ``path`` leads, its last step an index or a key, which may be new."""

    def change(raw: Any) -> None:
        for step in path[:-1]:
            raw = raw[step]
        raw[path[-1]] = value

    return change


def without(*path: Any) -> Change:
    def change(raw: Any) -> None:
        for step in path[:-1]:
            raw = raw[step]
        del raw[path[-1]]

    return change


def flip(raw: dict[str, Any]) -> None:
    raw["routes"].reverse()


ARGUMENT = "routes[0].requirements[1].args[0]"
#: What is wrong, and the path of the key that is blamed.
BAD: list[tuple[Change, str]] = [
    *((without(key), key) for key in KEYS),
    (at("extra", value=1), "extra"),
    (at("\u202eextra\n", value=1), r"\u202eextra\n"),
    (at("wasm_policy_hash", value="0" * 64), "wasm_policy_hash"),
    (at("format", value=1), "format"),
    (at("format", value=3), "format"),
    (at("format", value=2.0), "format"),
    (at("format", value=True), "format"),
    (at("format", value="2"), "format"),
    (at("format", value="\ud800"), "contract"),
    (at("service", value=""), "service"),
    (at("service", value=5), "service"),
    (at("service", value="a\nb"), "service"),
    *(
        (at(key, value=value), key)
        for key in ("policyHash", "wasmPolicyHash", "artifactSha256")
        for value in ("", "AB" * 32, "ab" * 20, "ab" * 32 + "\n", "0x" + "0" * 62, None, 0, ["ab" * 32])
    ),
    (at("routes", value={}), "routes"),
    (at("routes", value=None), "routes"),
    (at("routes", 0, value="x"), "routes[0]"),
    (flip, "routes[1]"),
    (at("routes", 0, "path", value=""), "routes[0].path"),
    (at("routes", 0, "path", value="/\ud800"), "routes[0].path"),
    (at("routes", 0, "path", value=5), "routes[0].path"),
    (at("routes", 0, "methods", value="POST"), "routes[0].methods"),
    (at("routes", 0, "methods", value=["POST", "GET"]), "routes[0].methods[1]"),
    (at("routes", 0, "methods", value=["GET", "GET"]), "routes[0].methods[1]"),
    (at("routes", 0, "methods", value=["GET\n"]), "routes[0].methods"),
    (at("routes", 0, "methods", 0, value=None), "routes[0].methods[0]"),
    (at("routes", 0, "status", value="Public!"), "routes[0].status"),
    (at("routes", 0, "status", value=True), "routes[0].status"),
    (at("routes", 0, "extra", value=1), "routes[0]"),
    (without("routes", 0, "status"), "routes[0]"),
    (at("routes", 0, "requirements", 0, "action", value="db.read"), "routes[0].requirements[0].action"),
    (at("routes", 0, "requirements", 0, "resource", value="sql_query:{x}"), "routes[0].requirements[0].dynamic"),
    (at("routes", 0, "requirements", 0, "resource", value="host:save"), "routes[0].requirements[0].resource"),
    (at("routes", 0, "requirements", 0, "resource", value="sql_query:"), "routes[0].requirements[0].resource"),
    (at("routes", 0, "requirements", 0, "resource", value="sql_query:{"), "routes[0].requirements[0].resource"),
    (at("routes", 0, "requirements", 0, "resource", value="sql_query:{a!r}"), "routes[0].requirements[0].resource"),
    (at("routes", 0, "requirements", 0, "resource", value="sql_query:{a:3}"), "routes[0].requirements[0].resource"),
    (at("routes", 0, "requirements", 0, "resource", value="sql_query:{}"), "routes[0].requirements[0].resource"),
    (at("routes", 0, "requirements", 0, "resource", value="sql_query:{0}"), "routes[0].requirements[0].resource"),
    (at("routes", 0, "requirements", 0, "resource", value="sql_query:\ud800"), "routes[0].requirements[0].resource"),
    (at("routes", 0, "requirements", 0, "dynamic", value=True), "routes[0].requirements[0].dynamic"),
    (at("routes", 0, "requirements", 0, "dynamic", value=0), "routes[0].requirements[0].dynamic"),
    (at("routes", 0, "requirements", 0, "argsHash", value="query"), "routes[0].requirements[0].argsHash"),
    (without("routes", 0, "requirements", 0, "argsHash"), "routes[0].requirements[0]"),
    (without("routes", 0, "requirements", 0, "facts"), "routes[0].requirements[0]"),
    (without("routes", 0, "requirements", 0, "args"), "routes[0].requirements[0]"),
    (at("routes", 0, "requirements", 0, "facts", value=0), "routes[0].requirements[0].facts"),
    (at("routes", 0, "requirements", 0, "args", value={"a": "json:/a"}), "routes[0].requirements[0].args"),
    (lambda raw: raw["routes"][0]["requirements"][1]["args"].reverse(), "routes[0].requirements[1].args[1]"),
    *(
        (at("routes", 0, "requirements", 1, "args", 0, "name", value=value), f"{ARGUMENT}.name")
        for value in ("", "Amount", "a-b", "a" * 65, 5, None)
    ),
    *(
        (at("routes", 0, "requirements", 1, "args", 0, "source", value=value), f"{ARGUMENT}.source")
        for value in ("", "amount", ":a", "JSON:/a", "json:\n", "json:\ud800", None)
    ),
    (lambda raw: raw["routes"][0]["requirements"].reverse(), "routes[0].requirements[1]"),
    (lambda raw: raw["actions"].reverse(), "actions[1]"),
    (without("actions", 0), "routes[0].requirements[0].action"),
    (without("routes", 0), "actions[0].name"),
    (at("actions", 0, "name", value="DB.write"), "actions[0].name"),
    (at("actions", 0, "section", value="database"), "actions[0].section"),
    (at("actions", 0, "kind", value=""), "actions[0].kind"),
    (at("actions", 0, "resourceRequired", value="yes"), "actions[0].resourceRequired"),
    (at("actions", 0, "operations", value=["write", "delete"]), "actions[0].operations[1]"),
    (at("sections", value=[]), "sections"),
    (at("sections", value=None), "sections"),
    (without("sections", "sql"), "sections.sql"),
    (at("sections", "cache", value={"static": [], "dynamic": True}), "sections.cache"),
    (at("sections", "sql", "static", value=[]), "sections.sql.static"),
    (at("sections", "sql", "static", value=["save", "x"]), "sections.sql.static"),
    (at("sections", "sql", "static", value={}), "sections.sql.static"),
    (at("sections", "sql", "dynamic", value=0), "sections.sql.dynamic"),
    (at("sections", "sql", "dynamic", value=True), "sections.sql.dynamic"),
    (at("sections", "sql", "more", value=True), "sections.sql.more"),
]


@pytest.mark.parametrize(("change", "setting"), BAD, ids=[f"{index}-{path}" for index, (_, path) in enumerate(BAD)])
def test_what_is_no_contract_is_refused_by_the_path_of_its_key(change: Change, setting: str) -> None:  # A2, C4
    raw = json.loads(EXAMPLE.to_json())
    change(raw)
    with pytest.raises(ConfigError) as caught:
        HandlerContract.from_json(json.dumps(raw))
    assert caught.value.setting == setting


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"1",
        b'"contract"',
        b"\xff",
        b"\xef\xbb\xbf{}",
        b"{} {}",
        b'{"format": NaN}',
        b'{"format": 1e999}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"sections":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"format": ' + b"9" * 10_000 + b"}",
    ],
    ids=lambda text: ascii(text[:16]),
)
def test_what_is_no_strict_json_of_an_object_is_refused(text: bytes) -> None:  # M5
    with pytest.raises(ConfigError):
        HandlerContract.from_json(text)


@pytest.mark.parametrize("key", [*KEYS, "path", "action", "dynamic", "static"])
def test_a_key_that_is_there_twice_is_refused(key: str) -> None:  # A2
    text = EXAMPLE.to_json().decode()
    twice = text.replace(f'"{key}": ', f'"{key}": 0, "{key}": ', 1)
    assert twice != text
    with pytest.raises(ConfigError) as caught:
        HandlerContract.from_json(twice)
    assert caught.value.setting == key


@given(st.data())
def test_no_changed_byte_reads_as_another_shape(data: st.DataObject) -> None:  # A1
    text = bytearray(EXAMPLE.to_json())
    index = data.draw(st.integers(0, len(text) - 1))
    text[index] = data.draw(st.integers(0, 255))
    try:
        contract = HandlerContract.from_json(bytes(text))
    except ConfigError:
        return
    assert HandlerContract.from_json(contract.to_json()) == contract


@pytest.mark.parametrize(
    "fields",
    [
        {"policy_hash": "x"},
        {"policy_hash": None},
        {"wasm_policy_hash": "AB" * 32},
        {"artifact_sha256": 5},
        {"service": 5},
        {"format": 1},
        {"routes": []},
        {"routes": ("x",)},
        {"actions": [WRITE]},
        {"actions": (WRITE,)},
        {"routes": EXAMPLE.routes},
        {"routes": (ContractRoute("/", ("GET", "DELETE"), "public", ()),)},
        {"routes": (ContractRoute("/", ["GET"], "public", ()),)},  # type: ignore[arg-type]
        {"routes": (ContractRoute("/", (), "public", [FIXED]),), "actions": (WRITE,)},  # type: ignore[arg-type]
        {"actions": (ContractAction("db.write", "sql", None, 1, ()),)},  # type: ignore[arg-type]
    ],
)
def test_a_contract_that_exists_is_a_consistent_one(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        HandlerContract(**{"policy_hash": policy_hash(), **fields})


def test_a_contract_does_not_change() -> None:
    with pytest.raises(AttributeError):
        EXAMPLE.service = "other"  # type: ignore[misc]
    EXAMPLE.sections.clear()
    assert set(EXAMPLE.sections) == {"egress", "sql"}


@given(ids, st.sampled_from(["", "{name}", "{a}{b}"]))
def test_resources_read_as_declarations_do(id: str, more: str) -> None:
    text = f"tool:{escape(id)}{more}"
    parsed = Requirement.parse("tool.inspect", resource=text)
    assert as_written(parsed).get("resource") == text
    kind, found, dynamic = split_resource(text)
    assert (kind, dynamic) == ("tool", bool(parsed.parameters))
    assert found == (None if parsed.fixed is None else parsed.fixed.id)
