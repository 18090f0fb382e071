"""Shows what routes declare in the OpenAPI document of a FastAPI application.

Each operation that asks a policy gets an extension ``x-capabilities``: a list of objects with ``action``, ``resource``
and, where it is used, ``argsHash``. It gets a response 403 with the problem document of a denial, too. Extensions:
OpenAPI 3.1.0, section 4.9; problem documents: RFC 9457.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from .declare import Requirements, as_written
from .route_report import report_routes
from .target import Target

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


def describe(app: Any, target: Target, public: frozenset[str] = frozenset()) -> None:
    """Have ``app.openapi()`` show what routes ask for.

    Does nothing where ``app`` has no such method, or does so already.
    """
    original: Callable[[], dict[str, Any]] | None = getattr(app, "openapi", None)
    if not callable(original) or hasattr(original, _MARK):
        return

    def openapi() -> dict[str, Any]:
        schema = original()
        add_capabilities(schema, target, public)
        return schema

    setattr(openapi, _MARK, True)
    app.openapi = openapi


def add_capabilities(schema: dict[str, Any], target: Target, public: frozenset[str] = frozenset()) -> None:
    """Write into ``schema`` what the routes of ``target`` declare. The first route of a path counts for each method."""
    paths = schema.get("paths", {})
    for route in report_routes(target, public):
        needed = (*route.requirements, *route.asked)
        operations = paths.get(_CONVERTER.sub("}", route.template), {})
        for method in route.methods:
            operation = operations.get(method.lower())
            if needed and operation is not None and EXTENSION not in operation:
                _add(operation, needed)


def _add(operation: dict[str, Any], needed: Requirements) -> None:
    operation[EXTENSION] = written = [as_written(requirement) for requirement in needed]
    refusal = operation.setdefault("responses", {}).setdefault("403", {})
    if "$ref" not in refusal:  # what the application says of it stays
        refusal.setdefault("description", "Unless the policy allows " + " and ".join(map(_describe, written)))
        refusal.setdefault("content", {}).setdefault("application/problem+json", {"schema": _PROBLEM})


def _describe(written: dict[str, str]) -> str:
    return f"`{written['action']}` on `{written['resource']}`" if "resource" in written else f"`{written['action']}`"
