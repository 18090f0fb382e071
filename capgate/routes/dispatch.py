"""Stands where a router chooses its route, and has what was found asked about before it runs.

There is one :class:`Dispatch` for each router, for all gates, in the place of ``router.app``. A router gets one when a
gate starts, when a mount leads to it, or when it is called with a seat in its scope. Without a seat a dispatch calls
on: an application that is used outside of a gate as well is there as ever.

A router is searched once. What was found is asked about, and then pinned: the framework runs it and cannot choose
another (:mod:`capgate.routes.pinned`). Whatever goes wrong on the way is a denial. Only a full match counts as a route.
A request that the application would answer with 404, 405 or a redirect has no endpoint, thus no declaration. It is
``unrouted`` where that is certain (:mod:`capgate.routes.unrouted`), else undeclared.

What cannot be resolved for certain raises :class:`~capgate.routes.framework.Unresolvable`, and is denied: a route that
matches without an endpoint, a router that dispatches in its own way, one that contains itself.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from types import FunctionType, MethodType
from typing import Any, Final

from starlette._utils import get_route_path
from starlette.applications import Starlette
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from ..errors import MalformedInput, ends_task
from .canary import is_tested
from .declare import ATTRIBUTE, Requirements, declared, inherit
from .framework import DEPTH, USUAL, Unresolvable
from .pinned import Rest, View, pin, shows_route
from .precedence import Needed, RouterPlace, rest, step
from .route_table import FULL, STALE, Found, Table
from .seat import SEAT, UNDECIDED, Asked, Seat, SeatedRequest
from .typed_parameters import converted
from .ungated import note_ungated
from .unrouted import is_not_allowed

Run = Callable[[Scope, Receive, Send], Awaitable[None]]

_NOTHING: Final[Needed] = ("undeclared", ())
_DELEGATED: Final[tuple[Asked, Requirements]] = ("delegated", ())
#: In the prefix of a place whose routes have no public names, since it is not certain which these would be.
_NAMELESS: Final = "\0"
#: The place inside of something that was admitted as a whole: nothing is declared around it any more.
INSIDE: Final = RouterPlace(Router(), (), (), _NAMELESS)


class Dispatch:
    """The choice of a route of ``router``. Called like an ASGI application."""

    __slots__ = ("_is_starlettes", "_run", "_shown", "_table", "_usual", "router")

    def __init__(self, router: Router) -> None:
        self.router = router
        #: The framework's own function, to be called with a view in place of the router.
        self._run: Any = type(router).app
        self._is_starlettes = self._run is Router.app
        #: Whether the framework shows the route in the scope; ``None`` where only the framework can run one.
        self._shown = shows_route(self._run) if self._is_starlettes or is_tested("fastapi") else None
        self._table: Table | None = None
        #: Where the last request stood of which this is known, see :meth:`_is_usual`.
        self._usual: RouterPlace | None = None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        seat = scope.get(SEAT)
        if seat is not None:
            return self.serve(seat, scope, receive, send)
        waiting = UNDECIDED.get()
        if waiting is None or waiting.decided or scope["type"] == "lifespan":
            return self.router.app(scope, receive, send)
        name = type(self.router).__name__
        return refuse_for(waiting, scope, send, Unresolvable(f"a {name} was called with a scope that has no seat"))

    async def serve(self, seat: Seat, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on to the route that it reaches, once that was asked about and allowed."""
        request = seat.request
        admitted: bool | None = False
        run: Run | None = None
        view: View | Rest | None = None
        added: Any = None  # what the framework would add to the scope, where the route is run without it
        inner: Seat | None = None
        try:
            if "router" not in scope:
                scope["router"] = self.router
            table = self._table
            reached: Found | None = STALE if table is None else table.find(scope)
            if table is None or reached is STALE:
                table = self._table = Table(self.router)
                reached = table.find(scope)
            own: Any = None
            if reached is not None and reached[1] is FULL and reached[0].leaf:
                entry, _, child = reached
                if seat.outer is None and (seat.place is self._usual or self._is_usual(seat)):
                    endpoint = child["endpoint"]
                    own = getattr(endpoint, ATTRIBUTE, None)
                    if type(own) is not tuple or type(endpoint) is not FunctionType:
                        own = None
                # The route runs itself where the framework would do no more: FastAPI at times notes which one it is for
                # telemetry, limits forms, or has more to add.
                if self._shown is not None and (
                    self._is_starlettes
                    or not (
                        "fastapi.telemetry" in scope or "fastapi" in child or self.router.__dict__.get("form_limits")
                    )
                ):
                    run, added = entry.top.handle, child
                    if self._shown and "route" not in child:
                        child["route"] = entry.top
            if run is None:
                view = self._view(reached, table, scope)
                run = functools.partial(self._run, view)
            if own:  # nearly every request: a function that declares something itself, and nothing else is asked
                params = child["path_params"]
                if entry.typed is not None:
                    params = converted(params, entry.typed)
                admitted = request.admit_now(scope, receive, "declared", own, params)
                if admitted is None:
                    admitted = await request.admit(scope, receive, "declared", own, params)
                if request.replay is not None:
                    receive, request.replay = request.replay, None
                inner = Seat(request, INSIDE, True)
                seats: Sequence[Seat] = ()
            else:
                seats = (seat,) if seat.outer is None else outermost_first(seat)
            for at in seats:
                request = at.request
                needed, params = self._needed(at, reached, scope)
                if type(needed) is RouterPlace:
                    arm(needed.router)
                    admitted = not request.denied
                    inner = Seat(request, needed, at.admitted, inner)
                else:
                    status, requirements = needed  # type: ignore[misc]  # what is no place is a pair
                    if status == "undeclared" and at.admitted:
                        admitted = not request.denied
                    else:
                        if status == "undeclared":
                            status = self._undeclared(at, reached, view, scope)
                        admitted = request.admit_now(scope, receive, status, requirements, params)
                        if admitted is None:
                            admitted = await request.admit(scope, receive, status, requirements, params)
                    if request.replay is not None:
                        receive, request.replay = request.replay, None
                    inner = Seat(request, INSIDE, status != "unrouted", inner)
                if admitted is not True:
                    break
        except BaseException as error:
            if ends_task(error):
                raise
            admitted = False
            request.deny(scope, error)
        if admitted is True and run is not None:
            if added is not None:
                scope.update(added)
            scope[SEAT] = inner
            try:
                await run(scope, receive, send)
            finally:
                scope[SEAT] = seat
            return
        if request is not seat.request:
            seat.request.stand_aside()
        await request.refuse(scope, send)

    def _is_usual(self, seat: Seat) -> bool:
        """Say whether only what a route declares itself counts where ``seat`` is, and remember where that was."""
        place = seat.place
        if place.router is not self.router or place.always or seat.request.by_resolver:
            return False
        self._usual = place  # which belongs to one gate
        return True

    def _needed(
        self, seat: Seat, reached: Found | None, scope: Scope
    ) -> tuple[tuple[Asked, Requirements] | RouterPlace, Any]:
        """Return what is to be asked at ``seat`` before what was found runs, and the path parameters for that.

        Where what was found is a way to another router, the place of that: it is asked there.
        """
        request, place = seat.request, seat.place
        if request.by_resolver:
            return request.resolve(scope)
        if place.router is not self.router:
            place = entered(place, self.router, scope)
        if reached is None or reached[1] is not FULL:
            return (rest(place) if place.always else _NOTHING), scope.get("path_params")
        entry, _, child = reached
        endpoint = child["endpoint"]
        if entry.chain:
            place = entry.place(place)
        route = entry.route
        needed = step(place, route, endpoint, scope["method"] if scope["type"] == "http" else None, request.public)
        params = child.get("path_params")
        if type(needed) is tuple:
            if entry.leading:
                params = with_rest_of_path(params, needed[1], scope, child)
            if entry.typed is not None and needed[0] == "declared":
                params = converted(params, entry.typed)
            if needed[0] == "deferred" and getattr(route, "dependant", None) is None:
                return _DELEGATED, params
        return needed, params

    def _undeclared(self, seat: Seat, reached: Found | None, view: View | Rest | None, scope: Scope) -> Asked:
        """Return the status of what declares nothing, and tell the request which route it is, if it is one."""
        seat.request.undeclared = None
        if runs_nothing(view, reached, scope):
            return "unrouted"
        if reached is not None and not seat.request.by_resolver:
            place = seat.place
            prefix = place.prefix if place.router is self.router else place.prefix + _NAMELESS
            seat.request.undeclared = reached[0].route, prefix
        return "undeclared"

    def _view(self, reached: Found | None, table: Table, scope: Scope) -> View | Rest:
        """Return what the framework is to run in place of the router, before anything is waited for."""
        if reached is None or reached[1] is not FULL:
            return Rest(self.router, table, scope, reached)
        return View((pin(reached),), self.router.__dict__.get("form_limits"))


