"""What comes too late on however busy a machine."""

from __future__ import annotations

import anyio


async def until_cancelled() -> None:
    """Wait until whoever waits for this gives up, and a moment more: a limit of time may pass late, never early."""
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.001)
