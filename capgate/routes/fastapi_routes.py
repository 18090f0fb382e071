"""Reads what FastAPI adds to the routes of starlette: routers in routers, frontends, dependencies that ask.

FastAPI is not imported here; where nobody did, there is nothing of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any, cast

from starlette.routing import BaseRoute, Host, Match, Mount, Router
from starlette.types import Scope

from .declare import Requirements, declared, does_ask_itself, inherit
from .framework import DEPTH, PLAIN, USUAL, Unresolvable, own_path
from .target import find_target

#: What routes are always asked for, and what those that declare nothing are asked for.
Around = tuple[Requirements, Requirements]


def match_included(route: BaseRoute, scope: Scope) -> tuple[Any, Match, MutableMapping[str, Any]]:
    """Return the route that matched and its match, where ``route`` may write to the scope or stand for many routes."""
    scope = dict(scope)
    if isinstance(scope.get("fastapi"), dict):
        scope["fastapi"] = dict(scope["fastapi"])
    behind = routes_behind(route)
    if behind is None:
        match, child = route.matches(scope)
        if match is Match.FULL and "endpoint" not in child:
            raise Unresolvable(f"{type(route).__name__} matches without an endpoint")
        return route, match, child
    for reached in behind:
        if not PLAIN[type(reached.original_route)]:
            check_plain(reached)
        match, child = reached.matches(scope)
        if match is Match.FULL:
            return reached, match, child
    return route, Match.NONE, {}


def routes_behind(route: BaseRoute) -> Iterable[Any] | None:
    """Return the routes that FastAPI (0.139 and later) keeps behind one route per included router.

    Returns ``None`` for other routes. Raises :class:`~capgate.routes.framework.Unresolvable` for a router, or when it
    comes to a route, whose class chooses in its own way.
    """
    fastapi = sys.modules.get("fastapi.routing")
    contexts_of = getattr(fastapi, "iter_route_contexts", None)
    if contexts_of is None or hasattr(route, "endpoint") or isinstance(route, (Mount, Host)):
        return None
    router = getattr(route, "original_router", None)
    if router is None:
        return None
    _check_included(router, 0)
    return cast("Iterable[Any]", contexts_of([route]))


def check_plain(reached: Any) -> None:
    """Raise unless a route behind another is of a class that matches as usual, since FastAPI does not ask it."""
    if not PLAIN[type(reached.original_route)]:
        raise Unresolvable(f"{type(reached.original_route).__name__} in an included router matches in its own way")


def around_included(route: Any, reached: Any, around: Around) -> Around:
    """Return ``around`` with what the included routers from ``route`` to the ``reached`` route behind it declare.

    Raises :class:`~capgate.routes.framework.Unresolvable` where it was included twice, below routers that declare
    different things.
    """
    places = list(_places(route.original_router, getattr(reached, "original_route", reached), around, 0))
    if not places or any(place != places[0] for place in places):
        raise Unresolvable(f"{own_path(reached)} is included {len(places)} times, with different declarations")
    return places[0]


def _places(router: Any, wanted: Any, around: Around, depth: int) -> Iterator[Around]:
    if depth > DEPTH:
        raise Unresolvable(f"routers are included more than {DEPTH} deep")
    around = inherit(declared(router), *around)
    for route in (*router.routes, *getattr(router, "_low_priority_routes", ())):
        if route is wanted:
            yield around
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from _places(inner, wanted, around, depth + 1)


def _check_included(router: Any, depth: int) -> None:
    """Raise unless the routers below are the framework's own, since their routes are asked without them."""
    if depth > DEPTH or not isinstance(router, Router) or not USUAL[type(router)]:
        raise Unresolvable(f"{type(router).__name__} dispatches in its own way")
    for route in router.routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            _check_included(inner, depth + 1)


def check_rest(router: Any, around: Around) -> None:
    """Raise unless ``router`` needs nothing besides what is always asked around it where no route of it matches."""
    default = find_target(router.default)
    if default.declared or default.default or default.router is not None:
        raise Unresolvable(f"the default application of a {type(router).__name__} declares something, or has routes")
    if any(always != around[0] for always in frontends(router, around)):
        raise Unresolvable("there are frontends in included routers, which declare what is always asked")


def frontends(router: Any, around: Around, depth: int = 0) -> Iterator[Requirements]:
    """Yield, for each frontend that FastAPI tries where no route of ``router`` matches, what is always asked there."""
    if depth > DEPTH:
        raise Unresolvable(f"routers are included more than {DEPTH} deep")
    if getattr(router, "_low_priority_routes", ()):
        yield around[0]
    for route in router.routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from frontends(inner, inherit(declared(inner), *around), depth + 1)


def asks_in_dependency(route: Any, router: Any) -> bool:
    """Say whether dependencies of FastAPI's ask before the endpoint of ``route``, one of ``router``, runs.

    They do not where ``dependency_overrides`` replace one that would ask, or one on the way to it.
    """
    dependant = getattr(route, "dependant", None)
    if dependant is None or not any(map(does_ask_itself, calls_in(dependant))):
        return False
    holders = (
        getattr(route, "dependency_overrides_provider", None),
        getattr(router, "dependency_overrides_provider", None),
    )
    replaced = [overrides for holder in holders if (overrides := getattr(holder, "dependency_overrides", None))]
    return not replaced or not any(_is_replaced(dependant, overrides) for overrides in replaced)


def asked_in_dependencies(route: Any) -> Requirements:
    """Return what dependencies of FastAPI's ask before the endpoint of ``route`` runs."""
    dependant = getattr(route, "dependant", None)
    if dependant is None:
        return ()
    asking = filter(does_ask_itself, calls_in(dependant))
    return tuple(requirement for call in asking for requirement in declared(call))


def _is_replaced(dependant: Any, overrides: Mapping[Any, Any]) -> bool:
    """Say whether something that asks would not be called for ``dependant``."""
    for inner in dependant.dependencies:
        if inner.call in overrides:
            if does_ask_itself(inner.call) or any(map(does_ask_itself, calls_in(inner))):
                return True
        elif _is_replaced(inner, overrides):
            return True
    return False


def calls_in(dependant: Any, depth: int = 0) -> Iterator[Any]:
    """Yield the functions that FastAPI calls for ``dependant`` before its endpoint."""
    if depth > DEPTH:
        raise Unresolvable(f"dependencies are nested more than {DEPTH} deep")
    for inner in dependant.dependencies:
        yield inner.call
        yield from calls_in(inner, depth + 1)
