"""What a path through a function has paid and not yet used.

Where paths meet, the smallest credit counts. The body of a loop starts each iteration with none, so that no cycle lives
on what was paid before it; what was there is set aside, and is there again for whoever leaves the loop. Code that
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
        """Credit that arrives at the end."""
        if credit is not None:
            self.joined = credit if self.joined is None else min(self.joined, credit)


class Credit:
    """``now`` is the credit at one point of a walk through a function, ``None`` where that cannot be reached."""

    __slots__ = ("_frames", "_kept", "now")

    def __init__(self) -> None:
        self.now: int | None = 0
        self._frames: list[_Level] = []
        self._kept = 0

    @property
    def depth(self) -> int:
        """How many constructs are open."""
        return len(self._frames)

    def pay(self, amount: int) -> None:
        if self.now is not None:
            self.now += amount

    def take(self, price: int) -> bool:
        """Use so much; whether it was there."""
        if self.now is None:
            return True
        self.now -= price
        return self.now >= 0

    def open(self, *, is_loop: bool, is_if: bool) -> None:
        """A block, loop or if begins."""
        level = _Level(self.now, self._kept, is_loop=is_loop, is_if=is_if)
        self._frames.append(level)
        if is_loop and self.now is not None:
            level.kept = self.now
            self._kept += self.now
            self.now = 0

    def otherwise(self) -> bool:
        """An else begins; whether there may be one here."""
        if not self._frames or self._frames[-1].has_else:
            return False
        level = self._frames[-1]
        level.has_else = True
        level.join(self.now)
        self.now = level.entered
        return True

    def end(self) -> bool:
        """A construct ends; whether there was one."""
        if not self._frames:
            return False
        level = self._frames.pop()
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
        """A branch may be taken; whether it leads anywhere. It leaves the loops inside its target, so that what they
        set
        aside is there again."""
        if depth > len(self._frames):
            return False
        if self.now is not None and depth < len(self._frames):
            level = self._frames[-1 - depth]
            if not level.is_loop:
                level.join(self.now + self._kept - level.kept_outside)
        return True

    def leave(self) -> None:
        """What follows, up to the next else or end, cannot be reached."""
        self.now = None
