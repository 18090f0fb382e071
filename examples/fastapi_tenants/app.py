"""Invoices of several tenants, as a FastAPI application: the policy decides by roles, tenants, owners and amounts.

The actor comes from a JWT. What is known of an invoice is looked up where its route is declared, and the amount is read
from the body, before the policy is asked. No handler compares a tenant with another. From the root of the checkout::

    pip install -e '.[cli,sign,sql]' aiosqlite greenlet
    openssl genpkey -algorithm ed25519 -out key.pem && openssl pkey -in key.pem -pubout -out public.pem
    CAPGATE_POLICY=examples/fastapi_tenants/policy.toml INVOICES_KEY=public.pem \\
        uvicorn --factory examples.fastapi_tenants.app:create_app --port 8006

    token() { python -m examples.fastapi_tenants.sign_token "$@"; }
    curl localhost:8006/tenants/acme/invoices -H "$(token ada acme)" --json '{"total": 5000}'
    curl localhost:8006/invoices/1/payment -H "$(token ben acme accountant)" --json '{"amount": 5000}'
    curl localhost:8006/invoices/1 -H "$(token eve evil manager)"                                        # 403

Its tests, which take each fact away in turn: ``python -m pytest examples/fastapi_tenants``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import jwt
from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.datastructures import Headers
from starlette.types import Scope

from capgate import Anonymous, CapabilityMiddleware, Settings, actor_from_claims, requires
from capgate.actions import VOCABULARY
from capgate.capabilities.sql import gate_engine
from capgate.fastapi import Gate
from capgate.model import Actor

for action in ("invoice.delete", "invoice.pay", "invoice.read"):
    VOCABULARY.register(action, kind="invoice")
for action in ("invoice.draft", "invoice.list"):
    VOCABULARY.register(action, kind="tenant")


class Base(DeclarativeBase):
    pass


class Invoice(Base):
    __tablename__ = "invoices"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str | None]
    owner: Mapped[str | None]
    total: Mapped[int | None]  # in cents
    paid: Mapped[bool | None]


class Draft(BaseModel):
    total: int = Field(gt=0, le=10**12)


class Payment(BaseModel):
    amount: int


async def load_invoice(request: Request) -> dict[str, Any]:
    """Look up what the policy is told of an invoice. A column without a value is no fact."""
    async with request.app.state.lookups() as session:
        invoice = await session.get_one(Invoice, request.path_params["id"])
        return {"tenant": invoice.tenant, "owner": invoice.owner, "total": invoice.total, "paid": invoice.paid}


def bearer(key: str) -> Callable[[Scope], Actor]:
    """Return a function that says who is asking: whom the token is about, if ``key`` signed it."""

    def who(scope: Scope) -> Actor:
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return Anonymous()
        try:
            claims = jwt.decode(token, key, ["EdDSA"], audience="invoices", options={"require": ["exp", "sub"]})
        except jwt.InvalidTokenError:
            return Anonymous()
        return actor_from_claims(claims, roles="realm_access.roles", attributes={"tenant": "tid"})

    return who


def create_app(
    settings: Settings | None = None, *, key: str | None = None, database: str = "sqlite+aiosqlite:///invoices.db"
) -> FastAPI:
    """Make the application; without ``settings``, with those of the environment. ``key`` is the public key of whoever
    signs tokens, by default the file that ``INVOICES_KEY`` names."""
    engine, lookup_engine = create_async_engine(database), create_async_engine(database)
    sessions = async_sessionmaker(engine, expire_on_commit=False)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with engine.begin() as connection:  # before there is a gate
            await connection.run_sync(Base.metadata.create_all)
        gate_engine(engine)
        app.state.lookups = async_sessionmaker(lookup_engine)  # which asks nothing: it is what the question is made of
        yield
        await engine.dispose()
        await lookup_engine.dispose()

    app = FastAPI(title="Invoices", lifespan=lifespan)
    app.add_middleware(
        CapabilityMiddleware,
        settings=settings,
        actor=bearer(Path(os.environ["INVOICES_KEY"]).read_text() if key is None else key),
    )

    @app.get("/tenants/{tenant}/invoices")
    @requires("invoice.list", resource="tenant:{tenant}")
    async def list_invoices(tenant: str) -> list[int]:
        async with sessions() as session:
            return [*await session.scalars(select(Invoice.id).where(Invoice.tenant == tenant).order_by(Invoice.id))]

    @app.post("/tenants/{tenant}/invoices", status_code=201)
    @requires("invoice.draft", resource="tenant:{tenant}")
    async def draft_invoice(tenant: str, draft: Draft, gate: Gate) -> int:
        async with sessions() as session, session.begin():
            invoice = Invoice(tenant=tenant, owner=gate.actor.id, total=draft.total, paid=False)
            session.add(invoice)
        return invoice.id

    @app.get("/invoices/{id}")
    @requires("invoice.read", resource="invoice:{id}", facts=load_invoice)
    async def read_invoice(id: int) -> dict[str, Any]:
        async with sessions() as session:
            invoice = await session.get_one(Invoice, id)
        return {"owner": invoice.owner, "total": invoice.total, "paid": invoice.paid}

    @app.post("/invoices/{id}/payment", status_code=204)
    @requires("invoice.pay", resource="invoice:{id}", facts=load_invoice, args={"amount": "json:/amount"})
    async def pay_invoice(id: int, payment: Payment) -> Response:
        rest = Invoice.total - payment.amount
        # compared once more, where no other payment comes in between
        paying = update(Invoice).where(Invoice.id == id, rest >= 0).values(total=rest, paid=rest == 0)
        async with sessions() as session, session.begin():
            if await session.scalar(paying.returning(Invoice.id)) is None:
                raise HTTPException(409)
        return Response(status_code=204)

    @app.delete("/invoices/{id}", status_code=204)
    @requires("invoice.delete", resource="invoice:{id}", facts=load_invoice)
    async def delete_invoice(id: int) -> Response:
        async with sessions() as session, session.begin():
            await session.execute(delete(Invoice).where(Invoice.id == id, Invoice.paid.is_(False)))
        return Response(status_code=204)

    return app
