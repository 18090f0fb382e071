"""Makes an index of rules, so that what a question costs hardly depends on how many of them there are.

The rules of one action are split by mode, then by actor, then by resource. A rule which does not look at one of these
is in the part beside the split, called ``any``.

Of a question's mode and actor, all parts that fit are visited. Those are at most two modes, and for each of them
whoever asks, all of a kind, one id, and the beginnings of that id. Of its resource only the most specific part is
visited: when that was made, what the more general ones say was added to it. What a section admits is such a part, too.

Parts of the same rules are one object. So an index grows with the document, and not with the number of combinations, as
long as lists are not mixed at random. :data:`~capgate.policy.rules.MAX_ENTRIES` bounds it in any case.

Of the rules with a condition a part has every one that may decide: which of them do, depends on the question's facts.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from operator import or_
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

from .places import Key
from .rules import Pattern, Rule, check_entries
from .strict import mistake
from .wildcards import BEGINNING, ENDING, EXACT, NETWORK, Match, Networks, address_number, make_networks

#: In place of a rule's number where there is none; above every number, so that the lowest of several is the first rule.
NO_RULE: Final = 2**31 - 1
#: How many patterns with ``*`` may be the beginning of one another.
MAX_NESTED: Final = 64

_RULES: Final[Key] = ("rules",)

T = TypeVar("T")
Numbers = tuple[int, ...]


class Matching(NamedTuple):
    """The numbers of the first rule that denies and of the first that allows, of those without a condition.

    ``denials`` and ``allows`` are, ascending, those with a condition that may come before them: no denials after
    ``deny``, and no allows after ``allow``, or where there is a ``deny``.
    """

    deny: int
    allow: int
    denials: Numbers = ()
    allows: Numbers = ()

    @property
    def conditional(self) -> Numbers:
        """The numbers of all rules with a condition, ascending."""
        return _united(self.denials, self.allows)

    def merged(self, other: Matching) -> Matching:
        """Return the first rules of both."""
        if self is NOTHING or other is NOTHING:
            return self if other is NOTHING else other
        deny = self.deny if self.deny < other.deny else other.deny
        allow = self.allow if self.allow < other.allow else other.allow
        if not (self.denials or other.denials or self.allows or other.allows):
            return Matching(deny, allow)
        denials = _below(deny, _united(self.denials, other.denials))
        allows = () if deny != NO_RULE else _below(allow, _united(self.allows, other.allows))
        return Matching(deny, allow, denials, allows)


def _united(numbers: Numbers, others: Numbers) -> Numbers:
    """Return all of both, ascending; the same object where the other has none of its own."""
    if not others or numbers == others:
        return numbers
    return tuple(sorted({*numbers, *others})) if numbers else others


def _below(end: int, numbers: Numbers) -> Numbers:
    return numbers if not numbers or numbers[-1] < end else numbers[: bisect_left(numbers, end)]


NOTHING: Final = Matching(NO_RULE, NO_RULE)


class Beginnings(msgspec.Struct, Generic[T], frozen=True):
    """Beginnings of ids in ascending order, and for each the next shorter one that it begins with (-1: none) and what
    it stands for. The order is by code point, which is also that of the bytes in UTF-8."""

    texts: tuple[str, ...] = ()
    parents: Numbers = ()
    values: tuple[T, ...] = ()

    def longest(self, id: str) -> int:
        """Return the number of the longest beginning that ``id`` goes on after, or -1. The others are its parents."""
        at = bisect_right(self.texts, id) - 1
        while at >= 0 and not (len(self.texts[at]) < len(id) and id.startswith(self.texts[at])):
            at = self.parents[at]
        return at


class IdIndex(msgspec.Struct, Generic[T], frozen=True):
    """The ids of one kind; each part has what the more general ones say as well. ``any`` is of all, or of no id.

    Names are looked for among the ``endings``, and addresses among the ``networks``.
    """

    any: T
    ids: Mapping[str, T]
    beginnings: Beginnings[T]
    endings: Mapping[str, T]
    networks: Networks[T] | None

    def find(self, id: str | None) -> T:
        """Return what the most specific part says."""
        if id is None:
            return self.any
        value = self.ids.get(id)
        return self.wider(id) if value is None else value

    def wider(self, id: str) -> T:
        """Return what the most specific of the wildcards says."""
        if self.networks is not None:
            number = address_number(id)
            if number is not None:
                return self.networks.find(number)
        at = id.find(".") if self.endings else -1
        while at >= 0:
            value = self.endings.get(id[at + 1 :])
            if value is not None:
                return value
            at = id.find(".", at + 1)
        at = self.beginnings.longest(id)
        return self.any if at < 0 else self.beginnings.values[at]


def make_ids(where: Key, any: T, own: Mapping[Pattern, T], merged: Callable[[T, T], T]) -> IdIndex[T]:
    """Return the index of what each of these patterns says of the ids that it covers, on top of ``any``.

    Raises :class:`ConfigError` where too many begin with one another.
    """
    of: dict[Match, dict[str, T]] = {EXACT: {}, BEGINNING: {}, ENDING: {}, NETWORK: {}}
    for pattern, value in own.items():
        if pattern.text is not None:
            of[pattern.match][pattern.text] = value
    bare = _beginnings(of[BEGINNING], where)
    values: list[T] = []
    for parent, value in zip(bare.parents, bare.values, strict=True):
        values.append(merged(value, any if parent < 0 else values[parent]))
    beginnings = Beginnings(bare.texts, bare.parents, tuple(values))
    rest = values[0] if beginnings.texts[:1] == ("",) else any  # what every id has
    endings: dict[str, T] = {}
    networks = make_networks(of[NETWORK], rest, merged) if of[NETWORK] else None
    index = IdIndex(any, {}, beginnings, endings, networks)
    for text in sorted(of[ENDING], key=len):
        endings[text] = merged(of[ENDING][text], index.wider(text))
    ids = {text: merged(value, index.wider(text)) for text, value in of[EXACT].items()}
    return IdIndex(any, ids, beginnings, endings, networks)


def admitting(where: Key, entries: Mapping[Pattern, int]) -> IdIndex[int]:
    """Return the index of what a section admits: bits of operations."""
    return make_ids(where, 0, entries, or_)


class ResourceIndex(msgspec.Struct, frozen=True):
    """Which rules may match a resource, by its kind. ``any`` is of the rules that look at none."""

    any: Matching
    kinds: Mapping[str, IdIndex[Matching]]

    def find(self, kind: str | None, id: str | None) -> Matching:
        """Return the rules that may decide, of either effect. ``kind`` is ``None`` where there is no resource."""
        index = None if kind is None else self.kinds.get(kind)
        return self.any if index is None else index.find(id)


class ActorKindIndex(msgspec.Struct, frozen=True):
    """The actors of one kind."""

    any: ResourceIndex | None
    ids: Mapping[str, ResourceIndex]
    beginnings: Beginnings[ResourceIndex]


class ActorIndex(msgspec.Struct, frozen=True):
    """What applies to whom, by the actor's kind; ``any`` to whoever asks."""

    any: ResourceIndex | None
    kinds: Mapping[str, ActorKindIndex]

    def fitting(self, kind: str, id: str | None) -> Iterator[ResourceIndex]:
        """Yield every part for this actor."""
        if self.any is not None:
            yield self.any
        part = self.kinds.get(kind)
        if part is None:
            return
        if part.any is not None:
            yield part.any
        if id is None:
            return
        if id in part.ids:
            yield part.ids[id]
        at = part.beginnings.longest(id)
        while at >= 0:
            yield part.beginnings.values[at]
            at = part.beginnings.parents[at]


