"""What an operator should hear at start-up: which routes nobody can reach, which are open, and what runs before the
gate."""

from __future__ import annotations

from collections.abc import Iterator
from logging import Logger
from types import FunctionType
from typing import Any, Literal

import msgspec
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.routing import Host, Mount, Router

from .declare import Requirements, declared, declared_for_method, does_ask_itself, inherit, is_class_based
from .fastapi_routes import Around, around_included, asks_in_dependency, calls_in, frontends, own_path, routes_behind
from .routing import declared_around, template
from .wrappers import DEPTH, Target, Unresolvable, find_target, matches_as_usual

Status = Literal["declared", "deferred", "public", "undeclared", "unresolvable"]
#: How the frontends of a router are listed, behind its path. They cannot be public.
FRONTENDS = "/{frontend:path}"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY")


class RouteReport(msgspec.Struct, frozen=True):
    """One route as the gate sees it. ``missing`` are path parameters that its declaration uses and its path does not
    have. A route that is ``deferred`` asks itself; ``asked`` is what its dependencies are known to ask."""

    template: str
    methods: tuple[str, ...]
    status: Status
    requirements: Requirements = ()
    missing: tuple[str, ...] = ()
    asked: Requirements = ()

    def __str__(self) -> str:
        return ascii(f"{'|'.join(self.methods)} {self.template}".strip())


def report_routes(target: Target, public: frozenset[str] = frozenset()) -> list[RouteReport]:
    """Every route that can be seen from ``target``, in the order in which they are tried."""
    if target.router is None:
        return []
    return list(_Walk(public).router(target.router, "", (target.declared, target.default), frozenset(), 0))


def check_routes(target: Target, public: frozenset[str], log: Logger) -> list[str]:
    """Log what will be denied for want of a declaration, and what is wrong with declarations and public routes.

    Returns the routes that are denied whoever asks.
    """
    nowhere = target.router is None and not (target.declared or target.default or target.asks_itself)
    if nowhere:
        log.warning("no router was found, so every request is denied; pass router= or resolver=")
    routes = report_routes(target, public)
    for status in ("undeclared", "unresolvable"):
        found = [str(route) for route in routes if route.status == status]
        if found:
            log.warning("%s routes, which are denied: %s", status, ", ".join(found))
    denied = [str(route) for route in routes if route.missing or route.status in ("undeclared", "unresolvable")]
    denied += ["every path"] * nowhere
    for route in routes:
        if route.missing:
            log.warning("%s is denied, for its path has no parameter %s", route, ", ".join(route.missing))
    for name in sorted(public):
        listed = [route for route in routes if route.template == name]
        opened = [route for route in listed if route.status == "public"]
        if not opened:
            why = "declares what it needs, so a policy is asked" if listed else "does not exist"
            log.warning("public route %a %s", name, why)
        elif len(opened) > 1:
            log.warning("public route %a opens %d routes: %s", name, len(opened), ", ".join(map(str, opened)))
    return denied


def check_order(app: Any, gate: type, log: Logger) -> None:
    """Log which middleware of ``app`` runs before the gate, and thus for requests that are then denied.

    Starlette's own is left out: authentication has to run before the gate, and CORS may.
    """
    outside = []
    for middleware in getattr(app, "user_middleware", ()):
        if middleware.cls is gate:
            break
        if not str(getattr(middleware.cls, "__module__", "")).startswith(("starlette.", "fastapi.")):
            outside.append(getattr(middleware.cls, "__qualname__", "?"))
    else:
        return  # the gate is somewhere else
    if outside:
        log.warning("the gate is not outermost; before it run: %s", ", ".join(outside))


def check_authentication(app: Any, gate: type, log: Logger) -> None:
    """Log where ``scope["user"]`` is set behind the gate, which then takes everybody for nobody."""
    classes = [middleware.cls for middleware in getattr(app, "user_middleware", ())]
    behind = classes[classes.index(gate) + 1 :] if gate in classes else []
    late = [one.__qualname__ for one in behind if isinstance(one, type) and issubclass(one, AuthenticationMiddleware)]
    if late:
        log.warning("%s runs after the gate, to which everybody is anonymous; add it later than the gate", *late[:1])