def runs_nothing(view: View | Rest | None, reached: Found | None, scope: Scope) -> bool:
    """Say whether the framework answers by itself, and no endpoint and no application runs."""
    if type(view) is Rest:
        return view.runs_nothing
    return reached is not None and is_not_allowed(reached[0], reached[2].get("endpoint"), scope)


def entered(place: RouterPlace, router: Router, scope: Scope) -> RouterPlace:
    """Return the place of a ``router`` that is called where another one, or none, was expected.

    What is declared around counts. No route of it is public.
    """
    if place.depth >= DEPTH:
        raise Unresolvable(f"applications are nested more than {DEPTH} deep")
    always, default = place.always, place.default
    app = scope.get("app")
    if isinstance(app, Starlette) and app.router is router:
        always, default = inherit(declared(app), always, default)
    always, default = inherit(declared(router), always, default)
    return RouterPlace(router, always, default, place.prefix + _NAMELESS, "", place.depth + 1)


def outermost_first(seat: Seat) -> list[Seat]:
    """Return the seats of one request at gates around gates."""
    seats = [seat]
    while seats[-1].outer is not None:
        seats.append(seats[-1].outer)
    return seats[::-1]


def with_rest_of_path(params: Any, requirements: Requirements, scope: Scope, child: Any) -> Any:
    """Return the parameters of a mount, with ``path`` for what follows its own path, where that is asked for.

    Raises :class:`~capgate.errors.MalformedInput` where one file could be named in several ways.
    """
    if "path" in params or not any("path" in requirement.in_path for requirement in requirements):
        return params
    path = get_route_path({**scope, **child}).removeprefix("/").removesuffix("/")
    if path and any(segment in ("", ".", "..") or "\\" in segment for segment in path.split("/")):
        raise MalformedInput("the path below a mount has empty segments, dots or backslashes")
    return {**params, "path": path}


