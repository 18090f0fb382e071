"""Shows what a gated FastAPI application looks like, and what it answers to whom: that of ``capgate demo``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from fastapi import FastAPI
from starlette.types import Scope

from ... import Anonymous, CapabilityMiddleware, PolicyChecker, Settings, User, requires
from ...actions import VOCABULARY
from ...model import Reason

#: No section means that nothing of that class is allowed: here that goes for env, fs, config, compute and tools.
POLICY: Final[dict[str, Any]] = {
    "name": "demo-orders",
    "version": "1",
    "sql": [{"name": "list_orders", "operation": "select"}, {"name": "save_order", "operation": "upsert"}],
    "egress": ["api.example.com"],
    "cache": "any",
}


class Case(msgspec.Struct, frozen=True):
    """One request, and the answer that the demo insists on: a status, and for a denial its reason."""

    method: str
    path: str
    about: str
    status: int = 200
    reason: str | None = None
    headers: Mapping[str, str] = {}


CASES: Final = (
    Case("GET", "/health", "public by its exact route"),
    Case("GET", "/orders", "a query that the policy lists"),
    Case("GET", "/orders", "the same, asked by a user", headers={"x-user": "ada"}),
    Case("PUT", "/orders/17", "a write that it lists"),
    Case("DELETE", "/orders/17", "a write that it does not list", 403, Reason.NOT_IN_ALLOWLIST),
    Case("POST", "/orders/import", "a write with a read-only query", 403, Reason.NOT_IN_ALLOWLIST),
    Case("GET", "/proxy/api.example.com", "a host that it lists"),
    Case("GET", "/proxy/API.Example.COM", "host names have no case"),
    Case("GET", "/proxy/evil.example", "a host that it does not list", 403, Reason.NOT_IN_ALLOWLIST),
    Case("GET", "/proxy/api.example.com.evil", "no suffixes, no prefixes", 403, Reason.NOT_IN_ALLOWLIST),
    Case("GET", "/cache/sessions", "a section that says any"),
    Case("GET", "/files/report.txt", "a class without a section", 403, Reason.NOT_IN_ALLOWLIST),
    Case("POST", "/import", "a write that names no query", 403, Reason.MISSING_RESOURCE),
    Case("POST", "/invoices/17", "an action that it does not know", 403, Reason.UNKNOWN_ACTION),
    Case("GET", "/debug", "a route that declares nothing", 403, Reason.UNDECLARED_ROUTE),
    Case("GET", "/nowhere", "no route at all", 403, Reason.UNDECLARED_ROUTE),
    Case("GET", "/orders", "authentication that fails", 403, Reason.INTERNAL_ERROR, {"x-user": "broken"}),
)


def actor(scope: Scope) -> Anonymous | User:
    """Say who is asking. A header will do for a demo; an application takes what its authentication established."""
    name = dict(scope["headers"]).get(b"x-user", b"").decode("latin-1")
    if name == "broken":
        raise ConnectionError("the session store does not answer")
    return User(name) if name else Anonymous()


def create_app(checker: PolicyChecker) -> FastAPI:
    """Make the gated application. Its endpoints hold no policy calls: they say what they need, the middleware asks."""
    VOCABULARY.register("invoice.send", kind="invoice")
    app = FastAPI(title="capgate demo", openapi_url=None)
    # Reasons reach a client only where settings say so: good in a demo, rarely in production.
    settings = Settings(service="demo", mode="dev", public=("/health",), expose_reasons=True)
    app.add_middleware(CapabilityMiddleware, checker=checker, settings=settings, actor=actor)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/orders")
    @requires("db.read", resource="sql_query:list_orders")
    async def list_orders() -> list[int]:
        return [17]

    @app.put("/orders/{number}")
    @requires("db.write", resource="sql_query:save_order")
    async def save_order(number: int) -> dict[str, int]:
        return {"saved": number}

    @app.delete("/orders/{number}")
    @requires("db.write", resource="sql_query:delete_order")
    async def delete_order(number: int) -> dict[str, int]:
        return {"deleted": number}

    @app.post("/orders/import")
    @requires("db.write", resource="sql_query:list_orders")
    async def import_orders() -> dict[str, str]:
        return {"imported": "everything"}

    @app.get("/proxy/{host}")
    @requires("http.outbound", resource="host:{host}")
    async def proxy(host: str) -> dict[str, str]:
        return {"would call": host}

    @app.get("/cache/{namespace}")
    @requires("cache.read", resource="namespace:{namespace}")
    async def read_cache(namespace: str) -> dict[str, str]:
        return {"read": namespace}

    @app.get("/files/{name}")
    @requires("fs.read", resource="path:{name}")
    async def read_file(name: str) -> dict[str, str]:
        return {"read": name}

    @app.post("/import")
    @requires("db.write")
    async def bulk_import() -> dict[str, str]:
        return {"imported": "everything"}

    @app.post("/invoices/{number}")
    @requires("invoice.send", resource="invoice:{number}")
    async def send_invoice(number: int) -> dict[str, int]:
        return {"sent": number}

    @app.get("/debug")
    async def debug() -> dict[str, str]:
        return {"secrets": "all of them"}

    return app
