"""Holds the rules of a document that only monitor: of what they would deny an event is written, and nothing is denied.

They are no part of what answers, in Python or in the guest. They are looked at afterwards, and only where the policy
allowed, so no such rule turns any answer round. A module carries them beside its image, as
:meth:`MonitoredRules.encode` writes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from ..model import PolicyInput
from .index import NO_RULE, Indexer
from .rules import MAX_RULES, Rule
from .strict import mistake
from .wellformed import actor_of, exact, mode_of

#: Bytes of the text that a module carries.
MAX_BYTES: Final = 16 << 20


class MonitoredRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rule that only monitors, and its number in the document, from 0."""

    number: int
    rule: Rule


class MonitoredRules:
    """Those of one document, in its order; one at least. Raises :class:`ConfigError` where they are too many."""

    def __init__(self, rules: Iterable[MonitoredRule]) -> None:
        self.rules: Final = tuple(rules)
        self._index = Indexer(tuple(msgspec.structs.replace(each.rule, monitor=False) for each in self.rules)).index()

    def first(self, input: PolicyInput) -> MonitoredRule | None:
        """Return the first that matches ``input``, which the policy allowed; ``None`` where none does."""
        index = self._index.get(exact(input.action))
        if index is None:
            return None
        actor, mode, resource = actor_of(input.actor), mode_of(input.env), input.resource
        if actor is None or mode is None:
            return None
        kind = None if resource is None else exact(resource.kind)
        id = None if resource is None or resource.id is None else exact(resource.id)
        number = index.find(mode, actor, kind, id).deny
        return None if number == NO_RULE else self.rules[number]

    def encode(self) -> bytes:
        """Return the text that :meth:`decode` reads: the same rules always give the same.

        Raises :class:`ConfigError` above :data:`MAX_BYTES`.
        """
        text = msgspec.json.encode(self.rules)
        if len(text) > MAX_BYTES:
            raise mistake(("rules",), f"{len(text)} bytes of rules that only monitor", f"at most {MAX_BYTES}")
        return text

    @classmethod
    def decode(cls, data: bytes) -> MonitoredRules:
        """Return the rules that were encoded so.

        Raises ``ValueError`` for whatever :meth:`encode` does not write, and :class:`ConfigError` for too many.
        """
        if len(data) > MAX_BYTES:
            raise ValueError(f"{len(data)} bytes, the limit is {MAX_BYTES}")
        rules = msgspec.json.decode(data, type=tuple[MonitoredRule, ...])
        numbers = [each.number for each in rules]
        if not 0 < len(rules) <= MAX_RULES or numbers != sorted({*numbers}) or numbers[0] < 0:
            raise ValueError(f"{len(rules)} rules, not 1 to {MAX_RULES} in ascending order")
        if not all(each.rule.monitor and each.rule.denies for each in rules):
            raise ValueError("a rule that does more than to monitor a denial")
        made = cls(rules)
        if made.encode() != data:
            raise ValueError("not in canonical form")
        return made


def monitored_rules(rules: Iterable[Rule]) -> MonitoredRules | None:
    """Return those of a document's ``rules`` that only monitor; ``None`` where there are none."""
    chosen = [MonitoredRule(number, rule) for number, rule in enumerate(rules) if rule.monitor]
    return MonitoredRules(chosen) if chosen else None
