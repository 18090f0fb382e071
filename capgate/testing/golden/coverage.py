"""Says which parts of a policy document fixtures are about: the rules, and the entries of its sections.

A part is covered when it decides the answer to some fixture. A rule that only matches, while another one decides, is
not: without it, the answer would be the same. A rule that only monitors is covered when it would have denied some
fixture that was allowed.

A condition has two outcomes, each of which is a part as well. One is covered by a fixture of which all lists of the
rule match, and of which the condition is true or false. One of which it is not known covers neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from ...model import PolicyInput
from ...policy import ActionEntry, Pattern, RuntimePolicy
from ...policy.document import EVERY, MIGRATE, READ, WRITE
from ...policy.wellformed import actor_of

_CLASSES = ((READ, "read"), (WRITE, "write"), (MIGRATE, "migrate"))


class DocumentPart(msgspec.Struct, frozen=True):
    """A part of a document that can decide an answer.

    ``path`` is that of a rule (``rules[2]``), of its condition (``rules[2].when``, its outcome is the ``entry``) or of
    a section (``sql``, ``actions.invoice.send``). There ``entry`` is an entry, or ``None`` where it admits everything.
    ``operation`` is the class of operations that an entry of ``sql`` admits (``read``, ``write``, ``migrate``), or
    ``None`` for all of them.
    """

    path: str
    entry: str | None = None
    operation: str | None = None


class Coverage(msgspec.Struct, frozen=True):
    """The parts of a document, in its order, and those that decide nothing in any fixture."""

    parts: tuple[DocumentPart, ...]
    missing: tuple[DocumentPart, ...]

    @property
    def covered(self) -> int:
        """How many parts decide the answer to some fixture."""
        return len(self.parts) - len(self.missing)

    @property
    def percent(self) -> float:
        """Of all parts, rounded down to a tenth, so that 100 means all of them; 100 for a document without any."""
        return self.covered * 1000 // len(self.parts) / 10 if self.parts else 100.0

    def reaches(self, percent: float) -> bool:
        """Say whether ``percent`` of the parts are covered."""
        return self.covered * 100 >= percent * len(self.parts)


def coverage_of(policy: RuntimePolicy, inputs: Iterable[PolicyInput]) -> Coverage:
    """Return what ``inputs`` cover of ``policy``."""
    deciding = {part for input in inputs for part in _deciding(policy, input)}
    parts = tuple(_parts(policy))
    return Coverage(parts, tuple(part for part in parts if part not in deciding))


def _deciding(policy: RuntimePolicy, input: PolicyInput) -> Iterator[DocumentPart]:
    explanation = policy.explain(input)
    for number in (explanation.rule, explanation.monitored):
        if number is not None:
            yield DocumentPart(f"rules[{number}]")
    if policy.conditions is not None:
        yield from _outcomes(policy, input)
    if explanation.section is None:
        return
    action = policy.actions[input.action]
    section = action.section
    id = None if input.resource is None else input.resource.id
    if section is None or section.entries is None or id is None:
        yield DocumentPart(explanation.section)
        return
    if section.entries.get(id, 0) & action.operations:
        yield from _parts_of_entry(explanation.section, id, section.entries[id], action.operations)
    for pattern, granted in section.wildcards.items():
        if granted & action.operations and pattern.covers(pattern.kind, id):
            yield from _parts_of_entry(explanation.section, pattern.written, granted, action.operations)


def _outcomes(policy: RuntimePolicy, input: PolicyInput) -> Iterator[DocumentPart]:
    """Yield what the conditions are of rules whose lists match."""
    who, resource, facts = actor_of(input.actor), input.resource, policy.facts_of(input)
    about = (None, None) if resource is None else (resource.kind, resource.id)
    for number, rule in enumerate(policy.rules):
        if rule.when is None or who is None or input.action not in rule.covers:
            continue
        answer = policy.condition_of(rule, facts)
        if isinstance(answer, bool) and not rule.unmet(input.env.mode, who, about):
            yield _outcome(number, answer)


def _outcome(rule: int, outcome: bool) -> DocumentPart:
    return DocumentPart(f"rules[{rule}].when", "true" if outcome else "false")


def _parts(policy: RuntimePolicy) -> Iterator[DocumentPart]:
    for number, rule in enumerate(policy.rules):
        yield DocumentPart(f"rules[{number}]")
        if rule.when is not None:
            yield from (_outcome(number, outcome) for outcome in (True, False))
    for path, action in _sections(policy):
        entries = None if action.section is None else action.section.entries
        if entries is None:
            yield DocumentPart(path)
            continue
        for pattern, granted in _patterns(action):
            yield from _parts_of_entry(path, pattern.written, granted, granted)


def _patterns(action: ActionEntry) -> Iterator[tuple[Pattern, int]]:
    return iter(()) if action.section is None else action.section.patterns(action.kind or "")


def _sections(policy: RuntimePolicy) -> Iterator[tuple[str, ActionEntry]]:
    """Yield the sections that the document has, each with one of its actions."""
    seen = set()
    for action in policy.actions.values():
        path = action.admitted.section
        if action.section is not None and path is not None and path not in seen:
            seen.add(path)
            yield path, action


def _parts_of_entry(section: str, id: str, granted: int, asked: int) -> Iterator[DocumentPart]:
    """Yield the parts that the entries of one name are.

    Those that admit every operation, alone or together, are one part. Otherwise they are one for each class of
    operations.
    """
    if granted == EVERY:
        yield DocumentPart(section, id)
        return
    for bit, operation in _CLASSES:
        if granted & asked & bit:
            yield DocumentPart(section, id, operation)
