"""What routes declare, in the OpenAPI document of a FastAPI application.

Each operation that asks a policy gets an extension ``x-capabilities`` (a list of objects with ``action``, ``resource``
and, where it is used, ``argsHash``), and a response 403 with the problem document of a denial. Extensions: OpenAPI
3.1.0, section 4.9; problem documents: RFC 9457.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from .declare import Parameter, Requirement, Requirements
from .report import report_routes
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
    """Have ``app.openapi()`` show what routes ask for. Does nothing where ``app`` has no such method, or does so
    already."""
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
    operation[EXTENSION] = [as_written(one) for one in needed]
    denied = operation.setdefault("responses", {}).setdefault("403", {})
    if "$ref" not in denied:  # what the application says of it stays
        words = "Unless the policy allows " + " and ".join(_words(one) for one in operation[EXTENSION])
        denied.setdefault("description", words)
        denied.setdefault("content", {}).setdefault("application/problem+json", {"schema": _PROBLEM})


def as_written(requirement: Requirement) -> dict[str, str]:
    """``requirement`` as :func:`~capgate.requires` was given it, with ``resource`` as one string."""
    found = {"action": requirement.action}
    if requirement.template:
        parts = [f"{{{part.name}}}" if isinstance(part, Parameter) else _doubled(part) for part in requirement.template]
        found["resource"] = f"{requirement.kind}:{''.join(parts)}"
    elif requirement.fixed is not None:
        kind, id = requirement.fixed.kind, requirement.fixed.id
        found["resource"] = kind if id is None else f"{kind}:{_doubled(id)}"
    if requirement.args_hash is not None:
        found["argsHash"] = requirement.args_hash
    return found


def _doubled(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _words(one: dict[str, str]) -> str:
    return f"`{one['action']}` on `{one['resource']}`" if "resource" in one else f"`{one['action']}`"
