"""Runs a shop: orders in SQLite through SQLAlchemy, payments elsewhere, a cache in redis, tools for an assistant.

No handler holds a policy call. Routes declare what they are for. The engine, the HTTP client, the cache, the files, the
environment, the limiter of background work and the MCP server ask for each thing that they are about to do, in the name
of whoever sent the request. From the root of the checkout, with a redis-server on its usual port::

    pip install -e '.[cli,http,redis,sql,tools]' aiosqlite greenlet mcp
    uvicorn examples.shop.payments:app --port 8005 &
    CAPGATE_POLICY=examples/shop/policy.json uvicorn --factory examples.shop.app:create_app --port 8004
    curl localhost:8004/orders -X POST -H 'x-user: grace' -d '{"item": "tea", "price": 350}'
    curl localhost:8004/orders -H 'x-user: grace'

Its tests, which take each capability away in turn: ``python -m pytest examples/shop``.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping

import redis.asyncio
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Scope

from capgate import Anonymous, CapabilityMiddleware, Settings, User, requires
from capgate.capabilities.cache import gate_redis
from capgate.capabilities.compute import GatedLimiter
from capgate.capabilities.environ import GatedEnviron
from capgate.capabilities.files import GatedFiles
from capgate.capabilities.http import gated_async_client
from capgate.capabilities.mcp import GatedMCP
from capgate.capabilities.sql import gate_engine, named

from .tools import ACTIONS, create_tools

#: Where the cache keeps the list of orders, and for how many seconds.
LATEST, FRESH = "orders:latest", 60
TAKINGS = "SELECT item, sum(price) AS cents FROM orders GROUP BY item"


class Base(MappedAsDataclass, DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(init=False, primary_key=True)
    item: Mapped[str]
    price: Mapped[int]  # in cents
    charge: Mapped[str | None] = mapped_column(default=None)


@requires("db.write", resource="sql_query:place_order")
async def place_order(request: Request) -> Response:
    """Store the order only if it was paid: a denial on the way rolls the transaction back."""
    shop, wanted = request.app.state, await request.json()
    await shop.cache.delete(LATEST)
    async with shop.sessions() as session, session.begin():
        order = Order(item=str(wanted["item"]), price=int(wanted["price"]))
        session.add(order)
        await session.flush()
        paid = await shop.http.post(f"{shop.payments}/charges", json={"order": order.id, "cents": order.price})
        order.charge = paid.raise_for_status().json()["charge"]
        placed = {"id": order.id, "item": order.item, "charge": order.charge}
    return JSONResponse(placed, 201)


@requires("db.read", resource="sql_query:list_orders")
async def list_orders(request: Request) -> Response:
    """Answer from the cache, or from the database and then into the cache."""
    shop = request.app.state
    known = await shop.cache.get(LATEST)
    if known is None:
        async with shop.sessions() as session:
            orders = (await session.scalars(select(Order).order_by(Order.id))).all()
        known = json.dumps([{"id": order.id, "item": order.item} for order in orders])
        await shop.cache.set(LATEST, known, ex=FRESH)
    return Response(known, media_type="application/json")


@requires("compute.long", resource="job:report")
@requires("db.read", resource="sql_query:takings")
async def report(request: Request) -> Response:
    """Write the takings to a file in the background: in a slot for reports, below a folder, in nobody's way."""
    shop = request.app.state
    async with shop.sessions() as session:
        rows = (await session.execute(named("takings", text(TAKINGS)))).all()
    lines = [f"{row.item},{row.cents},{shop.environ.get('SHOP_CURRENCY', 'EUR')}\n" for row in rows]
    task = shop.reports.task(shop.files.write_text, "takings.csv", "".join(lines))
    return JSONResponse({"report": "takings.csv"}, 202, background=task)


@requires("db.read", resource="sql_query:takings")
async def takings(request: Request) -> Response:
    """Run SQL by hand, which has a name and is asked for by it."""
    async with request.app.state.sessions() as session:
        sums = await session.execute(named("takings", text(TAKINGS)))
        return JSONResponse({row.item: row.cents for row in sums})


def create_app(
    settings: Settings | None = None,
    *,
    database: str = "sqlite+aiosqlite:///shop.db",
    payments: str = "http://127.0.0.1:8005",
    cache: str = "redis://127.0.0.1",
    folder: str | os.PathLike[str] = ".",
    environ: Mapping[str, str] = os.environ,
) -> Starlette:
    """Make the application; without ``settings``, with those of the environment, at start-up."""
    engine = create_async_engine(database)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    tools = create_tools(sessions, Order)
    inside = tools.streamable_http_app(streamable_http_path="/", json_response=True, stateless_http=True)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await create_tables(engine)  # before there is a gate: what a deployment does, not what a request does
        gate_engine(engine)
        async with gated_async_client() as http, tools.session_manager.run():
            app.state.sessions, app.state.http, app.state.payments = sessions, http, payments
            app.state.cache = gate_redis(redis.asyncio.from_url(cache))
            app.state.environ, app.state.reports = GatedEnviron(environ), GatedLimiter(1, job="report")
            with GatedFiles(folder) as app.state.files:
                yield
            await app.state.cache.aclose()
        await engine.dispose()

    routes = [
        Route("/orders", place_order, methods=["POST"]),
        Route("/orders", list_orders),
        Route("/takings", takings),
        Route("/reports", report, methods=["POST"]),
        Mount("/mcp", GatedMCP(inside, action=ACTIONS)),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.add_middleware(CapabilityMiddleware, settings=settings, actor=customer)
    return app


async def create_tables(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)


def customer(scope: Scope) -> User | Anonymous:
    """Say who is asking. An application with authentication would take it from there, and not from whoever asks."""
    names = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-user"]
    return User(names[0]) if len(names) == 1 and names[0] else Anonymous()
