"""Makes of a policy document the image that the guest searches: one hash table, in which a lookup is three reads.

Numbers are little-endian. Offsets count from the image's first byte, which lies at :data:`IMAGE_BASE`::

    header    0 "CGP3"     4 size of the image     8 seed (u64)    16 offset of the actions
             20 offset of the buckets    24 number of buckets - 1    28 length of the longest text in them
             32 offset of the denials    36 what rules look at: 1 actors, 2 modes, 4 facts
             40 offset of the conditions, as ``condition_table.py`` writes them, 0 for none
    action    0 flags: 1 resource required, 2 wildcards, 4 everything is admitted, 8 has a kind, 16 has rules
              4 set of the admitted ids, 0 for none; with wildcards the offset of what is admitted
              8 operations asked for     12 offset and 16 length of the kind     20 offset of its rules by mode
    bucket    offset of its first record; the next bucket's is where it ends, so there is one number more than buckets
    record    0 upper half of the hash    4 set    8 length of the text    12 value    16 text, zeros to a multiple of 4

Texts of one set are looked up by hash, then compared in full. Set 0 holds the action names, and a value there is the
number of an action. In the sets of sections a value has the bits of the operations that are admitted.
The rules are described in ``rule_tables.py``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from ...conditions import Conditions
from ...errors import ConfigError
from ...policy import ALWAYS, ActionEntry, RuntimePolicy
from .rule_tables import IMAGE_BASE, Entry, RuleTables, Tables

MAGIC: Final = b"CGP3"
HEADER: Final = struct.Struct("<4sIQ7I")
ACTION: Final = struct.Struct("<6I")
RECORD: Final = struct.Struct("<4I")
#: Most records of one bucket. The guest traps above it, so a lookup's cost has a bound that neither id nor image moves.
BUCKET_LIMIT: Final = 16
#: Seeds to try before giving up. The first one does, unless entries were made to collide.
SEEDS: Final = 16

REQUIRED, WILD, ANY, KIND, RULES = 1, 2, 4, 8, 16
#: The bits of what rules look at.
LOOKS: Final = {"actor": 1, "mode": 2, "facts": 4}

_MASK: Final = 2**64 - 1
_SALT_A: Final = 0xF5FBF9C1F7FDC0FF
_SALT_B: Final = 0xFEC1F6FCF8C0FAFD
_SALT_SET: Final = 0x9E3779B97F4A7C15


#: Entries between two calls of what is told the progress.
STEP: Final = 4_096

#: Told how many entries are done, and how many there are.
Progress = Callable[[int, int], None]
#: Names and types of facts, in the order of their numbers.
SpokenFacts = tuple[tuple[str, str], ...]


def make_image(policy: RuntimePolicy, progress: Progress | None = None) -> bytes:
    """Return the image of ``policy``. The same document gives the same bytes, whatever the order of its entries.

    Raises :class:`ConfigError` for a document over 4 GiB, or whose entries collide under every seed.
    """
    actions = sorted(policy.actions.values(), key=lambda entry: entry.action)
    tables = Tables(HEADER.size + ACTION.size * len(actions))
    tables.entries += [(0, entry.action.encode(), number) for number, entry in enumerate(actions)]
    rules = RuleTables(policy, tables)
    sets = _sections(actions, tables, rules)
    packed = b"".join([_action(entry, sets, tables, rules) for entry in actions])
    seed, mask, buckets = _distribute(sorted(tables.entries), progress)
    records = [b"".join(map(_record, bucket)) for bucket in buckets]
    record_offset = tables.end + 4 * (len(buckets) + 1)
    size = record_offset + sum(map(len, records))
    if size > 2**32 - 2 * IMAGE_BASE:
        raise ConfigError("document", f"{size} bytes as an image", "less than 4 GiB")
    starts = [record_offset]
    for record in records:
        starts.append(starts[-1] + len(record))
    longest = max(len(text) for _, text, _ in tables.entries)
    looks = sum(bit for field, bit in LOOKS.items() if field in policy.inputs)
    numbers = (HEADER.size, tables.end, mask, longest, rules.denials, looks, rules.conditions)
    header = HEADER.pack(MAGIC, size, seed, *numbers)
    return b"".join((header, packed, tables.content(), struct.pack(f"<{len(starts)}I", *starts), *records))


def image_inputs(image: bytes) -> frozenset[str] | None:
    """Return what the guest looks at under an image with this header; ``None`` where it is no header of an image.

    The guest heeds the header, whatever else the image says.
    """
    if len(image) < HEADER.size:
        return None
    magic, size, *_, looks, _ = HEADER.unpack_from(image)
    if (magic, size) != (MAGIC, len(image)) or looks > sum(LOOKS.values()):
        return None
    return ALWAYS.union(field for field, bit in LOOKS.items() if looks & bit)


def image_facts(image: bytes) -> SpokenFacts:
    """Return the facts that the conditions of an image speak of, as :attr:`Conditions.facts`; ``image`` has a header.

    Raises :class:`ConfigError` where its conditions are not as :func:`make_image` writes them, byte for byte.
    """
    *_, looks, at = HEADER.unpack_from(image)
    if not looks & LOOKS["facts"]:
        if at:
            raise ConfigError("conditions", f"at {at}", "none, where no rule looks at facts")
        return ()
    size = int.from_bytes(image[at + 4 : at + 8], "little")
    return Conditions(image[at : at + size]).facts


def text_hash(seed: int, text: bytes) -> int:
    """Return the guest's hash: 64 bits, from 16 bytes a step."""
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


