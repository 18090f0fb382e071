"""The policy made from a contract admits what is written in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capgate import Allow, Deny, HandlerContract, PolicyInput, Resource, RuntimePolicy, build_policy
from capgate.actions import BUILTIN_ACTIONS, policy_hash
from capgate.artifact.load import WasmArtifact
from capgate.errors import ConfigError
from capgate.routes.contract import ContractRequirement, ContractRoute, policy_from_contract, requirement_key
from capgate.routes.contract.handler_contract import split_resource
from capgate.spelling import normal_id

from ...support.gates import KINDS, make_checker
from .contracts import ACTIONS, OWN, contracts, ids


def contract_with(*needed: tuple[str, str | None]) -> HandlerContract:
    found = {
        ContractRequirement(
            action, resource, resource is not None and split_resource(resource).dynamic, None, False, ()
        )
        for action, resource in needed
    }
    route = ContractRoute("/", ("GET",), "declared", tuple(sorted(found, key=requirement_key)))
    names = sorted({action for action, _ in needed})
    return HandlerContract(policy_hash=policy_hash(), routes=(route,), actions=tuple(ACTIONS[name] for name in names))


def question(action: str, id: str | None) -> PolicyInput:
    kind = ACTIONS[action].kind or "page"
    return PolicyInput(action, resource=None if id is None else Resource(kind, id))


@given(contracts())
def test_every_static_requirement_is_allowed(contract: HandlerContract) -> None:
    policy = RuntimePolicy.from_contract(contract)
    any_of = {need.action.name for need in contract.needs() if need.open and need.action.section == "actions"}
    for route in contract.routes:
        for one in route.requirements:
            if one.dynamic:
                continue
            id = None if one.resource is None else split_resource(one.resource).id
            # Without an id no policy allows an action that needs one; but of an application's own actions a document
            # knows only that "any" does, and a list does not do, without.
            allowed = id is not None or not ACTIONS[one.action].resource_required or one.action in any_of
            assert (type(policy.evaluate(question(one.action, id))) is Allow) == allowed, one


@given(contracts(), st.data())
def test_nothing_else_is_allowed_in_a_static_section(contract: HandlerContract, data: st.DataObject) -> None:
    policy = RuntimePolicy.from_contract(contract)
    action = ACTIONS[data.draw(st.sampled_from(sorted(ACTIONS)))]
    id = data.draw(ids)
    admitted, open = set(), False
    for need in contract.needs():
        if need.action.section != action.section or (action.section == "actions" and need.action != action):
            continue
        open = open or need.open
        if need.action.name == action.name or action.section != "sql":
            admitted.add(need.id)
    result = policy.evaluate(question(action.name, id))
    normal = normal_id(action.kind or "", id)
    if normal is None and action.kind is not None:  # which is asked about without an id
        assert result == Deny("missing_resource")
        return
    assert (type(result) is Allow) == (open or normal in admitted)


@pytest.mark.parametrize("needed", [("fs.read", "path:a/*"), ("cache.read", "namespace:a*"), (OWN[0].name, "page:*")])
def test_an_id_that_would_be_a_wildcard_is_refused(needed: tuple[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        contract_with(needed).policy_document()
    assert str(caught.value.seen).endswith("*")


@pytest.mark.parametrize("needed", [("cache.read", "namespace: a"), ("fs.read", "path:a ")])
def test_an_id_that_no_document_can_say_is_refused(needed: tuple[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        contract_with(needed).policy_document()
    assert caught.value.setting == "resource"


@pytest.mark.parametrize("action", [*BUILTIN_ACTIONS, *OWN], ids=lambda action: str(action.name))
def test_a_section_that_is_not_declared_admits_nothing(action: Any) -> None:
    policy = RuntimePolicy.from_contract(HandlerContract(policy_hash=policy_hash()))
    assert type(policy.evaluate(question(action.name, "x"))) is Deny


def test_operations_are_kept_apart() -> None:
    policy = RuntimePolicy.from_contract(
        contract_with(("db.read", "sql_query:both"), ("db.write", "sql_query:both"), ("db.read", "sql_query:list"))
    )
    allowed = {
        (action, id)
        for action in ("db.read", "db.write", "db.migrate")
        for id in ("both", "list", "other")
        if type(policy.evaluate(question(action, id))) is Allow
    }
    assert allowed == {("db.read", "both"), ("db.write", "both"), ("db.read", "list")}


def test_a_dynamic_section_admits_anything_of_its_class_and_no_other() -> None:
    contract = contract_with(("http.outbound", "host:{host}"), ("http.outbound", "host:a.example"), ("env.read", None))
    assert contract.sections["egress"].dynamic
    policy = policy_from_contract(contract)
    assert type(policy.evaluate(question("http.outbound", "elsewhere.example"))) is Allow
    assert type(policy.evaluate(question("env.read", "HOME"))) is Deny
    assert type(policy.evaluate(question("db.read", "x"))) is Deny


def test_an_action_without_a_resource_takes_any() -> None:
    policy = RuntimePolicy.from_contract(contract_with(("compute.long", None), ("report.print", None)))
    assert type(policy.evaluate(question("compute.long", None))) is Allow
    assert type(policy.evaluate(question("report.print", None))) is Allow
    assert type(policy.evaluate(question("invoice.send", "1"))) is Deny


def test_hosts_are_declared_in_one_spelling() -> None:
    contract = contract_with(("http.outbound", "host:api.example"))
    assert contract.sections["egress"].static == ("api.example",)
    with pytest.raises(ValueError, match="API"):
        split_resource("host:API.example")  # no declaration is written so
    assert type(RuntimePolicy.from_contract(contract).evaluate(question("http.outbound", "Api.Example"))) is Allow


@pytest.mark.parametrize(("service", "name"), [("orders", "orders"), (None, "contract"), ("Größe x", "contract")])
def test_the_policy_has_the_name_of_the_service(service: str | None, name: str) -> None:
    assert RuntimePolicy.from_contract(HandlerContract(policy_hash=policy_hash(), service=service)).name == name


@pytest.mark.parametrize(
    ("action", "key", "value"),
    [
        ("db.read", "section", "egress"),
        ("db.read", "section", "actions"),
        ("db.read", "operations", ["read", "write"]),
        ("db.read", "resourceRequired", False),
        ("db.read", "kind", None),
        ("report.print", "section", "egress"),
    ],
)
def test_an_action_that_this_version_knows_otherwise_is_refused(action: str, key: str, value: Any) -> None:
    raw = json.loads(contract_with((action, None)).to_json())
    raw["actions"][0][key] = value
    section = raw["actions"][0]["section"]
    raw["sections"] = {section: {"static": [], "dynamic": not raw["actions"][0]["resourceRequired"]}}
    contract = HandlerContract.from_json(json.dumps(raw))
    with pytest.raises(ConfigError) as caught:
        RuntimePolicy.from_contract(contract)
    assert caught.value.setting == f"actions[0].{key}"


@pytest.mark.parametrize("kind", KINDS)
async def test_the_policy_of_a_contract_as_a_module(kind: str) -> None:
    document = contract_with(("db.read", "sql_query:list"), ("cache.read", "namespace:{name}")).policy_document()
    assert WasmArtifact.from_bytes(build_policy(document)).name == "contract"
    async with make_checker(kind, document) as checker:
        assert type(await checker.check(question("db.read", "list"))) is Allow
        assert type(await checker.check(question("cache.read", "anything"))) is Allow
        assert type(await checker.check(question("db.write", "list"))) is Deny
        assert type(await checker.check(question("db.read", "other"))) is Deny
        assert type(await checker.check(question("fs.read", "list"))) is Deny
