"""Where an application leads, and whether what it consists of behaves as starlette's and FastAPI's own do.

Wrappers are followed by their ``app`` attributes to a router. Of classes that choose a route, or match one, in their
own way nothing is known beforehand.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Final, NamedTuple

from starlette.applications import Starlette
from starlette.routing import Host, Mount, Router

from .declare import Requirements, declared, declaring_methods, does_ask_itself, inherit, is_around

#: How deep mounts may be nested, and how many wrappers there may be around one application.
DEPTH: Final = 32
#: Whose ``matches`` write nothing to the scope, and give an endpoint with a match.
_PLAIN_NAMES: Final = frozenset({"Route", "WebSocketRoute", "Mount", "Host", "APIRoute", "APIWebSocketRoute"})
#: What makes up the choice of a route, on a router.
_DISPATCH: Final = ("__call__", "app", "handle", "matches")


class Unresolvable(Exception):
    """It is not certain which endpoint the request would reach."""


class Target(NamedTuple):
    """Where an application leads: what it and its wrappers declare, its router if it has one, the ``root_path`` that a
    FastAPI application on the way puts into the scope, else ``""``, the ``default`` of its routes, and whether it
    asks by itself."""

    declared: Requirements
    router: Router | None
    root_path: str
    default: Requirements = ()
    asks_itself: bool = False

    def below(self, app: object) -> Target:
        """The same, with the declarations of ``app`` around it."""
        always, default = inherit(declared(app), (), ())
        more = tuple(one for one in always if one not in self.declared)
        return self._replace(declared=(*more, *self.declared), default=self.default or default)


def find_target(app: object) -> Target:
    """Follow the ``app`` attributes of wrappers, and partial calls, from ``app`` to its router.

    Raises :class:`Unresolvable` if there are too many, or if what they hide is a class or an object whose methods
    declare something that nobody would look at, and :class:`TypeError` where a declaration is not one.
    """
    found: Requirements = ()
    default: Requirements = ()
    root_path = ""
    for _ in range(DEPTH):
        own = declared(app)
        if is_around(app):
            found, default = inherit(own, found, default)
        else:
            for one in own:  # a wrapper may show the declarations of what it wraps as its own
                found = found if one in found else (*found, one)
        if does_ask_itself(app):
            return Target(found, None, root_path, default, True)
        if isinstance(app, Router):
            return Target(found, app, root_path, default)
        if isinstance(app, Starlette):
            root_path = _fastapi_root_path(app) or root_path
            app = app.router
            continue
        kind: type = app if isinstance(app, type) else type(app)
        if declaring_methods(kind):
            raise Unresolvable(f"{app!r} declares methods, and which of them it calls is its own affair")
        inner = _inside(app)
        if inner is None:
            return Target(found, None, root_path, default)
        app = inner
    raise Unresolvable(f"more than {DEPTH} wrappers around one application")


def _inside(app: object) -> object | None:
    """What ``app`` is around, where that can be seen."""
    if isinstance(app, functools.partial):
        return app.func
    return None if isinstance(app, (type, FunctionType, MethodType)) else getattr(app, "app", None)


def _fastapi_root_path(app: Starlette) -> str:
    """``FastAPI(root_path=...)``, which replaces the one in the scope whenever the application is called."""
    root_path = getattr(app, "root_path", "")
    return root_path if isinstance(root_path, str) else ""


class _Known(dict[type, int]):
    """What ``judge`` says about classes, remembered."""

    def __init__(self, judge: Callable[[type], int]) -> None:
        self._judge = judge

    def __missing__(self, kind: type) -> int:
        self[kind] = verdict = self._judge(kind)
        return verdict


def matches_as_usual(kind: type) -> bool:
    """Whether routes of this class match the way starlette's or FastAPI's own do."""
    owner = next((base for base in kind.__mro__ if "matches" in vars(base)), kind)
    return owner.__module__ in ("starlette.routing", "fastapi.routing") and owner.__name__ in _PLAIN_NAMES


def _plainness(kind: type) -> int:
    """0 where routes of this class match in their own way, :data:`LEAF` where nothing is below them, else 1."""
    if not matches_as_usual(kind):
        return 0
    return 1 if issubclass(kind, (Mount, Host)) else LEAF


def _dispatches_as_usual(kind: type) -> bool:
    """Whether routers of this class choose a route the way starlette's or FastAPI's do."""
    fastapi = sys.modules.get("fastapi.routing")
    return any(
        issubclass(kind, base) and all(getattr(kind, name, None) is getattr(base, name, None) for name in _DISPATCH)
        for base in ([Router] if fastapi is None else [Router, fastapi.APIRouter])
    )


#: Of a route that matches as usual, where nothing is below it.
LEAF: Final = 2
#: How routes of a class match, see :func:`_plainness`.
PLAIN: Final = _Known(_plainness)
#: Whether routers of a class choose a route as usual.
USUAL: Final = _Known(_dispatches_as_usual)
