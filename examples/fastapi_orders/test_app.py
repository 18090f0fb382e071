"""The policy as it runs in production, a pinned WebAssembly module in the process; on asyncio and on trio."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from capgate import Settings, build_policy

from .app import create_app

POLICY = Path(__file__).with_name("policy.json")


def client_for(settings: Settings) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=create_app(settings))
    return httpx.AsyncClient(transport=transport, base_url="http://orders.test")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    module = build_policy(POLICY.read_bytes())
    path = tmp_path_factory.mktemp("orders") / "policy.wasm"
    path.write_bytes(module)
    return Settings(artifact=path, artifact_sha256=hashlib.sha256(module).hexdigest())


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with client_for(settings) as client:
        yield client


async def test_listed_queries_are_allowed(client: httpx.AsyncClient) -> None:
    assert (await client.post("/orders", json={"item": "tea"})).status_code == 201
    assert (await client.get("/orders")).json() == [{"item": "tea"}]


async def test_an_unlisted_query_is_denied_and_nothing_happened(client: httpx.AsyncClient) -> None:
    await client.post("/orders", json={"item": "tea"})
    assert (await client.delete("/orders/1")).status_code == 403
    assert (await client.get("/orders")).json() == [{"item": "tea"}]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("api.payments.example", 200),
        ("API.PAYMENTS.EXAMPLE", 200),
        ("elsewhere.example", 403),
        ("api.payments.example.elsewhere.example", 403),
    ],
)
async def test_only_a_listed_host_is_called(client: httpx.AsyncClient, host: str, status: int) -> None:
    await client.post("/orders", json={"item": "tea"})
    assert (await client.post(f"/orders/1/payment/{host}")).status_code == status


async def test_the_documentation_is_gated_too(client: httpx.AsyncClient) -> None:
    assert (await client.get("/openapi.json")).status_code == 403


async def test_another_module_than_the_pinned_one_allows_nothing(settings: Settings) -> None:
    async with client_for(Settings(artifact=settings.artifact, artifact_sha256="0" * 64)) as client:
        assert (await client.get("/orders")).status_code == 403
