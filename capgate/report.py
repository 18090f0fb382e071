"""What an operator should hear at start-up: which routes nobody can reach, which are open, and what runs before the
gate."""

from __future__ import annotations

from collections.abc import Iterator
from logging import Logger
from typing import Any, Literal

import msgspec
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.routing import Host, Mount, Router

from .declare import Requirements, declared, declared_for_method, is_class_based
from .routing import DEPTH, Target, Unresolvable, find_target, matches_as_usual, own_path, routes_behind, template

Status = Literal["declared", "public", "undeclared", "unresolvable"]
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY")


class RouteReport(msgspec.Struct, frozen=True):
    """One route as the gate sees it. ``missing`` are path parameters that its declaration uses and its path does not
    have."""

    template: str
    methods: tuple[str, ...]
    status: Status
    requirements: Requirements = ()
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ascii(f"{'|'.join(self.methods)} {self.template}".strip())


def report_routes(target: Target, public: frozenset[str] = frozenset()) -> list[RouteReport]:
    """Every route that can be seen from ``target``, in the order in which they are tried."""
    if target.router is None:
        return []
    return list(_Walk(public).router(target.router, "", target.declared, frozenset(), 0))


def check_routes(target: Target, public: frozenset[str], log: Logger) -> None:
    """Log what will be denied for want of a declaration, and what is wrong with declarations and public routes."""
    if target.router is None and not target.declared:
        log.warning("no router was found, so every request is denied; pass router= or resolver=")
    routes = report_routes(target, public)
    for status in ("undeclared", "unresolvable"):
        found = [str(route) for route in routes if route.status == status]
        if found:
            log.warning("%s routes, which are denied: %s", status, ", ".join(found))
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
        self, router: Router, prefix: str, around: Requirements, params: frozenset[str], depth: int
    ) -> Iterator[RouteReport]:
        for route in router.routes:
            yield from self._resolved(route, prefix, around, params, depth)

    def _resolved(self, route: Any, *rest: Any) -> Iterator[RouteReport]:
        try:
            behind = routes_behind(route)
            for one in [route] if behind is None else behind:
                if behind is not None and not matches_as_usual(type(one.original_route)):
                    raise Unresolvable(one.path)
                yield from self.route(one, *rest)
        except (Unresolvable, TypeError):
            yield RouteReport(template(route, rest[0]) or type(route).__name__, (), "unresolvable")

    def route(
        self, route: Any, prefix: str, around: Requirements, params: frozenset[str], depth: int
    ) -> Iterator[RouteReport]:
        name, methods = template(route, prefix), tuple(sorted(getattr(route, "methods", None) or ()))
        mounted = isinstance(getattr(route, "original_route", route), (Mount, Host))
        endpoint = getattr(route, "app" if mounted else "endpoint", None)
        if endpoint is None or depth > DEPTH:
            yield RouteReport(name or type(route).__name__, methods, "unresolvable")
            return
        params = params | (frozenset(getattr(route, "param_convertors", ())) - ({"path"} if mounted else frozenset()))
        if is_class_based(endpoint):
            target = Target(_of_class(endpoint), None, "")
        elif getattr(route, "dependant", None) is not None:
            target = Target(declared(endpoint), None, "")
        else:
            target = find_target(endpoint)
        found = (*around, *target.declared)
        if target.router is not None:
            yield from self.router(target.router, prefix + own_path(route), found, params, depth + 1)
            return
        needed = frozenset[str]().union(*(requirement.parameters for requirement in found))
        status: Status = "declared" if found else "public" if name in self._public else "undeclared"
        yield RouteReport(name, methods, status, found, tuple(sorted(needed - params)))


def _of_class(endpoint: type[HTTPEndpoint]) -> Requirements:
    """What a class-based endpoint declares: the class, and whichever of its methods."""
    found = [*declared(endpoint)]
    for method in _METHODS:
        found += [one for one in declared_for_method(endpoint, method) if one not in found]
    return tuple(found)