def _sections(actions: list[ActionEntry], tables: Tables, rules: RuleTables) -> dict[int, int]:
    """Return the set or the offset of each section that has entries, by identity.

    The actions of one section share one object.
    """
    sets: dict[int, int] = {}
    for entry in actions:
        section = entry.section
        if section is None or section.entries is None or id(section) in sets:
            continue
        index = section.index
        sets[id(section)] = tables.add_set(section.entries) if index is None else rules.of_ids(index, int)
    return sets


def _distribute(entries: list[Entry], progress: Progress | None) -> tuple[int, int, list[list[tuple[int, Entry]]]]:
    """Return seed, mask and buckets (hash and entry of each record), no bucket above the limit."""
    mask = (1 << (len(entries) - 1).bit_length()) - 1
    for attempt in range(1, SEEDS + 1):
        seed = attempt * _SALT_SET & _MASK
        buckets: list[list[tuple[int, Entry]]] = [[] for _ in range(mask + 1)]
        for start in range(0, len(entries), STEP):
            for entry in entries[start : start + STEP]:
                hashed = text_hash(seed ^ (entry[0] * _SALT_SET & _MASK), entry[1])
                buckets[hashed & mask].append((hashed, entry))
            if progress is not None:
                progress(min(start + STEP, len(entries)), len(entries))
        if max(map(len, buckets)) <= BUCKET_LIMIT:
            return seed, mask, buckets
    raise ConfigError("document", f"{len(entries)} entries", "entries that were not made to collide")


def _record(item: tuple[int, Entry]) -> bytes:
    hashed, (number, text, value) = item
    return RECORD.pack(hashed >> 32, number, len(text), value) + text + bytes(-len(text) % 4)


def _action(entry: ActionEntry, sets: dict[int, int], tables: Tables, rules: RuleTables) -> bytes:
    section, kind = entry.section, (entry.kind or "").encode()
    admitted = 0 if section is None else sets.get(id(section), 0)
    flags = REQUIRED * entry.required | KIND * (entry.kind is not None)
    flags |= ANY * (section is not None and section.entries is None) | RULES * (entry.rules is not None)
    flags |= WILD * (section is not None and section.index is not None)
    by_mode = 0 if entry.rules is None else rules.by_mode(entry.rules)
    return ACTION.pack(flags, admitted, entry.operations, tables.add_text(kind), len(kind), by_mode)
