"""Gates hosted tools: a function asks the policy before it runs, about its name and the hash of its arguments.

::

    @gated_tool("tool.modify")
    async def rename(module: str, to: str) -> str: ...

Gated is the call of the decorated function, for whoever calls it. Not gated is the function itself, which stays in
reach as ``rename.__wrapped__`` for frameworks that read annotations there, nor what else a process may do.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Mapping
from typing import Any, Final, ParamSpec, TypeVar, Union

import rfc8785

from ..actions import VOCABULARY
from ..enforcement.capabilities import Capabilities
from ..enforcement.current import current
from ..errors import CapabilityDenied, ConfigError, MalformedInput
from ..facts import weigh_attributes
from ..model import Resource

__all__ = ["canonical_hash", "gated_tool"]

#: The resource kind of tools.
KIND: Final = "tool"
#: In place of the hash of arguments that have none: text that is not Unicode, which makes the question malformed.
NO_HASH: Final = "\udcff"

_SCALARS: Final = frozenset({str, int, float, bool, type(None)})

#: Arguments of a call that a policy sees, by their names; or by the names that the policy has for them.
ArgumentNames = Union[Collection[str], Mapping[str, str]]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def canonical_hash(arguments: Any) -> str:
    """Return the SHA-256 (64 hex digits) of ``arguments`` as canonical JSON, by RFC 8785.

    Key order and white space do not count, numbers are doubles. Raises :class:`~capgate.errors.MalformedInput` for what
    has no such form:

    - a type that JSON has not
    - NaN, infinity, and a whole number beyond 2**53 - 1
    - text with a lone surrogate
    - nesting too deep
    """
    try:
        return hashlib.sha256(rfc8785.dumps(arguments)).hexdigest()
    except (ValueError, TypeError, RecursionError) as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise MalformedInput(f"the arguments have no canonical form: {problem[:200]}") from error


def gated_tool(
    action: str = "tool.generate",
    name: str | None = None,
    *,
    capabilities: Capabilities | None = None,
    ignore: Collection[str] = (),
    default: Callable[[Any], Any] | None = None,
    args: ArgumentNames = (),
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Ask ``action`` on ``tool:<name>`` before each run of the decorated function, with the hash of its arguments.

    ``name``          of the tool; by default the function's
    ``capabilities``  whom to ask, in place of those that are current at the call
    ``ignore``        parameters that are no part of the hash, such as ``self`` or a framework's context
    ``default``       gives the JSON form of an argument that JSON has no type for, as in :func:`json.dumps`; without
                      it such a call is denied. ``lambda model: model.model_dump(mode="json")`` is one for pydantic
    ``args``          parameters that the policy sees as arguments of the question, or a mapping from names of arguments
                      to parameters. Of ``None`` it sees nothing

    The hash is :func:`canonical_hash` of an object with one member for each parameter, defaults included, ``*args`` as
    an array and ``**kwargs`` as an object. The function gets copies of the lists and dicts that were hashed, so nobody
    changes them meanwhile. What went through ``default`` is hashed again after the answer, and denied if it differs.

    For functions, coroutine functions and generators of both kinds, which ask when they are first advanced; a method
    is decorated below ``@classmethod`` or ``@staticmethod``. Name, signature, docstring and annotations stay as they
    are. Denied raises :class:`~capgate.errors.CapabilityDenied`; arguments that do not fit, :class:`TypeError`.
    Raises :class:`~capgate.errors.ConfigError` where it is applied.
    """
    check_action("action", action)

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        if not callable(function) or isinstance(function, (type, classmethod, staticmethod)):
            raise ConfigError("function", function, "a function; @classmethod and @staticmethod go above")
        gate = _ToolGate(function, action, name, capabilities, frozenset(ignore), default, argument_names(args))
        return functools.wraps(function)(_wrapper(function, gate))

    return decorate


