"""Says which middleware stands on the wrong side of the gate. What is added first is innermost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.cors import CORSMiddleware

from ...routes.route_report import inside, middleware_name
from .defect import Defect
from .gate_place import GatePlace


def wrong_order(place: GatePlace) -> Iterator[Defect]:
    """Yield what stands inside the gate and answers or knows what is needed outside, and caches outside."""
    for middleware in dict.fromkeys(inside(place.gate.app)):
        yield _inside(middleware)
    for outer in place.outside:
        name = middleware_name(type(outer))
        if "cache" in name.lower():
            problem = "it is outside the gate, and what it keeps is sent without asking the policy"
            yield Defect("cache_outside", name, problem, "keep answers in the endpoints, per user", "none")


def _inside(middleware: Any) -> Defect:
    name = middleware_name(middleware)
    later = f"app.add_middleware({name}, ...)  # after app.add_middleware(CapabilityMiddleware, ...)"
    if _is(middleware, CORSMiddleware):
        problem = "preflight requests are denied, and browsers cannot read denials: it is inside the gate"
        return Defect("cors_inside", name, problem, later)
    if _is(middleware, AuthenticationMiddleware) or name == "SessionMiddleware":
        problem = "what it answers by itself, such as 401, is denied, and it runs unasked: it is inside the gate"
        return Defect("authentication_inside", name, problem, later)
    problem = "it runs before the policy is asked, and what it answers by itself is denied: it is inside the gate"
    return Defect("middleware_inside", name, problem, later)


def _is(middleware: Any, of: type) -> bool:
    return isinstance(middleware, type) and issubclass(middleware, of)
