"""Reads what FastAPI adds to the routes of starlette: routers in routers, frontends, dependencies that ask.

FastAPI is not imported here; where nobody did, there is nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .declare import Requirements, declared, does_ask_itself, inherit
from .framework import DEPTH, Unresolvable
from .target import find_target

#: What routes are always asked for, and what those that declare nothing are asked for.
Around = tuple[Requirements, Requirements]


def check_rest(router: Any, around: Around) -> None:
    """Raise unless ``router`` needs nothing besides what is always asked around it where no route of it matches."""
    default = find_target(router.default)
    if default.declared or default.default or default.router is not None:
        raise Unresolvable(f"the default application of a {type(router).__name__} declares something, or has routes")
    if any(always != around[0] for always in frontends(router, around)):
        raise Unresolvable("there are frontends in included routers, which declare what is always asked")


def frontends(router: Any, around: Around, depth: int = 0) -> Iterator[Requirements]:
    """Yield, for each frontend that FastAPI tries where no route of ``router`` matches, what is always asked there."""
    if depth > DEPTH:
        raise Unresolvable(f"routers are included more than {DEPTH} deep")
    if getattr(router, "_low_priority_routes", ()):
        yield around[0]
    for route in router.routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from frontends(inner, inherit(declared(inner), *around), depth + 1)


def asks_in_dependency(route: Any, router: Any) -> bool:
    """Say whether dependencies of FastAPI's ask before the endpoint of ``route``, one of ``router``, runs.

    They do not where ``dependency_overrides`` replace one that would ask, or one on the way to it.
    """
    dependant = getattr(route, "dependant", None)
    if dependant is None or not any(map(does_ask_itself, calls_in(dependant))):
        return False
    holders = (
        getattr(route, "dependency_overrides_provider", None),
        getattr(router, "dependency_overrides_provider", None),
    )
    replaced = [overrides for holder in holders if (overrides := getattr(holder, "dependency_overrides", None))]
    return not replaced or not any(_is_replaced(dependant, overrides) for overrides in replaced)


def asked_in_dependencies(route: Any) -> Requirements:
    """Return what dependencies of FastAPI's ask before the endpoint of ``route`` runs."""
    dependant = getattr(route, "dependant", None)
    if dependant is None:
        return ()
    asking = filter(does_ask_itself, calls_in(dependant))
    return tuple(requirement for call in asking for requirement in declared(call))


def _is_replaced(dependant: Any, overrides: Mapping[Any, Any]) -> bool:
    """Say whether something that asks would not be called for ``dependant``."""
    for inner in dependant.dependencies:
        if inner.call in overrides:
            if does_ask_itself(inner.call) or any(map(does_ask_itself, calls_in(inner))):
                return True
        elif _is_replaced(inner, overrides):
            return True
    return False


def calls_in(dependant: Any, depth: int = 0) -> Iterator[Any]:
    """Yield the functions that FastAPI calls for ``dependant`` before its endpoint."""
    if depth > DEPTH:
        raise Unresolvable(f"dependencies are nested more than {DEPTH} deep")
    for inner in dependant.dependencies:
        yield inner.call
        yield from calls_in(inner, depth + 1)
