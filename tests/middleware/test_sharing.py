"""None of many requests at once acts as another, whatever a server, a wrapper or an application makes them share."""

from __future__ import annotations

import random
from collections import ChainMap, UserDict
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from starlette.applications import Starlette
from starlette.authentication import SimpleUser
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from capgate.enforcement.current import current
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.model import Allow, Deny, PolicyInput, PolicyResult
from capgate.routes.declare import requires
from capgate.routes.seat import SEAT
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope
from ..support.gates import PATIENT, events
from ..support.tools import examples

USERS = [f"user-{number}" for number in range(100)]


class Own:
    """Allows each user what is the user's own."""

    async def check(self, input: PolicyInput) -> PolicyResult:
        await pause()
        own = getattr(input.actor, "id", None)
        return Allow() if input.resource is not None and input.resource.id == own else Deny("another's")


async def pause() -> None:
    for _ in range(random.randrange(3)):
        await anyio.lowlevel.checkpoint()


class Sharing:
    """Middleware that gives all requests one state, as servers give one to a connection."""

    def __init__(self, app: ASGIApp, state: Any) -> None:
        self.app = app
        self.state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await pause()
        scope["state"] = self.state
        await self.app(scope, receive, send)


async def acting(request: Request) -> str:
    """The user as whom the code of a request acts, whichever way it is asked."""
    names = set()
    for _ in range(3):
        await pause()
        names.add(current().actor.id)
        user = request.scope["user"].display_name
        await current().require("db.read", f"sql_query:{user}")
        request.state.user = user
    worker = await anyio.to_thread.run_sync(lambda: current().actor.id) if random.random() < 0.02 else None
    names |= {worker} - {None}
    (name,) = names
    return str(name)


@requires("db.read", resource="sql_query:{user}")
async def endpoint(request: Request) -> Response:
    return PlainTextResponse(await acting(request))


@requires("db.read", resource="sql_query:{user}")
async def by_state(request: Request) -> Response:
    capabilities = request.state.capabilities
    await pause()
    assert request.state.capabilities is capabilities
    await capabilities.require("db.read", f"sql_query:{request.scope['user'].display_name}")
    return PlainTextResponse(str(capabilities.actor.id))


def application(inside: Any, outside: Any) -> ASGIApp:
    """With state that is shared inside the gate, outside of it, or in both places."""
    mounted = Starlette(routes=[Route("/{user}", endpoint)])
    app = Starlette(routes=[Route("/{user}", endpoint), Route("/by-state/{user}", by_state), Mount("/m", mounted)])
    if inside is not None:
        app.add_middleware(Sharing, state=inside)
    app.add_middleware(CapabilityMiddleware, settings=Settings(limits=PATIENT), checker=Own())
    if outside is not None:
        app.user_middleware.insert(0, Middleware(Sharing, state=outside))
    return app


SHARED: dict[str, Any] = {
    "one of the server": (None, {}),
    "one inside": ({}, None),
    "one in both places": (ONE := {"kept": 1}, ONE),
    "two": ({}, {}),
    "a mapping of another kind": (None, UserDict()),
    "a chain": (None, ChainMap({}, {"kept": 1})),
    "none": (None, None),
}


class Crowd:
    """Requests of all users, at once. ``connections`` are the states that the requests of a connection share."""

    def __init__(self, inside: Any, outside: Any) -> None:
        self.app = application(inside, outside)
        self.connections: dict[int, dict[str, Any]] = {}
        self._of_connection = inside is None and outside is None
        self._places = ("", "/m", "/by-state") if inside is None else ("", "/m")

    async def ask(self, number: int) -> None:
        user = random.choice(USERS)
        target = user if random.random() < 0.8 else random.choice(USERS)
        scope = http_scope(f"{random.choice(self._places)}/{target}", user=SimpleUser(user))
        if self._of_connection:
            del scope["state"]
            if number % 2:
                scope["state"] = self.connections.setdefault(number % 7, {})
        call = await Call(scope).to(self.app)
        assert call.status == (200 if target == user else 403), (user, target, call.body)
        assert target != user or call.body == user.encode()
        assert SEAT not in scope


@pytest.mark.sampled
@pytest.mark.timeout(900)
@pytest.mark.parametrize("shared", SHARED)
async def test_none_of_many_requests_acts_as_another(shared: str) -> None:  # G-4
    inside, outside = SHARED[shared]
    crowd, each = Crowd(inside, outside), examples(10_000) // len(SHARED) + 1
    with events():
        for start in range(0, each, 100):
            async with anyio.create_task_group() as group:
                for number in range(start, min(start + 100, each)):
                    group.start_soon(crowd.ask, number)
    for state in (inside, outside, *crowd.connections.values()):
        assert state is None or "capabilities" not in state
