"""Types declarations by an application's vocabulary, so that type checkers find actions that are misspelt.

What :func:`~capgate.routes.declare.requires` takes for an action is any text, since applications have actions of their
own. It says at import time what no action is. :class:`TypedRequires` has the same said by mypy, pyright and editors.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar, get_args

from ..errors import ConfigError
from .declare import FactsOf, requires

_ActionT = TypeVar("_ActionT", bound=str)
_T = TypeVar("_T")


class TypedRequires(Generic[_ActionT]):
    """Declares like :func:`~capgate.requires`, with the actions of one vocabulary.

    The vocabulary is a ``Literal``, or a union of some. :data:`~capgate.BuiltinAction` has the built-in actions::

        requires = TypedRequires[BuiltinAction | Literal["orders.refund"]]()

        @requires("orders.refund", resource="order:{number}")
        async def refund(number: int) -> None: ...

    Own actions are registered besides, with :meth:`~capgate.actions.Vocabulary.register`. Where no type checker ran,
    an action outside of the vocabulary raises :class:`~capgate.errors.ConfigError` where it is declared.
    """

    def __call__(
        self,
        action: _ActionT,
        *,
        resource: str | None = None,
        args_hash: str | None = None,
        always: bool = False,
        facts: FactsOf | None = None,
        args: Mapping[str, str] | None = None,
    ) -> Callable[[_T], _T]:
        """Declare ``action`` as :func:`~capgate.requires` does, and raise what that raises."""
        names = sorted(self._names())
        if action not in names:
            close = difflib.get_close_matches(str(action), names, 1)
            valid = f"an action of the vocabulary: {', '.join(names)}"
            raise ConfigError("action", action, valid, nearest=close[0] if close else None)
        return requires(action, resource=resource, args_hash=args_hash, always=always, facts=facts, args=args)

    def _names(self) -> frozenset[str]:
        """Return the actions of the vocabulary, which typing keeps once the object is made."""
        arguments = get_args(getattr(self, "__orig_class__", None))
        names = frozenset(_texts_in(arguments))
        if not names:
            raise ConfigError("vocabulary", arguments, "TypedRequires[Literal[...]](), with the names of actions")
        return names


def _texts_in(hints: tuple[Any, ...]) -> Iterator[str]:
    """Yield the texts of a ``Literal``, or of several in a union."""
    for hint in hints:
        if isinstance(hint, str):
            yield hint
        else:
            yield from _texts_in(get_args(hint))
