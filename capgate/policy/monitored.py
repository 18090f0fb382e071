"""Holds the rules of a document that only monitor: of what they would deny an event is written, and nothing is denied.

They are no part of what answers, in Python or in the guest. They are looked at afterwards, and only where the policy
allowed, so no such rule turns any answer round. A module carries them beside its image, as
:meth:`MonitoredRules.encode` writes them, and with them a table of the conditions of these rules alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from ..conditions import Conditions
from ..errors import ConfigError
from ..model import PolicyInput, Reason
from .asked_facts import FactReader
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


class _Encoded(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a module carries; ``conditions`` is a table as :class:`Conditions` reads it."""

    rules: tuple[MonitoredRule, ...]
    conditions: bytes = b""


class MonitoredRules:
    """Those of one document, in its order; one at least. Raises :class:`ConfigError` where they are too many.

    In ``conditions`` are theirs, by their own numbers; ``None`` where no such rule has one.
    """

    def __init__(self, rules: Iterable[MonitoredRule], conditions: Conditions | None = None) -> None:
        self.rules: Final = tuple(rules)
        self.conditions: Final = conditions
        self._facts: Final = FactReader(() if conditions is None else [name for name, _ in conditions.facts])
        self._when: Final = {at: each.rule.when for at, each in enumerate(self.rules) if each.rule.when is not None}
        self._index = Indexer(tuple(msgspec.structs.replace(each.rule, monitor=False) for each in self.rules)).index()

    def first(self, input: PolicyInput) -> MonitoredRule | None:
        """Return the first that matches ``input``, which the policy allowed; ``None`` where none does.

        One that matches because its condition is not known has that for its reason.
        """
        index = self._index.get(exact(input.action))
        if index is None:
            return None
        actor, mode, resource = actor_of(input.actor), mode_of(input.env), input.resource
        if actor is None or mode is None:
            return None
        kind = None if resource is None else exact(resource.kind)
        id = None if resource is None or resource.id is None else exact(resource.id)
        matching = index.find(mode, actor, kind, id)
        if self.conditions is not None and matching.denials:
            facts = self._facts.facts_of(input)
            for at in matching.denials:
                answer = self.conditions.answer(self._when[at], facts)
                if answer is not False:
                    return self.rules[at] if answer is True else _unknown(self.rules[at])
        return None if matching.deny == NO_RULE else self.rules[matching.deny]

    def encode(self) -> bytes:
        """Return the text that :meth:`decode` reads: the same rules always give the same.

        Raises :class:`ConfigError` above :data:`MAX_BYTES`.
        """
        text = msgspec.json.encode(_Encoded(self.rules, b"" if self.conditions is None else self.conditions.data))
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
        encoded = msgspec.json.decode(data, type=_Encoded)
        rules = encoded.rules
        numbers = [each.number for each in rules]
        if not 0 < len(rules) <= MAX_RULES or numbers != sorted({*numbers}) or numbers[0] < 0:
            raise ValueError(f"{len(rules)} rules, not 1 to {MAX_RULES} in ascending order")
        if not all(each.rule.monitor and each.rule.denies for each in rules):
            raise ValueError("a rule that does more than to monitor a denial")
        try:
            conditions = Conditions(encoded.conditions) if encoded.conditions else None
        except ConfigError as error:
            raise ValueError(str(error)) from None
        first_uses = dict.fromkeys(each.rule.when for each in rules if each.rule.when is not None)
        if [*first_uses] != [*range(0 if conditions is None else len(conditions))]:
            raise ValueError("conditions that are not numbered by their first use")
        made = cls(rules, conditions)
        if made.encode() != data:
            raise ValueError("not in canonical form")
        return made


def monitored_rules(rules: Iterable[Rule], conditions: Conditions | None) -> MonitoredRules | None:
    """Return those of a document's ``rules`` that only monitor; ``None`` where there are none."""
    chosen = [MonitoredRule(number, rule) for number, rule in enumerate(rules) if rule.monitor]
    if not chosen:
        return None
    spoken = dict.fromkeys(each.rule.when for each in chosen if each.rule.when is not None)
    if conditions is None or not spoken:
        return MonitoredRules(chosen)
    numbers = {when: number for number, when in enumerate(spoken)}
    own = [
        each
        if each.rule.when is None
        else MonitoredRule(each.number, msgspec.structs.replace(each.rule, when=numbers[each.rule.when]))
        for each in chosen
    ]
    return MonitoredRules(own, Conditions.of([conditions.nodes[when] for when in spoken]))


def _unknown(each: MonitoredRule) -> MonitoredRule:
    """Return a rule whose condition is not known, with that for its reason."""
    return MonitoredRule(each.number, msgspec.structs.replace(each.rule, reason=Reason.MISSING_FACT))
