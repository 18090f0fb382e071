"""Decides what a route needs: the rule of precedence, and the step from a router to what one of its routes leads to.

Whoever wants to know what is asked takes these steps. Routing takes them along the routes that a request matches, and
the report along all routes, for contracts, the OpenAPI document and ``strict``.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any, Literal, NamedTuple

from starlette.routing import Host, Mount, Router

from .declare import Requirements, declared, declared_for_method, declaring_methods, inherit, is_class_based
from .fastapi_routes import asks_in_dependency, check_rest
from .framework import DEPTH, USUAL, Unresolvable, own_path, template
from .target import Target, find_target

#: What is known of a route. Only what is ``declared`` has requirements: see :func:`resolve`. What cannot be resolved
#: for certain raises :class:`~capgate.routes.framework.Unresolvable` or :class:`TypeError`, and is listed by that name.
Status = Literal["declared", "deferred", "public", "undeclared", "unresolvable"]
Needed = tuple[Status, Requirements]


def resolve(own: Requirements, always: Requirements, default: Requirements, asks: bool, public: bool) -> Needed:
    """Return the status of a route, and what a policy has to allow before it runs.

    ``own`` is what its endpoint declares. ``always`` and ``default`` are declared around it. ``asks`` says that the
    endpoint asks by itself before it does anything, ``public`` that the settings name the route.

    What is always asked comes first, then its own. The default stands in for its own, unless it asks by itself. A route
    of which nothing is asked so far is deferred to if it asks by itself, else open if it is public. Else its default
    counts, and without one it is undeclared.
    """
    if own or always:
        return "declared", (*always, *(own or (() if asks else default)))
    if asks:
        return "deferred", ()
    if public:
        return "public", ()
    return ("declared" if default else "undeclared"), default


class RouterPlace(NamedTuple):
    """A router, and what is declared around its routes. Made by :func:`start` and :func:`step`.

    ``prefix`` is the path of the mounts around it. ``root_path`` is what the scope gets on the way in, ``""`` for what
    it had. ``depth`` is the number of routers around it.
    """

    router: Router
    always: Requirements
    default: Requirements
    prefix: str = ""
    root_path: str = ""
    depth: int = 0


def start(target: Target) -> RouterPlace | Needed:
    """Return the place where the routes of ``target`` begin; without a router, what each request needs.

    Raises :class:`~capgate.routes.framework.Unresolvable` for a router that dispatches in its own way.
    """
    if target.router is None:
        return resolve(target.declared, (), target.default, target.asks_itself, False)
    return _place(target.router, target.declared, target.default, "", target.root_path, 0)


def step(
    place: RouterPlace, route: Any, endpoint: Any, method: str | None, public: frozenset[str]
) -> RouterPlace | Needed:
    """Return what ``route`` of ``place`` needs, or the place that it leads to.

    ``endpoint`` is what the route gives a request, and ``method`` that of the request; ``None`` for a websocket.
    Raises :class:`~capgate.routes.framework.Unresolvable`, and :class:`TypeError` where a declaration is not one.
    """
    router, always, default, prefix, _, depth = place
    original = getattr(route, "original_route", route)
    if isinstance(original, (Mount, Host)):
        always, default = inherit(declared(original), always, default)
    asks = False
    if type(endpoint) is FunctionType:
        own = declared(endpoint)
        asks = asks_in_dependency(route, router)
    elif method is not None and is_class_based(endpoint):
        if getattr(route, "app", endpoint) is not endpoint and declaring_methods(endpoint):  # type: ignore[arg-type]  # classes are hashable
            raise Unresolvable(f"{endpoint!r} declares methods behind middleware of its route; declare the class")
        own = declared_for_method(endpoint, method)
    elif getattr(route, "dependant", None) is not None:  # FastAPI calls this; an application in it is not called
        own = declared(endpoint)
        asks = asks_in_dependency(route, router)
    else:
        target = find_target(endpoint)
        default = target.default or default
        if target.router is not None:
            always = (*always, *target.declared)
            return _place(target.router, always, default, prefix + own_path(route), target.root_path, depth + 1)
        own, asks = target.declared, target.asks_itself
    return resolve(own, always, default, asks, bool(public) and _is_public(route, original, prefix, public))


def _is_public(route: Any, original: Any, prefix: str, public: frozenset[str]) -> bool:
    """Say whether ``public`` names ``route``: by its template, or by the path of the mount that it is.

    By its path only a mount is named that has one, and declares nothing itself.
    """
    if template(route, prefix) in public:
        return True
    path = own_path(route)
    return isinstance(original, Mount) and path != "" and prefix + path in public and not declared(original)


def rest(place: RouterPlace) -> Needed:
    """Return what is asked where no route of ``place`` matches: what always is. Defaults are for routes.

    Raises :class:`~capgate.routes.framework.Unresolvable` where what the router does then would need something else.
    """
    if place.always:
        check_rest(place.router, (place.always, place.default))
    return resolve((), place.always, (), False, False)


def _place(
    router: Router, always: Requirements, default: Requirements, prefix: str, root_path: str, depth: int
) -> RouterPlace:
    if depth > DEPTH:
        raise Unresolvable(f"applications are nested more than {DEPTH} deep")
    if not USUAL[type(router)]:
        raise Unresolvable(f"{type(router).__name__} dispatches in its own way")
    return RouterPlace(router, always, default, prefix, root_path, depth)
