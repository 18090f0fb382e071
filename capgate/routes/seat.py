"""Holds what a request carries from the gate to the routers: the request itself, and the place where it stands.

A :class:`Seat` travels in the scope, under :data:`SEAT`. It is immutable: on the way in a router puts another one
there, and the former one back when it is done. It is not in a context variable, since middleware may run an application
in another context. A router that is called without a seat learns from :data:`UNDECIDED` that a gate is waiting.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextvars import ContextVar
from typing import Any, Final, Literal, Protocol

import msgspec
from starlette.types import Receive, Scope, Send

from .declare import Requirements
from .precedence import Needed, RouterPlace, Status

#: Where the seat of a request is in its scope.
SEAT: Final = "capgate.seat"


#: What a router says of a route when it has it asked about. Of what is ``deferred``, FastAPI's dependencies ask before
#: the endpoint runs. Of what is ``delegated``, an application asks, and refuses in words of its own. Where a request is
#: ``unrouted``, nothing runs: the framework answers it with 404, 405 or a redirect.
Asked = Literal[Status, "delegated", "unrouted"]


class _Public:
    def __repr__(self) -> str:
        return "PUBLIC"


#: What a resolver gives in place of requirements, where a request is open.
PUBLIC: Final = _Public()


class SeatedRequest(Protocol):
    """A request behind a gate, as routers see it."""

    #: The route that was reached last and declares nothing, and the path of the mounts around it.
    undeclared: tuple[Any, str] | None
    #: What gives the application the body that was read for its hash, if it was.
    replay: Receive | None

    @property
    def public(self) -> frozenset[str]:
        """The names of the routes that are open by configuration."""

    @property
    def by_resolver(self) -> bool:
        """Whether a function of the application's says what is needed, and not the routes."""

    @property
    def decided(self) -> bool:
        """Whether something was allowed, or is open, so that the application may act outside of routers."""

    @property
    def denied(self) -> bool:
        """Whether the request was denied, which is for good."""

    def admit_now(
        self, scope: Scope, receive: Receive, status: Asked, requirements: Requirements, params: Any
    ) -> bool | None:
        """Say whether the request may pass, or ``None`` where that has to be waited for."""

    async def admit(
        self, scope: Scope, receive: Receive, status: Asked, requirements: Requirements, params: Any
    ) -> bool:
        """Say whether the request may pass, where that may have to be waited for. ``scope`` is what the router has."""

    def resolve(self, scope: Scope) -> tuple[Needed, Any]:
        """Return what the application's own resolver says that ``scope`` needs, and the path parameters."""

    def deny(self, scope: Scope, cause: BaseException) -> None:
        """Deny the request, because of what went wrong on the way to the question."""

    def stand_aside(self) -> None:
        """Let pass what a gate further outside answers in place of the application."""

    def refuse(self, scope: Scope, send: Send) -> Awaitable[None]:
        """Send the denial."""


class Seat(msgspec.Struct, frozen=True, gc=False):
    """A request, and the place where it stands.

    ``admitted`` says that it is inside of something that was admitted as a whole. Only what declares something is
    asked there. ``outer`` is the seat of the same request at a gate further outside, if there is one.
    """

    request: SeatedRequest
    place: RouterPlace
    admitted: bool = False
    outer: Seat | None = None


#: The request that a gate let in, until the gate is done with it. Whoever has no seat asks it whether it was decided.
#: It has the capabilities that are in force, see :mod:`capgate.enforcement.current`.
UNDECIDED: ContextVar[SeatedRequest | None] = ContextVar("capgate.undecided", default=None)
