"""Lists every route with what it needs, and warns at start-up of what is wrong with routes and middleware."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from logging import Logger
from typing import Any, Final

import msgspec
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.routing import WebSocketRoute

from .declare import Requirements, handler_name, is_class_based
from .fastapi_routes import asked_in_dependencies, check_plain, frontends, routes_behind
from .framework import REST, Unresolvable, leads_on, template
from .precedence import Needed, RouterPlace, Status, rest, start, step
from .target import Target

#: How the frontends of a router are listed, behind its path. They cannot be public.
FRONTENDS: Final = "/{frontend:path}"
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY")
_UNRESOLVABLE: Final[Needed] = ("unresolvable", ())


class RouteReport(msgspec.Struct, frozen=True):
    """One route as the gate sees it.

    ``requirements`` are what is asked before it runs. ``missing`` are path parameters that these use and its path does
    not have. A route that is ``deferred`` asks itself; ``asked`` is what its dependencies are known to ask.
    """

    template: str
    methods: tuple[str, ...]
    status: Status
    requirements: Requirements = ()
    missing: tuple[str, ...] = ()
    asked: Requirements = ()

    def __str__(self) -> str:
        return ascii(f"{'|'.join(self.methods)} {self.template}".strip())


def report_routes(target: Target, public: frozenset[str] = frozenset()) -> list[RouteReport]:
    """Return every route that can be seen from ``target``, in the order in which they are tried.

    An application without a router is one route, if anything is asked there.
    """
    try:
        place = start(target)
    except Unresolvable:
        return [RouteReport(REST, (), "unresolvable")]
    if isinstance(place, RouterPlace):
        return list(_of_place(place, public, frozenset()))
    status, requirements = place
    return [] if status == "undeclared" else [RouteReport(REST, (), status, requirements)]


def _of_place(place: RouterPlace, public: frozenset[str], params: frozenset[str]) -> Iterator[RouteReport]:
    """Yield the routes of ``place``, below mounts whose paths have ``params``."""
    for route in place.router.routes:
        yield from _of_route(place, route, public, params)
    yield from _of_frontends(place, params)


def _of_route(place: RouterPlace, route: Any, public: frozenset[str], params: frozenset[str]) -> Iterator[RouteReport]:
    """Yield ``route`` of ``place``, or the routes included behind it as far as they can be resolved."""
    try:
        behind = routes_behind(route)
        if behind is None:
            yield from _of_reached(place, route, route, public, params)
            return
        for reached in behind:
            check_plain(reached)
            yield from _of_reached(place, route, reached, public, params)
    except (Unresolvable, TypeError):
        yield RouteReport(template(route, place.prefix) or type(route).__name__, (), "unresolvable")


def _of_reached(
    place: RouterPlace, route: Any, reached: Any, public: frozenset[str], params: frozenset[str]
) -> Iterator[RouteReport]:
    """Yield what there is at the route ``reached``, which is ``route`` or included behind it."""
    mounted = leads_on(reached)
    name = template(reached, place.prefix)
    methods = tuple(sorted(getattr(reached, "methods", None) or ()))
    endpoint = getattr(reached, "app" if mounted else "endpoint", None)
    try:
        place, asked = place.included(route, reached), asked_in_dependencies(reached)
    except (Unresolvable, TypeError):
        endpoint = None
    if endpoint is None:
        yield RouteReport(name or type(route).__name__, methods, "unresolvable")
        return
    params = params | (frozenset(getattr(reached, "param_convertors", ())) - ({"path"} if mounted else frozenset()))
    for some, needed in _steps(place, reached, endpoint, methods, public):
        if isinstance(needed, RouterPlace):
            yield from _of_place(needed, public, params)
        else:
            status, requirements = needed
            missing = _missing((*requirements, *asked), params)
            yield RouteReport(name, some, status, requirements, missing, asked)


def _steps(
    place: RouterPlace, route: Any, endpoint: Any, methods: tuple[str, ...], public: frozenset[str]
) -> Iterable[tuple[tuple[str, ...], RouterPlace | Needed]]:
    """Return where ``route`` leads: for all of its ``methods``, or of a class for each that need the same."""
    if not is_class_based(endpoint) or isinstance(getattr(route, "original_route", route), WebSocketRoute):
        return [(methods, _step(place, route, endpoint, None, public))]
    alike: list[tuple[list[str], RouterPlace | Needed]] = []
    for method in _answered(endpoint, methods or _METHODS):
        needed = _step(place, route, endpoint, method, public)
        same = next((names for names, other in alike if other == needed), None)
        if same is None:
            alike.append(([method], needed))
        else:
            same.append(method)
    return [(methods if len(alike) == 1 else tuple(sorted(names)), needed) for names, needed in alike]


def _step(
    place: RouterPlace, route: Any, endpoint: Any, method: str | None, public: frozenset[str]
) -> RouterPlace | Needed:
    try:
        return step(place, route, endpoint, method, public)
    except (Unresolvable, TypeError):
        return _UNRESOLVABLE


def _answered(endpoint: type[HTTPEndpoint], methods: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of ``methods`` that the class does not answer with 405; the first where there are none."""
    return tuple(m for m in methods if getattr(endpoint, handler_name(endpoint, m), None) is not None) or methods[:1]


def _of_frontends(place: RouterPlace, params: frozenset[str]) -> Iterator[RouteReport]:
    """Yield what FastAPI serves where no route matches, as one route."""
    try:
        if not any(True for _ in frontends(place.router, (place.always, place.default))):
            return
        status, requirements = rest(place)
    except (Unresolvable, TypeError):
        status, requirements = _UNRESOLVABLE
    yield RouteReport(place.prefix + FRONTENDS, (), status, requirements, _missing(requirements, params))


def _missing(requirements: Requirements, params: frozenset[str]) -> tuple[str, ...]:
    """Return the path parameters that ``requirements`` use and that are not among ``params``."""
    return tuple(sorted({name for requirement in requirements for name in requirement.parameters} - params))


# -- warnings at start-up


def check_routes(target: Target, public: frozenset[str], log: Logger) -> list[str]:
    """Log what will be denied for want of a declaration, and what is wrong with declarations and public routes.

    Returns the routes that are denied whoever asks.
    """
    routes = report_routes(target, public)
    nowhere = target.router is None and not routes
    if nowhere:
        log.warning("no router was found, so every request is denied; pass router= or resolver=")
    for status in ("undeclared", "unresolvable"):
        names = [str(route) for route in routes if route.status == status]
        if names:
            log.warning("%s routes, which are denied: %s", status, ", ".join(names))
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
    late = [cls.__qualname__ for cls in behind if isinstance(cls, type) and issubclass(cls, AuthenticationMiddleware)]
    if late:
        log.warning("%s runs after the gate, to which everybody is anonymous; add it later than the gate", *late[:1])
