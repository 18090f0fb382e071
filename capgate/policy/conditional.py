"""Reads the conditions of rules, and the attributes that these may speak of: the keys ``when`` and ``attributes``.

A condition that can never hold, or always does, is a mistake like others: its rule does not say what somebody meant.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from ..conditions import TEXT_LIMIT, Conditions, Declaration, Node, Reach, reach_of, read_condition, text_of
from ..errors import ConfigError
from .places import Key
from .strict import mistake, shallow

#: Conditions that are kept as they were read: who changes a document a little, and reads it again, waits for the rest.
_KEPT: Final = 16_384


def read_attributes(raw: Any) -> Declaration:
    """Return what a document's ``attributes`` declare, or raise :class:`ConfigError`."""
    try:
        return Declaration(raw)
    except ConfigError as error:
        raise mistake(error.key or ("attributes",), error.seen, error.valid, error.nearest) from None


class ConditionReader:
    """Reads the conditions of one document, and numbers them: those that say the same, in the same way, are one."""

    def __init__(self, declaration: Declaration) -> None:
        self._declaration = declaration
        self._numbers: dict[str, int] = {}
        self._nodes: list[Node] = []

    def read(self, where: Key, raw: object) -> tuple[int, str]:
        """Return the number of a condition, and its text. Raises :class:`ConfigError`."""
        if type(raw) is not str:
            raise mistake(where, shallow(raw), f"a condition in CEL, text of at most {TEXT_LIMIT} characters")
        try:
            node, text, reach = _read(raw, self._declaration)
        except ConfigError as error:
            located = mistake(where, error.seen, error.valid, error.nearest)
            located.within = None if error.line is None or error.column is None else (error.line, error.column)
            raise located from None
        parts = " and ".join(reach.parts)
        if reach.can_hold is False:
            raise mistake(where, parts, "a condition that can hold; this never does, whatever the facts are")
        if reach.can_fail is False:
            raise mistake(where, parts, "a condition that can fail, or none; this never does, whatever the facts are")
        number = self._numbers.setdefault(text, len(self._nodes))
        if number == len(self._nodes):
            self._nodes.append(node)
        return number, raw

    def node(self, number: int) -> Node:
        """Return the tree of a condition that was read."""
        return self._nodes[number]

    def compiled(self) -> Conditions | None:
        """Return all that were read; ``None`` where there are none. Raises :class:`ConfigError` above a limit."""
        if not self._nodes:
            return None
        try:
            return Conditions.of(self._nodes)
        except ConfigError as error:
            raise mistake(("rules",), error.seen, error.valid) from None


@lru_cache(maxsize=_KEPT)
def _read(text: str, declaration: Declaration) -> tuple[Any, str, Reach]:
    node = read_condition(text, declaration)
    return node, text_of(node), reach_of(node)
