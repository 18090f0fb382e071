"""Each test runs on asyncio and on trio: that is what pytest's anyio plugin does with its own fixture."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from .app import create_app


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://orders.test") as client:
        yield client


async def test_listed_queries_are_allowed(client: httpx.AsyncClient) -> None:
    assert (await client.get("/orders")).json() == []
    assert (await client.post("/orders", json={"item": "tea"})).status_code == 201
    assert (await client.get("/orders")).json() == [{"item": "tea"}]


async def test_an_unlisted_query_is_denied_and_nothing_happened(client: httpx.AsyncClient) -> None:
    await client.post("/orders", json={"item": "tea"})
    denied = await client.delete("/orders/1")
    assert denied.status_code == 403
    assert denied.headers["content-type"] == "application/problem+json"
    assert (await client.get("/orders")).json() == [{"item": "tea"}]


async def test_a_route_without_a_declaration_is_denied(client: httpx.AsyncClient) -> None:
    assert (await client.get("/internal/dump")).status_code == 403


async def test_a_public_route_asks_no_policy(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health")).json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("headers", "kind", "name"),
    [({}, "anonymous", None), ({"authorization": "Bearer ada-token"}, "user", "ada")],
)
async def test_a_denial_tells_the_log_who_asked_for_what(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, headers: dict[str, str], kind: str, name: str | None
) -> None:
    with caplog.at_level(logging.WARNING, logger="capgate.decisions"):
        await client.delete("/orders/1", headers=headers)
    event: dict[str, Any] = caplog.records[-1].capgate  # type: ignore[attr-defined]  # set by capgate.events
    assert (event["action"], event["resource_id"]) == ("db.write", "delete_order")
    assert (event["actor_kind"], event["actor_id"], event["reason"]) == (kind, name, "not_in_allowlist")
