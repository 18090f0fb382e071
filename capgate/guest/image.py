"""A policy document as the image that the guest searches: one hash table, laid out so that a lookup is three reads.

All numbers are little-endian and all offsets count from the image's first byte, which lies at :data:`IMAGE_BASE`::

    header    0 "CGP1"     4 size of the image     8 seed (u64)    16 offset of the rules
             20 offset of the buckets    24 number of buckets - 1    28 length of the longest text
    rule      0 flags: 1 resource required, 2 host names, 4 everything is admitted, 8 has a kind
              4 set of the admitted ids, 0 for none     8 operations asked for     12 offset and 16 length of the kind
    bucket    offset of its first record; the next bucket's is where it ends, so there is one number more than buckets
    record    0 upper half of the hash    4 set    8 length of the text    12 value    16 text, zeros to a multiple of 4

Texts of one set are looked up by hash, then compared in full. Set 0 holds the action names, and a value there is the
number of a rule; in every other set a value has the bits of the operations that are admitted.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from ..errors import ConfigError
from ..policy import Rule, RuntimePolicy

IMAGE_BASE: Final = 65_536
MAGIC: Final = b"CGP1"
HEADER: Final = struct.Struct("<4sIQIIII")
RULE: Final = struct.Struct("<5I")
RECORD: Final = struct.Struct("<4I")
#: Most records of one bucket. The guest traps above it, so a lookup's cost has a bound that neither id nor image moves.
BUCKET_LIMIT: Final = 16
#: Seeds to try before giving up. The first one does, unless entries were made to collide.
SEEDS: Final = 16

REQUIRED, HOST, ANY, KIND = 1, 2, 4, 8

_MASK: Final = 2**64 - 1
_SALT_A: Final = 0xF5FBF9C1F7FDC0FF
_SALT_B: Final = 0xFEC1F6FCF8C0FAFD
_SALT_SET: Final = 0x9E3779B97F4A7C15

Entry = tuple[int, bytes, int]


def make_image(policy: RuntimePolicy) -> bytes:
    """The image of ``policy``. The same document gives the same bytes, whatever the order of its entries.

    Raises :class:`ConfigError` for a document over 4 GiB, or whose entries collide under every seed.
    """
    rules = sorted(policy.rules.values(), key=lambda rule: rule.action)
    sets = _sets(rules)
    entries = sorted(_entries(rules, sets))
    seed, mask, buckets = _distribute(entries)
    rule_data = _rules(rules, sets)
    records = [b"".join(map(_record, bucket)) for bucket in buckets]
    bucket_offset = HEADER.size + len(rule_data)
    record_offset = bucket_offset + 4 * (len(buckets) + 1)
    size = record_offset + sum(map(len, records))
    if size > 2**32 - 2 * IMAGE_BASE:
        raise ConfigError("document", f"{size} bytes as an image", "less than 4 GiB")
    starts = [record_offset]
    for record in records:
        starts.append(starts[-1] + len(record))
    longest = max(len(text) for _, text, _ in entries)
    header = HEADER.pack(MAGIC, size, seed, HEADER.size, bucket_offset, mask, longest)
    return b"".join((header, rule_data, struct.pack(f"<{len(starts)}I", *starts), *records))


def text_hash(seed: int, text: bytes) -> int:
    """The guest's hash: 64 bits, from 16 bytes a step."""
    state, at, left = seed, 0, len(text)
    while left > 16:
        state = _mix(_word(text, at, 8) ^ _SALT_A, _word(text, at + 8, 8) ^ state)
        at += 16
        left -= 16
    end = at + left
    if left >= 8:
        a, b = _word(text, at, 8), _word(text, end - 8, 8)
    elif left >= 4:
        a, b = _word(text, at, 4), _word(text, end - 4, 4)
    elif left:
        a, b = text[at] | text[at + left // 2] << 8 | text[end - 1] << 16, 0
    else:
        a = b = 0
    return _mix(_mix(a ^ _SALT_A, b ^ state) ^ _SALT_B, len(text) ^ _SALT_A)


def _mix(a: int, b: int) -> int:
    high = (a >> 32) * (b >> 32)
    return (a * b ^ (high << 32 | high >> 32)) & _MASK


def _word(text: bytes, at: int, size: int) -> int:
    return int.from_bytes(text[at : at + size], "little")


def _sets(rules: list[Rule]) -> dict[int, int]:
    """The number of each section that has entries, by identity: the rules of one section share one object."""
    numbers: dict[int, int] = {}
    for rule in rules:
        if rule.section is not None and rule.section.entries is not None:
            numbers.setdefault(id(rule.section), len(numbers) + 1)
    return numbers


def _entries(rules: list[Rule], sets: dict[int, int]) -> Iterator[Entry]:
    written: set[int] = set()
    for index, rule in enumerate(rules):
        yield 0, rule.action.encode(), index
        number = 0 if rule.section is None else sets.get(id(rule.section), 0)
        if rule.section is None or rule.section.entries is None or number in written:
            continue
        written.add(number)
        for text, operations in rule.section.entries.items():
            yield number, text.encode(), operations


def _distribute(entries: list[Entry]) -> tuple[int, int, list[list[tuple[int, Entry]]]]:
    """Seed, mask and buckets (hash and entry of each record), no bucket above the limit."""
    mask = (1 << (len(entries) - 1).bit_length()) - 1
    for attempt in range(1, SEEDS + 1):
        seed = attempt * _SALT_SET & _MASK
        buckets: list[list[tuple[int, Entry]]] = [[] for _ in range(mask + 1)]
        for entry in entries:
            hashed = text_hash(seed ^ (entry[0] * _SALT_SET & _MASK), entry[1])
            buckets[hashed & mask].append((hashed, entry))
        if max(map(len, buckets)) <= BUCKET_LIMIT:
            return seed, mask, buckets
    raise ConfigError("document", f"{len(entries)} entries", "entries that were not made to collide")


def _record(item: tuple[int, Entry]) -> bytes:
    hashed, (number, text, value) = item
    return RECORD.pack(hashed >> 32, number, len(text), value) + text + bytes(-len(text) % 4)


def _rules(rules: list[Rule], sets: dict[int, int]) -> bytes:
    """The rules, and after them the kinds that they point to, filled up to a multiple of 4 bytes."""
    kinds = b""
    places: dict[bytes, int] = {}
    packed = []
    for rule in rules:
        kind = (rule.kind or "").encode()
        if kind not in places:
            places[kind] = HEADER.size + RULE.size * len(rules) + len(kinds)
            kinds += kind
        number = 0 if rule.section is None else sets.get(id(rule.section), 0)
        packed.append(RULE.pack(_flags(rule), number, rule.operations, places[kind], len(kind)))
    return b"".join(packed) + kinds + bytes(-len(kinds) % 4)


def _flags(rule: Rule) -> int:
    everything = rule.section is not None and rule.section.entries is None
    return REQUIRED * rule.required | HOST * rule.host | ANY * everything | KIND * (rule.kind is not None)
