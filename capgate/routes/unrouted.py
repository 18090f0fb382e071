"""Says for certain where the framework answers by itself, and runs nothing of the application's: with 404 or 405.

Where that is not certain, what would run is an endpoint or an application that nobody declared.
"""

from __future__ import annotations

import inspect
from types import FunctionType, MethodType
from typing import Any, Final

from starlette.endpoints import HTTPEndpoint
from starlette.routing import Router
from starlette.types import Scope

from .declare import handler_name, is_class_based
from .framework import Unresolvable
from .walk import Entry

_FRAMEWORK: Final = ("starlette.routing", "fastapi.routing")
#: What of a class-based endpoint runs where it has no function for a method.
_RUNS: Final = (
    *("__init__", "__await__", "__new__", "__getattribute__", "__setattr__"),
    *("dispatch", "method_not_allowed"),
)
#: What starlette sets on each of its instances.
_SET: Final = ("scope", "receive", "send", "_allowed_methods")
#: The methods for which :class:`~starlette.endpoints.HTTPEndpoint` looks for a function, in all of its versions.
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def answers_not_found(default: object) -> bool:
    """Say whether ``default``, which a router calls where no route matches, is starlette's own 404."""
    return isinstance(default, MethodType) and default.__func__ is Router.not_found


def require_not_allowed(entry: Entry, scope: Scope) -> None:
    """Raise :class:`~capgate.routes.framework.Unresolvable` unless a route found in part answers 405, and nothing else.

    Its class may handle requests in its own way, or say of a request that it would run that it matches in part.
    """
    route = entry.selected
    if not _handles_as_usual(route):
        raise Unresolvable(f"{type(route).__name__} handles requests in its own way")
    for holder in (route, entry.route):  # of an included route, FastAPI asks the one or the other
        methods = getattr(holder, "methods", None)
        if not methods or scope.get("method") in methods:
            raise Unresolvable(f"{type(route).__name__} matches in part what it would run")


def is_not_allowed(entry: Entry, endpoint: object, scope: Scope) -> bool:
    """Say whether ``endpoint`` is a class that has nothing for the method of the request, and answers 405 for that."""
    method = scope.get("method")
    if scope["type"] != "http" or method not in _METHODS or not is_class_based(endpoint):
        return False
    route: Any = entry.selected
    return (
        _handles_as_usual(route)
        and getattr(route, "app", None) is endpoint
        and type(endpoint) is type
        and all(getattr(endpoint, name) is getattr(HTTPEndpoint, name) for name in _RUNS)
        and not any(hasattr(endpoint, name) for name in ("__getattr__", "__del__", *_SET))
        and all(_is_plain(endpoint, name.lower()) for name in (*_METHODS, "QUERY"))
        and getattr(endpoint, handler_name(endpoint, method), None) is None
    )


def _is_plain(endpoint: type, name: str) -> bool:
    """Say whether to look for this function runs nothing."""
    member = inspect.getattr_static(endpoint, name, None)
    return member is None or type(member) in (FunctionType, staticmethod, classmethod)


def _handles_as_usual(route: Any) -> bool:
    owner = next((cls for cls in type(route).__mro__ if "handle" in vars(cls)), type(route))
    return owner.__module__ in _FRAMEWORK and "handle" not in vars(route)
