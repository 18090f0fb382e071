"""A request as routers see it, other than the middleware's: it notes what is asked, and answers as it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import anyio
import anyio.lowlevel
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from capgate.routes.declare import Requirements
from capgate.routes.dispatch import arm, install
from capgate.routes.precedence import Needed, RouterPlace, start
from capgate.routes.seat import PUBLIC, SEAT, UNDECIDED, Asked, Seat
from capgate.routes.target import Target, find_target

#: A status, and what was asked with the path parameters filled in.
Noted = tuple[str, tuple[tuple[str, Any], ...]]


class Doorman:
    """One request. ``allow`` is what a policy says of an action and a resource id, ``during`` what happens while it is
    waited for; ``passes`` says whether the framework may answer what no route does."""

    def __init__(
        self,
        allow: Callable[[str, Any], bool] = lambda action, id: True,
        *,
        public: frozenset[str] = frozenset(),
        during: Callable[[], None] | None = None,
        resolver: Callable[[Scope], Requirements] | None = None,
        passes: bool = False,
    ) -> None:
        self.allow = allow
        self.passes = passes
        self.public = public
        self.replay: Receive | None = None
        self.undeclared: tuple[Any, str] | None = None
        self.decided = self.denied = False
        self.by_resolver = resolver is not None
        self.asked: list[Noted] = []
        self.causes: list[BaseException] = []
        self.refusals = 0
        self._during = during
        self._resolver = resolver

    def admit_now(
        self, scope: Scope, receive: Receive, status: Asked, requirements: Requirements, params: Any
    ) -> bool | None:
        if self._during is not None:
            return None
        filled = tuple((one.action, getattr(one.resource(params), "id", None)) for one in requirements)
        self.asked.append((status, filled))
        if status == "unrouted":
            return self.passes
        self.decided = status != "undeclared" and all(self.allow(*question) for question in filled)
        return self.decided

    async def admit(
        self, scope: Scope, receive: Receive, status: Asked, requirements: Requirements, params: Any
    ) -> bool:
        during, self._during = self._during, None
        assert during is not None
        during()
        await anyio.lowlevel.checkpoint()
        return self.admit_now(scope, receive, status, requirements, params) is True

    def resolve(self, scope: Scope) -> tuple[Needed, Any]:
        assert self._resolver is not None
        return ("declared", self._resolver(scope)), scope.get("path_params")

    def stand_aside(self) -> None:
        self.decided = True

    def deny(self, scope: Scope, cause: BaseException) -> None:
        self.decided = False
        self.causes.append(cause)

    async def refuse(self, scope: Scope, send: Send) -> None:
        self.refusals += 1
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
            return
        await send({"type": "http.response.start", "status": 403, "headers": []})
        await send({"type": "http.response.body", "body": b"refused"})


class Seated:
    """An application with a gate around it that lets everything in as far as its routers."""

    def __init__(self, app: ASGIApp, **options: Any) -> None:
        install()
        self.app = app
        self.options = options
        place = start(find_target(app))
        assert isinstance(place, RouterPlace)
        self.place = place
        arm(place.router)
        self.last = Doorman()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        self.last = request = Doorman(**self.options)
        scope[SEAT] = seat = Seat(request, self.place)
        token = UNDECIDED.set(request)
        try:
            await self.app(scope, receive, send)
        finally:
            assert scope[SEAT] is seat
            UNDECIDED.reset(token)


class _Deferred:
    def __repr__(self) -> str:
        return "DEFERRED"


#: In place of requirements: what the request reaches asks by itself.
DEFERRED: Final = _Deferred()


class _Curious(Doorman):
    """Admits nobody, and keeps what would have been asked."""

    needed: Any = None
    params: Any = None

    def admit_now(
        self, scope: Scope, receive: Receive, status: Asked, requirements: Requirements, params: Any
    ) -> bool | None:
        opened = {"public": PUBLIC, "deferred": DEFERRED, "delegated": DEFERRED}
        self.needed, self.params = opened.get(status, requirements), params
        return False


def resolver_for(target: Target, public: frozenset[str] = frozenset()) -> Callable[[Scope], tuple[Any, Any]]:
    """A function that tells what would be asked before the endpoint that a scope reaches, none of which runs.

    It gives requirements, ``PUBLIC`` or ``DEFERRED``, and the path parameters. It raises what a denial is due to.
    """
    install()
    place = start(target)

    def resolve(scope: Scope) -> tuple[Any, Any]:
        request = _Curious(public=public)
        if not isinstance(place, RouterPlace):
            request.admit_now(scope, _never, place[0], place[1], scope.get("path_params", {}))
            return request.needed, request.params
        arm(place.router)
        root_path: dict[str, Any] = {"root_path": target.root_path} if target.root_path else {}
        if "fastapi" in scope:
            root_path["fastapi"] = dict(scope["fastapi"])
        running: Any = place.router({**scope, **root_path, SEAT: Seat(request, place)}, _never, _nowhere)
        with pytest.raises(StopIteration):
            running.send(None)
        if request.causes:
            raise request.causes[0]
        return request.needed, request.params

    return resolve


async def _never() -> Message:
    raise AssertionError("nothing is read from the client")


async def _nowhere(message: Message) -> None:
    pass
