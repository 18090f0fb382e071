"""Stands in for a router and its routes while the framework runs what was found.

The framework's own ``app`` is called with a view in place of the router. The view has the one route that was found,
with its answer, and nothing else that a framework could choose by. One that looks further finds an
:class:`AttributeError`, and nothing runs.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from starlette.routing import Match, Mount, Router
from starlette.types import Receive, Scope, Send

from .route_table import Found, Table
from .unrouted import answers_not_found, require_not_allowed

_NOT: Any = (Match.NONE, {})


class Pinned(msgspec.Struct, eq=False):
    """A route that was found, and its answer. ``scope["route"]`` is set to the real one."""

    _route: Any
    _answer: tuple[Match, Any]
    _handler: Callable[..., Awaitable[None]]

    def matches(self, scope: Scope) -> tuple[Match, Any]:
        """Return what was found."""
        return self._answer

    def handle(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Handle the request as the route does that was found."""
        if scope.get("route") is self:
            scope["route"] = self._route
        return self._handler(scope, receive, send)

    @property
    def path_format(self) -> Any:
        """The path for telemetry."""
        return getattr(self._route, "path_format", None)


class PinnedMount(Mount):
    """A mount that was found: FastAPI's telemetry tells mounts from routes by their class."""

    def __init__(self, route: Any, answer: tuple[Match, Any], handler: Callable[..., Awaitable[None]]) -> None:
        self._route = route
        self._answer = answer
        self._handler = handler
        self.path_format = route.path_format

    matches = Pinned.matches  # of what has the same attributes
    handle = Pinned.handle  # type: ignore[assignment]  # the same attributes


class View(msgspec.Struct, eq=False):
    """A router with one route. ``form_limits`` are of FastAPI's routers from 0.163 on."""

    routes: tuple[Any, ...]
    form_limits: Any


class Rest:
    """A router in which no route matches in full: it answers 405, redirects, or calls what is there for the rest."""

    __slots__ = ("_frontend", "default", "form_limits", "redirect_slashes", "routes", "runs_nothing")

    def __init__(self, router: Any, table: Table, scope: Scope, reached: Found | None) -> None:
        self.form_limits = router.__dict__.get("form_limits")
        self.redirect_slashes = router.redirect_slashes
        self.default = router.default
        if reached is None:
            self.routes: tuple[Any, ...] = (_Redirects(table, scope),)
        else:
            require_not_allowed(reached[0], scope)
            self.routes = (_NotAllowed(reached, pin(reached)),)
        match_frontend = getattr(router, "_match_low_priority", None)
        self._frontend = None if match_frontend is None else match_frontend(scope)
        #: Whether the framework answers this by itself, and runs nothing of the application's.
        self.runs_nothing = (
            scope["type"] == "http"
            and (self._frontend is None or self._frontend[0] is Match.NONE)
            and (reached is not None or answers_not_found(self.default))
        )

    def _match_low_priority(self, scope: Scope) -> Any:
        return self._frontend


