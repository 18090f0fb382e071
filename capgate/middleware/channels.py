"""What passes between the server and an application behind the gate: ``receive`` and ``send`` of one request.

``send`` notes when a response began, since a denial can be the response only before that. ``receive`` gives the
application a body that the gate read for its hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable
from typing import Any, Final, NoReturn

import msgspec
from starlette.types import Message, Receive, Scope, Send

from ..enforcement.capabilities import Capabilities
from ..enforcement.denials import denial_in
from ..enforcement.response import refuse
from ..errors import MalformedInput
from ..events import new_decision_id
from ..model import Decision, PolicyResult
from .gate import Gate, GateSource

#: What a response begins with; early hints and the like may come before it.
_BEGINNINGS: Final = frozenset(
    {"http.response.start", "websocket.accept", "websocket.close", "websocket.http.response.start"}
)


class Channels(Capabilities, msgspec.Struct, eq=False):
    """The channels of one request, and the denial that may take the place of its response. ``receive`` and ``send`` are
    what to pass on.

    A Struct, because it is made in a third of the time that an ``__init__`` in Python takes, once for each request.
    """

    _source: GateSource
    scope: Scope
    receive: Receive
    _send: Send
    _gate: Gate | None  # what judges the request; none while nothing has started
    _began: bool = False
    _raised: Decision | None = None  # the last denial that a handler was told of
    _replaced: bool = False

    def send(self, message: Message) -> Awaitable[None]:
        """Pass ``message`` on. Once a response began, a denial can no longer be it."""
        if self._raised is not None:
            return self._send_after_denial(self._raised, message)
        if not self._began:
            self._began = message["type"] in _BEGINNINGS
        return self._send(message)

    async def refuse(self, result: PolicyResult, decision_id: str | None) -> None:
        """Make the denial the response; of a websocket that was accepted, its end."""
        reason = getattr(result, "reason", None) if self._source.exposes_reasons else None
        await refuse(self.scope, self._send, decision_id or new_decision_id(), reason, accepted=self._began)
        self._began = True

    async def answers(self, error: Exception) -> bool:
        """Whether ``error`` is a denial that is now the response, or was already."""
        denial = denial_in(error)
        if denial is None:
            return False
        if self._raised is not None and self._replaced:
            return True
        if self._began and self.scope["type"] == "http":
            return False
        await self.refuse(denial.result, denial.decision_id)
        return True

    def _note(self, denial: Decision) -> None:
        if self._raised is None:
            self._replaced = False
        self._raised = denial

    async def _send_after_denial(self, denial: Decision, message: Message) -> None:
        """A handler was denied, and something is sent. A server error is what frameworks make of an exception that
        they do not know, and becomes the denial; any other response is the handler's own."""
        if self._replaced:
            return
        if not self._began and message["type"] == "http.response.start" and message["status"] >= 500:
            self._replaced = True
            await self.refuse(denial.result, denial.decision_id)
            return
        self._began = self._began or message["type"] in _BEGINNINGS
        await self._send(message)

    async def _hash_body(self, limit: int) -> str:
        """SHA-256 of the body in 64 hex digits; the body, of at most ``limit`` bytes, is kept for the application.
        Raises :class:`MalformedInput`, or what ``receive`` raises."""
        chunks, size, more = [], 0, True
        while more:
            message = await self.receive()
            if message["type"] != "http.request":
                raise MalformedInput(f"{message['type']} where a body was declared")
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise MalformedInput(f"the body has more than {limit} bytes")
            if chunk:
                chunks.append(chunk)
            more = message.get("more_body", False)
        body = b"".join(chunks)
        self.receive = _replay(body, self.receive)
        return hashlib.sha256(body).hexdigest()

    # What a Struct can do and this must not: be copied, or show the request with all its headers.

    def __copy__(self) -> NoReturn:
        self.__reduce__()

    def __replace__(self, **changes: Any) -> NoReturn:
        self.__reduce__()

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []

    __repr__ = object.__repr__


def _replay(body: bytes, receive: Receive) -> Receive:
    replayed = False

    async def receive_again() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
