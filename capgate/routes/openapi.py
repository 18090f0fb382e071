"""Shows what routes declare in the OpenAPI document of a FastAPI application.

Each operation that asks a policy gets an extension ``x-capabilities``: a list of objects with ``action``, ``resource``
and, where they are used, ``argsHash`` and ``args``. It gets a response 403 with the problem document of a denial, too.
Where clients are told how to log in, it gets a response 401 with the header that says so. Extensions: OpenAPI 3.1.0,
section 4.9; problem documents: RFC 9457; the header: RFC 9110, section 11.6.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from starlette.routing import Router

from .declare import Requirements, as_written
from .framework import DEPTH
from .precedence import RouterPlace, start
from .route_report import RouteReport, mounted_places, own_routes, report_routes
from .route_table import RoutesVersion
from .target import Target, inner_app

EXTENSION: Final = "x-capabilities"
_MARK: Final = "__capgate_described__"
_CONVERTER: Final = re.compile(r":[^}]*}")
_PROBLEM: Final = {
    "type": "object",
    "required": ["type", "title", "status", "decision_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "decision_id": {"type": "string", "description": "The same as in the decision log."},
        "reason": {"type": "string"},
    },
}


def describe(app: Any, target: Target, public: frozenset[str] = frozenset(), challenge: str | None = None) -> None:
    """Have ``app.openapi()`` show what routes ask for, and that of each application of FastAPI's mounted below it.

    ``challenge`` is how clients are told to log in, if they are.

    An application that is mounted in several places shows what is asked in the first of them. Does nothing where an
    application has no such method, or does so already.
    """
    place = start(target)
    if isinstance(place, RouterPlace):
        _describe_at(app, place, public, challenge)
        for endpoint, inner in mounted_places(place, public):
            _describe_at(_documented(endpoint, inner.router), inner, public, challenge)


def _documented(app: Any, router: Router) -> Any:
    """Return the application of ``router``, inside of its wrappers, if it documents itself."""
    for _ in range(DEPTH):
        if callable(getattr(app, "openapi", None)) and getattr(app, "router", None) is router:
            return app
        app = inner_app(app)
    return None


def _describe_at(app: Any, place: RouterPlace, public: frozenset[str], challenge: str | None) -> None:
    original: Callable[[], dict[str, Any]] | None = getattr(app, "openapi", None)
    if not callable(original) or hasattr(original, _MARK):
        return
    described: list[tuple[RoutesVersion, dict[str, Any]]] = []

    def openapi() -> dict[str, Any]:
        schema = original()
        # FastAPI makes one for each version of the routes.
        if not described or described[0][1] is not schema or not described[0][0].is_current():
            version = RoutesVersion(place.router)
            _add_all(schema, own_routes(place, public), place.prefix, challenge)
            described[:] = [(version, schema)]
        return schema

    setattr(openapi, _MARK, True)
    app.openapi = openapi


def add_capabilities(
    schema: dict[str, Any], target: Target, public: frozenset[str] = frozenset(), challenge: str | None = None
) -> None:
    """Write into ``schema`` what the routes of ``target`` declare. The first route of a path counts for each method."""
    _add_all(schema, report_routes(target, public), "", challenge)


def _add_all(schema: dict[str, Any], routes: Iterable[RouteReport], prefix: str, challenge: str | None) -> None:
    paths = schema.get("paths", {})
    for route in routes:
        needed = (*route.requirements, *route.asked)
        operations = paths.get(_CONVERTER.sub("}", route.template.removeprefix(prefix)), {})
        for method in route.methods:
            operation = operations.get(method.lower())
            if needed and operation is not None and EXTENSION not in operation:
                _add(operation, needed, challenge)


def _add(operation: dict[str, Any], needed: Requirements, challenge: str | None) -> None:
    operation[EXTENSION] = written = [as_written(requirement) for requirement in needed]
    asked = " and ".join(map(_describe, written))
    _add_response(operation, "403", f"Unless the policy allows {asked}")
    login = None if challenge is None else _add_response(operation, "401", f"Unless the policy allows anybody {asked}")
    if login is not None:
        shown = {"description": "How to log in.", "schema": {"type": "string"}, "example": challenge}
        login.setdefault("headers", {}).setdefault("WWW-Authenticate", shown)


def _add_response(operation: dict[str, Any], status: str, description: str) -> dict[str, Any] | None:
    """Describe a denial. What the application says of that status stays; ``None`` where it says it elsewhere."""
    response: dict[str, Any] = operation.setdefault("responses", {}).setdefault(status, {})
    if "$ref" in response:
        return None
    response.setdefault("description", description)
    response.setdefault("content", {}).setdefault("application/problem+json", {"schema": _PROBLEM})
    return response


def _describe(written: dict[str, Any]) -> str:
    return f"`{written['action']}` on `{written['resource']}`" if "resource" in written else f"`{written['action']}`"
