"""Reads JSON-RPC 2.0 messages so strictly that no other parser can see something else in them.

Rejected, since parsers differ there:

- anything but UTF-8, a byte order mark, and lone surrogates
- a key twice in one object; of a message also a key that differs in case only, which some take for the same
- NaN and infinity
- members that no message has

Rejected to stay bounded: nesting deeper than :data:`DEPTH`, more than :data:`VALUES` values in a body.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any, Final, Union

import msgspec

from ...policy.strict import StrictDecoder

#: Error codes of JSON-RPC 2.0, section 5.1.
PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
#: MCP 2026-07-28: headers that do not agree with the body.
HEADER_MISMATCH: Final = -32020
#: Denied by a policy. From the range that MCP leaves to implementations (-32000 to -32019), where -32000 to -32004 and
#: -32042 have other meanings in SDKs or earlier revisions, and -32001 to -32009 in A2A.
DENIED: Final = -32010

DEPTH: Final = 64
VALUES: Final = 32_768
#: Messages in one batch.
BATCH: Final = 50

Id = Union[str, int]
_MEMBERS: Final = frozenset({"jsonrpc", "id", "method", "params", "result", "error"})
_METHOD: Final = re.compile(r"[!-~]{1,256}", re.ASCII)


class ProtocolError(Exception):
    """What a client is told in place of an answer.

    An HTTP ``status``, a JSON-RPC error ``code``, and the ``id`` of the request at fault, if that is known. The text
    goes to the client, and quotes nothing.
    """

    def __init__(self, code: int, message: str, *, status: int = 400, id: Id | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.id = id


class Message(msgspec.Struct, frozen=True):
    """One message, of which ``raw`` is all.

    A request has a ``method`` and an ``id``, a notification only a ``method``. A response has only an ``id``, which is
    ``None`` where an error is not about any request.
    """

    method: str | None
    id: Id | None
    params: dict[str, Any]
    raw: dict[str, Any]

    @property
    def wants_answer(self) -> bool:
        return self.method is not None and self.id is not None


def read_body(body: bytes) -> Message | list[Message]:
    """Return the message that ``body`` is, or the batch of them.

    Raises :class:`ProtocolError`, also where one message of a batch is at fault.
    """
    value = _read_json(body)
    if type(value) is not list:
        return _read_message(value)
    if not 0 < len(value) <= BATCH:
        raise ProtocolError(INVALID_REQUEST, f"a batch has 1 to {BATCH} messages")
    messages = [_read_message(item) for item in value]
    ids = [(type(message.id), message.id) for message in messages if message.wants_answer]
    if len(set(ids)) < len(ids):
        raise ProtocolError(INVALID_REQUEST, "an id twice in one batch")
    if any(message.method == "initialize" for message in messages):
        raise ProtocolError(INVALID_REQUEST, "initialize is not for batches")
    return messages


def encode(value: object) -> bytes:
    """Write ``value`` as JSON in UTF-8, without white space."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def error(id: Id | None, code: int, message: str, data: object = None) -> dict[str, Any]:
    """Make an error response."""
    fields = {"code": code, "message": message}
    return {"jsonrpc": "2.0", "id": id, "error": fields if data is None else {**fields, "data": data}}


def differ_in_case_only(names: Iterable[str]) -> bool:
    """Say whether two of ``names`` are the same for those who ignore case."""
    folded = [name.casefold() for name in names]
    return len(set(folded)) < len(folded)


def _read_json(body: bytes) -> object:
    try:
        value = _JSON.decode(body.decode())
        _check_bounds(value)
    except (ValueError, RecursionError):
        raise ProtocolError(PARSE_ERROR, "Parse error: not strict JSON in UTF-8") from None
    return value


def _check_bounds(value: object) -> None:
    """Raise ``ValueError`` for lone surrogates and for too much."""
    level, count = [value], 0
    for _ in range(DEPTH + 1):
        inside: list[object] = []
        for item in level:
            if type(item) is str:
                item.encode()
            elif type(item) is list:
                inside += item
            elif type(item) is dict:
                inside += item
                inside += item.values()
        count += len(level)
        if count > VALUES:
            raise ValueError("too many values")
        if not inside:
            return
        level = inside
    raise ValueError("nested too deeply")


def _read_message(value: object) -> Message:
    if type(value) is not dict or value.get("jsonrpc") != "2.0" or not _MEMBERS.issuperset(value):
        raise ProtocolError(INVALID_REQUEST, "not a JSON-RPC 2.0 message")
    id, answers = value.get("id"), "result" in value or "error" in value
    if "id" in value and type(id) not in (str, int) and not ("error" in value and id is None):
        raise ProtocolError(INVALID_REQUEST, "an id is text or a whole number")
    if "method" not in value:
        if ("result" in value) == ("error" in value) or "id" not in value or "params" in value:
            raise ProtocolError(INVALID_REQUEST, "neither a request nor a response")
        return Message(None, id, {}, value)
    method, params = value["method"], value.get("params")
    if answers or type(method) is not str or not _METHOD.fullmatch(method):
        raise ProtocolError(INVALID_REQUEST, "a method is printable ASCII, and has no result")
    if params is not None and type(params) is not dict:
        raise ProtocolError(INVALID_PARAMS, "params are an object", id=id)
    return Message(method, id, params or {}, value)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("beyond what a double holds")
    return number


_JSON: Final = StrictDecoder(fraction=_finite)
