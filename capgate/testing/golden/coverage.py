"""Which parts of a policy document fixtures are about: the rules, and the entries of its sections.

A part is covered when it decides the answer to some fixture. A rule that only matches, while another one decides, is
not: without it, the answer would be the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from ...model import PolicyInput
from ...policy import ActionEntry, RuntimePolicy, ascii_lower
from ...policy.document import EVERY, MIGRATE, READ, WRITE

_CLASSES = ((READ, "read"), (WRITE, "write"), (MIGRATE, "migrate"))


class Unit(msgspec.Struct, frozen=True):
    """A part of a document that can decide an answer.

    ``path`` is that of a rule (``rules[2]``) or of a section (``sql``, ``actions.invoice.send``), of which ``entry`` is
    an entry, or ``None`` where it admits everything. ``operation`` is the class of operations that an entry of ``sql``
    admits (``read``, ``write``, ``migrate``), or ``None`` for all of them.
    """

    path: str
    entry: str | None = None
    operation: str | None = None


class Coverage(msgspec.Struct, frozen=True):
    """The parts of a document, in its order, and those that decide nothing in any fixture."""

    units: tuple[Unit, ...]
    missing: tuple[Unit, ...]

    @property
    def covered(self) -> int:
        """How many parts decide the answer to some fixture."""
        return len(self.units) - len(self.missing)

    @property
    def percent(self) -> float:
        """Of all parts, rounded down to a tenth, so that 100 means all of them; 100 for a document without any."""
        return self.covered * 1000 // len(self.units) / 10 if self.units else 100.0

    def reaches(self, percent: float) -> bool:
        """Whether ``percent`` of the parts are covered."""
        return self.covered * 100 >= percent * len(self.units)


def coverage_of(policy: RuntimePolicy, inputs: Iterable[PolicyInput]) -> Coverage:
    """What ``inputs`` cover of ``policy``."""
    touched = {unit for input in inputs for unit in _touched(policy, input)}
    units = tuple(_units(policy))
    return Coverage(units, tuple(unit for unit in units if unit not in touched))


def _touched(policy: RuntimePolicy, input: PolicyInput) -> Iterator[Unit]:
    found = policy.explain(input)
    if found.rule is not None:
        yield Unit(f"rules[{found.rule}]")
    if found.section is None:
        return
    action = policy.actions[input.action]
    entries = None if action.section is None else action.section.entries
    id = None if input.resource is None else input.resource.id
    if entries is None or id is None:
        yield Unit(found.section)
        return
    id = ascii_lower(id) if action.host else id
    yield from _of_entry(found.section, id, entries[id], action.operations)


def _units(policy: RuntimePolicy) -> Iterator[Unit]:
    for number in range(len(policy.rules)):
        yield Unit(f"rules[{number}]")
    for path, action in _sections(policy):
        entries = None if action.section is None else action.section.entries
        if entries is None:
            yield Unit(path)
            continue
        for id, granted in entries.items():
            yield from _of_entry(path, id, granted, granted)


def _sections(policy: RuntimePolicy) -> Iterator[tuple[str, ActionEntry]]:
    """The sections that the document has, each by one of its actions."""
    seen = set()
    for action in policy.actions.values():
        path = action.admitted.section
        if action.section is not None and path is not None and path not in seen:
            seen.add(path)
            yield path, action


def _of_entry(section: str, id: str, granted: int, asked: int) -> Iterator[Unit]:
    """Entries of one name that admit every operation, alone or together, are one part; otherwise they are one for each
    class of operations."""
    if granted == EVERY:
        yield Unit(section, id)
        return
    for bit, operation in _CLASSES:
        if granted & asked & bit:
            yield Unit(section, id, operation)
