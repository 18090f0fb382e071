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
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from types import FunctionType, MethodType
from typing import Any, Final, NamedTuple, Union, cast

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Host, Match, Mount, Router
from starlette.types import Scope

from .declare import (
    ATTRIBUTE,
    Requirements,
    declared,
    declared_for_method,
    declaring_methods,
    does_ask_itself,
    inherit,
    is_around,
    is_class_based,
)

#: How deep mounts may be nested, and how many wrappers there may be around one application.
DEPTH: Final = 32
REST: Final = "/{path:path}"
#: Whose ``matches`` write nothing to the scope, and give an endpoint with a match.
_PLAIN_NAMES: Final = frozenset({"Route", "WebSocketRoute", "Mount", "Host", "APIRoute", "APIWebSocketRoute"})
#: What makes up the choice of a route, on a router.
_DISPATCH: Final = ("__call__", "app", "handle", "matches")
_FULL: Final = Match.FULL
_NO_PARAMETERS: Final[Mapping[str, Any]] = {}


class Unresolvable(Exception):
    """It is not certain which endpoint the request would reach."""


class _Open:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


#: In place of requirements: the route is open by configuration.
PUBLIC: Final = _Open("PUBLIC")
#: In place of requirements: what the request reaches asks by itself before it does anything, and says so
#: (:func:`~capgate.declare.asks_itself`).
DEFERRED: Final = _Open("DEFERRED")
#: What to ask before the request may pass (nothing declared: ``()``), and the path parameters of its route.
Resolution = tuple[Union[Requirements, _Open], Mapping[str, Any]]
NOTHING: Final[Resolution] = ((), _NO_PARAMETERS)


class Target(NamedTuple):
    """Where an application leads: what it and its wrappers declare, its router if it has one, the ``root_path`` that a
    FastAPI application on the way puts into the scope, else ``""``, the ``default`` of its routes, and whether it
    asks by itself."""

    declared: Requirements
    router: Router | None
    root_path: str
    default: Requirements = ()
    asks_itself: bool = False

    def below(self, app: object) -> Target:
        """The same, with the declarations of ``app`` around it."""
        always, default = inherit(declared(app), (), ())
        more = tuple(one for one in always if one not in self.declared)
        return self._replace(declared=(*more, *self.declared), default=self.default or default)


def find_target(app: object) -> Target:
    """Follow the ``app`` attributes of wrappers, and partial calls, from ``app`` to its router.

    Raises :class:`Unresolvable` if there are too many, or if what they hide is a class or an object whose methods
    declare something that nobody would look at, and :class:`TypeError` where a declaration is not one.
    """
    found: Requirements = ()
    default: Requirements = ()
    root_path = ""
    for _ in range(DEPTH):
        own = declared(app)
        if is_around(app):
            found, default = inherit(own, found, default)
        else:
            for one in own:  # a wrapper may show the declarations of what it wraps as its own
                found = found if one in found else (*found, one)
        if does_ask_itself(app):
            return Target(found, None, root_path, default, True)
        if isinstance(app, Router):
            return Target(found, app, root_path, default)
        if isinstance(app, Starlette):
            root_path = _fastapi_root_path(app) or root_path
            app = app.router
            continue
        kind: type = app if isinstance(app, type) else type(app)
        if declaring_methods(kind):
            raise Unresolvable(f"{app!r} declares methods, and which of them it calls is its own affair")
        inner = _inside(app)
        if inner is None:
            return Target(found, None, root_path, default)
        app = inner
    raise Unresolvable(f"more than {DEPTH} wrappers around one application")


def _inside(app: object) -> object | None:
    """What ``app`` is around, where that can be seen."""
    if isinstance(app, functools.partial):
        return app.func
    return None if isinstance(app, (type, FunctionType, MethodType)) else getattr(app, "app", None)


def resolver_for(target: Target, public: frozenset[str] = frozenset()) -> Callable[[Scope], Resolution]:
    """A function that tells what the endpoint that a scope reaches declares. It does not change the scope.

    It raises :class:`Unresolvable`, or whatever a route's ``matches`` or a converter raises.
    """
    if target.router is None:
        found = target.declared or (DEFERRED if target.asks_itself else target.default)
        return lambda scope: (found, scope.get("path_params", _NO_PARAMETERS))
    in_routes = functools.partial(_in_routes, target.router, public, "", (target.declared, target.default), 0)
    if target.root_path:
        return lambda scope: in_routes({**scope, "root_path": target.root_path})
    return in_routes


