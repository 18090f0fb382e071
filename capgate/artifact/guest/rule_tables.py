"""Makes of the rules of a document the records of the image that lie between its actions and its buckets.

Offsets and numbers are as in ``image.py``. An offset or a set that is 0 says that there is none::

    by mode       0 offset of what applies in every mode: by actor     4 set of modes; value: offset of by actor
    by actor      0 offset of what applies to whoever asks: by resource
                  then for each kind of actor, in the order of the WIT interface, 12 bytes:
                  0 offset of what applies to all of the kind: by resource
                  4 set of ids; value: offset of by resource     8 offset of beginnings; value: offset of by resource
    by resource   0 match whatever the resource, or without one     4 set of kinds; value: offset of a kind
    kind          0 match of all, also without an id     then of the ids: 4 set of them; value: match
                  8 offset of beginnings; value: match    12 set of endings, each after a dot; value: match
                 16 offset of networks; value: match
    beginnings    0 how many     then each, 16 bytes, in the order of their texts' bytes:
                  0 offset and 4 length of the text     8 number, from 1, of the longest other one that this begins with
                 12 value
    networks      0 how many     then each, 20 bytes, in ascending order: where something else applies than before it,
                  0 upper and 8 lower half (u64) of the address, with those of IPv4 among those of IPv6     16 value
    match         bit 0: a rule without a condition allows     bit 1: 0     above: number, from 1, of the first denial
                  without one; or, with bit 31, a quarter of the offset of a
    conditional   0 match of the rules without conditions    4 how many denials    8 how many allows
                  then the denials, 8 bytes each, ascending: 0 condition    4 number, from 1, of the denial
                  then the allows, 4 bytes each: condition
    denial        as the canonical ABI lays a result out: 0 1     4 address and 8 length of the reason

Of a question's mode and actor the guest visits every part that fits. Of its resource it visits the most specific one
only, whose match has those of the others in it. What a section with wildcards admits is laid out as a kind is, with
bits of operations in place of matches. Rules that only monitor are not in the image, and neither are their conditions:
the others are numbered anew, in the order in which rules come upon them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from ...conditions.condition_table import write_table
from ...policy import RuntimePolicy
from ...policy.index import (
    NO_RULE,
    ActorIndex,
    ActorKindIndex,
    Beginnings,
    IdIndex,
    Matching,
    ModeIndex,
    ResourceIndex,
)
from ...policy.rules import ACTOR_KINDS
from ...policy.wildcards import Networks

IMAGE_BASE: Final = 65_536
DENIAL: Final = struct.Struct("<3I")
NETWORK: Final = struct.Struct("<2QI")
#: The bit of a match that has conditions.
CONDITIONAL: Final = 1 << 31
_MASK: Final = 2**64 - 1

Entry = tuple[int, bytes, int]
T = TypeVar("T")


class Tables:
    """Records from offset ``start`` on, the texts that they point to, and the entries of the hash table."""

    def __init__(self, start: int) -> None:
        self.end = start
        self.entries: list[Entry] = []
        self._parts: list[bytes] = []
        self._texts: dict[bytes, int] = {}
        self._sets = 0

    def content(self) -> bytes:
        """Return all records and texts, as they lie in the image."""
        return b"".join(self._parts)

    def add(self, content: bytes) -> int:
        """Return the offset of ``content``, which is filled up to a multiple of 4."""
        offset, padded = self.end, content + bytes(-len(content) % 4)
        self._parts.append(padded)
        self.end += len(padded)
        return offset

    def add_numbers(self, *numbers: int) -> int:
        """Return the offset of a record of u32."""
        return self.add(struct.pack(f"<{len(numbers)}I", *numbers))

    def add_text(self, text: bytes) -> int:
        """Return the offset of ``text``, which is written once."""
        if text not in self._texts:
            self._texts[text] = self.add(text)
        return self._texts[text]

    def add_set(self, values: Mapping[str, int]) -> int:
        """Return the number of a new set in the hash table with these values by text."""
        self._sets += 1
        self.entries += [(self._sets, text.encode(), value) for text, value in values.items()]
        return self._sets


class RuleTables:
    """Adds the rules of ``policy`` to ``tables``; parts that are one object in the index are one record."""

    def __init__(self, policy: RuntimePolicy, tables: Tables) -> None:
        self._tables = tables
        self._made: dict[int, int] = {}
        denials = [(number, rule) for number, rule in enumerate(policy.rules) if rule.denies and not rule.monitor]
        self._places = {number: place for place, (number, _) in enumerate(denials, 1)}
        texts = [rule.reason.encode() for _, rule in denials]
        addresses = [IMAGE_BASE + tables.add_text(text) for text in texts]
        packed = [DENIAL.pack(1, at, len(text)) for at, text in zip(addresses, texts, strict=True)]
        self.denials = tables.add(b"".join(packed)) if packed else 0
        whens = {n: rule.when for n, rule in enumerate(policy.rules) if rule.when is not None and not rule.monitor}
        counting = {when: number for number, when in enumerate(dict.fromkeys(whens.values()))}
        self._conditions = {number: counting[when] for number, when in whens.items()}
        self._conditional: dict[tuple[int, tuple[int, ...], tuple[int, ...]], int] = {}
        #: The offset of the conditions; 0 where there are none.
        self.conditions = 0
        if policy.conditions is not None and counting:
            self.conditions = tables.add(write_table([policy.conditions.nodes[when] for when in counting]))

    def by_mode(self, index: ModeIndex) -> int:
        """Return the offset of this part."""
        return self._once(
            index,
            lambda: (self._by_actor(index.any), self._set({m: self._by_actor(i) for m, i in _sorted(index.modes)})),
        )

    def _by_actor(self, index: ActorIndex | None) -> int:
        if index is None:
            return 0
        kinds = index.kinds
        return self._once(
            index,
            lambda: (self._by_resource(index.any), *(n for kind in ACTOR_KINDS for n in self._actors(kinds.get(kind)))),
        )

    def _actors(self, kind: ActorKindIndex | None) -> tuple[int, int, int]:
        if kind is None:
            return 0, 0, 0
        ids = self._set({id: self._by_resource(part) for id, part in _sorted(kind.ids)})
        return self._by_resource(kind.any), ids, self._beginnings(kind.beginnings, self._by_resource)

    def _by_resource(self, index: ResourceIndex | None) -> int:
        if index is None:
            return 0
        return self._once(
            index,
            lambda: (
                self._match(index.any),
                self._set({k: self.of_ids(part, self._match) for k, part in _sorted(index.kinds)}),
            ),
        )

    def of_ids(self, index: IdIndex[T], value_of: Callable[[T], int]) -> int:
        """Return the offset of this part."""
        sets = (self._set({id: value_of(value) for id, value in _sorted(of)}) for of in (index.ids, index.endings))
        ids, endings = sets
        beginnings = self._beginnings(index.beginnings, value_of)
        networks = self._networks(index.networks, value_of)
        return self._tables.add_numbers(value_of(index.any), ids, beginnings, endings, networks)

    def _networks(self, networks: Networks[T] | None, value_of: Callable[[T], int]) -> int:
        if networks is None:
            return 0
        each = zip(networks.starts, networks.values, strict=True)
        packed = [NETWORK.pack(start >> 64, start & _MASK, value_of(value)) for start, value in each]
        return self._tables.add(struct.pack("<I", len(packed)) + b"".join(packed))

    def _match(self, match: Matching) -> int:
        plain = self._places.get(match.deny, 0) << 2 | (match.allow != NO_RULE)
        allows = () if plain else match.allows  # of which none is looked at where another rule decides without
        if not match.denials and not allows:
            return plain
        key = (plain, match.denials, allows)
        if key not in self._conditional:
            numbers = [plain, len(match.denials), len(allows)]
            for rule in match.denials:
                numbers += (self._conditions[rule], self._places[rule])
            numbers += [self._conditions[rule] for rule in allows]
            self._conditional[key] = CONDITIONAL | self._tables.add_numbers(*numbers) // 4
        return self._conditional[key]

    def _beginnings(self, beginnings: Beginnings[T], value_of: Callable[[T], int]) -> int:
        if not beginnings.texts:
            return 0
        numbers = [len(beginnings.texts)]
        for text, parent, value in zip(beginnings.texts, beginnings.parents, beginnings.values, strict=True):
            content = text.encode()
            numbers += (self._tables.add_text(content), len(content), parent + 1, value_of(value))
        return self._tables.add_numbers(*numbers)

    def _set(self, values: Mapping[str, int]) -> int:
        return self._tables.add_set(values) if values else 0

    def _once(self, part: object, numbers: Callable[[], tuple[int, ...]]) -> int:
        if id(part) not in self._made:
            self._made[id(part)] = self._tables.add_numbers(*numbers())
        return self._made[id(part)]


def _sorted(parts: Mapping[str, T]) -> list[tuple[str, T]]:
    return sorted(parts.items(), key=lambda item: item[0])
