"""Finds the endpoint that a request reaches, by the application's own routers, and what is asked before it runs.

The routes of the application are asked, in their order, with their own ``matches``. They are given the ``scope`` about
which they will be asked again when the request is passed on; so there is no second opinion on what a path means.
Nothing is normalised. Only a full match counts. A request that the application would answer with 404, 405 or a redirect
has no endpoint, thus no declaration. It is denied like any other, and which routes exist is not told to strangers.

What cannot be resolved for certain raises :class:`~capgate.routes.framework.Unresolvable`, and is denied: a route that
matches without an endpoint, a router that dispatches in its own way, one that contains itself. Middleware between the
gate and the router is taken to leave the scope alone; one that rewrites paths belongs outside the gate.

Public routes are named by their :func:`~capgate.routes.framework.template`: the path exactly as declared, after those
of the mounts around it. An application mounted without routes that could be seen (static files, WSGI) is
``/mount/path/{path:path}``. What is below ``Host("api.example.com")`` begins with that host,
``api.example.com/health``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, Final, NoReturn, Union

from starlette.routing import Match
from starlette.types import Scope

from .declare import ATTRIBUTE, Requirements
from .fastapi_routes import match_included
from .framework import LEAF, PLAIN, Unresolvable
from .precedence import RouterPlace, Status, rest, start, step
from .target import Target

_NO_PARAMETERS: Final[Mapping[str, Any]] = {}


class _Open:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


#: In place of requirements: the route is open by configuration.
PUBLIC: Final = _Open("PUBLIC")
#: In place of requirements: what the request reaches asks by itself before it does anything, and says so
#: (:func:`~capgate.routes.declare.asks_itself`).
DEFERRED: Final = _Open("DEFERRED")
#: What to ask before the request may pass (nothing declared: ``()``), and the path parameters of its route.
Resolution = tuple[Union[Requirements, _Open], Mapping[str, Any]]
NOTHING: Final[Resolution] = ((), _NO_PARAMETERS)

_OPEN: Final[dict[Status, _Open]] = {"public": PUBLIC, "deferred": DEFERRED}


def resolver_for(target: Target, public: frozenset[str] = frozenset()) -> Callable[[Scope], Resolution]:
    """Return a function that tells what is asked before the endpoint that a scope reaches. The scope stays as it is.

    It raises :class:`~capgate.routes.framework.Unresolvable`, or whatever a route's ``matches`` or a converter raises.
    """
    try:
        place = start(target)
    except Unresolvable as error:
        return functools.partial(_raise, str(error))
    if isinstance(place, RouterPlace):
        search = _search(place, public)
        if target.root_path:
            return lambda scope: search({**scope, "root_path": target.root_path})
        return search
    status, requirements = place
    needed = _OPEN.get(status, requirements)
    return lambda scope: (needed, scope.get("path_params", _NO_PARAMETERS))


def _raise(problem: str, scope: Scope) -> NoReturn:
    raise Unresolvable(problem)


def _search(place: RouterPlace, public: frozenset[str]) -> Callable[[Scope], Resolution]:
    """Return a function that tells what the first route of ``place`` that a scope reaches needs."""
    router, always, plainness, full = place.router, place.always, PLAIN, Match.FULL

    def search(scope: Scope) -> Resolution:
        for route in router.routes:
            plain = plainness[type(route)]
            if plain:
                match, child = route.matches(scope)
                if match is not full:
                    continue
                # Nearly every route: a function that declares something itself, and nothing is always asked around it.
                # What resolve() says of it, without a step, since every request comes by.
                if plain is LEAF and not always:
                    endpoint = child["endpoint"]
                    if type(endpoint) is FunctionType:
                        own = getattr(endpoint, ATTRIBUTE, None)
                        if type(own) is tuple and own:
                            return own, child["path_params"]
                here, reached = place, route
            else:
                reached, match, child = match_included(route, scope)
                if match is not full:
                    continue
                here = place.included(route, reached)
            method = scope["method"] if scope["type"] == "http" else None
            needed = step(here, reached, child["endpoint"], method, public)
            if isinstance(needed, RouterPlace):
                inside = {**scope, **child}
                if needed.root_path:
                    inside["root_path"] = needed.root_path
                return _search(needed, public)(inside)
            status, requirements = needed
            return _OPEN.get(status, requirements), child.get("path_params", _NO_PARAMETERS)
        if not always:
            return NOTHING
        return rest(place)[1], scope.get("path_params", _NO_PARAMETERS)

    return search
