"""Reads a body that is to be hashed, hashes it as it comes, and gives it again to the application.

No piece that is hashed, or handed on, at once is larger than :data:`PIECE`, however a server cuts it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Final, Protocol

import anyio.lowlevel
from starlette.types import Message, Receive

from ..errors import BodyTimeout, MalformedInput
from ..runtime.bounded_wait import BoundedWait

#: Bytes that are hashed at once; more of them have other tasks take their turns in between. Less than 100 microseconds.
PIECE: Final = 65_536
#: Chunks with fewer bytes are put together.
SMALL: Final = 4_096


class BodyBounds(Protocol):
    """How much of a body is read, and for how long that is waited for."""

    @property
    def body_bytes(self) -> int: ...

    @property
    def body_seconds(self) -> float: ...

    @property
    def body_idle_seconds(self) -> float: ...


class HashedBody:
    """A body in memory, and its SHA-256 as far as it was read."""

    def __init__(self) -> None:
        self.size = 0
        self._pieces: deque[bytes] = deque()
        self._small = bytearray()  # what came in small chunks, which would take more memory one by one
        self._digest = sha256()

    @property
    def hexdigest(self) -> str:
        """The SHA-256, as 64 hex digits."""
        return self._digest.hexdigest()

    @property
    def data(self) -> bytes:
        """All of it."""
        return b"".join((*self._pieces, self._small))

    async def read(self, chunks: AsyncIterator[bytes], bounds: BodyBounds) -> None:
        """Read all of ``chunks``. Raises :class:`MalformedInput` where they have more than ``bounds.body_bytes``,
        :class:`BodyTimeout`, or what ``chunks`` raise."""
        limit = bounds.body_bytes
        with BoundedWait(bounds.body_seconds) as whole, BoundedWait(bounds.body_idle_seconds) as pause:
            async for chunk in chunks:
                self.size += len(chunk)
                if self.size > limit:
                    raise MalformedInput(f"the body has more than {limit} bytes")
                for start in range(0, len(chunk), PIECE):
                    if start:
                        await anyio.lowlevel.checkpoint()
                    self._add(bytes(chunk[start : start + PIECE]))  # a copy only where it is no bytes, or is cut
                pause.renew()
        if pause.expired:
            raise BodyTimeout("body_idle_seconds", bounds.body_idle_seconds)
        if whole.expired:
            raise BodyTimeout("body_seconds", bounds.body_seconds)

    def _add(self, piece: bytes) -> None:
        self._digest.update(piece)
        if len(self._small) + len(piece) > PIECE or len(piece) >= SMALL:
            self._put_away()
        if len(piece) >= SMALL:
            self._pieces.append(piece)
        else:
            self._small += piece

    def _put_away(self) -> None:
        if self._small:
            self._pieces.append(bytes(self._small))
            self._small.clear()

    def again(self, receive: Receive) -> Receive:
        """Return a ``receive`` that gives the body once more, in pieces, and then goes on with ``receive``."""
        self._put_away()
        pieces, ended = self._pieces, False

        async def receive_again() -> Message:
            nonlocal ended
            if ended:
                return await receive()
            body = pieces.popleft() if pieces else b""
            ended = not pieces
            return {"type": "http.request", "body": body, "more_body": not ended}

        return receive_again


class Chunks:
    """The pieces of a request's body as ``receive`` gives them. Raises :class:`MalformedInput` where something else
    comes. No generator, which somebody would have to close."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._more = True

    def __aiter__(self) -> Chunks:
        return self

    async def __anext__(self) -> bytes:
        if not self._more:
            raise StopAsyncIteration
        message = await self._receive()
        if message["type"] != "http.request":
            raise MalformedInput(f"{message['type']} where a body was declared")
        self._more = message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk
