"""Refuses a client that was denied: with the same few bytes whatever the reason, which is for the log."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from starlette.types import Message, Scope, Send

from ..events import printable
from ..log_writer import BackgroundLogger
from ..model import REASONS, Anonymous, Deny, PolicyInput, Reason

_log = BackgroundLogger("capgate")

STATUS: Final = 403
#: RFC 9110, section 15.5.2: for who is not logged in, together with how to.
LOGIN_STATUS: Final = 401
#: Codes with which a policy says that somebody else might be admitted.
_OF_POLICY: Final = frozenset({Reason.NOT_IN_ALLOWLIST, Reason.MISSING_FACT})
_TITLES: Final = {STATUS: "Forbidden", LOGIN_STATUS: "Unauthorized"}
_CONTENT_TYPE: Final = (b"content-type", b"application/problem+json")
_NO_STORE: Final = (b"cache-control", b"no-store")
_VARY: Final = (b"vary", b"*")
#: Seconds (RFC 9110, section 10.2.3) after which a client may try again that was denied because of overload.
RETRY_AFTER: Final = b"1"
#: RFC 6455, section 7.4.1: "policy violation".
CLOSE_CODE: Final = 1008
#: Bytes of a close reason, by RFC 6455, section 5.5.
CLOSE_REASON: Final = 123


def asks_for_login(input: PolicyInput | None, result: object) -> bool:
    """Say whether the denial ``result`` might have been an allow if somebody had been logged in.

    So it is where a policy denied nobody in particular what it was asked for. That is by its own words, as not
    admitted, or for want of a fact, which may be one of the actor. A fault is none of that, nor what no policy admits
    for anyone.
    """
    if type(input) is not PolicyInput or type(input.actor) is not Anonymous or type(result) is not Deny:
        return False
    reason = result.reason
    return type(reason) is str and (reason in _OF_POLICY or reason not in REASONS)


async def refuse(
    scope: Scope,
    send: Send,
    decision_id: str,
    reason: str | None = None,
    *,
    accepted: bool = False,
    challenge: str | None = None,
    body: bytes | None = None,
) -> None:
    """Tell the client that it was denied. Nothing is read from the client; one that is gone raises nothing.

    ``reason`` is only given where a client may know it; with that of overload goes a ``Retry-After``. ``body`` is what
    :func:`problem` gives, for who has it already.

    An ``http`` request gets 403 with an RFC 9457 problem document. With a ``challenge`` it gets 401, and that as
    ``WWW-Authenticate`` (RFC 9110, section 11.6.1). A ``websocket`` gets 403 where the server can (extension
    ``websocket.http.response``). Else it is closed, at the latest after it was ``accepted``. Any other type of scope
    has no answer that could be known.
    """
    try:
        if scope.get("type") == "http":
            start, end = _response("http.response", decision_id, reason, challenge, body)
            if scope.get("method") == "HEAD":
                end["body"] = b""
            await send(start)
            await send(end)
        elif scope.get("type") == "websocket":
            if not accepted and "websocket.http.response" in (scope.get("extensions") or {}):
                for message in _response("websocket.http.response", decision_id, reason):
                    await send(message)
            else:
                text = (printable(reason) or "")[:CLOSE_REASON]
                await send({"type": "websocket.close", "code": CLOSE_CODE, "reason": text})
    except Exception as error:
        _log.debug("a denial could not be sent: %s", type(error).__name__)


def _response(
    response: str,
    decision_id: str,
    reason: str | None,
    challenge: str | None = None,
    body: bytes | None = None,
) -> tuple[Message, Message]:
    status = STATUS if challenge is None else LOGIN_STATUS
    if body is None:
        body = problem(decision_id, reason, status)
    headers = [_CONTENT_TYPE, (b"content-length", b"%d" % len(body)), _NO_STORE, _VARY]
    if challenge is not None:
        headers.append((b"www-authenticate", challenge.encode("ascii")))
    if reason == Reason.POOL_EXHAUSTED:  # which only a client sees that may know it
        headers.append((b"retry-after", RETRY_AFTER))
    start = {"type": f"{response}.start", "status": status, "headers": headers}
    return start, {"type": f"{response}.body", "body": body}


def problem(decision_id: str, reason: str | None = None, status: int = STATUS) -> bytes:
    """Return the body of a denial: RFC 9457, with the decision id that the event in the log has too."""
    if (
        reason is None
        and status == STATUS
        and type(decision_id) is str
        and decision_id.isascii()
        and decision_id.isalnum()
    ):
        return _USUAL_PROBLEM % decision_id.encode()  # as is made below, in half the time
    fields: dict[str, Any] = {
        "type": "about:blank",
        "title": _TITLES[status],
        "status": status,
        "decision_id": decision_id,
    }
    if reason is not None:
        fields["reason"] = printable(reason)
    return msgspec.json.encode(fields)


#: What a stranger is told, but for the decision id. A test compares it with what is encoded.
_USUAL_PROBLEM: Final = b'{"type":"about:blank","title":"Forbidden","status":403,"decision_id":"%s"}'


#: A denial that was told to a handler is in the way of at most so many bytes of a response of status 5xx.
HELD_BYTES: Final = 65_536


class HeldResponse:
    """Holds a response with a server error back, until it is certain whether a denial is behind it.

    A handler was told of a denial, and a response with a status of 500 or more begins. Either it is the handler's own
    answer, or what a framework makes of an exception that nobody handled and then raises again, as Starlette's
    ``ServerErrorMiddleware`` does. What is certain is only whether the denial comes out of the application afterwards.
    So the response waits until the application returned or raised: then it is sent as it was, or is dropped for the
    denial. One of more than :data:`HELD_BYTES` is sent at once, as the handler's own.
    """

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._size = 0

    def add(self, message: Message) -> bool:
        """Keep ``message``. Return ``False`` where that is too much to wait with."""
        self._messages.append(message)
        body = message.get("body", b"")
        self._size += len(body) if isinstance(body, (bytes, bytearray, memoryview)) else 0
        return self._size <= HELD_BYTES and len(self._messages) <= HELD_BYTES // 64

    async def send(self, send: Send) -> None:
        """Send what was held back, in its order."""
        messages, self._messages = self._messages, []
        for message in messages:
            await send(message)


def is_server_error(message: Message) -> bool:
    """Say whether ``message`` begins a response of HTTP with a status of 500 or more."""
    return bool(message["type"] == "http.response.start" and message["status"] >= 500)