class ModeIndex(msgspec.Struct, frozen=True):
    """The rules of one action, by mode; ``any`` in every mode."""

    any: ActorIndex | None
    modes: Mapping[str, ActorIndex]

    def find(self, mode: str, actor: tuple[str, str | None], kind: str | None, id: str | None) -> Matching:
        """Return the rules that may decide, of either effect. ``actor`` is a kind and an id."""
        matching = NOTHING
        for part in (self.any, self.modes.get(mode)):
            if part is not None:
                for resources in part.fitting(*actor):
                    matching = matching.merged(resources.find(kind, id))
        return matching


class Indexer:
    """Makes the indexes of a document's rules, but for those that only monitor.

    Raises :class:`ConfigError` where they would be too large.
    """

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._rules = rules
        self._count = 0
        self._actors: dict[Numbers, ActorIndex] = {}
        self._resources: dict[Numbers, ResourceIndex] = {}

    def index(self) -> dict[str, ModeIndex]:
        """Return an index for each action that rules are about."""
        covering: dict[str, list[int]] = {}
        for number, rule in enumerate(self._rules):
            for action in () if rule.monitor else rule.covers:
                covering.setdefault(action, []).append(number)
        made: dict[Numbers, ModeIndex] = {}
        indexes = {}
        for action, numbers in covering.items():
            key = tuple(numbers)
            if key not in made:
                made[key] = self._by_mode(key)
            indexes[action] = made[key]
        return indexes

    def _by_mode(self, numbers: Numbers) -> ModeIndex:
        some, parts = self._split(numbers, {number: self._rules[number].modes for number in numbers})
        return ModeIndex(
            self._by_actor(some) if some else None, {mode: self._by_actor(part) for mode, part in parts.items()}
        )

    def _by_actor(self, numbers: Numbers) -> ActorIndex:
        if numbers not in self._actors:
            some, parts = self._split(numbers, {number: self._rules[number].actors for number in numbers})
            kinds = {}
            for kind, of_kind in _by_kind(parts).items():
                alone = of_kind.pop(Pattern(kind), None)
                texts = [(p.match, p.text, n) for p, n in of_kind.items() if p.text is not None]
                ids = {text: self._by_resource(n) for match, text, n in texts if match == EXACT}
                longer = {text: self._by_resource(n) for match, text, n in texts if match == BEGINNING}
                kinds[kind] = ActorKindIndex(
                    self._by_resource(alone) if alone else None, ids, _beginnings(longer, _RULES)
                )
            self._actors[numbers] = ActorIndex(self._by_resource(some) if some else None, kinds)
        return self._actors[numbers]

    def _by_resource(self, numbers: Numbers) -> ResourceIndex:
        if numbers not in self._resources:
            some, parts = self._split(numbers, {number: self._rules[number].resources for number in numbers})
            first = self._first(some)
            kinds = {kind: self._kind(Pattern(kind), first, of_kind) for kind, of_kind in _by_kind(parts).items()}
            self._resources[numbers] = ResourceIndex(first, kinds)
        return self._resources[numbers]

    def _kind(self, alone: Pattern, some: Matching, parts: dict[Pattern, Numbers]) -> IdIndex[Matching]:
        some = self._merged(some, self._first(parts.pop(alone, ())))
        own = {pattern: self._first(numbers) for pattern, numbers in parts.items()}
        return make_ids(_RULES, some, own, self._merged)

    def _merged(self, matching: Matching, other: Matching) -> Matching:
        """Return what both say, and count the numbers in it that are in neither as they are."""
        merged = matching.merged(other)
        for made, *had in zip(merged[2:], matching[2:], other[2:], strict=True):
            if made and not any(made is numbers for numbers in had):
                self._count += len(made)
                check_entries(self._count)
        return merged

    def _first(self, numbers: Numbers) -> Matching:
        matching = NOTHING
        denials: list[int] = []
        allows: list[int] = []
        for number in numbers:
            rule = self._rules[number]
            if rule.when is not None:
                (denials if rule.denies else allows).append(number)
            elif rule.denies:
                matching = matching._replace(deny=min(matching.deny, number))
            else:
                matching = matching._replace(allow=min(matching.allow, number))
        return matching.merged(Matching(NO_RULE, NO_RULE, tuple(denials), tuple(allows)))

    def _split(self, numbers: Numbers, lists: Mapping[int, tuple[T, ...] | None]) -> tuple[Numbers, dict[T, Numbers]]:
        """Return the rules that have no list, and those which have each entry."""
        some: list[int] = []
        parts: dict[T, list[int]] = {}
        for number in numbers:
            entries = lists[number]
            if entries is None:
                some.append(number)
                continue
            self._count += len(entries)
            check_entries(self._count)
            for entry in entries:
                parts.setdefault(entry, []).append(number)
        return tuple(some), {entry: tuple(having) for entry, having in parts.items()}


def _by_kind(parts: Mapping[Pattern, Numbers]) -> dict[str, dict[Pattern, Numbers]]:
    kinds: dict[str, dict[Pattern, Numbers]] = {}
    for pattern, numbers in parts.items():
        kinds.setdefault(pattern.kind, {})[pattern] = numbers
    return kinds


def _beginnings(values: Mapping[str, T], where: Key) -> Beginnings[T]:
    texts = sorted(values)
    parents: list[int] = []
    open_: list[int] = []  # those that the text at hand begins with, each with the next
    for number, text in enumerate(texts):
        while open_ and not text.startswith(texts[open_[-1]]):
            open_.pop()
        parents.append(open_[-1] if open_ else -1)
        open_.append(number)
        if len(open_) > MAX_NESTED:
            raise mistake(where, f"{text}*", f"at most {MAX_NESTED} patterns that begin with one another")
    return Beginnings(tuple(texts), tuple(parents), tuple(values[text] for text in texts))
