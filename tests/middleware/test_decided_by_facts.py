"""Requests that a document decides by facts: of the actor, of the resource, of arguments, and of the context."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from starlette.requests import Request
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from capgate import actor_from_claims
from capgate.limits import Limits
from capgate.model import Actor, Anonymous
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope
from ..support.gates import PATIENT, Ran, events, gated, make_checker, read

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])

DOCUMENT: dict[str, Any] = {
    "name": "orders",
    "attributes": {
        "actor": {"tenant": "string"},
        "resource": {"owner": "string", "tenant": "string", "total": "int", "tags": "list"},
        "args": {"amount": "int"},
        "context": {"mfa": "bool"},
    },
    "rules": [
        {
            **{"effect": "allow", "actions": ["db.read"]},
            "when": '"support" in actor.roles && resource.tenant == actor.tenant && args.amount <= 1000',
        },
        {
            **{"effect": "allow", "actions": ["db.read"]},
            "when": 'actor.on_behalf_of.id == resource.owner && "orders:write" in actor.scopes',
        },
        {"effect": "deny", "actions": ["db.read"], "when": "args.amount > resource.total", "reason": "too much"},
        {"effect": "deny", "actions": ["db.read"], "when": '"eu" in resource.tags && !context.mfa'},
        {
            **{"effect": "deny", "actions": ["db.read"], "monitor": True},
            **{"when": "args.amount > 100", "reason": "much"},
        },
    ],
}
ORDER = {"owner": "ada", "tenant": "acme", "total": 250, "tags": []}
CLAIMS = {"sub": "eve", "tid": "acme", "roles": ["support"], "scope": "orders:write"}
LOGIN = Settings(limits=PATIENT, expose_reasons=True, www_authenticate="Bearer")


def application(order: Any, claims: Any, context: dict[str, Any], settings: Settings = LOGIN) -> Any:
    def load(request: Request) -> Any:
        return order

    def who(scope: Scope) -> Actor:
        if claims is None:
            return Anonymous()
        return actor_from_claims(claims, attributes={"tenant": "tid"}, delegation="act")

    endpoint = read("{id}", facts=load, args={"amount": "json:/amount"})(Ran().endpoint("order"))
    routes: list[BaseRoute] = [Route("/orders/{id}", endpoint, methods=["POST"])]
    return gated(routes, make_checker("local", DOCUMENT), settings, actor=who, context=lambda scope: context)


async def answer(
    body: bytes = b'{"amount": 100}',
    *,
    order: Any = ORDER,
    claims: Any = CLAIMS,
    context: dict[str, Any] | None = None,
    settings: Settings = LOGIN,
) -> tuple[int, str | None]:
    app = application(order, claims, {"mfa": False} if context is None else context, settings)
    call = await Call(http_scope("/orders/7", "POST"), [{"type": "http.request", "body": body}]).to(app)
    return call.status, None if call.status == 200 else call.json["reason"]


async def test_each_fact_decides() -> None:
    assert await answer() == (200, None)
    assert await answer(claims={**CLAIMS, "roles": []}) == (403, "not_in_allowlist")
    assert await answer(claims={**CLAIMS, "tid": "evil"}) == (403, "not_in_allowlist")
    assert await answer(order={**ORDER, "tenant": "evil"}) == (403, "not_in_allowlist")
    assert await answer(b'{"amount": 251}') == (403, "too much")
    assert await answer(order={**ORDER, "tags": ["eu"]}) == (403, "not_in_allowlist")
    assert await answer(order={**ORDER, "tags": ["eu"]}, context={"mfa": True}) == (200, None)


async def test_who_acts_for_somebody_is_told_from_them() -> None:
    delegated = {"sub": "ada", "roles": [], "scope": "orders:write", "act": {"sub": "agent"}}
    assert await answer(claims=delegated) == (200, None)
    assert await answer(claims={**delegated, "scope": ""}) == (403, "not_in_allowlist")
    assert await answer(claims={**delegated, "sub": "eve", "act": {"sub": "ada"}}) == (403, "not_in_allowlist")
    assert await answer(claims={**delegated, "sub": "eve", "act": {"sub": "a", "act": {"sub": "ada"}}}) == (
        *(403, "not_in_allowlist"),
    )


async def test_what_is_missing_denies() -> None:
    for body in (b"", b"{}", b'{"amount": null}', b'{"amount": "1"}', b'{"amount": 1.0}', b"amount=1"):
        assert await answer(body) == (403, "missing_fact")
    assert await answer(b'{"amount": 1, "amount": 9}') == (403, "malformed_input")
    assert await answer(order={"tenant": "acme", "tags": []}) == (403, "missing_fact")
    assert await answer(order={**ORDER, "total": None}) == (403, "missing_fact")
    assert await answer(order={**ORDER, "tags": ["eu"]}, context={}) == (403, "missing_fact")
    assert await answer(order=None) == (403, "facts_unavailable")


async def test_a_login_is_offered_where_it_may_help() -> None:
    assert await answer(claims=None) == (401, "not_in_allowlist")
    assert await answer(b"", claims=None) == (401, "missing_fact")
    assert await answer(order=None, claims=None) == (403, "facts_unavailable")


async def test_rules_that_only_monitor_see_facts() -> None:
    with events(logging.INFO) as written:
        assert await answer(b'{"amount": 101}') == (200, None)
    assert [(event["decision"], event["would_deny"], event["rule"]) for event in written] == [("allow", "much", 4)]


async def test_a_gate_that_only_monitors_records_the_new_reason() -> None:
    monitor = Settings(limits=Limits(deadline=20.0), enforce="monitor")
    with events(logging.INFO) as written:
        assert (await answer(b"", settings=monitor))[0] == 200
    assert [(event["decision"], event["would_deny"]) for event in written] == [("allow", "missing_fact")]
