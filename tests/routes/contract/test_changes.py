"""What changed between two contracts, and whether it widens."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capgate import HandlerContract
from capgate.actions import policy_hash
from capgate.routes.contract import ContractAction, ContractRequirement, ContractRoute, changes

from .contracts import ACTIONS, contracts

READ = ContractRequirement("db.read", "sql_query:list", False, None, False, ())
OTHER = ContractRequirement("db.read", "sql_query:other", False, None, False, ())
HASHED = ContractRequirement("db.read", "sql_query:list", False, "body", False, ())
ANY_QUERY = ContractRequirement("db.read", "sql_query:{name}", True, None, False, ())
WRITE = ContractRequirement("db.write", "sql_query:list", False, None, False, ())


def contract(*routes: tuple[str, Any], actions: dict[str, ContractAction] = ACTIONS, **more: Any) -> HandlerContract:
    """Of routes by path: a status, or what is required, or both."""
    made = []
    for path, needs in routes:
        status, found = (needs, ()) if isinstance(needs, str) else ("declared", needs)
        if found and isinstance(found[0], str):
            status, *found = found
            found = tuple(found)
        made.append(ContractRoute(path, ("GET",), status, found))
    names = sorted({one.action for route in made for one in route.requirements})
    return HandlerContract(
        **{"policy_hash": policy_hash(), **more}, routes=tuple(made), actions=tuple(actions[name] for name in names)
    )


def with_kind(kind: str | None, required: bool = True, operations: tuple[str, ...] = ()) -> HandlerContract:
    needed = ContractRequirement("invoice.send", "page:1", False, None, False, ())
    action = ContractAction("invoice.send", "actions", kind, required, operations)
    return contract(("/a", (needed,)), actions={"invoice.send": action})


EMPTY = contract()
ONE = contract(("/a", (READ,)))
#: Before, after, and each change as field, what, effect.
CASES: dict[str, tuple[HandlerContract, HandlerContract, list[tuple[str, str, str | None]]]] = {
    "the same": (ONE, ONE, []),
    "a first route": (
        EMPTY,
        ONE,
        [("routes", "added", "widens"), ("actions", "added", "widens"), ("sections", "added", "widens")],
    ),
    "a route that needs nothing new": (
        ONE,
        contract(("/a", (READ,)), ("/b", (READ,))),
        [("routes", "added", "widens")],
    ),
    "a route that declares nothing": (
        ONE,
        contract(("/a", (READ,)), ("/b", "undeclared")),
        [("routes", "added", None)],
    ),
    "an open route": (ONE, contract(("/a", (READ,)), ("/b", "public")), [("routes", "added", "widens")]),
    "a status that is news": (ONE, contract(("/a", (READ,)), ("/b", "news")), [("routes", "added", "widens")]),
    "opened": (contract(("/a", "undeclared")), contract(("/a", "public")), [("routes", "changed", "widens")]),
    "closed": (contract(("/a", "deferred")), contract(("/a", "unresolvable")), [("routes", "changed", "narrows")]),
    "asked inside": (ONE, contract(("/a", ("deferred", READ))), [("routes", "changed", None)]),
    "perhaps asked inside": (
        contract(("/a", ("deferred", READ))),
        contract(("/a", "deferred")),
        [
            ("routes", "changed", "widens"),
            ("actions", "removed", "narrows"),
            ("sections", "removed", "narrows"),
        ],
    ),
    "as closed as before": (
        contract(("/a", "undeclared")),
        contract(("/a", "unresolvable")),
        [("routes", "changed", None)],
    ),
    "another resource": (
        ONE,
        contract(("/a", (OTHER,))),
        [
            ("routes", "changed", "widens"),  # no longer asked about the one
            ("routes", "changed", "narrows"),  # asked about the other
            ("sections", "removed", "narrows"),
            ("sections", "added", "widens"),
        ],
    ),
    "a question more": (
        ONE,
        contract(("/a", (READ, WRITE))),
        [("routes", "changed", "narrows"), ("actions", "added", "widens")],
    ),
    "with the hash of the body": (
        ONE,
        contract(("/a", (HASHED,))),
        [("routes", "changed", "widens"), ("routes", "changed", "narrows")],
    ),
    "no question any more": (
        ONE,
        contract(("/a", "public")),
        [
            ("routes", "changed", "widens"),
            ("routes", "changed", "widens"),
            ("actions", "removed", "narrows"),
            ("sections", "removed", "narrows"),
        ],
    ),
    "not declared any more": (
        ONE,
        contract(("/a", "undeclared")),
        [
            ("routes", "changed", "narrows"),
            ("routes", "changed", None),
            ("actions", "removed", "narrows"),
            ("sections", "removed", "narrows"),
        ],
    ),
    "static to dynamic": (
        contract(("/a", (READ,)), ("/b", "undeclared")),
        contract(("/a", (READ,)), ("/b", (ANY_QUERY,))),
        [("routes", "changed", "widens"), ("routes", "changed", None), ("sections", "changed", "widens")],
    ),
    "another order of routes that shadow each other": (
        contract(("/a", (READ,)), ("/a", (OTHER,))),
        contract(("/a", (OTHER,)), ("/a", (READ,))),
        [("routes", "changed", "widens"), ("routes", "changed", "narrows")] * 2,
    ),
    "digests": (
        ONE,
        contract(("/a", (READ,)), policy_hash="1" * 64, wasm_policy_hash="2" * 64, artifact_sha256="3" * 64),
        [(name, "changed", None) for name in ("policyHash", "wasmPolicyHash", "artifactSha256")],
    ),
    "the service": (ONE, contract(("/a", (READ,)), service="orders"), [("service", "changed", None)]),
    "any kind": (with_kind("page"), with_kind(None), [("actions", "changed", "widens")]),
    "no resource needed": (with_kind("page"), with_kind("page", False), [("actions", "changed", "widens")]),
    "other operations": (with_kind("page"), with_kind("page", operations=("a",)), [("actions", "changed", None)]),
}


@pytest.mark.parametrize("case", CASES)
def test_each_kind_of_change(case: str) -> None:
    old, new, expected = CASES[case]
    assert [(one.field, one.what, one.effect) for one in changes(old, new)] == expected


@pytest.mark.slow
@given(contracts(), contracts())
def test_nothing_differs_if_and_only_if_they_are_equal(old: HandlerContract, new: HandlerContract) -> None:
    assert changes(old, old) == changes(new, new) == []
    assert bool(changes(old, new)) == (old != new)


@pytest.mark.slow
@given(contracts(), contracts())
def test_what_widens_narrows_on_the_way_back(old: HandlerContract, new: HandlerContract) -> None:
    back = {"widens": "narrows", "narrows": "widens", None: None, "added": "removed", "removed": "added"}
    there = Counter((one.field, back.get(one.what, one.what), one.name, back[one.effect]) for one in changes(old, new))
    assert there == Counter((one.field, one.what, one.name, one.effect) for one in changes(new, old))


@pytest.mark.slow
@given(contracts(), contracts())
def test_words_are_fit_for_terminals_and_values_for_json(old: HandlerContract, new: HandlerContract) -> None:  # O3
    for one in changes(old, new):
        assert one.sentence.isascii()
        assert one.sentence.isprintable()
        assert one.name.isascii()
        assert one.name.isprintable()
        assert msgspec.json.decode(msgspec.json.encode(one))["field"] == one.field


@given(contracts(), st.data())
def test_a_route_less_never_widens_sections(contract: HandlerContract, data: st.DataObject) -> None:
    if not contract.routes:
        return
    index = data.draw(st.integers(0, len(contract.routes) - 1))
    left = contract.routes[:index] + contract.routes[index + 1 :]
    used = {one.action for route in left for one in route.requirements}
    fewer = msgspec.structs.replace(
        contract, routes=left, actions=tuple(one for one in contract.actions if one.name in used)
    )
    assert all(one.effect == "narrows" for one in changes(contract, fewer) if one.field in ("actions", "sections"))
