"""Finds the route that a request matches, over a table of the routes of one router.

A route is left out only where the literal head of its own regular expression rules it out. Those left are asked by
their own ``matches``, in the order of the routes. So a wrong table could only misroute, and what
runs is what was found.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any, Final

from starlette._utils import get_route_path
from starlette.routing import Match, Router
from starlette.types import Scope

from .walk import Entry, included_routers, is_included, walk

#: What was found: the route, whether it matches in full, and what it adds to the scope.
Found = tuple[Entry, Match, Any]
#: In place of what was found: the table is of other routes.
STALE: Final[Any] = object()

#: What a route says of a request that is its own. By a name, because looking it up takes as long as a call otherwise.
FULL: Final = Match.FULL
_NONE: Final = Match.NONE
#: How long one answer may be to be kept for a path.
_KEPT: Final = 64
#: From how many routes on their regular expressions are asked before their ``matches``.
_MANY: Final = 3
_SPECIAL: Final = frozenset("\\.^$*+?{}[]|()")
_OPTIONAL: Final = frozenset("*?{+")


def literal_head(regex: Any) -> tuple[str, bool]:
    """Return what every path that ``regex`` matches begins with, and whether that is the whole path.

    The whole path, but for one newline at its end, which ``$`` does not see. Returns ``""`` for whatever is not known
    for certain.
    """
    pattern = getattr(regex, "pattern", None)
    if type(pattern) is not str or not pattern.startswith("^") or regex.flags != re.UNICODE:
        return "", False
    head: list[str] = []
    position, end = 1, len(pattern)
    while position < end:
        char = pattern[position]
        step = 1
        if char == "\\" and position + 1 < end and not pattern[position + 1].isalnum():
            char, step = pattern[position + 1], 2
        elif char in _SPECIAL:
            break
        if position + step < end and pattern[position + step] in _OPTIONAL:
            break
        head.append(char)
        position += step
    if _has_alternatives(pattern):
        return "", False
    return "".join(head), pattern[position:] == "$"


def _has_alternatives(pattern: str) -> bool:
    """Say whether there may be a ``|`` outside of groups."""
    if "|" not in pattern:
        return False
    depth = 0
    escaped = False
    for char in pattern:
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == "[":
            return True  # brackets may hold parentheses: not known for certain
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
        elif char == "|" and depth == 0:
            return True
    return False


class RoutesVersion:
    """The routes of ``router`` as they are now, those of included routers among them."""

    __slots__ = ("_first_included", "_is_watched", "_mark", "_router", "_routes", "_versions")

    def __init__(self, router: Router) -> None:
        self._router = router
        self._is_watched = _watch(router)
        self._mark = _CHANGES.count
        self._routes: list[Any] = list(router.routes)
        self._versions = _versions(router)
        #: The index of the first included router among the routes.
        self._first_included = next((index for index, route in enumerate(self._routes) if is_included(route)), None)

    def is_current(self) -> bool:
        """Say whether the routes are still the same."""
        try:
            if self._router.routes != self._routes:
                return False
        except Exception:  # routes are compared that are not the same, and whose comparison is the application's
            return False
        if self._first_included is None or (self._is_watched and self._mark == _CHANGES.count):
            return True
        mark = _CHANGES.count
        if _versions(self._router) != self._versions:
            return False
        self._mark = mark
        return True


class Table(RoutesVersion):
    """The routes of ``router``, by what their paths begin with."""

    __slots__ = ("_after", "_deepest", "_entries", "_exact", "_few", "_literal", "_open")

    def __init__(self, router: Router) -> None:
        super().__init__(router)
        #: In the order in which they are tried.
        self._entries: list[Entry] = list(walk(router))
        #: Positions of the entries that match one literal path only, by that path.
        self._literal: dict[str, list[int]] = {}
        #: Entries that may match a literal path, once it was asked for.
        self._exact: dict[str, tuple[Entry, ...]] = {}
        after: dict[str, list[int]] = {"": []}
        for position, entry in enumerate(self._entries):
            regex = entry.regex
            head, whole = ("", False) if regex is None else literal_head(regex)
            if whole:
                self._literal.setdefault(head, []).append(position)
            else:
                after.setdefault(head[: head.rfind("/") + 1], []).append(position)
        #: The others, by position, by the whole segments of their heads; with those of all shorter heads.
        self._after: dict[str, dict[int, Entry]] = {}
        self._deepest = max(key.count("/") for key in after)
        for key in sorted(after, key=len):
            around = self._after[self._key(key[:-1])] if key else ()
            positions = sorted({*after[key], *around})
            self._after[key] = {position: self._entries[position] for position in positions}
        self._open = {key: tuple(entries.values()) for key, entries in self._after.items()}
        #: All of them, where none is worth leaving out.
        self._few = tuple(self._entries) if len(self._entries) < _MANY else ()

    def find(self, scope: Scope) -> Any:
        """Return the first route that matches in full, else the first that matches in part, else ``None``.

        That is :data:`Found`. Returns :data:`STALE` where the routes are no longer the same.
        """
        partial: Found | None = None
        first_included = self._first_included
        try:  # as is_current() does, in nearly every case
            if self._router.routes != self._routes or (first_included is not None and not self.is_current()):
                return STALE
        except Exception:
            return STALE
        path = get_route_path(scope) if scope.get("root_path") else scope["path"]  # as that says, without its frame
        for entry in self._few or self._exact.get(path) or self.candidates(path):
            match, child = entry.top.matches(scope) if entry.simple else entry.match(scope)
            if match is FULL:
                if self._routes[entry.index] is not self._router.routes[entry.index]:
                    return STALE  # an equal one took its place
                if first_included is not None and entry.index >= first_included:
                    scope.setdefault("fastapi", {})
                return entry, match, child
            if match is not _NONE and partial is None:
                partial = entry, match, child
        if first_included is not None:
            scope.setdefault("fastapi", {})  # as a search does that comes by an included router
        return partial

    def candidates(self, path: str) -> Sequence[Entry]:
        """Return those routes, in their order, that are not ruled out for ``path``."""
        key = self._key(path)
        literal = self._literal.get(path)
        if literal is None and path.endswith("\n"):
            literal = self._literal.get(path[:-1])
        if literal is None:
            entries = self._open[key]
            return entries if len(entries) < _MANY else [entry for entry in entries if _may_match(entry, path)]
        chosen = tuple(self._entries[position] for position in sorted([*literal, *self._after[key]]))
        if len(chosen) >= _MANY:
            chosen = tuple(entry for entry in chosen if _may_match(entry, path))
        if len(chosen) <= _KEPT and not path.endswith("\n"):
            self._exact[path] = chosen
        return chosen

    def _key(self, path: str) -> str:
        """Return the longest key of the table that is whole segments of ``path`` from its start."""
        after = self._after
        end = -1
        for _ in range(self._deepest):  # no longer than the longest key, however many slashes there are
            following = path.find("/", end + 1)
            if following < 0:
                break
            end = following
        while end >= 0:
            key = path[: end + 1]
            if key in after:
                return key
            end = path.rfind("/", 0, end)
        return ""


def _may_match(entry: Entry, path: str) -> bool:
    regex = entry.regex
    return regex is None or regex.match(path) is not None


# -- when FastAPI's routers change


class _Changes:
    """How often routes were added to FastAPI's routers, by the ways that it has for that."""

    def __init__(self) -> None:
        self.count = 0
        self.hook: Any = None


_CHANGES: Final = _Changes()


def _watch(router: Router) -> bool:
    """Say whether each change of the routers included in ``router`` is counted from now on."""
    module = sys.modules.get("fastapi.routing")
    if module is None:
        return False
    if _CHANGES.hook is None:
        _CHANGES.hook = _hook(module.APIRouter)
    return all(getattr(type(inner), _MARKER, None) is _CHANGES.hook for inner in included_routers(router))


def _hook(router_class: Any) -> Any:
    original = getattr(router_class, _MARKER, None)
    if original is None:
        return _CHANGES

    def _mark_routes_changed(self: Any) -> None:
        original(self)
        _CHANGES.count += 1  # afterwards, or another thread could take the old version for the new one

    setattr(router_class, _MARKER, _mark_routes_changed)
    return _mark_routes_changed


#: What FastAPI's routers call when routes were added.
_MARKER: Final = "_mark_routes_changed"


def _versions(router: Any) -> list[Any]:
    """Return the versions of the routers that are included in ``router``."""
    return [getattr(inner, "_routes_version", None) for inner in included_routers(router)]
