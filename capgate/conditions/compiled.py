"""Compiles the conditions of a document into one table, and answers them from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from ..errors import ConfigError
from .answers import Answer, Facts, answer, function_of
from .condition_table import read_table, write_table
from .declaration import BOOL, Declaration
from .nodes import Node
from .read import read_condition
from .scan import check_text


class Conditions:
    """The conditions of a document, answered from ``data``, the bytes that the guest answers from, too.

    ``facts`` are the names and types of what they speak of: the number of a fact is its place there. The type is empty
    where it is only looked whether the fact is there. Raises :class:`ConfigError` for bytes that were not compiled.
    """

    def __init__(self, data: bytes) -> None:
        table = read_table(data)
        if any(node.type != BOOL for node in table.conditions):
            raise ConfigError("when", f"{len(data)} bytes", "conditions, each of which gives a bool")
        self.data: Final = data
        self.facts: Final = table.facts
        self.nodes: Final = table.conditions
        made = {id(node): function_of(node) for node in table.conditions}
        self._functions = [made[id(node)] for node in table.conditions]

    @classmethod
    def of(cls, nodes: Sequence[Node]) -> Conditions:
        """Return the conditions that these trees are, each found again at its place.

        Raises :class:`ConfigError` where they are too many, or too large.
        """
        return cls(write_table(nodes))

    def __len__(self) -> int:
        return len(self._functions)

    def answer(self, number: int, facts: Facts) -> Answer:
        """Return whether condition ``number`` holds, from facts under their dotted names.

        Timestamps are nanoseconds since 1970.
        """
        return answer(self._functions[number], facts)


def compile_conditions(texts: Iterable[str], declaration: Declaration) -> Conditions:
    """Return ``texts``, compiled. The same text is read once.

    Raises :class:`ConfigError` for what is no condition of the subset, with line, column and the nearest name.
    """
    every = list(texts)
    nodes: dict[str, Node] = {}
    for text in map(check_text, every):
        if text not in nodes:
            nodes[text] = read_condition(text, declaration)
    return Conditions.of([nodes[text] for text in every])
