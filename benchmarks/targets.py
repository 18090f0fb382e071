"""What is to be reached, and whether it was."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A ratio that must be at most ``limit``, or with ``at_least`` at least that. ``value`` is ``None`` where a part
    of it could not be measured; such a target is not reached."""

    name: str
    value: float | None
    limit: float
    at_least: bool = False

    @property
    def reached(self) -> bool:
        if self.value is None:
            return False
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def verdict(self) -> str:
        """``reached``, ``MISSED`` or ``not measured``."""
        if self.value is None:
            return "not measured"
        return "reached" if self.reached else "MISSED"


def exit_code(targets: Iterable[Target], strict: bool) -> int:
    """1 where ``strict`` and a target was not reached, else 0."""
    return int(strict and not all(target.reached for target in targets))
