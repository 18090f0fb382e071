"""Asks functions of the application for facts, in time: those of a resource, and the context of a question."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Mapping
from functools import partial
from typing import Any, Final

import anyio.to_thread
from anyio import CapacityLimiter
from anyio.lowlevel import RunVar
from starlette.requests import HTTPConnection, Request
from starlette.types import Scope

from ..errors import FactsUnavailable, MalformedInput, ends_task
from ..model import Attribute
from ..routes.declare import FactsOf
from ..routes.seat import SEAT
from ..runtime.bounded_wait import BoundedWait

#: Threads that look up facts at once, of one event loop. They are none of those that endpoints run in. So functions
#: that hang hold up nobody but who needs what they give.
THREADS: Final = 40
_LIMITER: Final[RunVar[CapacityLimiter]] = RunVar("capgate.threads_of_facts")


def given_facts(given: object) -> dict[str, Attribute]:
    """Return a copy of the facts in ``given``, so that nobody changes them meanwhile. ``None`` stands for no fact.

    Raises :class:`~capgate.errors.MalformedInput` for what is no mapping.
    """
    if not isinstance(given, Mapping):
        raise MalformedInput(f"facts are a mapping, not a {type(given).__name__}")
    return {name: [*value] if isinstance(value, list) else value for name, value in given.items() if value is not None}


def shown_request(scope: Scope, params: Mapping[str, Any]) -> HTTPConnection:
    """Return the request as a function of the application's sees it that looks up facts: without its body.

    ``params`` are path parameters. What the function leaves in the state is there for the endpoint. Nothing else here
    looks at what this makes of the scope.
    """
    shown = {**scope, "path_params": {**params}}
    shown.pop(SEAT, None)
    return Request(shown) if scope["type"] == "http" else HTTPConnection(shown)


async def facts_in_time(find: FactsOf, asked: Any, seconds: float) -> dict[str, Attribute]:
    """Return the facts that ``find`` gives for ``asked``. What cannot be awaited runs in a worker thread.

    Raises :class:`~capgate.errors.FactsUnavailable` for whatever goes wrong, and after ``seconds``. A thread that is
    still busy then is left alone.
    """
    given: Any = None
    with BoundedWait(seconds) as bound:
        try:
            if is_async(find):
                given = await find(asked)
            else:
                (given,) = await anyio.to_thread.run_sync(
                    _boxed, find, asked, abandon_on_cancel=True, limiter=_threads()
                )
                if inspect.isawaitable(given):
                    given = await given
        except BaseException as error:
            if ends_task(error):
                raise
            raise _failed(find, error) from error
    if bound.expired:
        raise FactsUnavailable(name_of(find), f"took longer than the actor_seconds, which are {seconds:g}")
    return checked_facts(find, given)


async def context_in_time(find: FactsOf, scope: Any, seconds: float) -> dict[str, Attribute]:
    """Return the context that ``find`` gives for ``scope``; what cannot be awaited is called at once.

    Raises as :func:`facts_in_time`.
    """
    given = context_now(find, scope)
    if isinstance(given, dict):
        return given

    async def wait(_: None) -> Any:
        return await given

    wait.__qualname__ = name_of(find)
    return await facts_in_time(wait, None, seconds)


def context_now(find: FactsOf, scope: Any) -> dict[str, Attribute] | Awaitable[Any]:
    """Return the context that ``find`` gives for ``scope``, or what is to be awaited for it.

    Raises :class:`~capgate.errors.FactsUnavailable`.
    """
    try:
        given = find(scope)
    except BaseException as error:
        if ends_task(error):
            raise
        raise _failed(find, error) from error
    return given if inspect.isawaitable(given) else checked_facts(find, given)


def _threads() -> CapacityLimiter:
    try:
        return _LIMITER.get()
    except LookupError:
        limiter = CapacityLimiter(THREADS)
        _LIMITER.set(limiter)
        return limiter


def _boxed(find: FactsOf, asked: Any) -> tuple[Any]:
    """Return what ``find`` gives in a tuple, since trio takes no coroutine from a thread."""
    return (find(asked),)


def is_async(function: Any) -> bool:
    """Say whether a call of ``function`` is known to give a coroutine."""
    while isinstance(function, partial):
        function = function.func
    called = getattr(type(function), "__call__", None)  # noqa: B004  # the function is wanted, if it is one
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


def name_of(function: Any) -> str:
    """Return the name of ``function`` as the application's code has it."""
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else type(function).__name__


def checked_facts(find: object, given: object) -> dict[str, Attribute]:
    """Return a copy of the facts that ``find`` gave. Raises :class:`~capgate.errors.FactsUnavailable` for others."""
    if not isinstance(given, Mapping):
        raise FactsUnavailable(name_of(find), f"returned a {type(given).__name__}, not a mapping of attributes")
    try:
        return given_facts(given)
    except Exception as error:
        raise _failed(find, error) from error


def _failed(find: object, error: BaseException) -> FactsUnavailable:
    return FactsUnavailable(name_of(find), f"raised {type(error).__name__}")