def check_action(setting: str, action: object) -> None:
    """Raise :class:`ConfigError` unless ``action`` is registered and may be about a tool."""
    known = VOCABULARY.get(action) if isinstance(action, str) else None
    if known is None or known.kind not in (None, KIND):
        names = sorted(valid.name for valid in VOCABULARY if valid.kind in (None, KIND))
        raise ConfigError(setting, action, f"an action on tools: {', '.join(names)}")


def argument_names(given: object, setting: str = "args") -> dict[str, str]:
    """Return what arguments of a question are called in a call, by their names. Raises :class:`ConfigError`."""
    valid = "names of arguments (a to z, 0 to 9 and _), or a mapping from these to what they are called in a call"
    if not isinstance(given, (Mapping, list, tuple, set, frozenset)):
        raise ConfigError(setting, given, valid)
    names = dict(given) if isinstance(given, Mapping) else {name: name for name in given}
    try:
        weigh_attributes("args", dict.fromkeys(names, ""), frozenset())
    except (TypeError, ValueError) as error:
        raise ConfigError(setting, tuple(names), f"{valid}: {error}") from None
    for name in names.values():
        if not isinstance(name, str) or not name:
            raise ConfigError(setting, name, valid)
    return names


def _wrapper(function: Callable[..., Any], gate: _ToolGate) -> Callable[..., Any]:
    """Put ``function`` behind ``gate``, as a function of the same sort: frameworks look."""
    inside = function
    while isinstance(inside, functools.partial):
        inside = inside.func
    inside = inside if inspect.isroutine(inside) else type(inside).__call__
    for is_of_sort, wrap in _WRAPPERS.items():
        if is_of_sort(inside):
            return wrap(function, gate)
    return _function(function, gate)


def _coroutine(function: Callable[..., Any], gate: _ToolGate) -> Callable[..., Any]:
    async def run(*args: Any, **kwargs: Any) -> Any:
        call = await gate.ask(args, kwargs)
        return await function(*call.args, **call.kwargs)

    return run


def _function(function: Callable[..., Any], gate: _ToolGate) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        call = gate.ask_now(args, kwargs)
        return function(*call.args, **call.kwargs)

    return run


def _generator(function: Callable[..., Any], gate: _ToolGate) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        call = gate.ask_now(args, kwargs)
        return (yield from function(*call.args, **call.kwargs))

    return run


def _async_generator(function: Callable[..., Any], gate: _ToolGate) -> Callable[..., Any]:
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


_WRAPPERS: Final = {
    inspect.iscoroutinefunction: _coroutine,
    inspect.isasyncgenfunction: _async_generator,
    inspect.isgeneratorfunction: _generator,
}


