"""Has the application of :mod:`.starlette_app` in FastAPI, with an included router and dependencies that declare."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from capgate import CapabilityMiddleware
from capgate.fastapi import Requires

from ...support.journal import noted_lifespan
from .starlette_app import endpoint, read, socket

METHODS = ["GET", "HEAD", "POST"]
GOOD = [Requires("db.read", resource="sql_query:good")]
BAD = [Requires("db.read", resource="sql_query:bad")]

sub = APIRouter(prefix="/sub")
sub.add_api_route("/good", endpoint("sub"), dependencies=GOOD)

app = FastAPI(lifespan=noted_lifespan)
app.add_api_route("/good", endpoint("good"), methods=METHODS, dependencies=GOOD)
app.add_api_route("/bad", endpoint("bad"), methods=METHODS, dependencies=BAD)
app.add_api_route("/undeclared", endpoint("undeclared"))
app.add_api_route("/by-name/{name:path}", read("{name}", endpoint("by-name")))
app.include_router(sub)
app.add_api_websocket_route("/ws", socket("ws"), dependencies=GOOD)
app.add_api_websocket_route("/ws-bad", read("bad", socket("ws-bad")))
app.add_api_websocket_route("/ws-undeclared", socket("ws-undeclared"))
app.add_middleware(CapabilityMiddleware)
