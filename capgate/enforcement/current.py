"""Holds the capabilities that are in force here: those of the request that is being served.

A context variable, so it holds for the worker threads and background tasks of a request too. Python copies it to every
task that is started there, and one that outlives the request goes on in its name: for ever, unless the setting
``capabilities_end_with_request`` ends it. What is to run in nobody's name, such as a worker that the first request
starts for all, is started elsewhere, or says for whom it acts with :func:`using`.
Where nothing is current there is nobody to ask for, and that is a denial.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Final, NamedTuple

from ..checker.base import PolicyChecker
from ..errors import CapabilityDenied, ConfigError, PolicyUnavailable
from ..limits import Limits
from ..log_writer import BackgroundLogger
from ..model import DEFAULT_ENVIRONMENT, Actor, Attribute, Environment
from ..routes.seat import UNDECIDED
from .capabilities import Capabilities, require_actor
from .given_facts import given_facts
from .point import EnforcementPoint, deny_unasked

_log = BackgroundLogger("capgate")

_HINT: Final = (
    "no request of a gate is being served here; add CapabilityMiddleware to the application, and wrap jobs in"
    " using(capabilities_for(checker, actor))"
)


class _Used(NamedTuple):
    """What :func:`using` put in the place of the capabilities of ``request``, or of none."""

    capabilities: Capabilities
    request: Any


#: Counts only in the request in which it was set, or outside of all: a request that began since has its own.
_USED: Final[ContextVar[_Used | None]] = ContextVar("capgate.capabilities", default=None)


def capabilities_for(
    checker: PolicyChecker,
    actor: Actor,
    env: Environment = DEFAULT_ENVIRONMENT,
    *,
    deadline: float = Limits().deadline,
    context: Mapping[str, Attribute] | None = None,
) -> Capabilities:
    """Return capabilities outside of any request, for a job or a script, which ``actor`` names.

    To be used with :func:`using`. ``deadline`` is in seconds, for a ``checker`` that is not capgate's own. ``context``
    is what else is known: all questions have it.
    """
    require_actor(actor)
    if context is not None and not isinstance(context, Mapping):
        raise ConfigError("context", context, "a mapping of facts")
    point = EnforcementPoint(checker, env, deadline=deadline)
    return Capabilities(point, actor, context={} if context is None else given_facts(context))


@contextmanager
def using(capabilities: Capabilities) -> Iterator[Capabilities]:
    """Make ``capabilities`` the current ones inside the ``with``, also for worker threads and tasks started there."""
    token = _USED.set(_Used(capabilities, UNDECIDED.get()))
    try:
        yield capabilities
    finally:
        _USED.reset(token)


def current() -> Capabilities:
    """Return the capabilities of the request that is being served, or of the innermost :func:`using`.

    Raises :class:`CapabilityDenied` (``policy_unavailable``) where there are none. The log says so the first time: it
    may be that the application has no :class:`~capgate.CapabilityMiddleware` at all.
    """
    request, used = UNDECIDED.get(), _USED.get()
    if used is not None and used.request is request:
        return used.capabilities
    capabilities = getattr(request, "capabilities", None)
    if isinstance(capabilities, Capabilities):
        return capabilities
    _warn_once()
    missing = PolicyUnavailable(_HINT)
    raise CapabilityDenied(deny_unasked(missing, None, {})) from missing


@lru_cache(maxsize=1)
def _warn_once() -> None:
    _log.warning("something was to be asked, and is denied: %s", _HINT)
