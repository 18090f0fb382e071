"""Walks the routes of a router in the order in which they are tried, those of included routers among them.

FastAPI keeps one route per included router, with one context behind it for each route of that router. Whoever finds the
route of a request, and whoever lists all routes, takes this walk.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from starlette.routing import BaseRoute, Host, Match, Mount, Router
from starlette.types import Scope

from .declare import ATTRIBUTE, Requirements, inherit
from .framework import DEPTH, PLAIN, USUAL, Unresolvable
from .precedence import RouterPlace
from .typed_parameters import Typed, typed_parameters

#: What a route says of a request: whether it matches, and what it adds to the scope.
Answer = tuple[Match, Any]


class Entry:
    """One place in the order of routes.

    ``top`` is the route of the router itself, at ``index``. ``chain`` are the included routers from there to the route,
    outermost first. ``context`` is what FastAPI made of the route for that chain.

    ``route`` is the route as it is to be described, with the path and the dependencies that it has in that chain.
    ``problem`` says why nothing can be known.
    """

    __slots__ = (
        "chain",
        "context",
        "index",
        "leading",
        "leaf",
        "original",
        "plain",
        "problem",
        "route",
        "simple",
        "top",
        "typed",
    )

    def __init__(
        self, index: int, top: Any, chain: tuple[Any, ...] = (), context: Any = None, problem: str | None = None
    ) -> None:
        self.index = index
        self.top = top
        self.chain = chain
        self.context = context
        self.problem = problem
        self.original = top if context is None else context.original_route
        self.route = top if context is None or problem is not None else _route_context(context)
        #: Whether the route matches as the framework's own do, by its regular expression.
        self.plain = bool(PLAIN[type(self.original)]) and problem is None
        #: Whether its ``matches`` can be asked as it is.
        self.simple = self.plain and not chain
        #: Whether there is more below the route.
        self.leading = isinstance(self.original, (Mount, Host))
        #: Whether both are so: nothing is below it, and it can be asked as it is.
        self.leaf = self.simple and not self.leading
        #: What converts its path parameters after it was found.
        self.typed: Typed | None = typed_parameters(self.route) if problem is None else None

    @property
    def selected(self) -> Any:
        """The route that is called, as FastAPI chooses it."""
        if self.context is None or _is_api_route(self.original):
            return self.original
        return self.context.starlette_route or self.original

    @property
    def regex(self) -> Any:
        """The regular expression of the path; ``None`` where another thing decides."""
        if not self.plain or isinstance(self.original, Host):
            return None
        if self.context is None:
            return getattr(self.original, "path_regex", None)
        return getattr(self.context.starlette_route or self.context, "path_regex", None)

    def match(self, scope: Scope) -> Answer:
        """Return the route's own answer. Raises :class:`~capgate.routes.framework.Unresolvable`, or what it raises."""
        if self.context is None and self.problem is None:
            match, child = self.top.matches(scope)
            if match is Match.FULL and "endpoint" not in child:
                raise Unresolvable(f"{type(self.top).__name__} matches without an endpoint")
            return match, child
        if self.problem is not None:
            raise Unresolvable(self.problem)
        match, child = self.context.matches(scope)
        if match is not Match.NONE and _is_api_route(self.original):
            child["route"] = self.original
        return match, child

    def place(self, place: RouterPlace) -> RouterPlace:
        """Return the place of the route: ``place`` with what the included routers around it declare."""
        always, default = place.always, place.default
        for included in self.chain:
            own = getattr(included.original_router, ATTRIBUTE, ())
            if own:
                always, default = inherit(_checked(own), always, default)
        if always is place.always and default is place.default:
            return place
        return place._replace(always=always, default=default)


def walk(router: Router) -> Iterator[Entry]:
    """Yield the routes of ``router`` and of the routers included in it. Raises nothing: see ``Entry.problem``."""
    for index, route in enumerate(router.routes):
        if is_included(route):
            yield from _expand(index, route, route, ())
        else:
            yield Entry(index, route)


def included_routers(router: Any, depth: int = 0) -> Iterator[Any]:
    """Yield the routers that are included in ``router``, and in those."""
    for route in router.routes:
        if is_included(route) and depth <= DEPTH:
            yield route.original_router
            yield from included_routers(route.original_router, depth + 1)


def is_included(route: Any) -> bool:
    """Say whether ``route`` stands for a router that FastAPI (0.139 and later) included."""
    included = getattr(sys.modules.get("fastapi.routing"), "_IncludedRouter", None)
    return included is not None and type(route) is included


def _expand(index: int, top: Any, included: Any, chain: tuple[Any, ...]) -> Iterator[Entry]:
    chain = (*chain, included)
    router = included.original_router
    if len(chain) > DEPTH or not isinstance(router, Router) or not USUAL[type(router)]:
        how = f"is included more than {DEPTH} deep" if len(chain) > DEPTH else "dispatches in its own way"
        yield Entry(index, top, chain, problem=f"{type(router).__name__} {how}")
        return
    try:
        candidates = list(included.effective_candidates())
    except Exception as error:  # another version of FastAPI
        yield Entry(index, top, chain, problem=f"the routes of an included router cannot be seen: {error!r}")
        return
    for candidate in candidates:
        if is_included(candidate):
            yield from _expand(index, top, candidate, chain)
            continue
        problem = None
        if not PLAIN[type(candidate.original_route)]:
            name = type(candidate.original_route).__name__
            problem = f"{name} in an included router matches in its own way"
        yield Entry(index, top, chain, candidate, problem)


def _route_context(context: Any) -> Any:
    """Return the route of ``context`` with the path, the methods and the dependencies that it has there."""
    return sys.modules["fastapi.routing"].RouteContext(context.original_route, context)


def _is_api_route(route: BaseRoute) -> bool:
    api_route = getattr(sys.modules.get("fastapi.routing"), "APIRoute", None)
    return api_route is not None and isinstance(route, api_route)


def _checked(own: object) -> Requirements:
    if type(own) is not tuple:
        raise TypeError(f"{ATTRIBUTE} is a {type(own).__name__}, which requires() does not make")
    return own
