"""Reads what the JSON that a policy gives means. Nothing but what is listed here allows.

OPA answers an array of at most one object, ``[{"result": X}]``. With ``result="decision"`` X is one of

``true``, ``{"allow": true, "reason"?: text}``    allow
``false``, ``{"allow": false, "reason"?: text}``  deny, without a reason as ``not_in_allowlist``

With ``result="denials"`` X is an array of texts, which is also how OPA writes a set. The empty one allows. Any other
denies with the first of its texts in the order of their code points, so that their order does not matter.

``[]`` says that the entry point is undefined for this input: a denial, ``malformed_result``. Anything else is an
:class:`AbiError`, which has the same reason code.
"""

from __future__ import annotations

from typing import Final

from ....errors import AbiError, ConfigError
from ....model import ALLOW, Deny, Entrypoint, PolicyResult, Reason
from ....policy.strict import is_unicode, parse_json

#: Bytes of JSON for each byte that a reason may have, and for what is around it: a byte takes up to six in JSON.
JSON_FACTOR: Final = 8
JSON_AROUND: Final = 64

_PLAIN_DENY: Final = Deny(Reason.NOT_IN_ALLOWLIST)
_UNDEFINED: Final = Deny(Reason.MALFORMED_RESULT)


class AnswerReader:
    """Reads answers, and keeps some by their bytes: policies repeat a few, so reading them again is not needed."""

    _SIZE: Final = 64
    _BYTES: Final = 1_024

    def __init__(self, entrypoint: Entrypoint, limit: int) -> None:
        self._denials = entrypoint.result == "denials"
        self._limit = limit
        self._known: dict[bytes, PolicyResult] = {}

    def read(self, raw: bytes) -> PolicyResult:
        """Return what ``raw`` says. Raises :class:`AbiError` where it says nothing that is allowed here."""
        known = self._known.get(raw)
        if known is None:
            known = self._read(raw)
            if len(self._known) < self._SIZE and len(raw) <= self._BYTES:
                self._known[raw] = known
        return known

    def _read(self, raw: bytes) -> PolicyResult:
        try:
            whole = parse_json(raw)
        except ConfigError as error:
            raise AbiError("result_not_json", f"{error.seen!r}"[:200]) from error
        if type(whole) is not list or len(whole) > 1:
            raise AbiError("result_count", f"not an array of one result: {raw[:200]!r}")
        if not whole:
            return _UNDEFINED
        first = whole[0]
        if type(first) is not dict or list(first) != ["result"]:
            raise AbiError("result_keys", f"not an object with the key 'result' alone: {raw[:200]!r}")
        return self._denied(first["result"]) if self._denials else self._decided(first["result"])

    def _decided(self, value: object) -> PolicyResult:
        if type(value) is dict:
            return self._decision(value)
        if value is True:
            return ALLOW
        if value is False:
            return _PLAIN_DENY
        raise AbiError("result_type", "a decision is a boolean, or an object with 'allow' and perhaps 'reason'")

    def _decision(self, value: dict[object, object]) -> PolicyResult:
        allow = value.get("allow")
        if (allow is not True and allow is not False) or not value.keys() <= {"allow", "reason"}:
            raise AbiError("result_type", f"an object with a boolean 'allow' and perhaps 'reason'; has {list(value)}")
        denied = self._deny(value["reason"]) if "reason" in value else _PLAIN_DENY
        return ALLOW if allow is True else denied

    def _denied(self, value: object) -> PolicyResult:
        if type(value) is not list:
            raise AbiError("result_type", "denials are an array or a set of texts")
        for text in value:
            if type(text) is not str:
                raise AbiError("result_type", f"a reason is text, not {type(text).__name__}")
        return self._deny(min(value)) if value else ALLOW

    def _deny(self, reason: object) -> Deny:
        if type(reason) is not str:
            raise AbiError("result_type", f"a reason is text, not {type(reason).__name__}")
        if not is_unicode(reason):
            raise AbiError("reason_not_unicode", repr(reason[:100]))
        size = len(reason.encode())
        if size > self._limit:
            raise AbiError("reason_too_long", f"{size} bytes, the limit is {self._limit}")
        return Deny(reason)
