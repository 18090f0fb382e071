"""Says which routes are denied whoever asks, and which public routes are misspelt."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from starlette.applications import Starlette

from ...routes.declare import as_written
from ...routes.fitting import fitting_declaration
from ...routes.framework import REST
from ...routes.route_report import RouteReport, is_declared_there, opened_by, templates_below
from .defect import Defect

#: The last part of paths that are asked by those who look after a process.
_HEALTH: Final = frozenset(
    {"alive", "health", "healthcheck", "healthz", "livez", "liveness", "metrics", "ping", "ready", "readiness"}
    | {"readyz", "startup", "startupz", "up"}
)
_PAGES: Final = ("openapi_url", "docs_url", "swagger_ui_oauth2_redirect_url", "redoc_url")


def denied_routes(routes: Sequence[RouteReport], app: Starlette | None, public: Sequence[str]) -> Iterator[Defect]:
    """Yield what is denied whoever asks, in the order of ``routes``."""
    pages = {page for name in _PAGES if (page := getattr(app, name, None))}
    opened = [name for name in public if opened_by(name, routes)]
    denied = [route for route in routes if route.status == "undeclared" and route.template in pages]
    if denied:
        write = f"public={[*opened, *(route.template for route in denied)]!r}, or FastAPI(openapi_url=None)"
        problem = "pages of FastAPI's documentation, which are neither public nor switched off"
        yield Defect("docs_page_denied", ", ".join(map(name_of, denied)), problem, write)
    for route in routes:
        if route.status == "unresolvable":
            why = f": {route.problem}" if route.problem else ""
            problem = f"it is not certain what runs there, so it is denied{why}"
            write = "declare the function or the class that answers, and use the framework's own routes and routers"
            yield Defect("unresolvable", name_of(route), problem, write)
        elif route.status == "undeclared" and route not in denied:
            yield _undeclared(route, opened)
        yield from _parameters(route)


def name_of(route: RouteReport) -> str:
    """Return method and path of a route, in printable ASCII."""
    return str(route)[1:-1]


def _undeclared(route: RouteReport, public: Sequence[str]) -> Defect:
    if route.template.rstrip("/").rpartition("/")[2].lower() in _HEALTH:
        return Defect(
            "health_route_denied",
            name_of(route),
            "a health check, which is not public",
            f"public={[*public, route.template]!r}",
        )
    fitting = fitting_declaration(route.template, route.methods)
    if route.websocket:
        return Defect(
            "undeclared_websocket", f"websocket {name_of(route)}", "it declares nothing, so it is denied", fitting
        )
    return Defect("undeclared", name_of(route), "it declares nothing, so it is denied", fitting)


def _parameters(route: RouteReport) -> Iterator[Defect]:
    there = [part.split(":")[0] for part in _in_braces(route.template)]
    for name in route.missing:
        for requirement in (*route.requirements, *route.asked):
            if name in requirement.parameters:
                close = difflib.get_close_matches(name, there, 1, 0.3) or there[:1]
                resource = as_written(requirement)["resource"]
                meant = resource.replace(f"{{{name}}}", f"{{{close[0]}}}") if close else None
                write = None if meant is None else f'@requires("{requirement.action}", resource="{meant}")'
                problem = f"its path has no parameter {name}"
                yield Defect("missing_parameter", name_of(route), problem, write)
                break
    for name, why in route.uncertain:
        problem = f"the path parameter {name} {why}; what is not certain is denied"
        yield Defect("unknown_parameter", name_of(route), problem, f"{name}: str  # or int, UUID, Enum, date")


def _in_braces(template: str) -> list[str]:
    return [part.partition("}")[0] for part in template.split("{")[1:]]


def misspelt_public(public: Sequence[str], routes: Sequence[RouteReport]) -> Iterator[Defect]:
    """Yield the names of public routes that open nothing, each with the route that is nearest."""
    for name in public:
        if opened_by(name, routes):
            continue
        if is_declared_there(name, routes):
            problem = "it declares what it needs, so a policy is asked all the same"
            yield Defect("public_declares", name, problem, f"public={[other for other in public if other != name]!r}")
            continue
        below = templates_below(name, routes)
        if below:
            others = [other for other in public if other != name]
            problem = "it opens nothing by itself: what is below it has to be named"
            yield Defect("public_below", name, problem, f"public={[*others, *below]!r}")
            continue
        yield Defect("public_not_found", name, "there is no such route", _nearest(name, public, routes))


def _nearest(name: str, public: Sequence[str], routes: Iterable[RouteReport]) -> str | None:
    """Return the setting with the nearest route in place of ``name``: one that would be opened before any other."""
    templates = [(route.template.removesuffix(REST) or route.template, route.status) for route in routes]
    for wanted in (("undeclared",), ("declared", "deferred", "unresolvable")):
        close = difflib.get_close_matches(name, [template for template, status in templates if status in wanted], 1)
        if close:
            return f"public={[close[0] if other == name else other for other in public]!r}"
    return None
