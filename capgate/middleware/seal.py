"""Lets no response begin that was not decided about.

A :class:`Seal` is around one request. It opens after an allow. Of a route that asks in dependencies, and has not yet,
only what says no may pass: a status of 400 or more. Where no route was reached, and settings let strangers know that,
only a status with which the framework says so may pass: :data:`UNROUTED_STATUSES`. After a denial only the denial
passes. Whatever else is sent, by a cache, by middleware that answers itself or by an application that nobody declared,
is replaced by a denial.

A handler that was told of a denial may answer with what it likes. Only a server error waits until the application
returned or raised, because it may be what a framework makes of a denial that nobody handled: see :class:`HeldResponse`.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Final

import msgspec
from starlette.types import Message, Scope, Send

from ..enforcement.point import denial_in
from ..enforcement.response import STATUS, HeldResponse, is_server_error, problem, refuse
from ..events import new_decision_id
from ..log_writer import BackgroundLogger
from ..model import Decision, PolicyInput

_log = BackgroundLogger("capgate")

#: What a response begins with; early hints and the like may come before it.
_BEGINNINGS: Final = frozenset(
    {"http.response.start", "websocket.accept", "websocket.close", "websocket.http.response.start"}
)

#: Nothing was decided.
CLOSED: Final = 0
#: Something was allowed, or is open.
OPEN: Final = 1
#: It was left to the route to ask, which it has not done yet.
ASKING: Final = 2
#: It was denied, for good.
DENIED: Final = 3
#: No route was reached, and nothing of the application's runs.
UNROUTED: Final = 4

#: What the framework answers where no route was reached: a redirect to a path with or without a slash, 404 and 405.
UNROUTED_STATUSES: Final = frozenset({307, 308, 404, 405})


class Seal(msgspec.Struct, eq=False):
    """The response of one request. ``send`` is what to pass on.

    A Struct, because it is made in a third of the time that an ``__init__`` in Python takes, once for each request.
    """

    scope: Scope
    _send: Send
    _state: int = CLOSED
    _began: bool = False  # a response, or a websocket was accepted
    denied: bool = False  # for good
    over: bool = False  # the denial was sent, and nothing else will be
    _raised: Decision | None = None  # the last denial that a handler was told of
    _reason: str | None = None  # why the request was denied
    _denial_id: str | None = None  # of the event of that
    _denial: bytes = b""  # the body of the denial, once it is sent
    _challenge: str | None = None  # how to log in, where that might have helped
    _status: int = STATUS  # of the denial
    _held: Message | None = None  # the start of what may be the denial
    waiting: HeldResponse | None = None  # what may stand for a denial that a handler was told of
    ended: bool = False  # the request, and what it was handed where settings say so

    @property
    def decided(self) -> bool:
        """Whether something was allowed, or is open."""
        return self._state == OPEN or self._state == ASKING

    def send(self, message: Message) -> Awaitable[None]:
        """Pass ``message`` on, if that was decided."""
        if self._state == OPEN and self._raised is None:
            if not self._began:
                self._began = message["type"] in _BEGINNINGS
            return self._send(message)
        if self._state == DENIED and not self.over and not self._began:
            return self._send_denied(message)
        return self._send_sealed(message)

    async def _send_sealed(self, message: Message) -> None:
        if self.over:
            return
        name = message["type"]
        if self.waiting is not None and self._state != DENIED:
            if not self.waiting.add(message):
                await self.finish()
        elif self._began:
            await self._send(message)
        elif self._state == DENIED:
            await self._send_denied(message)
        elif name not in _BEGINNINGS:
            if self._state == OPEN:
                await self._send(message)
        elif self._raised is not None and is_server_error(message):
            self.waiting = HeldResponse()
            self.waiting.add(message)
        elif self._state == OPEN or self._may_begin(message) or self.settle_response():
            self._began = True
            await self._send(message)
        else:
            await self.refuse_now()

    def _may_begin(self, message: Message) -> bool:
        """Say whether a response may begin that no policy was asked about."""
        if self._state == UNROUTED:
            return message.get("status") in UNROUTED_STATUSES
        return self._state == ASKING and _says_no(message)

    async def _send_denied(self, message: Message) -> None:
        """Pass on the denial as it was made by :meth:`refuse`, with what middleware added to its headers."""
        name = message["type"]
        if name == "websocket.close":
            self.over = True
            await self._send(message)
        elif name.endswith("response.start") and message["status"] == self._status and self._held is None:
            self._held = message
        elif (
            name.endswith("response.body")
            and self._held is not None
            and not message.get("more_body", False)
            and message.get("body", b"") in (b"", self._denial)
        ):
            self.over = self._began = True
            await self._send(self._held)
            await self._send(message)
        elif name in _BEGINNINGS or name.endswith("response.body"):
            await self.refuse_now()

    # -- denials

    def _challenge_for(self, input: PolicyInput | None, result: object) -> str | None:
        """Return how to log in, where that might help against the denial ``result`` to ``input``."""
        raise NotImplementedError

    def settle_response(self) -> bool:
        """Deny the request, because it was answered and nothing was asked. Say whether it goes on all the same."""
        raise NotImplementedError

    @property
    def _shown_reason(self) -> str | None:
        """Why it was denied, where clients may know."""
        raise NotImplementedError

    def stand_aside(self) -> None:
        """Let pass what a gate further outside answers in place of the application."""
        self._state = OPEN

    def refuse(self, scope: Scope, send: Send) -> Awaitable[None]:
        """Send the denial, by the ``send`` of where it was denied, so that middleware on the way may add to it."""
        id = self._denial_id
        if id is None:
            self._denial_id = id = new_decision_id()
        reason, challenge = self._shown_reason, self._challenge
        self._denial = body = problem(id, reason, self._status)
        return refuse(scope, send, id, reason, accepted=self._began, challenge=challenge, body=body)

    async def refuse_now(self) -> None:
        """Make the denial the response, past whatever stands inside."""
        if self.over:
            return
        self.over = True
        if not self._began or self.scope.get("type") != "http":
            await self.refuse(self.scope, self._send)
            self._began = True

    async def replace(self, denial: Decision) -> None:
        """Make a denial that a handler was told of the response; of a websocket that was accepted, its end."""
        self.over = True
        self._reason = getattr(denial.result, "reason", None)
        id, challenge = denial.decision_id or new_decision_id(), self._challenge_for(denial.input, denial.result)
        await refuse(self.scope, self._send, id, self._shown_reason, accepted=self._began, challenge=challenge)
        self._began = True

    async def answers(self, error: Exception) -> bool:
        """Say whether ``error`` is a denial that is now the response, or was already."""
        denial = denial_in(error)
        if denial is None:
            if self.waiting is not None:
                try:
                    await self.finish()
                except Exception as gone:  # the application's own error is the one to be told
                    _log.debug("a response could not be sent: %s", type(gone).__name__)
            return False
        if self.over:
            return True
        if self._began and self.scope["type"] == "http":
            return False
        self.waiting = None
        if self._state == DENIED:
            await self.refuse_now()
        else:
            await self.replace(denial)
        return True

    async def finish(self) -> None:
        """Send what was held back, since nobody raised the denial; or the request's own denial, if it got lost inside.

        Nothing that was held back is sent where nothing was decided, or where the request was denied meanwhile.
        """
        waiting, self.waiting = self.waiting, None
        if self.over or self._began:
            return
        if waiting is not None and self.decided:
            self._began = True
            await waiting.send(self._send)
            return
        if not self.settle_response():
            await self.refuse_now()
        elif waiting is not None:
            self._began = True
            await waiting.send(self._send)

    def note(self, denial: Decision) -> None:
        """Note that a handler is told of ``denial``."""
        if self._raised is None and not self.denied:
            self.over = False
        self._raised = denial

    def note_allow(self) -> None:
        """Note that code behind the gate asked, and was allowed."""
        if self._state == ASKING:
            self._state = OPEN

    # What a Struct can do and this must not: show the request with all its headers.

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []

    __repr__ = object.__repr__


def _says_no(message: Message) -> bool:
    return bool(message["type"] == "websocket.close" or message.get("status", 0) >= 400)
