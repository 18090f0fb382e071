"""Defines what every builtin needs: :class:`Builtin`, :class:`Context` with what work may cost, :class:`Undefined`.

A builtin ends in one of three ways:

- It returns the value that OPA documents.
- It raises :class:`Undefined`, where OPA documents an error or nothing. Outside of OPA's strict mode, a builtin's error
  leaves the expression undefined.
- It raises :class:`BuiltinError`, where it cannot be computed *here*.

The difference matters: an undefined expression in a rule that denies means that nothing is denied. So nothing but OPA's
own semantics leads to it, and a limit never does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from ..errors import BuiltinError
from .terms import Number, Object, Set, Value, weigh

#: Units of work that the builtins of one evaluation may do together. A unit is a character or a value that is looked
#: at or made, or a step that takes about as long: most take a tenth of a microsecond, none much more than one.
WORK: Final = 250_000
#: The range of Go's ``int`` and ``int64``.
INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1


class Undefined(Exception):
    """The expression that called the builtin is undefined."""


class Context:
    """What a builtin may know, and spend: one for all builtins of one evaluation.

    ``timestamp_ns`` is the time of the question in nanoseconds since the epoch: what policies get for the clock.
    ``work`` is what they may spend together, see :data:`WORK`; ``spent`` is what they did. ``paid`` are the patterns
    that this evaluation has paid for, compiled.
    """

    __slots__ = ("paid", "spent", "timestamp_ns", "work")

    def __init__(self, timestamp_ns: int, work: int = WORK) -> None:
        self.timestamp_ns = timestamp_ns
        self.work = work
        self.spent = 0
        self.paid: dict[str, Any] = {}

    def spend(self, units: int) -> None:
        """Pay for work before it is done. Raises :class:`BuiltinError` where that is more than is left."""
        self.spent += units
        if self.spent > self.work:
            raise BuiltinError("builtin", "limit", f"{self.spent} of {self.work} units of work")


class Builtin(msgspec.Struct, frozen=True):
    """A function of Rego that the host provides: its Rego ``name`` and how many arguments it takes."""

    name: str
    arity: int
    function: Callable[..., Value]

    def call(self, context: Context, *args: Value) -> Value:
        """Return what OPA documents for ``args``. Raises :class:`Undefined` or :class:`BuiltinError`, and nothing
        else."""
        if len(args) != self.arity:
            raise BuiltinError(self.name, "internal", f"{len(args)} arguments, it takes {self.arity}")
        try:
            context.spend(1 + sum(map(weigh, args)))
            result = self.function(context, *args)
            context.spend(weigh(result))
        except Undefined:
            raise
        except BuiltinError as error:
            raise BuiltinError(self.name, error.reason, error.detail) from error
        except (RecursionError, MemoryError) as error:
            raise BuiltinError(self.name, "limit", type(error).__name__) from error
        except Exception as error:
            raise BuiltinError(self.name, "internal", repr(error)[:200]) from error
        return result


#: Filled by the modules of this package as they are imported.
BUILTINS: Final[dict[str, Builtin]] = {}
NOT_PROVIDED: Final[dict[str, str]] = {}


def builtin(
    *names: str, needs: Sequence[tuple[str, object]] = ()
) -> Callable[[Callable[..., Value]], Callable[..., Value]]:
    """Register a function under ``names``. It takes the context and then the builtin's arguments.

    ``needs`` are libraries, each with the module, or ``None`` where it is not installed: then the builtin is not
    provided.
    """
    missing = [library for library, module in needs if module is None]

    def register(function: Callable[..., Value]) -> Callable[..., Value]:
        arity = len(inspect.signature(function).parameters) - 1
        for name in names:
            if missing:
                NOT_PROVIDED[name] = f"needs {missing[0]}, which is not installed: pip install capgate[rego]"
            else:
                BUILTINS[name] = Builtin(name, arity, function)
        return function

    return register


def leave_out(reason: str, *names: str) -> None:
    """Register ``names`` as builtins that are not provided, because of ``reason``."""
    NOT_PROVIDED.update(dict.fromkeys(names, reason))


def string(value: Value) -> str:
    """Return ``value`` if it is a string, else raise :class:`Undefined`. The next four do the same."""
    if isinstance(value, str):
        return value
    raise Undefined


def array(value: Value) -> tuple[Value, ...]:
    if isinstance(value, tuple):
        return value
    raise Undefined


def mapping(value: Value) -> Object:
    if isinstance(value, Object):
        return value
    raise Undefined


def numeric(value: Value) -> int | Number:
    if isinstance(value, (int, Number)) and not isinstance(value, bool):
        return value
    raise Undefined


def boolean(value: Value) -> bool:
    if isinstance(value, bool):
        return value
    raise Undefined


def integer(value: Value) -> int:
    """Return ``value`` if it is written as an integer of 64 bits, which is what OPA takes for Go's ``int``; ``1.0`` is
    not."""
    if isinstance(value, int) and not isinstance(value, bool) and INT_MIN <= value <= INT_MAX:
        return value
    raise Undefined


def strings(value: Value) -> list[str]:
    """Return the members of an array or a set of strings."""
    if not isinstance(value, (tuple, Set)):
        raise Undefined
    return [string(item) for item in value]


def text_of(data: bytes) -> str:
    """Return the string with these bytes. In Go a string may be no Unicode. There is no exact answer then, so none."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BuiltinError("builtin", "text", "the result is no UTF-8") from None


def table(value: object) -> Any:
    """Return ``value`` as JSON's values in Python, sets as lists; a key that is no string is undefined."""
    if isinstance(value, (tuple, Set)):
        return [table(item) for item in value]
    if isinstance(value, Object):
        return {string(key): table(item) for key, item in value.items}
    return value
