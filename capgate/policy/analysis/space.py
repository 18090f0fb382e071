"""Divides actors, modes and resources into the parts that two documents can tell apart.

Texts in a document are compared in few ways: with one id, with the beginning of ids, with the ending of names, with a
network of addresses, with a kind. So they cut the ids of a kind into finitely many parts, :class:`Atom`. Those are each
id that is mentioned, what each wildcard covers that is (the longest one counts), and all others. Questions that differ
only within an atom have the same answer from both. Wildcards that leave no id of their own have no atom. Nor has what
is nameless (:func:`~capgate.spelling.is_nameless`), which every policy denies.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from itertools import count, product
from typing import Any, Final, NamedTuple, Union

import msgspec

from ...spelling import HOST_LENGTH, is_nameless, normal_id
from ..rules import Pattern
from ..wildcards import (
    BEGINNING,
    ENDING,
    EXACT,
    NETWORK,
    Match,
    Networks,
    address_number,
    address_text,
    bounds,
    is_covered,
    is_mapped,
    make_networks,
)

#: What matches: a rule (side and number), a section (side and ``"section"``), or that there is nothing to match.
Matcher = Union[tuple[int, Union[int, str]], str]
Signature = frozenset[Matcher]
NOTHING: Final[Signature] = frozenset()
#: The number of an atom, and what matches all of it.
Place = tuple[int, Signature]

#: What fresh names are made of, and how long their first label is at most: there are more of them than mentions.
_SIGNS: Final = "xyzabcdefghijklmnopqrstuvw0123456789_-"
_LABEL: Final = 5


class Selector(msgspec.Struct, frozen=True, omit_defaults=True):
    """Some of the actors, modes or resources. ``match`` says which, of the kind ``kind``:

    ``any``        all of them, with or without an id; without a ``kind`` all there are
    ``absent``     no resource at all
    ``none``       a resource without an id; without a ``kind`` of whatever kind
    ``exact``      the id ``text``; without a ``kind`` of whatever kind
    ``beginning``  ids that go on after ``text``, for one character or more
    ``ending``     names with one label or more before ``text``
    ``network``    addresses in ``text``
    """

    match: str
    kind: str | None = None
    text: str = ""


ANYTHING: Final = Selector("any")


class Atom(NamedTuple):
    """A part that is never divided: what it is called, one of it (a kind, an id), and what matches all of it."""

    selector: Selector
    kind: str | None
    id: str | None
    signature: Signature


class Space:
    """All atoms of one aspect. ``parents`` has for each the number of the next more general one, -1 for none, and
    ``children`` the reverse; ``like`` the atom that an id has elsewhere, where that counts in place of the parent (see
    :func:`add_kind`)."""

    def __init__(self) -> None:
        self.atoms: list[Atom] = []
        self.parents: list[int] = []
        self.like: list[int | None] = []
        self.children: dict[int, list[int]] = {}

    def add(self, atom: Atom, parent: int = -1, like: int | None = None) -> int:
        """Add one atom; its number."""
        self.atoms.append(atom)
        self.parents.append(parent)
        self.like.append(like)
        self.children.setdefault(parent, []).append(len(self.atoms) - 1)
        return len(self.atoms) - 1

    def atom_of(self, kind: str | None, id: str | None) -> int | None:
        """Return the number of the most specific atom of this kind and id; ``None`` where there is none."""
        covering = [number for number, atom in enumerate(self.atoms) if _is_of(atom.selector, kind, id)]
        return max(covering, key=self._depth, default=None)

    def _depth(self, number: int) -> int:
        depth = 0
        while number >= 0:
            number, depth = self.parents[number], depth + 1
        return depth

    def singles(self) -> list[tuple[Signature, list[int]]]:
        """Return each atom as a class of its own, for conditions that tell more apart than lists do."""
        return [(atom.signature, [number]) for number, atom in enumerate(self.atoms)]

    def classes(self) -> dict[Signature, list[int]]:
        """Return the atoms by what matches them: those of one class are all alike.

        The first of each is a question that can be asked, if there is such: an empty id is none.
        """
        classes: dict[Signature, list[int]] = {}
        for number, atom in enumerate(self.atoms):
            classes.setdefault(atom.signature, []).append(number)
        for numbers in classes.values():
            numbers.sort(key=lambda number: self.atoms[number].id == "")
        return classes


def _is_of(selector: Selector, kind: str | None, id: str | None) -> bool:
    if selector.match == "absent":
        return kind is None
    if selector.kind not in (None, kind):
        return False
    if selector.match in ("any", "none"):
        return selector.match == "any" or (kind is not None and id is None)
    match: Any = selector.match
    return id is not None and is_covered(match, selector.text, id)


class Mentions:
    """Where the ids of one kind are mentioned, and by what."""

    def __init__(self) -> None:
        self.any: set[Matcher] = set()
        self.ids: dict[str, set[Matcher]] = {}
        self.beginnings: dict[str, set[Matcher]] = {}
        self.endings: dict[str, set[Matcher]] = {}
        self.networks: dict[str, set[Matcher]] = {}

    def note(self, pattern: Pattern, by: Matcher) -> None:
        """Take note that ``by`` mentions what ``pattern`` covers."""
        if pattern.text is None:
            self.any.add(by)
        else:
            self._of(pattern.match).setdefault(pattern.text, set()).add(by)

    def _of(self, match: Match) -> dict[str, set[Matcher]]:
        if match == EXACT:
            return self.ids
        return {BEGINNING: self.beginnings, ENDING: self.endings, NETWORK: self.networks}[match]


def add_kind(
    space: Space,
    kind: str,
    mentions: Mentions,
    *,
    parent: int = -1,
    like: Mapping[str, int] | None = None,
) -> int:
    """Add the ids of ``kind``, and return the number of the atom of all those that are not mentioned.

    ``like``, where it is given, has the atoms of the same ids of kinds that are not mentioned, and under ``""`` of the
    others.
    """

    def atom_like(id: str) -> int | None:
        return None if like is None else like.get(id, like[""])

    rest = frozenset(mentions.any)
    chain = _Chain(mentions.beginnings)
    other = _fresh("", chain, mentions) if "" not in mentions.beginnings else ""
    top = space.add(Atom(Selector("any", kind), kind, other, rest), parent, atom_like(""))
    numbers: list[int] = []
    signatures: list[Signature] = []
    for at, text in enumerate(chain.texts):
        above = chain.parents[at]
        signatures.append((rest if above < 0 else signatures[above]) | mentions.beginnings[text])
        atom = Atom(Selector("beginning", kind, text), kind, _fresh(text, chain, mentions), signatures[at])
        numbers.append(space.add(atom, top if above < 0 else numbers[above], atom_like("")))
    root = (numbers[0], signatures[0]) if chain.texts[:1] == [""] else (top, rest)
    endings = _add_endings(space, kind, mentions, root, atom_like(""))
    networks = _add_networks(space, kind, mentions, root, atom_like(""))
    for id, by in mentions.ids.items():
        at = chain.longest(id)
        around = (top, rest) if at < 0 else (numbers[at], signatures[at])
        if mentions.networks and (address := address_number(id)) is not None:
            above, signature = networks.find(address)
        else:
            above, signature = _longest_ending(endings, id) or around
        space.add(Atom(Selector("exact", kind, id), kind, id, signature | by), above, atom_like(id))
    return top


def of_builtin(kinds: Mapping[str, Mentions], admitted: Mapping[Pattern, set[Matcher]], optional: bool) -> Space:
    """Return the resources of a built-in action, which are of one kind.

    ``admitted`` are the entries of sections. ``optional`` says that a question may do without a resource, or its id.
    """
    ((kind, mentions),) = kinds.items()
    for pattern, matchers in admitted.items():
        for by in matchers:
            mentions.note(pattern, by)
    space = Space()
    top = add_kind(space, kind, mentions)
    if optional:
        space.add(Atom(Selector("absent"), None, None, frozenset({"absent"})))
        space.add(Atom(Selector("none", kind), kind, None, frozenset({*mentions.any, "none"})), top)
    return space


def of_own(kinds: Mapping[str, Mentions], admitted: Mapping[Pattern, set[Matcher]], optional: bool) -> Space:
    """Return the resources of an application's own action, whose section admits ids of whatever kind.

    Of kinds that no rule mentions, the one without a name stands for all.
    """
    space = Space()
    ids = {str(pattern.text): by for pattern, by in admitted.items()}
    other = next(id for id in map(str, count()) if id not in ids)
    like = {"": space.add(Atom(ANYTHING, "", other, NOTHING))}
    for id, by in ids.items():
        like[id] = space.add(Atom(Selector("exact", None, id), "", id, frozenset(by)), like[""])
    none = -1
    if optional:
        space.add(Atom(Selector("absent"), None, None, frozenset({"absent"})), like[""])
        none = space.add(Atom(Selector("none"), "", None, frozenset({"none"})), like[""])
    for kind, mentions in kinds.items():
        for id, by in ids.items():
            if normal_id(kind, id) == id:  # nothing else is asked about
                mentions.ids.setdefault(id, set()).update(by)
        top = add_kind(space, kind, mentions, parent=like[""], like=like)
        if optional and not is_nameless(kind, None):
            space.add(Atom(Selector("none", kind), kind, None, frozenset({*mentions.any, "none"})), top, none)
    return space


def _add_endings(space: Space, kind: str, mentions: Mentions, root: Place, like: int | None) -> Mapping[str, Place]:
    """Add an atom for each ending. Return where the names are that end so."""
    places: dict[str, Place] = {}
    for text in sorted(mentions.endings, key=len):
        above, signature = _longest_ending(places, text) or root
        signature |= mentions.endings[text]
        id = _fresh_name(text, mentions)
        atom = Atom(Selector("ending", kind, text), kind, id, signature)
        places[text] = (above if id is None else space.add(atom, above, like)), signature
    return places


def _longest_ending(places: Mapping[str, Place], name: str) -> Place | None:
    at = name.find(".") if places else -1
    while at >= 0:
        if (place := places.get(name[at + 1 :])) is not None:
            return place
        at = name.find(".", at + 1)
    return None


def _fresh_name(ending: str, mentions: Mentions) -> str | None:
    """Return a name that is not mentioned and ends so, but with no longer ending; ``None`` where there is none."""
    room = min(HOST_LENGTH - len(ending) - 1, _LABEL)
    for length in range(1, room + 1):
        for signs in product(_SIGNS, repeat=length):
            name = f"{''.join(signs)}.{ending}"
            if name not in mentions.ids:  # a longer ending has a dot more
                return name
    return None


def _add_networks(space: Space, kind: str, mentions: Mentions, root: Place, like: int | None) -> Networks[Place]:
    """Add an atom for each network that has an address of its own. Return where each address is."""
    innermost = make_networks({text: text for text in mentions.networks}, "", lambda own, around: own)
    own: dict[str, str] = {}
    for text, first, after in zip(innermost.values, innermost.starts, (*innermost.starts[1:], 2**128), strict=True):
        unmentioned = (address_text(at) for at in range(first, after) if address_text(at) not in mentions.ids)
        if text and text not in own and (id := next(unmentioned, None)) is not None:
            own[text] = id
    places: dict[str, Place] = {"": root}
    around: list[tuple[int, int, str]] = []
    spans = [(*bounds(text), text) for text in mentions.networks]
    for first, last, text in sorted(spans, key=lambda span: (span[0], -span[1])):
        while around and around[-1][1] < first:
            around.pop()
        is_inside = bool(around) and is_mapped(around[-1][0]) == is_mapped(first)
        above, signature = places[around[-1][2] if is_inside else ""]
        signature |= mentions.networks[text]
        number = above
        if text in own:
            number = space.add(Atom(Selector("network", kind, text), kind, own[text], signature), above, like)
        places[text] = number, signature
        around.append((first, last, text))
    return Networks(innermost.starts, tuple(places[text] for text in innermost.values))


class _Chain:
    """Beginnings in ascending order, and for each the next shorter one that it begins with (-1: none)."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = sorted(texts)
        self.parents: list[int] = []
        open_: list[int] = []
        for number, text in enumerate(self.texts):
            while open_ and not text.startswith(self.texts[open_[-1]]):
                open_.pop()
            self.parents.append(open_[-1] if open_ else -1)
            open_.append(number)

    def longest(self, id: str) -> int:
        at = bisect_right(self.texts, id) - 1
        while at >= 0 and not (len(self.texts[at]) < len(id) and id.startswith(self.texts[at])):
            at = self.parents[at]
        return at


def _fresh(beginning: str, chain: _Chain, mentions: Mentions) -> str:
    """Return an id that is not mentioned and goes on after ``beginning``, but after no longer beginning."""
    at = bisect_right(chain.texts, beginning) - 1
    ids = (f"{beginning}x{number}" for number in count())
    return next(id for id in ids if id not in mentions.ids and chain.longest(id) == at)