#: What routes are always asked for, and what those that declare nothing are asked for.
Around = tuple[Requirements, Requirements]


def _in_routes(
    router: Router, public: frozenset[str], prefix: str, around: Around, depth: int, scope: Scope
) -> Resolution:
    if depth > DEPTH:
        raise Unresolvable(f"applications are nested more than {DEPTH} deep")
    if not _USUAL[type(router)]:
        raise Unresolvable(f"{type(router).__name__} dispatches in its own way")
    for route in router.routes:
        plain = _PLAIN[type(route)]
        if plain:
            match, child = route.matches(scope)
        else:
            reached, match, child = _matches(route, scope)
        if match is _FULL:
            endpoint = child["endpoint"]
            if not plain:
                around = around_included(route, reached, around)
                return _at_route(reached, router, scope, child, public, prefix, around, depth)
            # Nearly every route: a function that declares something itself. Short, since every request comes by.
            if plain is _LEAF and type(endpoint) is FunctionType and not around[0]:
                found = getattr(endpoint, ATTRIBUTE, None)
                if type(found) is tuple and found:
                    return found, child["path_params"]
            return _at_route(route, router, scope, child, public, prefix, around, depth)
    if not around[0]:
        return NOTHING
    _check_rest(router, around)
    return around[0], scope.get("path_params", _NO_PARAMETERS)


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
            return _in_routes(target.router, public, prefix + own_path(route), below, depth + 1, inside)
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


def asks_in_dependency(route: Any, router: Any = None) -> bool:
    """Whether dependencies of FastAPI's ask before the endpoint of ``route``, one of ``router``, runs: all those that
    would without ``dependency_overrides``."""
    dependant = getattr(route, "dependant", None)
    if dependant is None or not any(map(does_ask_itself, calls_in(dependant))):
        return False
    holders = (
        getattr(route, "dependency_overrides_provider", None),
        getattr(router, "dependency_overrides_provider", None),
    )
    replaced = [overrides for one in holders if (overrides := getattr(one, "dependency_overrides", None))]
    return not replaced or not any(_is_replaced(dependant, overrides) for overrides in replaced)


def _is_replaced(dependant: Any, overrides: Mapping[Any, Any]) -> bool:
    """Whether something that asks would not be called for ``dependant``."""
    for inner in dependant.dependencies:
        if inner.call in overrides:
            if does_ask_itself(inner.call) or any(map(does_ask_itself, calls_in(inner))):
                return True
        elif _is_replaced(inner, overrides):
            return True
    return False


def calls_in(dependant: Any, depth: int = 0) -> Iterator[Any]:
    """The functions that FastAPI calls for ``dependant`` before its endpoint."""
    if depth > DEPTH:
        raise Unresolvable(f"dependencies are nested more than {DEPTH} deep")
    for inner in dependant.dependencies:
        yield inner.call
        yield from calls_in(inner, depth + 1)


def template(route: Any, prefix: str = "") -> str:
    """The name of a route among public routes; ``""`` where it has none."""
    path = own_path(route)
    if isinstance(getattr(route, "original_route", route), (Mount, Host)):
        return prefix + path + REST
    return prefix + path if path else ""


def own_path(route: Any) -> str:
    path = route.host if isinstance(getattr(route, "original_route", route), Host) else getattr(route, "path", "")
    return path if isinstance(path, str) else ""


def _fastapi_root_path(app: Starlette) -> str:
    """``FastAPI(root_path=...)``, which replaces the one in the scope whenever the application is called."""
    root_path = getattr(app, "root_path", "")
    return root_path if isinstance(root_path, str) else ""


# -- what is not a plain route


