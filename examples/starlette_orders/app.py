"""Orders, as a Starlette application whose database queries are gated by a policy document.

The document is evaluated in Python (``LocalPolicyChecker``), which suits development; ``examples/fastapi_orders`` asks
the same kind of document as a WebAssembly module. From the root of the checkout::

    pip install -e '.[cli]'
    uvicorn examples.starlette_orders.app:app --port 8001

    curl -i localhost:8001/orders                                        # 200
    curl -i -X POST -H 'Authorization: Bearer ada-token' localhost:8001/orders -d '{"item": "tea"}'   # 201
    curl -i -X DELETE localhost:8001/orders/1                            # 403: the policy does not list delete_order
    curl -i localhost:8001/internal/dump                                 # 403: the route declares nothing

Its tests: ``python -m pytest examples/starlette_orders``.
"""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from capgate import CapabilityMiddleware, Settings, requires

POLICY = Path(__file__).with_name("policy.json")
TOKENS = {"ada-token": "ada"}  # stands for your sessions or your identity provider


class Tokens(AuthenticationBackend):
    """Who is asking. capgate reads ``scope["user"]``, which this sets."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
        scheme, _, token = conn.headers.get("authorization", "").partition(" ")
        name = TOKENS.get(token) if scheme == "Bearer" else None
        return None if name is None else (AuthCredentials(["authenticated"]), SimpleUser(name))


async def health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


@requires("db.read", resource="sql_query:list_orders")
async def list_orders(request: Request) -> Response:
    return JSONResponse(request.app.state.orders)


@requires("db.write", resource="sql_query:insert_order")
async def insert_order(request: Request) -> Response:
    order = await request.json()
    request.app.state.orders.append(order)
    return JSONResponse(order, status_code=201)


@requires("db.write", resource="sql_query:delete_order")
async def delete_order(request: Request) -> Response:
    del request.app.state.orders[request.path_params["number"] - 1]
    return Response(status_code=204)


async def dump(request: Request) -> Response:
    return JSONResponse(request.app.state.orders)


def create_app() -> Starlette:
    """The application with an empty table of orders. The policy is read when it starts, not when it is made."""
    settings = Settings(policy=POLICY, service="orders", mode="dev", public=("/health",))
    app = Starlette(
        routes=[
            Route("/health", health),
            Route("/orders", list_orders),
            Route("/orders", insert_order, methods=["POST"]),
            Route("/orders/{number:int}", delete_order, methods=["DELETE"]),
            Route("/internal/dump", dump),
        ],
        # The first is the outermost: who is asking has to be known before the policy is asked.
        middleware=[
            Middleware(AuthenticationMiddleware, backend=Tokens()),
            Middleware(CapabilityMiddleware, settings=settings),
        ],
    )
    app.state.orders = []
    return app


app = create_app()
