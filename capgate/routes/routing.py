"""Which endpoint a request reaches, by the application's own routers, and what that endpoint declares.

The routes of the application are asked, in their order, with their own ``matches``, about the ``scope`` that they
will be asked about again when the request is passed on; so there is no second opinion on what a path means. Nothing
is normalised. Only a full match counts: a request that the application would answer with 404, 405 or a redirect has
no endpoint, thus no declaration, and is denied like any other; which routes exist is not told to strangers.

What cannot be resolved for certain raises :class:`Unresolvable`, and is denied: a route that matches without an
endpoint, a router that dispatches in its own way, one that contains itself. Middleware between the gate and the
router is taken to leave the scope alone; one that rewrites paths belongs outside the gate.

Public routes are named by :attr:`Route.template`: the path exactly as declared, after those of the mounts around it. An
application mounted without routes that could be seen (static files, WSGI) is ``/mount/path/{path:path}``; what is below
``Host("api.example.com")`` begins with that host, ``api.example.com/health``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, MutableMapping
from types import FunctionType
from typing import Any, Final, NoReturn, Union

from starlette.routing import Host, Match, Mount, Router
from starlette.types import Scope

from .declare import ATTRIBUTE, Requirements, declared, declared_for_method, inherit, is_class_based
from .fastapi_routes import Around, around_included, asks_in_dependency, check_rest, match_included, own_path
from .wrappers import DEPTH, LEAF, PLAIN, USUAL, Target, Unresolvable, find_target

__all__ = [
    "DEFERRED",
    "NOTHING",
    "PUBLIC",
    "REST",
    "Resolution",
    "Target",
    "Unresolvable",
    "declared_around",
    "find_target",
    "resolver_for",
    "template",
]

REST: Final = "/{path:path}"
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


def resolver_for(target: Target, public: frozenset[str] = frozenset()) -> Callable[[Scope], Resolution]:
    """A function that tells what the endpoint that a scope reaches declares. It does not change the scope.

    It raises :class:`Unresolvable`, or whatever a route's ``matches`` or a converter raises.
    """
    if target.router is None:
        found = target.declared or (DEFERRED if target.asks_itself else target.default)
        return lambda scope: (found, scope.get("path_params", _NO_PARAMETERS))
    try:
        search = _search(target.router, public, "", (target.declared, target.default), 0)
    except Unresolvable as error:
        return functools.partial(_raise, str(error))
    if target.root_path:
        return lambda scope: search({**scope, "root_path": target.root_path})
    return search


def _raise(problem: str, scope: Scope) -> NoReturn:
    raise Unresolvable(problem)


def _search(
    router: Router, public: frozenset[str], prefix: str, around: Around, depth: int
) -> Callable[[Scope], Resolution]:
    """What the first route of ``router`` that a scope reaches declares, as a function. Raises :class:`Unresolvable`."""
    if depth > DEPTH:
        raise Unresolvable(f"applications are nested more than {DEPTH} deep")
    if not USUAL[type(router)]:
        raise Unresolvable(f"{type(router).__name__} dispatches in its own way")
    always, plainness, full = around[0], PLAIN, Match.FULL

    def search(scope: Scope) -> Resolution:
        for route in router.routes:
            plain = plainness[type(route)]
            if not plain:
                reached, match, child = match_included(route, scope)
                if match is full:
                    inside = around_included(route, reached, around)
                    return _at_route(reached, router, scope, child, public, prefix, inside, depth)
                continue
            match, child = route.matches(scope)
            if match is full:
                # Nearly every route: a function that declares something itself. Short, since every request comes by.
                if plain is LEAF and not always:
                    endpoint = child["endpoint"]
                    if type(endpoint) is FunctionType:
                        found = getattr(endpoint, ATTRIBUTE, None)
                        if type(found) is tuple and found:
                            return found, child["path_params"]
                return _at_route(route, router, scope, child, public, prefix, around, depth)
        if not always:
            return NOTHING
        check_rest(router, around)
        return always, scope.get("path_params", _NO_PARAMETERS)

    return search


def _at_route(
    route: Any,
    router: Router,
    scope: Scope,
    child: MutableMapping[str, Any],
    public: frozenset[str],
    prefix: str,
    around: Around,
    depth: int,
) -> Resolution:
    endpoint = child["endpoint"]
    params = child.get("path_params", _NO_PARAMETERS)
    always, default = inherit(declared_around(route), *around)
    asks = False
    if type(endpoint) is FunctionType:
        own = declared(endpoint)
        asks = asks_in_dependency(route, router)
    elif is_class_based(endpoint) and scope["type"] == "http":
        own = declared_for_method(endpoint, scope["method"])
    elif getattr(route, "dependant", None) is not None:  # FastAPI calls this; an application in it is not called
        own = declared(endpoint)
        asks = asks_in_dependency(route, router)
    else:
        target = find_target(endpoint)
        if target.router is not None:
            inside = {**scope, **child}
            if target.root_path:
                inside["root_path"] = target.root_path
            below = (*always, *target.declared), target.default or default
            return _search(target.router, public, prefix + own_path(route), below, depth + 1)(inside)
        own, asks, default = target.declared, target.asks_itself, target.default or default
    if own or always:
        return (*always, *(own or (() if asks else default))), params
    if asks:
        return DEFERRED, params
    if public and template(route, prefix) in public:
        return PUBLIC, params
    return default, params


def declared_around(route: Any) -> Requirements:
    """What a ``Mount`` or ``Host`` declares for the routes below; of any other route nothing."""
    original = getattr(route, "original_route", route)
    return declared(original) if isinstance(original, (Mount, Host)) else ()


def template(route: Any, prefix: str = "") -> str:
    """The name of a route among public routes; ``""`` where it has none."""
    path = own_path(route)
    if isinstance(getattr(route, "original_route", route), (Mount, Host)):
        return prefix + path + REST
    return prefix + path if path else ""
