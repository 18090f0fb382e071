"""Says sets of actors, modes or resources as a person would: these, but not those."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import permutations

import msgspec

from .space import ANYTHING, Selector, Space

#: Numbers of classes: of actors, modes and resources.
Cell = tuple[int, int, int]
#: The same, several of each.
Box = tuple[frozenset[int], frozenset[int], frozenset[int]]


class Region(msgspec.Struct, frozen=True):
    """What is selected: of all selectors that fit, in both lists, the most specific one says whether it is in.

    What no selector fits is not in. A selector with a kind is more specific than one without. Then ``exact`` is more
    specific than ``beginning``, ``ending`` and ``network``, of which a longer one is more than a shorter one; one that
    every id begins with is the least. All of these, ``none`` and ``absent`` are more specific than ``any``.
    """

    include: tuple[Selector, ...]
    exclude: tuple[Selector, ...] = ()

    @property
    def is_all(self) -> bool:
        """Whether everything is selected."""
        return self.include == (ANYTHING,) and not self.exclude


def region(space: Space, numbers: frozenset[int]) -> Region:
    """Return the region of these atoms of ``space``, in few selectors."""
    if len(numbers) == len(space.atoms):
        return Region((ANYTHING,))
    if space.atoms[0].selector == ANYTHING:
        bases: tuple[bool, ...] = (0 in numbers,)
    else:
        bases = (False,) if 2 * len(numbers) < len(space.atoms) else (False, True)
    told = min((list(_told(space, numbers, base)) for base in bases), key=len)
    return Region(
        tuple(selector for selector, is_in in told if is_in), tuple(selector for selector, is_in in told if not is_in)
    )


def _told(space: Space, numbers: frozenset[int], base: bool) -> Iterator[tuple[Selector, bool]]:
    """Yield every selector that differs from the next more general one, the most general of all being ``base``."""
    if base:
        yield ANYTHING, True
    if base or space.like[-1] is not None:  # kinds that are like another come last
        candidates: Iterable[int] = range(len(space.atoms))
    else:  # of many atoms, these are all that can differ
        candidates = sorted({*numbers, *(child for number in numbers for child in space.children.get(number, ()))})
    different = {
        space.atoms[number].kind
        for number in candidates
        if (like := space.like[number]) is not None and (number in numbers) != (like in numbers)
    }
    for number in candidates:
        atom, above, like = space.atoms[number], space.parents[number], space.like[number]
        is_in = number in numbers
        if like is not None and atom.kind not in different:
            continue  # as what says nothing of a kind says already
        is_first = like is not None and space.like[above] is None
        if is_first or is_in != (base if above < 0 else above in numbers):
            yield atom.selector, is_in


def boxes(cells: set[Cell]) -> list[Box]:
    """Return ``cells`` as few boxes that do not overlap: the fewest that merging one aspect after the other gives."""
    return min((_merged(cells, order) for order in permutations(range(3))), key=len)


def _merged(cells: set[Cell], order: tuple[int, ...]) -> list[Box]:
    first, second, third = order
    rows: dict[tuple[int, int], set[int]] = {}
    for cell in cells:
        rows.setdefault((cell[first], cell[second]), set()).add(cell[third])
    planes: dict[int, dict[frozenset[int], set[int]]] = {}
    for (row, other), numbers in rows.items():
        planes.setdefault(row, {}).setdefault(frozenset(numbers), set()).add(other)
    merged: dict[frozenset[tuple[frozenset[int], frozenset[int]]], set[int]] = {}
    for row, plane in planes.items():
        key = frozenset((frozenset(others), numbers) for numbers, others in plane.items())
        merged.setdefault(key, set()).add(row)
    boxes = []
    for plane_key, firsts in merged.items():
        for seconds, thirds in plane_key:
            sides = dict(zip(order, (frozenset(firsts), seconds, thirds), strict=True))
            boxes.append((sides[0], sides[1], sides[2]))
    return sorted(boxes, key=lambda box: tuple(sorted(numbers) for numbers in box))
