"""Orders, as a FastAPI application that asks a WebAssembly policy before a query and before a call to the outside.

The policy is built once and pinned: the application starts with exactly that module, or not at all. From the root of
the checkout::

    pip install -e '.[cli]'
    capgate build examples/fastapi_orders/policy.json -o policy.wasm        # prints its SHA-256
    export CAPGATE_ARTIFACT=policy.wasm CAPGATE_ARTIFACT_SHA256=$(sha256sum policy.wasm | cut -d' ' -f1)
    uvicorn examples.fastapi_orders.app:app --port 8002

    curl -i localhost:8002/orders                                                               # 200
    curl -i localhost:8002/orders -H 'content-type: application/json' -d '{"item": "tea"}'      # 201
    curl -i -X POST localhost:8002/orders/1/payment/api.payments.example                        # 200: a listed host
    curl -i -X POST localhost:8002/orders/1/payment/elsewhere.example                           # 403
    curl -i -X DELETE localhost:8002/orders/1                                                   # 403: an unlisted query

Its tests: ``python -m pytest examples/fastapi_orders``.
"""

from __future__ import annotations

from fastapi import FastAPI, Response
from pydantic import BaseModel

from capgate import CapabilityMiddleware, Settings, requires


class Order(BaseModel):
    item: str


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application with an empty table of orders. Without ``settings``, those of the environment, at start-up."""
    app = FastAPI(title="Orders")
    app.add_middleware(CapabilityMiddleware, settings=settings)
    orders: list[Order] = []

    @app.get("/orders")
    @requires("db.read", resource="sql_query:list_orders")
    async def list_orders() -> list[Order]:
        return orders

    @app.post("/orders", status_code=201)
    @requires("db.write", resource="sql_query:insert_order")
    async def insert_order(order: Order) -> Order:
        orders.append(order)
        return order

    @app.delete("/orders/{number}", status_code=204)
    @requires("db.write", resource="sql_query:delete_order")
    async def delete_order(number: int) -> Response:
        del orders[number - 1]
        return Response(status_code=204)

    @app.post("/orders/{number}/payment/{host}")
    @requires("http.outbound", resource="host:{host}")
    def pay(number: int, host: str) -> dict[str, str]:  # not async: FastAPI runs it in a worker thread
        return {"paid at": host, "item": orders[number - 1].item}

    return app


app = create_app()
