"""The event loop of this thread, whichever library runs it: is there one, and have it run a function soon.

anyio has no neutral form of this. A task group would need an owner that lives as long as the pool, and a pool that
starts at its first request has none.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable


def in_event_loop() -> bool:
    """Whether the calling code runs inside an event loop of this thread."""
    return _scheduler() is not None


def call_soon(function: Callable[[], None]) -> bool:
    """Have the running loop call ``function`` once the current task gives way. ``False`` if this thread runs no
    loop."""
    schedule = _scheduler()
    if schedule is None:
        return False
    schedule(function)
    return True


def _scheduler() -> Callable[[Callable[[], None]], object] | None:
    try:
        return asyncio.get_running_loop().call_soon
    except RuntimeError:
        pass
    trio = sys.modules.get("trio")
    if trio is None:
        return None
    try:
        schedule: Callable[[Callable[[], None]], object] = trio.lowlevel.current_trio_token().run_sync_soon
    except RuntimeError:
        return None
    return schedule
