"""Looks at an application in the order in which a request would: gate, settings and policy, users, routes."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any, Final

import anyio

from ... import __file__ as ROOT_FILE
from ...errors import CapgateError, ConfigError
from ...middleware.contract import around
from ...middleware.startup import explain
from ...routes.framework import Unresolvable
from ...routes.route_report import RouteReport, report_routes
from ...routes.target import find_target
from ...settings.settings import Settings
from ..contract import load_application
from .defect import Defect
from .gate_place import GatePlace, find_gate
from .order import wrong_order
from .policies import failed_start, never_allowed, uncertain_policy
from .users import nameless_users
from .wrong_routes import denied_routes, misspelt_public

#: What the files of capgate itself begin with, which are nobody's mistake.
PACKAGE: Final = os.path.join(os.path.dirname(ROOT_FILE), "")


def examine_named(application: str, *, factory: bool) -> list[Defect]:
    """Return what is wrong with the application at ``module:attribute``, in the order in which to mend it.

    Raises :class:`ConfigError` for one that cannot be had for a reason that is not capgate's.
    """
    try:
        app = load_application(application, factory=factory)
    except ConfigError as error:
        if isinstance(error.__cause__, CapgateError):
            return [_rejected(error.__cause__)]
        raise
    return examine(app)


def _rejected(error: CapgateError) -> Defect:
    """Say what of capgate's own rejected something while the application was imported, and where that was."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{frame.filename}:{frame.lineno}" for frame in frames if not frame.filename.startswith((PACKAGE, "<"))]
    place = lines[-1] if lines else type(error).__name__
    nearest = getattr(error, "nearest", None)
    return Defect("rejected_at_import", place, explain(error), None if nearest is None else str(nearest), "all")


def examine(app: Any) -> list[Defect]:
    """Return what is wrong with ``app``, in the order in which to mend it: what denies everything comes first.

    The gate is started as a server would start it, and closed again. Nothing of the application's is called, but that
    its middleware is made.
    """
    place = find_gate(app)
    if isinstance(place, Defect):
        return [place]
    settings, failure = _trial(place)
    routes, of_routes = _routes(place, settings)
    defects = [*_start_failure(failure, of_routes)]
    if settings is not None and failure is None:
        defects += uncertain_policy(settings)
    defects += wrong_order(place)
    defects += nameless_users(place)
    defects += of_routes
    if settings is not None and failure is None:
        defects += never_allowed(settings, routes)
    return sorted(defects, key=lambda defect: defect.denies != "all")


def _trial(place: GatePlace) -> tuple[Settings | None, BaseException | None]:
    with _quiet(), contextlib.redirect_stdout(sys.stderr):
        scope = {"type": "lifespan", "app": place.application}
        return anyio.run(place.gate.trial, scope)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to ourselves what start-up would log: it is said one by one."""
    log = logging.getLogger("capgate")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(before)


def _start_failure(failure: BaseException | None, of_routes: list[Defect]) -> Iterator[Defect]:
    """Yield why the gate does not start, unless that is what those of routes say one by one."""
    if failure is None:
        return
    if isinstance(failure, ConfigError) and failure.setting == "strict" and of_routes:
        return
    yield failed_start(failure)


def _routes(place: GatePlace, settings: Settings | None) -> tuple[list[RouteReport], list[Defect]]:
    """Return the routes behind the gate, and what is wrong with them."""
    if place.gate.given().resolver is not None:
        return [], []
    public = () if settings is None else settings.public
    try:
        target = around(find_target(place.gate.app), place.application)
        routes = report_routes(target, frozenset(public))
    except (Unresolvable, TypeError) as error:
        return [], [Defect("unresolvable", type(place.gate.app).__name__, str(error), None, "all")]
    if target.router is None and not routes:
        problem = "no router was found, so every request is denied"
        return [], [Defect("no_router", type(place.gate.app).__name__, problem, "resolver=...", "all")]
    defects = [*misspelt_public(public, routes), *denied_routes(routes, place.application, public)]
    return routes, defects
