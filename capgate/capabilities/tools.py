"""Hosted tools: a function that asks the policy before it runs, about its name and the hash of its arguments.

::

    @gated_tool("tool.modify")
    async def rename(module: str, to: str) -> str: ...

Gated is the call of the decorated function, for whoever calls it. Not gated is the function itself, which stays in
reach as ``rename.__wrapped__`` for frameworks that read annotations there, nor what else a process may do.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Collection, Generator
from typing import Any, Final, ParamSpec, TypeVar

from ..actions import VOCABULARY
from ..enforcement.capabilities import Capabilities
from ..enforcement.current import current
from ..errors import CapabilityDenied, ConfigError
from ..model import Resource
from ._tools_arguments import Taken, canonical_hash

__all__ = ["canonical_hash", "gated_tool"]

#: The resource kind of tools.
KIND: Final = "tool"

_P = ParamSpec("_P")
_R = TypeVar("_R")


def gated_tool(
    action: str = "tool.generate",
    name: str | None = None,
    *,
    capabilities: Capabilities | None = None,
    ignore: Collection[str] = (),
    default: Callable[[Any], Any] | None = None,
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Ask ``action`` on ``tool:<name>`` before each run of the decorated function, with the hash of its arguments.

    ``name``          of the tool; by default the function's
    ``capabilities``  whom to ask, in place of those that are current at the call
    ``ignore``        parameters that are no part of the hash, such as ``self`` or a framework's context
    ``default``       gives the JSON form of an argument that JSON has no type for, as in :func:`json.dumps`; without
                      it such a call is denied. ``lambda model: model.model_dump(mode="json")`` is one for pydantic

    The hash is :func:`canonical_hash` of an object with one member for each parameter, defaults included, ``*args`` as
    an array and ``**kwargs`` as an object. The function gets copies of the lists and dicts that were hashed, so nobody
    changes them meanwhile; what went through ``default`` is hashed again after the answer, and denied if it differs.

    For functions, coroutine functions and generators of both kinds, which ask when they are first advanced; a method
    is decorated below ``@classmethod`` or ``@staticmethod``. Name, signature, docstring and annotations stay as they
    are. Denied raises :class:`~capgate.errors.CapabilityDenied`; arguments that do not fit, :class:`TypeError`.
    Raises :class:`~capgate.errors.ConfigError` where it is applied.
    """
    check_action("action", action)

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        if not callable(function) or isinstance(function, (type, classmethod, staticmethod)):
            raise ConfigError("function", function, "a function; @classmethod and @staticmethod go above")
        gate = _Gate(function, action, name, capabilities, frozenset(ignore), default)
        return functools.wraps(function)(_wrapper(function, gate))

    return decorate


def check_action(setting: str, action: object) -> None:
    """Raise :class:`ConfigError` unless ``action`` is registered and may be about a tool."""
    known = VOCABULARY.get(action) if isinstance(action, str) else None
    if known is None or known.kind not in (None, KIND):
        names = sorted(one.name for one in VOCABULARY if one.kind in (None, KIND))
        raise ConfigError(setting, action, f"an action on tools: {', '.join(names)}")


def _wrapper(function: Callable[..., Any], gate: _Gate) -> Callable[..., Any]:
    """``function`` behind ``gate``, of the kind that it is itself: frameworks look."""
    inside = function
    while isinstance(inside, functools.partial):
        inside = inside.func
    inside = inside if inspect.isroutine(inside) else type(inside).__call__
    for is_kind, wrap in _KINDS.items():
        if is_kind(inside):
            return wrap(function, gate)
    return _function(function, gate)


def _coroutine(function: Callable[..., Any], gate: _Gate) -> Callable[..., Any]:
    async def run(*args: Any, **kwargs: Any) -> Any:
        call = await gate.ask(args, kwargs)
        return await function(*call.args, **call.kwargs)

    return run


def _function(function: Callable[..., Any], gate: _Gate) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        call = gate.ask_now(args, kwargs)
        return function(*call.args, **call.kwargs)

    return run


def _generator(function: Callable[..., Any], gate: _Gate) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        call = gate.ask_now(args, kwargs)
        return (yield from function(*call.args, **call.kwargs))

    return run


def _async_generator(function: Callable[..., Any], gate: _Gate) -> Callable[..., Any]:
    async def run(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        call = await gate.ask(args, kwargs)
        inner = function(*call.args, **call.kwargs)
        try:
            item = await inner.__anext__()
            while True:
                try:
                    sent = yield item
                except GeneratorExit:  # noqa: PERF203  # thrown errors differ from one item to the next
                    raise
                except BaseException as error:  # thrown in by the caller, for the function
                    item = await inner.athrow(error)
                else:
                    item = await inner.asend(sent)
        except StopAsyncIteration:
            return
        finally:
            await inner.aclose()

    return run


_KINDS: Final = {
    inspect.iscoroutinefunction: _coroutine,
    inspect.isasyncgenfunction: _async_generator,
    inspect.isgeneratorfunction: _generator,
}


class _Gate:
    """One gated function: what is asked before it runs."""

    def __init__(
        self,
        function: Callable[..., Any],
        action: str,
        name: str | None,
        capabilities: Capabilities | None,
        ignore: frozenset[str],
        default: Callable[[Any], Any] | None,
    ) -> None:
        name = getattr(function, "__name__", None) if name is None else name
        if not isinstance(name, str) or not name:
            raise ConfigError("name", name, "the name of the tool, where the function has none")
        try:
            self._signature = inspect.signature(function)
        except (TypeError, ValueError):
            raise ConfigError("function", function, "a function whose signature can be seen") from None
        for one in sorted(ignore - set(self._signature.parameters)):
            raise ConfigError("ignore", one, f"parameters of {name}: {', '.join(self._signature.parameters)}")
        self._question = action, Resource(KIND, name)
        self._capabilities = capabilities
        self._ignore = ignore
        self._default = default

    async def ask(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        """The arguments to run with, once they were allowed. Raises :class:`CapabilityDenied`."""
        taken = self._take(args, kwargs)
        asked = current() if self._capabilities is None else self._capabilities
        try:
            await asked.require(*self._question, args_hash=taken.hash)
        except CapabilityDenied as denied:
            raise denied from taken.problem
        return self._confirmed(taken, asked)

    def ask_now(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        """:meth:`ask` for code that cannot await."""
        taken = self._take(args, kwargs)
        asked = current() if self._capabilities is None else self._capabilities
        try:
            asked.require_now(*self._question, args_hash=taken.hash)
        except CapabilityDenied as denied:
            raise denied from taken.problem
        return self._confirmed(taken, asked)

    def _take(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Taken:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return Taken(bound, self._ignore, self._default)

    def _confirmed(self, taken: Taken, asked: Capabilities) -> inspect.BoundArguments:
        problem = taken.problem or taken.changed()
        if problem is not None:  # not even where a checker of the application's allowed it
            asked.deny(problem)
        return taken.bound
