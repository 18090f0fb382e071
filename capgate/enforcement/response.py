"""Refuses a client that was denied: with the same few bytes whatever the reason, which is for the log."""

from __future__ import annotations

import logging
from typing import Any, Final

import msgspec
from starlette.types import Scope, Send

from ..events import printable

_log = logging.getLogger("capgate")

STATUS: Final = 403
#: RFC 6455, section 7.4.1: "policy violation".
CLOSE_CODE: Final = 1008
#: Bytes of a close reason, by RFC 6455, section 5.5.
CLOSE_REASON: Final = 123


async def refuse(
    scope: Scope, send: Send, decision_id: str, reason: str | None = None, *, accepted: bool = False
) -> None:
    """Tell the client that it was denied. Nothing is read from the client; one that is gone raises nothing.

    ``reason`` is only given where a client may know it. ``http``: 403 with an RFC 9457 problem document. ``websocket``:
    the same where the server can (extension ``websocket.http.response``), else closed, at the latest after it was
    ``accepted``. Any other type of scope has no answer that could be known.
    """
    try:
        if scope.get("type") == "http":
            await _respond(send, "http.response", decision_id, reason, empty=scope.get("method") == "HEAD")
        elif scope.get("type") == "websocket":
            if not accepted and "websocket.http.response" in (scope.get("extensions") or {}):
                await _respond(send, "websocket.http.response", decision_id, reason)
            else:
                text = (printable(reason) or "")[:CLOSE_REASON]
                await send({"type": "websocket.close", "code": CLOSE_CODE, "reason": text})
    except Exception as error:
        _log.debug("a denial could not be sent: %s", type(error).__name__)


async def _respond(send: Send, response: str, decision_id: str, reason: str | None, *, empty: bool = False) -> None:
    body = problem(decision_id, reason)
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode("ascii")),
        (b"cache-control", b"no-store"),
        (b"vary", b"*"),
    ]
    await send({"type": f"{response}.start", "status": STATUS, "headers": headers})
    await send({"type": f"{response}.body", "body": b"" if empty else body})


def problem(decision_id: str, reason: str | None = None) -> bytes:
    """Return the body of a denial: RFC 9457, with the decision id that the event in the log has too."""
    fields: dict[str, Any] = {
        "type": "about:blank",
        "title": "Forbidden",
        "status": STATUS,
        "decision_id": decision_id,
    }
    if reason is not None:
        fields["reason"] = printable(reason)
    return msgspec.json.encode(fields)
