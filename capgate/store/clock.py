"""What time it is, for expiry: seconds since the epoch, from a clock that is never set back while the process lives."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Gives seconds since the epoch. Tests pass their own.
Clock = Callable[[], float]


def steady_clock(wall: Clock = time.time, monotonic: Clock = time.monotonic) -> Clock:
    """A clock that starts at ``wall`` and goes on with ``monotonic``: setting the system's clock back revives nothing.

    Setting it forward counts, and so does time that the machine slept through, which ``monotonic`` does not see.
    """
    start = wall() - monotonic()
    latest = wall()

    def now() -> float:
        nonlocal latest
        latest = max(latest, wall(), start + monotonic())
        return latest

    return now
