"""Says once in the log of each endpoint that declares something, and ran where there is no gate.

A function that is called directly, as unit tests do, is nobody's request.
"""

from __future__ import annotations

import logging
from types import FunctionType
from typing import Any, Final

from starlette.types import Scope

from .declare import ATTRIBUTE, declared, declaring_methods
from .framework import DEPTH
from .walk import walk

_log = logging.getLogger("capgate")

#: On what was looked at already: ``True``.
_NOTED: Final = "__capgate_noted__"


def note_ungated(router: Any, scope: Scope) -> None:
    """Note what ``router`` ran for a request that no gate let in. Never raises."""
    endpoint = scope.get("endpoint")
    if type(endpoint) is FunctionType:  # nearly always, and nothing more is done for it
        own = endpoint.__dict__
        if ATTRIBUTE not in own or _NOTED in own:
            return
    elif endpoint is None:
        return
    try:
        if _declares(endpoint) and not _is_noted(endpoint) and _note(endpoint):
            # Not where a gate is around the inner router whose route it is, or has been around this one.
            ran_here = any(endpoint in _ends(entry.original) for entry in walk(router))
            if ran_here and not _is_armed(router):
                name = getattr(endpoint, "__qualname__", type(endpoint).__name__)
                _log.warning(
                    "%s declares what a policy has to allow, and ran without being asked about, for there is no gate;"
                    " add CapabilityMiddleware to the application",
                    ascii(name)[1:-1],
                )
    except Exception as error:
        _log.debug("an endpoint could not be looked at: %s", type(error).__name__)


def _declares(endpoint: Any) -> bool:
    return bool(declared(endpoint)) or (isinstance(endpoint, type) and bool(declaring_methods(endpoint)))


def _is_noted(endpoint: Any) -> bool:
    return _NOTED in vars(endpoint) if isinstance(endpoint, type) else hasattr(endpoint, _NOTED)


def _note(endpoint: Any) -> bool:
    """Mark ``endpoint``, or what it is made of. Say whether that was possible."""
    for holder in (endpoint, getattr(endpoint, "__func__", None), type(endpoint)):
        try:
            setattr(holder, _NOTED, True)
        except (AttributeError, TypeError):
            continue
        return True
    return False


def _ends(route: Any) -> tuple[Any, ...]:
    """Return what a route gives as the endpoint of a request."""
    return getattr(route, "endpoint", None), getattr(route, "app", None)


def _is_armed(router: Any) -> bool:
    """Say whether the end of the chain of ``router`` is a dispatch, because some gate is around it."""
    inner: Any = router.middleware_stack
    for _ in range(DEPTH):
        if inner is None or getattr(inner, "router", None) is router:
            break
        inner = getattr(inner, "app", None)
    return inner is not None and getattr(inner, "router", None) is router
