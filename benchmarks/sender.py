"""``python -m benchmarks.sender``: sends requests over loopback, so many as each line of its input says.

A line is a port, a number of requests, and the number in the path of the first one; with a fourth word, the paths go
through so many names again and again. When all were answered with 200 it prints how many seconds that took.
"""

from __future__ import annotations

import asyncio
import sys
from time import perf_counter
from typing import Any

CONNECTIONS = 16
SECONDS = 60.0


class Connection(asyncio.Protocol):
    """One connection that is kept: sends the next request once the last was answered."""

    def __init__(self, sending: Sending) -> None:
        self._sending = sending
        self._received = b""
        self._closed = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        if not head.startswith(b"HTTP/1.1 200 "):
            self._sending.end(RuntimeError(f"answered {head[:64]!r}"))
            self._transport.close()
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) >= length:
            self._received = b""
            self._sending.answered()
            self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._closed:
            self._sending.end(error or RuntimeError("the server closed the connection"))

    def _send(self) -> None:
        request = self._sending.next()
        if request is None:
            self._closed = True
            self._transport.close()
        else:
            self._transport.write(request)


class Sending:
    """So many requests, by whichever connection is free."""

    def __init__(self, count: int, first: int, names: int | None) -> None:
        self._left = self._unanswered = count
        self._number, self._names = first, names
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def next(self) -> bytes | None:
        """The next request; ``None`` where all were sent."""
        if not self._left:
            return None
        self._left -= 1
        number = self._number
        self._number += 1
        path = number if self._names is None else number % self._names
        return (
            b"POST /queries/query_%09d HTTP/1.1\r\nHost: localhost\r\nX-User: user_000001\r\n"
            b"Content-Length: 0\r\nUser-Agent: bench\r\n\r\n" % path
        )

    def answered(self) -> None:
        """Count an answer."""
        self._unanswered -= 1
        if not self._unanswered and not self.done.done():
            self.done.set_result(None)

    def end(self, error: Exception) -> None:
        """Give up, unless all were answered."""
        if self._unanswered and not self.done.done():
            self.done.set_exception(error)


async def send(port: int, count: int, first: int, names: int | None) -> float:
    """Seconds that ``count`` requests took. Raises for an answer that is no 200, and after :data:`SECONDS`."""
    sending = Sending(count, first, names)
    loop = asyncio.get_running_loop()
    started = perf_counter()
    for _ in range(min(CONNECTIONS, count)):
        await loop.create_connection(lambda: Connection(sending), "127.0.0.1", port)
    await asyncio.wait_for(sending.done, SECONDS)
    return perf_counter() - started


def main() -> None:
    """Do as the lines of the standard input say."""
    for line in sys.stdin:
        port, count, first, *names = map(int, line.split())
        print(asyncio.run(send(port, count, first, names[0] if names else None)), flush=True)


if __name__ == "__main__":
    import uvloop

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    main()
