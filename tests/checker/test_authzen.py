"""The Todo scenario that OpenID's AuthZEN working group tests decision points with, answered by one document."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Final

import pytest

from capgate.artifact.build import build_policy
from capgate.artifact.load import WasmArtifact
from capgate.model import Allow, PolicyInput, Resource, User
from capgate.policy import RuntimePolicy
from capgate.runtime.interpreter import WasmInterpreter

from ..support.tools import ROOT, require_path

FOLDER: Final = ROOT.parent / "shared" / "authzen"
#: What the scenario's README says, in its order. No id of a user or a todo is listed.
DOCUMENT: Final = """\
name = "todo"

[actions]
"user.read" = "by_rule"
"todo.read" = "by_rule"
"todo.create" = "by_rule"
"todo.update" = "by_rule"
"todo.delete" = "by_rule"

[attributes]
actor = { email = "string" }
resource = { owner = "string" }

[[rules]]
effect = "allow"
actions = ["user.read", "todo.read"]
actors = ["user"]

[[rules]]
effect = "allow"
actions = ["todo.create"]
when = 'actor.roles.exists(role, role in ["editor", "admin", "evil_genius"])'

[[rules]]
effect = "allow"
actions = ["todo.update", "todo.delete"]
when = '"editor" in actor.roles && resource.owner == actor.email'

[[rules]]
effect = "allow"
actions = ["todo.delete"]
when = '"admin" in actor.roles'

[[rules]]
effect = "allow"
actions = ["todo.update"]
when = '"evil_genius" in actor.roles'
"""
#: The scenario's actions and ours.
ACTIONS: Final = {
    "can_read_user": "user.read",
    "can_read_todos": "todo.read",
    "can_create_todo": "todo.create",
    "can_update_todo": "todo.update",
    "can_delete_todo": "todo.delete",
}


@cache
def scenario() -> tuple[dict[str, Any], dict[str, Any]]:
    """Requests with their decisions, and what is known of each subject."""
    require_path(FOLDER)
    requests = json.loads((FOLDER / "todo-decisions.json").read_text())
    return requests, json.loads((FOLDER / "todo-users.json").read_text())


def question(request: dict[str, Any]) -> PolicyInput:
    """An AuthZEN request as a question: what is known of the subject comes from the side of the decision point."""
    _, users = scenario()
    subject, resource = request["subject"], request["resource"]
    user = users[subject["id"]]
    facts = {"owner": properties["ownerID"]} if (properties := resource.get("properties")) else {}
    return PolicyInput(
        ACTIONS[request["action"]["name"]],
        User(subject["id"], roles=tuple(user["roles"]), attributes={"email": user["email"]}),
        Resource(resource["type"], resource["id"], facts),
    )


def judged() -> list[tuple[PolicyInput, bool]]:
    """Every question of the scenario, single and in batches, and whether it is to be allowed."""
    requests, _ = scenario()
    questions = [(question(case["request"]), case["expected"]) for case in requests["evaluation"]]
    for case in requests["evaluations"]:
        shared = {key: value for key, value in case["request"].items() if key != "evaluations"}
        each = zip(case["request"]["evaluations"], case["expected"], strict=True)
        questions += [(question({**shared, **part}), expected["decision"]) for part, expected in each]
    return questions


def test_each_request_is_decided_as_the_scenario_says() -> None:
    requests, _ = scenario()
    assert (len(requests["evaluation"]), len(requests["evaluations"])) == (40, 3)
    policy = RuntimePolicy.from_document(DOCUMENT, format="toml")
    decisions = [(isinstance(policy.evaluate(input), Allow), expected) for input, expected in judged()]
    assert [decision for decision, _ in decisions] == [expected for _, expected in decisions]
    assert {expected for _, expected in decisions} == {True, False}


def test_a_module_decides_alike(engine_name: str) -> None:
    module = build_policy(RuntimePolicy.from_document(DOCUMENT, format="toml"))
    interpreter = WasmInterpreter(WasmArtifact.from_bytes(module), engine=engine_name)
    for input, expected in judged():
        assert isinstance(interpreter.call_policy_check(input), Allow) is expected


@pytest.mark.parametrize("gone", ["email", "owner", "roles"])
def test_without_a_fact_nothing_more_is_allowed(gone: str) -> None:
    policy = RuntimePolicy.from_document(DOCUMENT, format="toml")
    turned = 0
    for input, expected in judged():
        actor, resource = input.actor, input.resource
        if not isinstance(actor, User) or resource is None:
            raise TypeError(input)
        less = PolicyInput(
            input.action,
            User(actor.id, () if gone == "roles" else actor.roles, (), {} if gone == "email" else actor.attributes),
            Resource(resource.kind, resource.id, {} if gone == "owner" else resource.attributes),
        )
        is_allowed = isinstance(policy.evaluate(less), Allow)
        assert expected or not is_allowed
        turned += expected and not is_allowed
    assert turned > 0
