"""Follows what a path through a function has paid and not yet used.

Where paths meet, the smallest credit counts. The body of a loop starts each iteration with none, so that no cycle lives
on what was paid before it. What was there is set aside, and is there again for whoever leaves the loop. Code that
cannot be reached has no credit, which is another thing than a credit of nothing.
"""

from __future__ import annotations


class _Level:
    """An open construct: the smallest credit that branched to its end, and what was set aside outside of it."""

    __slots__ = ("entered", "has_else", "is_loop", "joined", "kept", "kept_outside")

    def __init__(self, entered: int | None, kept_outside: int, *, is_loop: bool, is_if: bool) -> None:
        self.entered = entered
        self.kept_outside = kept_outside
        self.is_loop = is_loop
        self.has_else = not is_if
        self.kept = 0
        self.joined: int | None = None

    def join(self, credit: int | None) -> None:
        """Count the credit that arrives at the end."""
        if credit is not None:
            self.joined = credit if self.joined is None else min(self.joined, credit)


class Credit:
    """``now`` is the credit at one point of a walk through a function, ``None`` where that cannot be reached."""

    __slots__ = ("_kept", "_levels", "now")

    def __init__(self) -> None:
        self.now: int | None = 0
        self._levels: list[_Level] = []
        self._kept = 0

    @property
    def depth(self) -> int:
        """How many constructs are open."""
        return len(self._levels)

    def pay(self, amount: int) -> None:
        if self.now is not None:
            self.now += amount

    def take(self, price: int) -> bool:
        """Use so much. Says whether it was there."""
        if self.now is None:
            return True
        self.now -= price
        return self.now >= 0

    def open(self, *, is_loop: bool, is_if: bool) -> None:
        """Begin a block, loop or if."""
        level = _Level(self.now, self._kept, is_loop=is_loop, is_if=is_if)
        self._levels.append(level)
        if is_loop and self.now is not None:
            level.kept = self.now
            self._kept += self.now
            self.now = 0

    def otherwise(self) -> bool:
        """Begin an else. Says whether there may be one here."""
        if not self._levels or self._levels[-1].has_else:
            return False
        level = self._levels[-1]
        level.has_else = True
        level.join(self.now)
        self.now = level.entered
        return True

    def end(self) -> bool:
        """End a construct. Says whether there was one."""
        if not self._levels:
            return False
        level = self._levels.pop()
        self._kept = level.kept_outside
        if level.is_loop:
            self.pay(level.kept)
            return True
        level.join(self.now)
        if not level.has_else:
            level.join(level.entered)
        self.now = level.joined
        return True

    def branch(self, depth: int) -> bool:
        """Take a branch, perhaps. Says whether it leads anywhere. It leaves the loops inside its target, so that what
        they set aside is there again."""
        if depth > len(self._levels):
            return False
        if self.now is not None and depth < len(self._levels):
            level = self._levels[-1 - depth]
            if not level.is_loop:
                level.join(self.now + self._kept - level.kept_outside)
        return True

    def leave(self) -> None:
        """Note that what follows cannot be reached, up to the next else or end."""
        self.now = None