class _Walk:
    def __init__(self, public: frozenset[str]) -> None:
        self._public = public

    def router(
        self, router: Router, prefix: str, around: Around, params: frozenset[str], depth: int
    ) -> Iterator[RouteReport]:
        for route in router.routes:
            yield from self._resolved(route, prefix, around, params, depth)
        yield from self._frontends(router, prefix, around, params)

    def _frontends(self, router: Router, prefix: str, around: Around, params: frozenset[str]) -> Iterator[RouteReport]:
        """What FastAPI serves where no route matches, as one route: nothing is asked for it but what always is."""
        places, always = [*frontends(router, around)], around[0]
        if not places:
            return
        if any(place != always for place in places):
            yield RouteReport(prefix + FRONTENDS, (), "unresolvable")
            return
        needed = frozenset[str]().union(*(requirement.parameters for requirement in always))
        status: Status = "declared" if always else "undeclared"
        yield RouteReport(prefix + FRONTENDS, (), status, always, tuple(sorted(needed - params)))

    def _resolved(self, route: Any, prefix: str, around: Around, *rest: Any) -> Iterator[RouteReport]:
        try:
            behind = routes_behind(route)
            if behind is None:
                yield from self.route(route, prefix, around, *rest)
                return
            for one in behind:
                if not matches_as_usual(type(one.original_route)):
                    raise Unresolvable(one.path)
                yield from self.route(one, prefix, around_included(route, one, around), *rest)
        except (Unresolvable, TypeError):
            yield RouteReport(template(route, prefix) or type(route).__name__, (), "unresolvable")

    def route(
        self, route: Any, prefix: str, around: Around, params: frozenset[str], depth: int
    ) -> Iterator[RouteReport]:
        name, methods = template(route, prefix), tuple(sorted(getattr(route, "methods", None) or ()))
        mounted = isinstance(getattr(route, "original_route", route), (Mount, Host))
        endpoint = getattr(route, "app" if mounted else "endpoint", None)
        if endpoint is None or depth > DEPTH:
            yield RouteReport(name or type(route).__name__, methods, "unresolvable")
            return
        params = params | (frozenset(getattr(route, "param_convertors", ())) - ({"path"} if mounted else frozenset()))
        always, default = inherit(declared_around(route), *around)
        for some, target in _targets_of(route, endpoint, methods):
            if target.router is not None:
                below = (*always, *target.declared), target.default or default
                yield from self.router(target.router, prefix + own_path(route), below, params, depth + 1)
                return
            own, asked = target.declared, asked_in_dependencies(route)
            status, found = self._status(name, always, own, target.default or default, target.asks_itself)
            needed = frozenset[str]().union(*(requirement.parameters for requirement in (*found, *asked)))
            yield RouteReport(name, some, status, found, tuple(sorted(needed - params)), asked)

    def _status(
        self, name: str, always: Requirements, own: Requirements, default: Requirements, asks: bool
    ) -> tuple[Status, Requirements]:
        """As :mod:`capgate.routes.routing` decides it."""
        if own or always:
            return "declared", (*always, *(own or (() if asks else default)))
        if asks:
            return "deferred", ()
        if name in self._public:
            return "public", ()
        return ("declared" if default else "undeclared"), default


def _targets_of(route: Any, endpoint: Any, methods: tuple[str, ...]) -> list[tuple[tuple[str, ...], Target]]:
    """Where ``route`` leads: for all of its ``methods``, or of a class-based endpoint for each that need the same."""
    if is_class_based(endpoint):
        return _of_class(endpoint, methods)
    if type(endpoint) is FunctionType or getattr(route, "dependant", None) is not None:
        return [(methods, Target(declared(endpoint), None, "", (), asks_in_dependency(route)))]
    return [(methods, find_target(endpoint))]


def asked_in_dependencies(route: Any) -> Requirements:
    """What dependencies of FastAPI's ask before the endpoint of ``route`` runs."""
    dependant = getattr(route, "dependant", None)
    if dependant is None:
        return ()
    return tuple(one for call in calls_in(dependant) if does_ask_itself(call) for one in declared(call))


def _of_class(endpoint: type[HTTPEndpoint], methods: tuple[str, ...]) -> list[tuple[tuple[str, ...], Target]]:
    found: list[tuple[Requirements, list[str]]] = []
    for method in methods or _METHODS:
        name = "get" if method == "HEAD" and not hasattr(endpoint, "head") else method.lower()
        if getattr(endpoint, name, None) is None:
            continue  # the class answers 405
        needed = declared_for_method(endpoint, method)
        alike = next((one for one in found if one[0] == needed), None)
        if alike is None:
            found.append((needed, [method]))
        else:
            alike[1].append(method)
    if len(found) < 2:
        return [(methods, Target(found[0][0] if found else declared(endpoint), None, ""))]
    return [(tuple(sorted(some)), Target(needed, None, "")) for needed, some in found]
