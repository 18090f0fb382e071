"""Tells the framework's own classes of routes and routers from those that choose in their own way, and names routes.

Of a class that matches a route, or chooses one, in its own way nothing is known beforehand. FastAPI is not imported
here; where nobody did, there are no classes of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

from starlette.routing import Host, Mount, Route, Router, WebSocketRoute

#: How deep mounts, included routers and dependencies may be nested, and how many wrappers one application may have.
DEPTH: Final = 32
#: The end of the path of what leads to routes or applications of its own.
REST: Final = "/{path:path}"
#: How the frontends of a router are listed, behind its path. They cannot be public.
FRONTENDS: Final = "/{frontend:path}"

#: Those whose ``matches`` writes nothing to the scope, and gives an endpoint with a match.
_ROUTES: Final = (Route, WebSocketRoute, Mount, Host)
_ROUTES_OF_FASTAPI: Final = ("APIRoute", "APIWebSocketRoute")
#: What makes up the choice of a route, on a router.
_DISPATCH: Final = ("__call__", "app", "handle", "matches")


class Unresolvable(Exception):
    """It is not certain which endpoint the request would reach."""


def matches_as_usual(route_class: type) -> bool:
    """Say whether routes of this class match the way starlette's or FastAPI's own do."""
    return _is_like(route_class, (*_ROUTES, *_of_fastapi(*_ROUTES_OF_FASTAPI)), "matches")


def dispatches_as_usual(router_class: type) -> bool:
    """Say whether routers of this class choose a route the way starlette's or FastAPI's own do."""
    return _is_like(router_class, (Router, *_of_fastapi("APIRouter")), *_DISPATCH)


def _is_like(cls: type, framework: tuple[type, ...], *names: str) -> bool:
    """Say whether ``cls`` descends from one of the classes and has its very functions by these names."""
    return any(
        issubclass(cls, own) and all(getattr(cls, name, None) is getattr(own, name, None) for name in names)
        for own in framework
    )


def _of_fastapi(*names: str) -> tuple[type, ...]:
    """Return FastAPI's own classes by these names, and none that an application put in their place."""
    module = sys.modules.get("fastapi.routing")
    classes = [getattr(module, name, None) for name in names]
    return tuple(cls for cls in classes if isinstance(cls, type) and cls.__module__ == "fastapi.routing")


class _ByClass(dict[type, int]):
    """What a function says of classes, remembered."""

    def __init__(self, function: Callable[[type], int]) -> None:
        self._function = function

    def __missing__(self, cls: type) -> int:
        self[cls] = answer = self._function(cls)
        return answer


def _plainness(route_class: type) -> int:
    """Return 0 where routes match in their own way, :data:`LEAF` where nothing is below them, else 1."""
    if not matches_as_usual(route_class):
        return 0
    return 1 if issubclass(route_class, (Mount, Host)) else LEAF


#: Of a route that matches as usual, where nothing is below it.
LEAF: Final = 2
#: How routes of a class match, see :func:`_plainness`.
PLAIN: Final = _ByClass(_plainness)
#: Whether routers of a class choose a route as usual.
USUAL: Final = _ByClass(dispatches_as_usual)


# -- names of routes


def leads_on(route: Any) -> bool:
    """Say whether ``route`` is a ``Mount`` or a ``Host``, below which there is more."""
    return isinstance(getattr(route, "original_route", route), (Mount, Host))


def own_path(route: Any) -> str:
    """Return the path of ``route`` as declared, or the host; ``""`` where it has none."""
    path = route.host if isinstance(getattr(route, "original_route", route), Host) else getattr(route, "path", "")
    return path if isinstance(path, str) else ""


def template(route: Any, prefix: str = "") -> str:
    """Return the name of ``route`` among public routes, below ``prefix``; ``""`` where it has none.

    It is the path exactly as declared, after those of the mounts around it. An application mounted without routes that
    could be seen (static files, WSGI) is ``/mount/path/{path:path}``, or ``/mount/path`` where the mount declares
    nothing. What is below ``Host("api.example.com")`` begins with that host, ``api.example.com/health``.
    """
    path = own_path(route)
    if leads_on(route):
        return prefix + path + REST
    return prefix + path if path else ""
