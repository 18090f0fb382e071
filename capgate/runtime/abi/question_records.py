"""Lays questions out as the records that guests get: without facts (``policy.wit``), and with (``policy-0.2.0.wit``).

Alignments, sizes and orders are the canonical ABI's ("Canonical ABI Explainer": Alignment, Element Size, Storing). All
is little-endian. A text is its pointer and its length in bytes, and a list its pointer and its number of elements. An
option begins with a byte, 1 where it is there; a variant with the number of its case. What follows is padded to the
alignment of what it holds. Of 0.2.0::

    input, 136 bytes, aligned to 8
      0 actor                                             112 timestamp  u64, nanoseconds
     36 on-behalf-of  list of actors, the nearest first   120 args       list of attributes
     44 action        text                                128 context    list of attributes
     52 resource      option, kind text, 64 id option and text, 76 attributes list
     84 args-hash     option and text
     96 env           service text, mode text

    actor, 36 bytes, aligned to 4                         attribute, 24 bytes, aligned to 8
      0 case  0 anonymous, 1 user, 2 service,               0 name  text
              3 compiler-tool                               8 case  0 boolean, 1 int, 2 float, 3 text, 4 texts
      4 id          text, but of anonymous                 16 value  a byte; s64; f64; text; list of texts
     12 roles       list of texts
     20 scopes      list of texts
     28 attributes  list of attributes

The record of 0.1.0 is in :mod:`capgate.runtime.abi.canonical_abi`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, Protocol

from ...errors import MalformedInput
from ...model import Anonymous, PolicyInput
from .lowering import ACTORS, INPUT_ALIGN, INPUT_SIZE, NOT_LOWERABLE, lower, record

_RECORD: Final = 34
_ACTOR, _ATTRIBUTE, _TEXT = 9, 6, 2
_MASK: Final = 0xFFFFFFFF
_DOUBLE: Final = struct.Struct("<d")
_TWO_WORDS: Final = struct.Struct("<2I")
#: The cases of the variant ``value``.
_BOOLEAN, _INT, _FLOAT, _TEXT_CASE, _TEXTS = range(5)


class QuestionRecord(Protocol):
    """A question, ready to be written. Made of it, and of the most bytes of text that it may have.

    Making it raises :class:`MalformedInput` for what no policy may be asked.
    """

    def __init__(self, input: PolicyInput, limit: int) -> None: ...

    @property
    def size(self) -> int:
        """Bytes of all of it in one allocation, which is aligned to 8."""

    @property
    def allocations(self) -> Sequence[tuple[int, int]]:
        """Alignment and size of each allocation where each part has its own, the record last."""

    def block(self, at: int) -> bytes:
        """Return all of it in one allocation ``at`` there, the record first."""

    def parts(self, pointers: Sequence[int]) -> Sequence[bytes]:
        """Return the content of each of :attr:`allocations`, which are at ``pointers``."""


class PlainRecord:
    """The record of 0.1.0, with seven texts."""

    __slots__ = ("_lowered",)

    def __init__(self, input: PolicyInput, limit: int) -> None:
        self._lowered = lower(input, limit)

    @property
    def size(self) -> int:
        return INPUT_SIZE + sum(map(len, self._lowered[0]))

    @property
    def allocations(self) -> Sequence[tuple[int, int]]:
        return [*((1, len(text)) for text in self._lowered[0]), (INPUT_ALIGN, INPUT_SIZE)]

    def block(self, at: int) -> bytes:
        texts = self._lowered[0]
        starts = accumulate(map(len, texts[:-1]), initial=at + INPUT_SIZE)
        return record(self._lowered, tuple(starts)) + b"".join(texts)

    def parts(self, pointers: Sequence[int]) -> Sequence[bytes]:
        return (*self._lowered[0], record(self._lowered, tuple(pointers[:-1])))


class FactsRecord:
    """The record of 0.2.0, with lists of lists.

    It is words of 4 bytes, in which pointers are 0 until it is known where everything is: first the record, behind it
    the lists. Which words are pointers, and to what, is noted beside them.
    """

    __slots__ = ("_lists", "_places", "_texts", "_words")

    def __init__(self, input: PolicyInput, limit: int) -> None:
        strings, (case, has_resource, has_id, has_hash), timestamp = lower(input, limit)
        words = self._words = [0] * _RECORD
        self._texts: list[bytes] = []
        #: Of each text the place of its pointer.
        self._places: list[int] = []
        #: Of each list the place of its pointer, where it starts, how many words it has, and its alignment.
        self._lists: list[tuple[int, int, int, int]] = []
        who, action, kind, id, digest, service, mode = strings
        actor: Any = input.actor
        try:
            words[0] = case
            if case:
                self._text(1, who)
                self._identity(1, actor)
            actors = [] if not case else _acting_for(actor)
            at = self._list(9, len(actors), _ACTOR, 4)
            for other in actors:
                words[at] = ACTORS[type(other)]
                if words[at]:
                    self._text(at + 1, other.id.encode())
                    self._identity(at + 1, other)
                at += _ACTOR
            self._text(11, action)
            if has_resource and input.resource is not None:
                words[13] = 1
                self._text(14, kind)
                if has_id:
                    words[16] = 1
                    self._text(17, id)
                self._attributes(19, input.resource.attributes)
            if has_hash:
                words[21] = 1
                self._text(22, digest)
            self._text(24, service)
            self._text(26, mode)
            stamp = int.__index__(timestamp)
            words[28:30] = stamp & _MASK, stamp >> 32
            self._attributes(30, input.args or {})  # what is empty may be of any type
            self._attributes(32, input.context or {})
        except NOT_LOWERABLE as error:  # a mapping that was changed since it was looked at
            raise MalformedInput(f"{type(error).__name__}: {error}") from error

    @property
    def size(self) -> int:
        return 4 * len(self._words) + sum(map(len, self._texts))

    @property
    def allocations(self) -> Sequence[tuple[int, int]]:
        texts = [(1, len(text)) for text in self._texts]
        return [*texts, *((align, 4 * size) for _, _, size, align in self._lists), (INPUT_ALIGN, 4 * _RECORD)]

    def block(self, at: int) -> bytes:
        for place, start, _, _ in self._lists:
            self._words[place] = at + 4 * start
        end = at + 4 * len(self._words)
        for place, text in zip(self._places, self._texts, strict=True):
            self._words[place] = end
            end += len(text)
        return _bytes_of(self._words) + b"".join(self._texts)

    def parts(self, pointers: Sequence[int]) -> Sequence[bytes]:
        words, count = self._words, len(self._texts)
        for place, pointer in zip(self._places, pointers, strict=False):
            words[place] = pointer
        for (place, *_), pointer in zip(self._lists, pointers[count:], strict=False):
            words[place] = pointer
        lists = [_bytes_of(words[start : start + size]) for _, start, size, _ in self._lists]
        return [*self._texts, *lists, _bytes_of(words[:_RECORD])]

    def _text(self, place: int, content: bytes) -> None:
        self._words[place + 1] = len(content)
        self._texts.append(content)
        self._places.append(place)

    def _list(self, place: int, count: int, width: int, align: int) -> int:
        """Make room for so many elements of so many words. Returns where the first of them is."""
        words = self._words
        if align > 4 and len(words) % 2:
            words.append(0)
        start, size = len(words), count * width
        words.extend([0] * size)
        words[place + 1] = count
        self._lists.append((place, start, size, align))
        return start

    def _identity(self, place: int, actor: Any) -> None:
        """Write what an actor has besides the id, which is at ``place``."""
        self._list_of_texts(place + 2, actor.roles or ())
        self._list_of_texts(place + 4, actor.scopes or ())
        self._attributes(place + 6, actor.attributes or {})

    def _list_of_texts(self, place: int, values: Iterable[str]) -> None:
        texts = [text.encode() for text in values]
        at = self._list(place, len(texts), _TEXT, 4)
        for text in texts:
            self._text(at, text)
            at += _TEXT

    def _attributes(self, place: int, attributes: Mapping[str, Any]) -> None:
        items = tuple(attributes.items())
        at = self._list(place, len(items), _ATTRIBUTE, 8)
        words = self._words
        for name, value in items:
            self._text(at, name.encode())
            seen = type(value)
            if seen is str:
                words[at + 2] = _TEXT_CASE
                self._text(at + 4, value.encode())
            elif seen is bool:
                words[at + 2], words[at + 4] = _BOOLEAN, value
            elif seen is int:
                words[at + 2], words[at + 4], words[at + 5] = _INT, value & _MASK, value >> 32 & _MASK
            elif seen is float:
                words[at + 2] = _FLOAT
                words[at + 4 : at + 6] = _TWO_WORDS.unpack(_DOUBLE.pack(value))
            else:
                words[at + 2] = _TEXTS
                self._list_of_texts(at + 4, value)
            at += _ATTRIBUTE


def _acting_for(actor: Any) -> list[Any]:
    """Return those for whom ``actor`` acts, the nearest first."""
    actors = []
    while type(actor) is not Anonymous and actor.on_behalf_of is not None:
        actor = actor.on_behalf_of
        actors.append(actor)
    return actors


def _bytes_of(words: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(words)}I", *words)
