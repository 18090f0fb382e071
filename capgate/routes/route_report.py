"""Lists every route with what it needs, and warns at start-up of what is wrong with routes and middleware."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from logging import Logger
from types import FunctionType, MethodType
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.routing import Host, Mount, Router, WebSocketRoute

from ..events import FITTING_LIMIT, printable
from .declare import Requirements, declared, does_ask_itself, handler_name, is_class_based
from .fastapi_routes import asked_in_dependencies, frontends
from .fitting import fitting_declaration
from .framework import DEPTH, FRONTENDS, REST, Unresolvable, template
from .precedence import Needed, RouterPlace, Status, rest, start, step
from .target import Target, inner_app
from .typed_parameters import uncertain_parameters
from .walk import Entry, walk

_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY")
#: Routes that a warning names, at most.
SHOWN: Final = 5
_UNRESOLVABLE: Final[Needed] = ("unresolvable", ())


class RouteReport(msgspec.Struct, frozen=True):
    """One route as the gate sees it.

    ``requirements`` are what is asked before it runs. ``missing`` are path parameters that these use and its path does
    not have. A route that is ``deferred`` asks itself; ``asked`` is what its dependencies are known to ask. Of the path
    parameters that all of these use, ``uncertain`` says why it is not certain what the endpoint sees.
    ``problem`` is why the route cannot be resolved, where it is itself why.
    """

    template: str
    methods: tuple[str, ...]
    status: Status
    requirements: Requirements = ()
    missing: tuple[str, ...] = ()
    asked: Requirements = ()
    uncertain: tuple[tuple[str, str], ...] = ()
    websocket: bool = False
    problem: str = ""

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


def own_routes(place: RouterPlace, public: frozenset[str]) -> Iterator[RouteReport]:
    """Yield the routes of the router of ``place``, and nothing below its mounts but their own names."""
    for entry in walk(place.router):
        if not entry.leading:
            yield from _of_entry(place, entry, public, frozenset())


def mounted_places(place: RouterPlace, public: frozenset[str]) -> Iterator[tuple[Any, RouterPlace]]:
    """Yield the applications mounted below ``place`` that lead to routers, with the places of these."""
    for entry in walk(place.router):
        endpoint = getattr(entry.route, "app", None) if entry.leading and entry.problem is None else None
        if endpoint is None:
            continue
        try:
            inner = _step(entry.place(place), entry.route, endpoint, None, public)
        except (Unresolvable, TypeError):
            continue
        if isinstance(inner, RouterPlace):
            yield endpoint, inner
            yield from mounted_places(inner, public)


def _of_place(place: RouterPlace, public: frozenset[str], params: frozenset[str]) -> Iterator[RouteReport]:
    """Yield the routes of ``place``, below mounts whose paths have ``params``."""
    for entry in walk(place.router):
        yield from _of_entry(place, entry, public, params)
    yield from _of_frontends(place, params)


def _of_entry(
    place: RouterPlace, entry: Entry, public: frozenset[str], params: frozenset[str]
) -> Iterator[RouteReport]:
    """Yield what there is at ``entry``: one route, or all that a mount leads to."""
    route, mounted = entry.route if entry.problem is None else entry.context or entry.top, entry.leading
    name = template(route, place.prefix)
    methods = tuple(sorted(getattr(route, "methods", None) or ()))
    endpoint = getattr(route, "app" if mounted else "endpoint", None) if entry.problem is None else None
    try:
        place, asked = entry.place(place), asked_in_dependencies(route)
    except (Unresolvable, TypeError):
        endpoint = None
    if endpoint is None:
        name = name or type(entry.top).__name__
        yield RouteReport(name, methods, "unresolvable", problem=entry.problem or "")
        return
    own = frozenset(getattr(route, "param_convertors", ()))
    is_websocket = isinstance(entry.original, WebSocketRoute)
    for some, needed in _steps(place, route, endpoint, methods, public):
        if isinstance(needed, RouterPlace):
            yield from _of_place(needed, public, params | (own - {"path"} if mounted else own))
        else:
            status, requirements = needed
            used = _used((*requirements, *asked))
            uncertain = tuple(sorted(uncertain_parameters(route, used).items()))
            missing = tuple(sorted(used - (params | own)))
            yield RouteReport(name, some, status, requirements, missing, asked, uncertain, is_websocket)


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
    missing = tuple(sorted(_used(requirements) - params))
    yield RouteReport(place.prefix + FRONTENDS, (), status, requirements, missing)


def _used(requirements: Requirements) -> frozenset[str]:
    """Return the path parameters that ``requirements`` use."""
    return frozenset(name for requirement in requirements for name in requirement.in_path)


# -- warnings at start-up


def check_routes(target: Target, public: frozenset[str], log: Logger, *, monitored: bool = False) -> list[str]:
    """Log what will be denied for want of a declaration, and what is wrong with declarations and public routes.

    ``monitored`` says that denials do not count: then a line that would fit is proposed for each undeclared route.
    Returns the routes that are denied whoever asks.
    """
    routes = report_routes(target, public)
    nowhere = target.router is None and not routes
    if nowhere:
        log.warning("no router was found, so every request is denied; pass resolver=")
    for status in ("undeclared", "unresolvable"):
        names = [str(route) for route in routes if route.status == status]
        if names:
            what = "are recorded" if monitored and status == "undeclared" else "are denied"
            log.warning("%s routes, which %s: %s", status, what, ", ".join(names))
    if monitored:
        _propose([route for route in routes if route.status == "undeclared"], log)
    denied = [str(route) for route in routes if route.missing or route.status in ("undeclared", "unresolvable")]
    denied += ["every path"] * nowhere
    for route in routes:
        if route.missing:
            log.warning("%s is denied, for its path has no parameter %s", route, ", ".join(route.missing))
        for name, problem in route.uncertain:
            log.warning("%s: the path parameter %s %s; what is not certain is denied", route, name, problem)
    for name in sorted(public):
        opened = opened_by(name, routes)
        if not opened:
            log.warning("public route %a %s", name, _why_not_opened(name, routes))
        elif len(opened) > 1:
            log.warning("public route %a opens %d routes: %s", name, len(opened), ", ".join(map(str, opened)))
    return denied


def opened_by(name: str, routes: Iterable[RouteReport]) -> list[RouteReport]:
    """Return the routes that are open because the settings name ``name``."""
    return [route for route in routes if route.status == "public" and route.template in (name, name + REST)]


def is_declared_there(name: str, routes: Iterable[RouteReport]) -> bool:
    """Say whether ``name``, which opens no route, names one that declares what it needs."""
    path = name.rstrip("/") + REST
    return any(route.template == name or (route.template == path and route.requirements) for route in routes)


def templates_below(name: str, routes: Iterable[RouteReport]) -> list[str]:
    """Return the routes below ``name``, of which each has to be named: a mount opens none of its own application."""
    path = name.rstrip("/")
    return [route.template for route in routes if route.template.startswith(path + "/") and path]


def _why_not_opened(name: str, routes: list[RouteReport]) -> str:
    """Say why no route is open by ``name``."""
    if is_declared_there(name, routes):
        return "declares what it needs, so a policy is asked"
    below = templates_below(name, routes)
    shown = ", ".join(map(ascii, below[:SHOWN])) + (" and others" if len(below) > SHOWN else "")
    return f"does not exist; what is below it has to be named: {shown}" if below else "does not exist"


def _propose(undeclared: Iterable[RouteReport], log: Logger) -> None:
    for route in undeclared:
        line = fitting_declaration(route.template, route.methods)
        if line is not None:
            log.warning("%s declares nothing; what would fit: %s", route, printable(line, FITTING_LIMIT))


def check_inside(app: object, log: Logger) -> None:
    """Log which middleware stands inside the gate, where it runs before anything is asked."""
    names = list(dict.fromkeys(map(middleware_name, inside(app))))
    if names:
        log.warning(
            "middleware inside the gate runs before a policy is asked: %s; add the gate first", ", ".join(names)
        )


def inside(app: Any, depth: int = 0) -> Iterator[Any]:
    """Yield the middleware between ``app`` and the endpoints below it: classes, or functions that make one."""
    for _ in range(DEPTH):
        if isinstance(app, Router):
            yield from _own_chain(app)
            for route in app.routes if depth < DEPTH else ():
                if isinstance(route, (Mount, Host)):
                    yield from inside(route.app, depth + 1)
            return
        if isinstance(app, Starlette):
            yield from (middleware.cls for middleware in app.user_middleware)
            app = app.router
            continue
        if does_ask_itself(app) or declared(app):
            return  # the application itself
        inner = inner_app(app)
        if inner is None:
            return
        if not is_of_framework(type(app)):
            yield type(app)
        app = inner


def _own_chain(router: Router) -> Iterator[Any]:
    stack: Any = router.middleware_stack
    for _ in range(DEPTH):
        inner = None if isinstance(stack, (FunctionType, MethodType)) else getattr(stack, "app", None)
        if inner is None:
            return
        if not is_of_framework(type(stack)):
            yield type(stack)
        stack = inner


def middleware_name(middleware: Any) -> str:
    """Return what the log calls a middleware: a class, or a function that makes one."""
    return str(getattr(middleware, "__qualname__", type(middleware).__name__))


def is_of_framework(middleware: type) -> bool:
    """Say whether an application puts this around its router by itself."""
    module = str(getattr(middleware, "__module__", ""))
    return module in _OF_STARLETTE or module.startswith("fastapi.")


_OF_STARLETTE: Final = tuple(f"starlette.middleware.{name}" for name in ("body_limit", "errors", "exceptions"))
