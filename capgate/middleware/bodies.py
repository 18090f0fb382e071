"""Reads a body that is to be hashed, hashes it as it comes, and gives it again to the application.

No piece that is hashed, or handed on, at once is larger than :data:`PIECE`, however a server cuts it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Final, Protocol

import anyio.lowlevel
from starlette.types import Message, Receive

from ..errors import BodyTimeout, MalformedInput
from ..runtime.bounded_wait import BoundedWait

#: Bytes that are hashed at once; more of them have other tasks take their turns in between. Less than 100 microseconds.
PIECE: Final = 65_536


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
        self.data = bytearray()
        self._digest = sha256()

    @property
    def hexdigest(self) -> str:
        """The SHA-256, as 64 hex digits."""
        return self._digest.hexdigest()

    async def read(self, chunks: AsyncIterator[bytes], bounds: BodyBounds) -> None:
        """Read all of ``chunks``. Raises :class:`MalformedInput` where they have more than ``bounds.body_bytes``,
        :class:`BodyTimeout`, or what ``chunks`` raise."""
        limit = bounds.body_bytes
        with BoundedWait(bounds.body_seconds) as whole, BoundedWait(bounds.body_idle_seconds) as pause:
            async for chunk in chunks:
                if len(self.data) + len(chunk) > limit:
                    raise MalformedInput(f"the body has more than {limit} bytes")
                start = len(self.data)
                self.data += chunk
                await self._hash_from(start)
                pause.renew()
        if pause.expired:
            raise BodyTimeout("body_idle_seconds", bounds.body_idle_seconds)
        if whole.expired:
            raise BodyTimeout("body_seconds", bounds.body_seconds)

    async def _hash_from(self, start: int) -> None:
        """Hash what is there from ``start`` on: never what may change meanwhile, but what is given again."""
        for at in range(start, len(self.data), PIECE):
            if at > start:
                await anyio.lowlevel.checkpoint()
            self._digest.update(self.data[at : at + PIECE])

    def again(self, receive: Receive) -> Receive:
        """Return a ``receive`` that gives the body once more, and then goes on with ``receive``."""
        return _Replay(self.data, receive)


class _Replay:
    def __init__(self, data: bytearray, receive: Receive) -> None:
        self._data: bytearray | None = data
        self._at = 0
        self._receive = receive

    async def __call__(self) -> Message:
        data = self._data
        if data is None:
            return await self._receive()
        start, self._at = self._at, self._at + PIECE
        more = self._at < len(data)
        if not more:
            self._data = None
        return {"type": "http.request", "body": bytes(data[start : self._at]), "more_body": more}


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