# -- how routers get one


def arm(router: Router) -> Dispatch:
    """Put a dispatch in the place of ``router.app``, unless one is there.

    It stands at the end of the router's own middleware. Raises :class:`~capgate.routes.framework.Unresolvable` for a
    router that dispatches in its own way, or whose end of the chain cannot be seen.
    """
    if not USUAL[type(router)]:
        raise Unresolvable(f"{type(router).__name__} dispatches in its own way")
    holder: Any = router
    name = "middleware_stack"
    for _ in range(DEPTH):
        inner: object = getattr(holder, name, None)
        if isinstance(inner, Dispatch) and inner.router is router:
            return inner
        if isinstance(inner, MethodType) and inner.__self__ is router and inner.__func__ is type(router).app:
            dispatch = Dispatch(router)
            try:
                setattr(holder, name, dispatch)
            except (AttributeError, TypeError):
                break
            stands: object = getattr(holder, name)
            if stands is not dispatch:
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
    """Have each router that is called with a seat in its scope get a dispatch. Does nothing the second time.

    Of what runs without any gate, and declares something, the log says so once.
    """
    original = Router.__call__
    if hasattr(original, _MARK):
        return
    pristine = original.__module__ == "starlette.routing" and original.__code__.co_names == ("middleware_stack",)

    @functools.wraps(original)
    async def __call__(self: Router, scope: Scope, receive: Receive, send: Send) -> None:
        stack = self.middleware_stack
        seat = scope.get(SEAT)
        if pristine and seat is not None and type(stack) is Dispatch and stack.router is self:
            await stack.serve(seat, scope, receive, send)
            return
        if scope["type"] != "lifespan":
            waiting = UNDECIDED.get() if seat is None else seat.request
            if waiting is None and type(stack) is not Dispatch:
                try:
                    await (stack(scope, receive, send) if pristine else original(self, scope, receive, send))
                finally:
                    note_ungated(self, scope)
                return
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
    Router.__call__ = __call__  # type: ignore[method-assign]  # the hook


_MARK: Final = "__capgate_hook__"