class _NotAllowed:
    """A route that was found in part, which is looked at once more before it answers 405."""

    __slots__ = ("_entry", "_pinned", "matches", "path_format")

    def __init__(self, reached: Found, pinned: Any) -> None:
        self._entry = reached[0]
        self._pinned = pinned
        self.matches = pinned.matches
        self.path_format = pinned.path_format

    def handle(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        require_not_allowed(self._entry, scope)  # outer gates may have waited meanwhile
        if scope.get("route") is self:
            scope["route"] = self._pinned
        return self._pinned.handle(scope, receive, send)  # type: ignore[no-any-return]  # the framework's


class _Redirects:
    """Matches no request, and says of the path to which a request could be redirected whether there is something."""

    __slots__ = ("_scope", "_table", "path_format")

    def __init__(self, table: Table, scope: Scope) -> None:
        self._table = table
        self._scope = scope
        self.path_format: Any = None

    def matches(self, scope: Scope) -> tuple[Match, Any]:
        if scope is self._scope:
            return _NOT  # type: ignore[no-any-return]
        reached = self._table.find(scope)
        if reached is None:
            return _NOT  # type: ignore[no-any-return]
        self.path_format = getattr(reached[0].route, "path_format", None)
        return Match.PARTIAL, {}


#: All that starlette's own ``Router.app`` uses, from 0.49 to 1.10.
_NAMES: Final = frozenset(
    {
        *("FULL", "Match", "NONE", "PARTIAL", "RedirectResponse", "URL", "default", "dict", "endswith"),
        *("get_route_path", "handle", "lifespan", "matches", "redirect_slashes", "routes", "rstrip", "str", "update"),
    }
)
#: Without these nothing chooses a route.
_CHOICE: Final = frozenset({"routes", "matches", "handle"})
#: What FastAPI's own uses besides, from 0.143 to 0.165.
_NAMES_OF_FASTAPI: Final = frozenset(
    {
        *("APIRoute", "Mount", "_FASTAPI_EFFECTIVE_ROUTE_CONTEXT_KEY", "_IncludedRouter", "_apply_router_form_limits"),
        *("_get_fastapi_scope", "_match", "_match_low_priority", "_route_selected", "_update_scope", "app", "get"),
        *("form_limits", "getattr", "isinstance", "original_route", "routing", "starlette_route"),
    }
)


@functools.cache
def shows_route(run: Callable[..., Awaitable[None]]) -> bool | None:
    """Say whether ``run``, the ``app`` of a router, shows the route in the scope, adds the answer and has it handled.

    Returns ``None`` where it does anything else, or may do so at times. Whoever knows what it does can do the same
    without it. It is known of what uses no other names than starlette's own does, and was tried to do nothing else.
    FastAPI's does more at times: see :meth:`~capgate.routes.dispatch.Dispatch.serve`.
    """
    code = getattr(run, "__code__", None)
    if code is None or code.co_freevars:  # as of a wrapper
        return None
    known = _NAMES if run is Router.app else _NAMES | _NAMES_OF_FASTAPI
    if not _CHOICE <= {*code.co_names} <= known:
        return None
    shown = [_tried(run, kind) for kind in ("http", "websocket")]
    return shown[0] if shown[0] is shown[1] else None


class _Probe:
    """A route that notes how it is handled."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def matches(self, scope: Scope) -> tuple[Match, Any]:
        self.seen += [scope, dict(scope)]
        return Match.FULL, {"endpoint": self, "path_params": {"name": "value"}}

    async def handle(self, *given: Any) -> None:
        self.seen += [*given, dict(given[0])]


def _tried(run: Callable[..., Awaitable[None]], kind: str) -> bool | None:
    async def channel(*_: Any) -> Any: ...

    probe = _Probe()
    before: Scope = {"type": kind, "path": "/", "method": "GET", "router": None, "headers": [], "query_string": b""}
    scope = {**before}
    try:
        run(View((probe,), None), scope, channel, channel).send(None)  # type: ignore[attr-defined]  # a coroutine
    except StopIteration:
        pass
    except Exception:
        return None
    after = {**before, "endpoint": probe, "path_params": {"name": "value"}}
    for shown, added in ((False, {}), (True, {"route": probe})):
        if probe.seen == [scope, before, scope, channel, channel, after | added] and scope == after | added:
            return shown
    return None


def pin(reached: Found) -> Any:
    """Return what stands for the route that was found among the routes of its router."""
    entry, match, child = reached
    top = entry.top
    if not entry.chain:
        return (PinnedMount if isinstance(top, Mount) else Pinned)(top, (match, child), top.handle)
    route, context, answer = entry.selected, entry.context, child
    make = _included_class()
    for included in reversed(entry.chain):
        route = make(included, match, answer, route, context)
        context, answer = None, {}
    return Pinned(top, (match, {}), route.handle)


@functools.cache
def _included_class() -> Any:
    """Return the class that stands for an included router; a subclass, since FastAPI looks for its own."""
    base = sys.modules["fastapi.routing"]._IncludedRouter

    class PinnedInclude(base):  # type: ignore[misc, valid-type]  # known at run time only
        """An included router whose one search was done."""

        def __init__(self, included: Any, match: Match, child: Any, route: Any, context: Any) -> None:
            self.original_router = included.original_router
            self.include_context = included.include_context
            self._found = match, child, route, context

        def _match(self, scope: Scope) -> Any:
            return self._found

        def matches(self, scope: Scope) -> tuple[Match, Any]:
            return self._found[0], {}

        __repr__ = object.__repr__
        __eq__ = object.__eq__
        __hash__ = object.__hash__

    return PinnedInclude