def _matches(route: BaseRoute, scope: Scope) -> tuple[Any, Match, MutableMapping[str, Any]]:
    """``route.matches`` of a class that may write to the scope, or stand for many routes; with the route that
    matched."""
    scope = dict(scope)
    if isinstance(scope.get("fastapi"), dict):
        scope["fastapi"] = dict(scope["fastapi"])
    inner = routes_behind(route)
    if inner is None:
        match, child = route.matches(scope)
        if match is _FULL and "endpoint" not in child:
            raise Unresolvable(f"{type(route).__name__} matches without an endpoint")
        return route, match, child
    for context in inner:
        if not _PLAIN[type(context.original_route)]:
            raise Unresolvable(f"{type(context.original_route).__name__} in an included router matches in its own way")
        match, child = context.matches(scope)
        if match is _FULL:
            return context, match, child
    return route, Match.NONE, {}


def routes_behind(route: BaseRoute) -> Iterable[Any] | None:
    """The routes that FastAPI (0.139 and later) keeps behind one route per included router; ``None`` for other
    routes."""
    fastapi = sys.modules.get("fastapi.routing")
    contexts_of = getattr(fastapi, "iter_route_contexts", None)
    if contexts_of is None or hasattr(route, "endpoint") or isinstance(route, (Mount, Host)):
        return None
    router = getattr(route, "original_router", None)
    if router is None:
        return None
    _check_included(router, 0)
    return cast("Iterable[Any]", contexts_of([route]))


def around_included(route: Any, reached: Any, around: Around) -> Around:
    """What the included routers between ``route`` and the route that was ``reached`` behind it declare, around that.

    Raises :class:`Unresolvable` where it was included twice, below routers that declare different things.
    """
    router = getattr(route, "original_router", None)
    if router is None:
        return around
    places = list(_places(router, getattr(reached, "original_route", reached), around, 0))
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
    """That the routers below are the framework's own, since their routes are asked without them."""
    if depth > DEPTH or not isinstance(router, Router) or not _USUAL[type(router)]:
        raise Unresolvable(f"{type(router).__name__} dispatches in its own way")
    for route in router.routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            _check_included(inner, depth + 1)


def _check_rest(router: Any, around: Around) -> None:
    """That what ``router`` does where no route matches needs nothing besides what is always asked around it."""
    default = find_target(router.default)
    if default.declared or default.default or default.router is not None:
        raise Unresolvable(f"the default application of a {type(router).__name__} declares something, or has routes")
    if any(always != around[0] for always in frontends(router, around)):
        raise Unresolvable("there are frontends in included routers, which declare what is always asked")


def frontends(router: Any, around: Around, depth: int = 0) -> Iterator[Requirements]:
    """What is always asked around each of the frontends that FastAPI tries where no route of ``router`` matches."""
    if depth > DEPTH:
        raise Unresolvable(f"routers are included more than {DEPTH} deep")
    if getattr(router, "_low_priority_routes", ()):
        yield around[0]
    for route in router.routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from frontends(inner, inherit(declared(inner), *around), depth + 1)


class _Known(dict[type, int]):
    """What ``judge`` says about classes, remembered."""

    def __init__(self, judge: Callable[[type], int]) -> None:
        self._judge = judge

    def __missing__(self, kind: type) -> int:
        self[kind] = verdict = self._judge(kind)
        return verdict


def matches_as_usual(kind: type) -> bool:
    """Whether routes of this class match the way starlette's or FastAPI's own do."""
    owner = next((base for base in kind.__mro__ if "matches" in vars(base)), kind)
    return owner.__module__ in ("starlette.routing", "fastapi.routing") and owner.__name__ in _PLAIN_NAMES


def _plainness(kind: type) -> int:
    """0 where routes of this class match in their own way, :data:`_LEAF` where nothing is below them, else 1."""
    if not matches_as_usual(kind):
        return 0
    return 1 if issubclass(kind, (Mount, Host)) else _LEAF


def _dispatches_as_usual(kind: type) -> bool:
    """Whether routers of this class choose a route the way starlette's or FastAPI's do."""
    fastapi = sys.modules.get("fastapi.routing")
    return any(
        issubclass(kind, base) and all(getattr(kind, name, None) is getattr(base, name, None) for name in _DISPATCH)
        for base in ([Router] if fastapi is None else [Router, fastapi.APIRouter])
    )


_LEAF: Final = 2
_PLAIN: Final = _Known(_plainness)
_USUAL: Final = _Known(_dispatches_as_usual)
