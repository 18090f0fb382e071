"""Follows wrappers by their ``app`` attributes from an application to its router."""

from __future__ import annotations

import functools
from types import FunctionType, MethodType
from typing import NamedTuple

from starlette.applications import Starlette
from starlette.routing import Router

from .declare import Requirements, declared, declaring_methods, does_ask_itself, inherit, is_around
from .framework import DEPTH, Unresolvable


class Target(NamedTuple):
    """Where an application leads.

    ``declared`` is what it and its wrappers declare, ``router`` its router if it has one. ``root_path`` is what a
    FastAPI application on the way puts into the scope, else ``""``. ``default`` is that of its routes, and
    ``asks_itself`` says whether it asks by itself.
    """

    declared: Requirements
    router: Router | None
    root_path: str
    default: Requirements = ()
    asks_itself: bool = False

    def below(self, app: object) -> Target:
        """Return the same, with the declarations of ``app`` around it."""
        always, default = inherit(declared(app), (), ())
        more = tuple(requirement for requirement in always if requirement not in self.declared)
        return self._replace(declared=(*more, *self.declared), default=self.default or default)


def find_target(app: object) -> Target:
    """Follow the ``app`` attributes of wrappers, and partial calls, from ``app`` to its router.

    Raises :class:`~capgate.routes.framework.Unresolvable` if there are too many. Raises it too if what they hide is a
    class or an object whose methods declare something that nobody would look at. Raises :class:`TypeError` where a
    declaration is not one.
    """
    always: Requirements = ()
    default: Requirements = ()
    root_path = ""
    for _ in range(DEPTH):
        own = declared(app)
        if is_around(app):
            always, default = inherit(own, always, default)
        else:
            for requirement in own:  # a wrapper may show the declarations of what it wraps as its own
                always = always if requirement in always else (*always, requirement)
        if does_ask_itself(app):
            return Target(always, None, root_path, default, True)
        if isinstance(app, Router):
            return Target(always, app, root_path, default)
        if isinstance(app, Starlette):
            root_path = _fastapi_root_path(app) or root_path
            app = app.router
            continue
        if declaring_methods(app if isinstance(app, type) else type(app)):
            raise Unresolvable(f"{app!r} declares methods, and which of them it calls is its own affair")
        if _may_choose(app):
            raise Unresolvable(f"{app!r} may choose routes unasked")
        inner = inner_app(app)
        if inner is None:
            return Target(always, None, root_path, default)
        app = inner
    raise Unresolvable(f"more than {DEPTH} wrappers around one application")


def _may_choose(app: object) -> bool:
    """Say whether ``app`` is a method of a router, but for that which answers where nothing matches."""
    if not (isinstance(app, MethodType) and isinstance(app.__self__, Router)):
        return False
    return app.__func__ is not type(app.__self__).not_found


def inner_app(app: object) -> object | None:
    """Return what ``app`` is around, where that can be seen."""
    if isinstance(app, functools.partial):
        return app.func
    return None if isinstance(app, (type, FunctionType, MethodType)) else getattr(app, "app", None)


def _fastapi_root_path(app: Starlette) -> str:
    """Return ``FastAPI(root_path=...)``, which replaces the one in the scope whenever the application is called."""
    root_path = getattr(app, "root_path", "")
    return root_path if isinstance(root_path, str) else ""
