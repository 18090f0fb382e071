"""Whose capabilities are in force here: those of the request that is being served.

A context variable, so it holds for the worker threads and background tasks of a request too. Python copies it to every
task that is started there: one that outlives the request goes on in its name, and what is to run in nobody's, such as a
worker that the first request starts for all, is started elsewhere, or says for whom it acts with :func:`using`. Where
nothing is current there is nobody to ask for, and that is a denial.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any, Final

from ..checker.local import PolicyChecker
from ..errors import CapabilityDenied, ConfigError, PolicyUnavailable
from ..limits import Limits
from ..model import DEFAULT_ENVIRONMENT, Actor, Environment
from .actors import ACTORS
from .capabilities import Capabilities, Held
from .denials import refusal
from .point import Judge

_CURRENT: ContextVar[Capabilities] = ContextVar("capgate.capabilities")
#: Where they are in the state of a request.
_NAME: Final = "capabilities"


def capabilities_for(
    checker: PolicyChecker,
    actor: Actor,
    env: Environment = DEFAULT_ENVIRONMENT,
    *,
    deadline: float = Limits().deadline,
) -> Capabilities:
    """Capabilities outside of any request, for a job or a script, which ``actor`` names. To be used with
    :func:`using`. ``deadline`` is in seconds, for a ``checker`` that is not capgate's own."""
    if type(actor) not in ACTORS:
        raise ConfigError("actor", actor, "Anonymous, User, Service or CompilerTool")
    return Held(Judge(checker, env, deadline=deadline), actor, None)


@contextmanager
def using(capabilities: Capabilities) -> Iterator[Capabilities]:
    """Make ``capabilities`` the current ones inside the ``with``, also for worker threads and tasks started there."""
    token = _CURRENT.set(capabilities)
    try:
        yield capabilities
    finally:
        _CURRENT.reset(token)


def current() -> Capabilities:
    """The capabilities of the request that is being served, or of the innermost :func:`using`.

    Raises :class:`CapabilityDenied` (``policy_unavailable``) where there are none.
    """
    found = _CURRENT.get(None)
    if found is None:
        hint = "no request is being served here; wrap jobs in using(capabilities_for(checker, actor))"
        raise CapabilityDenied(refusal(None, {}, PolicyUnavailable(hint))) from PolicyUnavailable(hint)
    return found


#: What :func:`take_back` undoes: the context variable, and what was under the same name in the state of the request.
Handed = tuple["Token[Capabilities]", MutableMapping[str, Any], Any]


def hand_out(capabilities: Capabilities, scope: MutableMapping[str, Any]) -> Handed:
    """Make ``capabilities`` those of the request of ``scope``, and the current ones, until :func:`take_back`."""
    state = scope["state"] if "state" in scope else None  # noqa: SIM401  # get() takes twice as long, here and below
    if state is None:
        scope["state"] = state = {}
    before = state[_NAME] if _NAME in state else _CURRENT  # noqa: SIM401
    state[_NAME] = capabilities
    return _CURRENT.set(capabilities), state, before


def take_back(handed: Handed) -> None:
    """Undo :func:`hand_out`. The state of a request that is over holds nothing that holds the request, so that both are
    gone at once, with body and all, and not when garbage is collected."""
    token, state, before = handed
    if before is not _CURRENT:
        state[_NAME] = before
    elif _NAME in state:  # in place of nothing
        del state[_NAME]
    try:  # noqa: SIM105  # suppress() costs as much as all of this
        _CURRENT.reset(token)
    except ValueError:  # a coroutine that is closed by the garbage collector, thus in another context
        pass
