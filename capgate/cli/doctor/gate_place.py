"""Finds the gate of an application, and what stands outside of it."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from starlette.applications import Starlette
from starlette.routing import Router

from ...middleware.middleware import CapabilityMiddleware
from ...routes.framework import DEPTH
from ...routes.route_report import is_of_framework, middleware_name
from ...routes.target import inner_app
from .defect import Defect

#: How to add a gate: the line for an application that has none.
ADD: Final = 'app.add_middleware(CapabilityMiddleware, settings=Settings(policy="policy.toml"))'


class GatePlace(NamedTuple):
    """A gate, the application whose middleware it is (if it is of one), and what is around it, outermost first."""

    gate: CapabilityMiddleware
    application: Starlette | None
    outside: tuple[Any, ...]


def find_gate(app: object) -> GatePlace | Defect:
    """Return where the gate of ``app`` stands, or what is wrong where there is none.

    The middleware of applications is made for that, as at their first request. It is the one that they then have.
    """
    outside: list[Any] = []
    application: Starlette | None = None
    inner: Any = app
    for _ in range(DEPTH):
        if isinstance(inner, CapabilityMiddleware):
            return GatePlace(inner, application, tuple(outside))
        if isinstance(inner, Starlette):
            application = inner
            try:
                inner = inner.middleware_stack = inner.middleware_stack or inner.build_middleware_stack()
            except Exception as error:
                return _broken(application, error)
            continue
        if isinstance(inner, Router):
            break
        if not is_of_framework(type(inner)):
            outside.append(inner)
        inner = inner_app(inner)
        if inner is None:
            break
    hidden = None if application is None else _hidden_gate(application)
    if hidden is not None:
        return GatePlace(hidden, application, ())
    place = type(app).__name__ if application is None else type(application).__name__
    return Defect("no_gate", place, "no gate is around it, so whatever it declares is not asked", ADD, "none")


def _hidden_gate(application: Starlette) -> CapabilityMiddleware | None:
    """Return the gate of ``application`` where what is around it, such as a plain function, does not show it."""
    every = list(application.user_middleware)
    for number, middleware in enumerate(every):
        if isinstance(middleware.cls, type) and issubclass(middleware.cls, CapabilityMiddleware):
            application.user_middleware[:] = every[number:]
            try:
                inner: Any = application.build_middleware_stack()
            finally:
                application.user_middleware[:] = every
            for _ in range(DEPTH):
                inner = inner_app(inner) if is_of_framework(type(inner)) else inner
            return inner if isinstance(inner, CapabilityMiddleware) else None
    return None


def _broken(application: Starlette, error: Exception) -> Defect:
    names = ", ".join(middleware_name(middleware.cls) for middleware in application.user_middleware)
    return Defect(
        "broken_middleware", names, f"making its middleware raises {type(error).__name__}: {error}", None, "all"
    )
