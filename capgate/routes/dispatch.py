"""Stands where a router chooses its route, and has what was found asked about before it runs.

There is one :class:`Dispatch` for each router, for all gates, in the place of ``router.app``. A router gets one when a
gate starts, when a mount leads to it, or when it is called with a seat in its scope. Without a seat a dispatch calls on:
an application that is used outside of a gate as well is there as ever.

A router is searched once. What was found is asked about, and then pinned: the framework runs it and cannot choose
another (:mod:`capgate.routes.pinned`). Whatever goes wrong on the way is a denial.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable
from types import FunctionType, MethodType
from typing import Any, Final

from starlette.applications import Starlette
from starlette.routing import Match, Router
from starlette.types import Receive, Scope, Send

from ..errors import ends_task
from .declare import ATTRIBUTE, declared, inherit
from .framework import DEPTH, USUAL, Unresolvable
from .pinned import Rest, View, pin
from .precedence import Needed, Place, rest, step
from .seat import SEAT, UNDECIDED, Seat, SeatedRequest
from .table import Found, Table

_NOTHING: Final[Needed] = ("undeclared", ())
#: The place inside of something that was admitted as a whole: nothing is declared around it any more.
INSIDE: Final = Place(Router(), (), ())


class Dispatch:
    """The choice of a route of ``router``. Called like an ASGI application."""

    __slots__ = ("_run", "_table", "router")

    def __init__(self, router: Router) -> None:
        self.router = router
        #: The framework's own function, to be called with a view in place of the router.
        self._run: Any = type(router).app
        self._table: Table | None = None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        seat = scope.get(SEAT)
        if seat is not None:
            return self._serve(seat, scope, receive, send)
        waiting = UNDECIDED.get()
        if waiting is None or waiting.decided or scope["type"] == "lifespan":
            return self.router.app(scope, receive, send)
        name = type(self.router).__name__
        return refuse_for(waiting, scope, send, Unresolvable(f"a {name} was called with a scope that has no seat"))

    async def _serve(self, seat: Seat, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on to the route that it reaches, once that was asked about and allowed."""
        request, router = seat.request, self.router
        admitted: bool | None = False
        view: Any = None
        inner = seat
        try:
            if "router" not in scope:
                scope["router"] = router
            found, table = self._find(scope)
            place = seat.place if seat.place.router is router else entered(seat.place, router, scope)
            needed: Needed | Place | None = None
            params = scope.get("path_params")
            if found is not None and found[1] is Match.FULL:
                entry, _, child = found
                endpoint, params = child["endpoint"], child.get("path_params")
                if entry.chain:
                    place = entry.place(place)
                if type(endpoint) is FunctionType and entry.leaf and not place.always:
                    # Nearly every route: a function that declares something itself.
                    own = getattr(endpoint, ATTRIBUTE, None)
                    if type(own) is tuple and own:
                        needed = ("declared", own)
                if needed is None:
                    method = scope["method"] if scope["type"] == "http" else None
                    needed = step(place, entry.route, endpoint, method, request.public)
                view = View(pin(found), getattr(router, "form_limits", None))
            else:
                needed = rest(place) if place.always else _NOTHING
                if place.always or seat.admitted or request.by_resolver:
                    view = Rest(router, table, scope, found)
            if request.by_resolver:
                needed, params = request.resolve(scope)
            if type(needed) is Place:
                arm(needed.router)
                inner, admitted = Seat(request, needed, seat.admitted), True
            else:
                status, requirements = needed  # type: ignore[misc]
                if status == "undeclared" and seat.admitted:
                    status = "public"
                admitted = request.admit_now(scope, receive, status, requirements, params)
                if admitted is None:
                    admitted = await request.admit(scope, receive, status, requirements, params)
                if request.replay is not None:
                    receive = request.replay
                inner = Seat(request, INSIDE, True)
        except BaseException as error:
            if ends_task(error):
                raise
            admitted = False
            request.deny(scope, error)
        if admitted is True:
            scope[SEAT] = inner
            try:
                await self._run(view, scope, receive, send)
            finally:
                scope[SEAT] = seat
            return
        await request.refuse(scope, send)

    def _find(self, scope: Scope) -> tuple[Found | None, Table]:
        """Return what the routes of the router, as they are now, say of ``scope``."""
        table = self._table
        if table is None or not table.is_current():
            table = self._table = Table(self.router)
        found = table.find(scope)
        if found is not None:
            routes, index = self.router.routes, found[0].index
            if index >= len(routes) or routes[index] is not found[0].top:  # an equal one took its place
                table = self._table = Table(self.router)
                found = table.find(scope)
        return found, table


def entered(place: Place, router: Router, scope: Scope) -> Place:
    """Return the place of a ``router`` that is called where another one, or none, was expected."""
    if place.depth >= DEPTH:
        raise Unresolvable(f"applications are nested more than {DEPTH} deep")
    always, default = place.always, place.default
    app = scope.get("app")
    if isinstance(app, Starlette) and app.router is router:
        always, default = inherit(declared(app), always, default)
    always, default = inherit(declared(router), always, default)
    return Place(router, always, default, place.prefix, "", place.depth + 1)


# -- how routers get one


def arm(router: Router) -> Dispatch:
    """Put a dispatch in the place of ``router.app``, unless one is there.

    It stands at the end of the router's own middleware. Raises :class:`~capgate.routes.framework.Unresolvable` for a
    router that dispatches in its own way, or whose end of the chain cannot be seen.
    """
    if not USUAL[type(router)]:
        raise Unresolvable(f"{type(router).__name__} dispatches in its own way")
    holder, name = router, "middleware_stack"
    for _ in range(DEPTH):
        inner = getattr(holder, name, None)
        if isinstance(inner, Dispatch) and inner.router is router:
            return inner
        if isinstance(inner, MethodType) and inner.__self__ is router and inner.__func__ is type(router).app:
            dispatch = Dispatch(router)
            try:
                setattr(holder, name, dispatch)
            except (AttributeError, TypeError):
                break
            if getattr(holder, name) is not dispatch:
                break
            return dispatch
        if inner is None or isinstance(inner, (type, FunctionType, MethodType)):
            break
        holder, name = inner, "app"
    raise Unresolvable(f"where middleware of a {type(router).__name__} calls it cannot be seen")


async def refuse_for(request: SeatedRequest, scope: Scope, send: Send, cause: Exception) -> None:
    """Refuse a request that reached a router at which nothing can be asked."""
    request.deny(scope, cause)
    await request.refuse(scope, send)


def install() -> None:
    """Have each router that is called with a seat in its scope get a dispatch. Does nothing the second time."""
    original = Router.__call__
    if hasattr(original, _MARK):
        return
    pristine = original.__module__ == "starlette.routing" and original.__code__.co_names == ("middleware_stack",)

    @functools.wraps(original)
    async def __call__(self: Router, scope: Scope, receive: Receive, send: Send) -> None:
        stack = self.middleware_stack
        if type(stack) is not Dispatch and scope["type"] != "lifespan":
            seat = scope.get(SEAT)
            waiting = UNDECIDED.get() if seat is None else seat.request
            if waiting is not None and not (seat is None and waiting.decided):
                try:
                    arm(self)
                except Exception as error:
                    await refuse_for(waiting, scope, send, error)
                    return
                stack = self.middleware_stack
        if pristine:
            await stack(scope, receive, send)
        else:
            await original(self, scope, receive, send)

    setattr(__call__, _MARK, True)
    Router.__call__ = __call__  # type: ignore[method-assign]


_MARK: Final = "__capgate_hook__"
