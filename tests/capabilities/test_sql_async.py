"""The gate of asynchronous SQLAlchemy engines, which wait for policies that wait. aiosqlite knows asyncio only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, selectinload
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from capgate.capabilities import CapabilityDenied, capabilities_for, using
from capgate.capabilities.sql import gate_engine, named, query_name
from capgate.model import PolicyInput, PolicyResult, Reason
from capgate.routes.declare import requires

from ..support.gates import Recording, events, gated, make_checker
from .kinds import KINDS
from .listening import ACTOR, reason
from .shop import ORDERS, Customer, Order, allowed, contents, orders, reading, secrets

READ, WRITE, MIGRATE = "db.read", "db.write", "db.migrate"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def engine(path: Path) -> AsyncIterator[AsyncEngine]:
    engine = gate_engine(create_async_engine(f"sqlite+aiosqlite:///{path}"))
    yield engine
    await engine.dispose()


class Slow(Recording):
    """A checker of the application's, which has to be waited for."""

    async def check(self, input: PolicyInput) -> PolicyResult:
        await anyio.sleep(0.001)
        return await super().check(input)


async def test_sessions_connections_and_what_runs_in_between(path: Path, engine: AsyncEngine) -> None:
    sessions = async_sessionmaker(engine, expire_on_commit=False)

    def add(session: Session) -> int:
        session.add_all([Order(item=f"pear {n}") for n in range(5)])
        session.flush()
        return session.query(Order).count()

    with allowed("orders", *reading("customers", "sum")) as listening:
        async with sessions() as session, session.begin():
            session.add(Order(item="jam"))
            await session.flush()
            assert await session.run_sync(add) == 8
            loaded = await session.scalars(select(Customer).options(selectinload(Customer.orders)))
            assert len(loaded.all()) == 2
            async with session.begin_nested():
                await session.execute(update(Order).where(Order.id == 1).values(item="coffee"))
        async with engine.connect() as connection:
            rows = await connection.stream(select(orders))
            assert len([row async for row in rows]) == 8
            assert await connection.scalar(named("sum", text("SELECT count(*) FROM secrets"))) == 1
            assert await connection.run_sync(lambda sync: sync.scalar(select(func.count()).select_from(orders))) == 8
    assert set(listening.asked) == {(READ, "orders"), (WRITE, "orders"), (READ, "customers"), (READ, "sum")}
    assert contents(path)["orders"][0] == (1, "coffee", 1)


async def test_what_is_denied_does_not_happen(path: Path, engine: AsyncEngine) -> None:
    before = contents(path)
    with allowed(*reading("orders")):
        with pytest.raises(CapabilityDenied):
            async with AsyncSession(engine) as session, session.begin():
                session.add(Order(item="jam"))
        with pytest.raises(CapabilityDenied) as caught:
            async with engine.begin() as connection:
                await connection.execute(text("DELETE FROM orders"))
        assert reason(caught.value) == Reason.MISSING_RESOURCE
        with pytest.raises(CapabilityDenied):
            async with engine.begin() as connection:
                await connection.exec_driver_sql("DROP TABLE orders", execution_options=query_name("orders"))
        with pytest.raises(CapabilityDenied):
            async with engine.execution_options(x=1).begin() as connection:
                await connection.run_sync(lambda sync: sync.execute(insert(orders), [{"item": "a"}, {"item": "b"}]))
        with pytest.raises(CapabilityDenied):
            async with engine.connect() as connection:
                await connection.stream(select(secrets))
    assert contents(path) == before


@pytest.mark.parametrize("kind", KINDS)
async def test_a_policy_that_takes_its_time_is_waited_for(path: Path, engine: AsyncEngine, kind: str) -> None:
    checker = Slow(make_checker(kind, {"sql": reading("orders")}))
    with using(capabilities_for(checker, ACTOR, deadline=20)):
        async with engine.begin() as connection:
            assert [tuple(row) for row in await connection.execute(select(orders))] == ORDERS
            with pytest.raises(CapabilityDenied):
                await connection.execute(delete(orders))
    assert checker.questions == [(READ, "orders"), (WRITE, "orders")]
    assert contents(path)["orders"] == ORDERS


async def test_a_policy_that_takes_too_long_is_a_denial(path: Path, engine: AsyncEngine) -> None:
    class Stuck(Recording):
        async def check(self, input: PolicyInput) -> PolicyResult:
            await anyio.sleep_forever()
            raise AssertionError

    with using(capabilities_for(Stuck(), ACTOR, deadline=0.05)):
        async with engine.begin() as connection:
            with pytest.raises(CapabilityDenied) as caught:
                await connection.execute(delete(orders))
    assert reason(caught.value) == Reason.POLICY_TIMEOUT
    assert contents(path)["orders"] == ORDERS


@pytest.mark.parametrize("kind", KINDS)
async def test_a_handler_without_a_policy_call(path: Path, engine: AsyncEngine, kind: str) -> None:
    sessions = async_sessionmaker(engine)

    @requires("db.read", resource="sql_query:orders")
    async def order(request: Request) -> Response:
        async with sessions() as session, session.begin():
            session.add(Order(item=(await request.json())["item"]))
        return JSONResponse({})

    async def post(document: dict[str, Any]) -> httpx.Response:
        checker = make_checker(kind, document)
        app = gated([Route("/order", order, methods=["POST"])], checker)
        try:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
                return await client.post("/order", json={"item": "jam"})
        finally:
            await checker.aclose()

    with events() as seen:
        denied = await post({"sql": reading("orders")})
    assert denied.status_code == 403
    assert [(one["action"], one["resource_id"], one["decision_id"]) for one in seen] == [
        (WRITE, "orders", denied.json()["decision_id"])
    ]
    assert contents(path)["orders"] == ORDERS
    assert (await post({"sql": ["orders"]})).status_code == 200
    assert contents(path)["orders"] == [*ORDERS, (3, "jam", None)]