class _ToolGate:
    """One gated function: what is asked before it runs."""

    def __init__(
        self,
        function: Callable[..., Any],
        action: str,
        name: str | None,
        capabilities: Capabilities | None,
        ignore: frozenset[str],
        default: Callable[[Any], Any] | None,
        args: Mapping[str, str],
    ) -> None:
        name = getattr(function, "__name__", None) if name is None else name
        if not isinstance(name, str) or not name:
            raise ConfigError("name", name, "the name of the tool, where the function has none")
        try:
            self._signature = inspect.signature(function)
        except (TypeError, ValueError):
            raise ConfigError("function", function, "a function whose signature can be seen") from None
        for unknown in sorted(ignore - set(self._signature.parameters)):
            raise ConfigError("ignore", unknown, f"parameters of {name}: {', '.join(self._signature.parameters)}")
        for unknown in sorted({*args.values()} - (set(self._signature.parameters) - ignore)):
            valid = ", ".join(parameter for parameter in self._signature.parameters if parameter not in ignore)
            raise ConfigError("args", unknown, f"parameters of {name} that are not ignored: {valid}")
        self._args = args
        self._question = action, Resource(KIND, name)
        self._capabilities = capabilities
        self._ignore = ignore
        self._default = default

    async def ask(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        """Return the arguments to run with, once they were allowed. Raises :class:`CapabilityDenied`."""
        taken = self._take(args, kwargs)
        asked = current() if self._capabilities is None else self._capabilities
        try:
            await asked.require(*self._question, args_hash=taken.hash, args=taken.named(self._args))
        except CapabilityDenied as denied:
            raise denied from taken.problem
        return self._confirmed(taken, asked)

    def ask_now(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        """:meth:`ask` for code that cannot await."""
        taken = self._take(args, kwargs)
        asked = current() if self._capabilities is None else self._capabilities
        try:
            asked.require_now(*self._question, args_hash=taken.hash, args=taken.named(self._args))
        except CapabilityDenied as denied:
            raise denied from taken.problem
        return self._confirmed(taken, asked)

    def _take(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> CallArguments:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return CallArguments(bound, self._ignore, self._default)

    def _confirmed(self, taken: CallArguments, asked: Capabilities) -> inspect.BoundArguments:
        problem = taken.problem or taken.changed()
        if problem is not None:  # not even where a checker of the application's allowed it
            asked.deny(problem)
        return taken.bound


class CallArguments:
    """The arguments of one call: what they hash to, and copies that nobody else can change.

    ``bound`` holds the copies, and ``hash`` is over those. Where there is no hash, ``problem`` says why.
    """

    def __init__(
        self, bound: inspect.BoundArguments, ignore: frozenset[str], default: Callable[[Any], Any] | None
    ) -> None:
        self.bound = bound
        self.problem: MalformedInput | None = None
        self.hash = NO_HASH
        self._ignore = ignore
        self._default = default
        self._json: dict[str, Any] = {}
        self._foreign = False  # whether something could not be copied
        try:
            self.hash = self._hash()
        except MalformedInput as error:
            self.problem = error

    def named(self, names: Mapping[str, str]) -> dict[str, Any]:
        """Return those arguments that ``names`` name, as JSON, as far as there are any."""
        return {name: self._json[parameter] for name, parameter in names.items() if parameter in self._json}

    def changed(self) -> MalformedInput | None:
        """Return what is wrong if what could not be copied is no longer what was hashed, else ``None``."""
        if not self._foreign:
            return None
        try:
            same = self._hash() == self.hash
        except MalformedInput as error:
            return error
        return None if same else MalformedInput("the arguments changed while the policy was asked")

    def _hash(self) -> str:
        self._json = json = {}
        for name, value in self.bound.arguments.items():
            if name in self._ignore:
                continue
            try:
                self.bound.arguments[name], json[name] = self._copy(value, name)
            except RuntimeError as error:  # too deep, or a dict that another thread is changing
                raise MalformedInput(f"argument {name!r} cannot be copied: {type(error).__name__}") from error
        return canonical_hash(json)

    def _copy(self, value: Any, where: str) -> tuple[Any, Any]:
        """Return ``value`` for the function, and as JSON."""
        own_class = type(value)
        if own_class in _SCALARS:
            return value, value
        if own_class is list or own_class is tuple:
            pairs = [self._copy(item, where) for item in value]
            return own_class(own for own, _ in pairs), [json for _, json in pairs]
        if own_class is dict:
            items = [(key, *self._copy(item, where)) for key, item in value.items()]
            if all(type(key) is str for key, _, _ in items):
                return {key: own for key, own, _ in items}, {key: json for key, _, json in items}
        if self._default is None:
            what = "a dict with keys that are not text" if own_class is dict else f"a {own_class.__name__}"
            raise MalformedInput(f"argument {where!r} holds {what}, which JSON has not, and there is no default=")
        self._foreign = True
        return value, self._converted(value, where)

    def _converted(self, value: Any, where: str) -> Any:
        default = self._default
        try:
            json = None if default is None else default(value)
        except Exception as error:
            raise MalformedInput(f"argument {where!r}: default= raised {type(error).__name__}") from error
        return self._copy(json, where)[1]
