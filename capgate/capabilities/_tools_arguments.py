"""The arguments of a call: what they hash to, and copies that nobody else can change."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from typing import Any, Final

import rfc8785

from ..errors import MalformedInput

#: In place of the hash of arguments that have none: text that is not Unicode, which makes the question malformed.
NO_HASH: Final = "\udcff"

_SCALARS: Final = frozenset({str, int, float, bool, type(None)})


def canonical_hash(arguments: Any) -> str:
    """SHA-256 (64 hex digits) of ``arguments`` as canonical JSON, by RFC 8785: key order and white space do not count,
    numbers are doubles.

    Raises :class:`~capgate.errors.MalformedInput` for what has no such form: a type that JSON has not, NaN, infinity,
    a whole number beyond 2**53 - 1, text with a lone surrogate, nesting too deep.
    """
    try:
        return hashlib.sha256(rfc8785.dumps(arguments)).hexdigest()
    except (ValueError, TypeError, RecursionError) as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise MalformedInput(f"the arguments have no canonical form: {problem[:200]}") from error


class Taken:
    """The arguments of one call. ``bound`` holds copies of theirs, and ``hash`` is over those; where there is none,
    ``problem`` says why."""

    def __init__(
        self, bound: inspect.BoundArguments, ignore: frozenset[str], default: Callable[[Any], Any] | None
    ) -> None:
        self.bound = bound
        self.problem: MalformedInput | None = None
        self.hash = NO_HASH
        self._ignore = ignore
        self._default = default
        self._foreign = False  # whether something could not be copied
        try:
            self.hash = self._hash()
        except MalformedInput as error:
            self.problem = error

    def changed(self) -> MalformedInput | None:
        """What is wrong if what could not be copied is no longer what was hashed."""
        if not self._foreign:
            return None
        try:
            same = self._hash() == self.hash
        except MalformedInput as error:
            return error
        return None if same else MalformedInput("the arguments changed while the policy was asked")

    def _hash(self) -> str:
        json: dict[str, Any] = {}
        for name, value in self.bound.arguments.items():
            if name in self._ignore:
                continue
            try:
                self.bound.arguments[name], json[name] = self._copy(value, name)
            except RuntimeError as error:  # too deep, or a dict that another thread is changing
                raise MalformedInput(f"argument {name!r} cannot be copied: {type(error).__name__}") from error
        return canonical_hash(json)

    def _copy(self, value: Any, where: str) -> tuple[Any, Any]:
        """``value`` for the function, and as JSON."""
        kind = type(value)
        if kind in _SCALARS:
            return value, value
        if kind is list or kind is tuple:
            pairs = [self._copy(one, where) for one in value]
            return kind(own for own, _ in pairs), [json for _, json in pairs]
        if kind is dict:
            items = [(key, *self._copy(one, where)) for key, one in value.items()]
            if all(type(key) is str for key, _, _ in items):
                return {key: own for key, own, _ in items}, {key: json for key, _, json in items}
        if self._default is None:
            what = "a dict with keys that are not text" if kind is dict else f"a {kind.__name__}"
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
