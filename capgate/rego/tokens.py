"""Provides ``io.jwt.decode``, ``io.jwt.verify_*`` and ``io.jwt.decode_verify``: JSON Web Tokens (RFC 7519).

Tokens are read as OPA reads them. The time against which ``exp`` and ``nbf`` are held is that of the question.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from decimal import Decimal
from typing import Final

import msgspec

from ..errors import BuiltinError
from .base import Context, Undefined, builtin, mapping, numeric, string, text_of
from .encodings import read_json, url_bytes
from .gotext import general
from .terms import Number, Object, Value
from .token_keys import ALGORITHMS, COST, NEEDS, Key, is_signed, read_keys

_HASHES: Final = {"256": hashlib.sha256, "384": hashlib.sha384, "512": hashlib.sha512}
_UNVERIFIED: Final = (False, Object(), Object())
#: What the curve of a key has to be for its algorithm.
_CURVES: Final = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
#: Header parameters that are understood, so that ``crit`` may name them.
_KNOWN: Final = ("alg", "kid", "typ", "cty", "crit")


class _Token(msgspec.Struct, frozen=True):
    header: str
    payload: str
    signature: str

    def message(self) -> bytes:
        return f"{self.header}.{self.payload}".encode()

    def decoded_header(self) -> Object:
        header = _object(self.header)
        if "enc" in header:  # an encrypted token
            raise Undefined
        return header


def _split(token: Value) -> _Token:
    parts = string(token).split(".")
    if len(parts) != 3:
        raise Undefined
    return _Token(*parts)


def _object(encoded: str) -> Object:
    return mapping(read_json(text_of(url_bytes(encoded))))


def _header_text(header: Object, name: str) -> str:
    return string(header.get(name, ""))


@builtin("io.jwt.decode")
def decode(context: Context, token: Value) -> Value:
    """Return header, payload and signature in hex, none of it verified. A token in a token is decoded instead."""
    while True:
        parts = _split(token)
        context.spend(len(parts.payload))
        header = parts.decoded_header()
        data = url_bytes(parts.payload)
        content_type = header.get("cty", "")
        if not isinstance(content_type, str):
            raise BuiltinError("io.jwt.decode", "ambiguous", "'cty' is no string")
        if content_type != "JWT":
            break
        token = text_of(data).strip("\"'")
    return (header, mapping(read_json(text_of(data))), url_bytes(parts.signature).hex())


def _verify(algorithm: str) -> Callable[[Context, Value, Value], Value]:
    def verify(context: Context, token: Value, certificate: Value) -> Value:
        parts = _split(token)
        keys = read_keys(string(certificate))
        signature, header = url_bytes(parts.signature), parts.decoded_header()
        _check_header(header)
        wanted, name = _header_text(header, "kid"), _header_text(header, "alg")
        named = [key for key in keys if wanted and key.id == wanted][:1]
        candidates = named or [key for key in keys if key.algorithm in ("", name)]
        context.spend(COST * (1 + len(candidates)))
        return any(is_signed(key.key, algorithm, parts.message(), signature) for key in candidates)

    return verify


def _verify_shared(bits: str) -> Callable[[Context, Value, Value], Value]:
    def verify(context: Context, token: Value, secret: Value) -> Value:
        parts = _split(token)
        expected = hmac.new(string(secret).encode(), parts.message(), _HASHES[bits]).digest()
        return hmac.compare_digest(url_bytes(parts.signature), expected)

    return verify


for _name in ALGORITHMS:
    if _name.startswith("HS"):
        builtin(f"io.jwt.verify_{_name.lower()}")(_verify_shared(_name[2:]))
    else:
        builtin(f"io.jwt.verify_{_name.lower()}", needs=NEEDS)(_verify(_name))


class _Constraints(msgspec.Struct):
    """What ``decode_verify`` is asked to hold a token against. ``time`` is in nanoseconds since the epoch."""

    time: float
    keys: list[Key] | None = None
    secret: str = ""
    alg: str = ""
    iss: str = ""
    aud: str = ""


def _constraints(context: Context, given: Object) -> _Constraints:
    constraints = _Constraints(float(context.timestamp_ns))
    for name, value in given.items:
        if name == "cert":
            constraints.keys = read_keys(string(value))
        elif name == "time":
            constraints.time = _nanoseconds(numeric(value))
        elif name in ("secret", "alg", "iss", "aud") and isinstance(name, str):
            setattr(constraints, name, string(value))
        else:
            raise Undefined
    if (constraints.keys is None) == (not constraints.secret):  # one of them, and not both
        raise Undefined
    return constraints


def _nanoseconds(value: int | Number) -> float:
    """Return a time as a float, which is what OPA reckons with; it is not negative."""
    try:
        time = float(value)
    except OverflowError:
        raise Undefined from None
    if not 0 <= time < float("inf"):
        raise Undefined
    return time


@builtin("io.jwt.decode_verify", needs=NEEDS)
def decode_verify(context: Context, token: Value, constraints: Value) -> Value:
    """Say whether signature and constraints hold, with header and payload where they do; those are empty otherwise."""
    asked = _constraints(context, mapping(constraints))
    while True:
        parts = _split(token)
        header = parts.decoded_header()
        _check_header(header)
        algorithm = _header_text(header, "alg")
        if not algorithm or _is_critical(header) or asked.alg not in ("", algorithm):
            return _UNVERIFIED
        context.spend(COST + len(parts.payload))
        if not _is_genuine(context, asked, header, parts):
            return _UNVERIFIED
        if _header_text(header, "cty").lower() != "jwt":
            break
        token = text_of(url_bytes(parts.payload))
    payload = _object(parts.payload)
    if _meets(asked, payload):
        return (True, header, payload)
    return _UNVERIFIED


def _check_header(header: Object) -> None:
    for name in _KNOWN[:4]:
        _header_text(header, name)
    if "crit" in header:
        names = header.get("crit")
        if not isinstance(names, tuple) or not names or not isinstance(names[0], str):
            raise Undefined


def _is_critical(header: Object) -> bool:
    """Say whether a parameter has to be understood that is not."""
    names = header.get("crit", ())
    critical: list[Value] = []
    for name in names if isinstance(names, tuple) else ():
        if not isinstance(name, str):
            break  # where OPA stops reading
        critical.append(name)
    return any(name not in _KNOWN and name in header for name in critical)


def _is_genuine(context: Context, asked: _Constraints, header: Object, parts: _Token) -> bool:
    signature, algorithm = url_bytes(parts.signature), _header_text(header, "alg")
    if algorithm not in ALGORITHMS:
        return False
    if asked.keys is None:
        return _is_signed(Key(asked.secret.encode()), algorithm, parts.message(), signature)
    wanted = _header_text(header, "kid")
    named = [key for key in asked.keys if wanted and key.id == wanted][:1]
    candidates = named or [key for key in asked.keys if key.algorithm in ("", algorithm)]
    context.spend(COST * len(candidates))
    return any(_is_signed(key, algorithm, parts.message(), signature) for key in candidates)


def _is_signed(key: Key, algorithm: str, message: bytes, signature: bytes) -> bool:
    """Verify by the algorithm that the token names, where the key is one for it and nothing else."""
    if algorithm.startswith("HS"):
        if not isinstance(key.key, bytes):
            return False
        return hmac.compare_digest(signature, hmac.new(key.key, message, _HASHES[algorithm[2:]]).digest())
    curve = getattr(getattr(key.key, "curve", None), "name", None)
    if curve is not None and algorithm in _CURVES and curve != _CURVES[algorithm]:
        raise BuiltinError("io.jwt.decode_verify", "ambiguous", f"{algorithm} with a key on {curve}")
    return is_signed(key.key, algorithm, message, signature)


def _meets(asked: _Constraints, payload: Object) -> bool:
    issuer = payload.get("iss")
    if asked.iss and "iss" in payload and not isinstance(issuer, str):
        raise BuiltinError("io.jwt.decode_verify", "ambiguous", "'iss' is no string")
    if asked.iss and issuer != asked.iss:
        return False
    if "aud" in payload:
        audience = payload.get("aud")
        members = audience if isinstance(audience, tuple) else (audience,)
        if not any(isinstance(member, str) and member == asked.aud for member in members):
            return False
    elif asked.aud:
        return False
    seconds = Decimal(general(asked.time / 1_000_000_000))
    if "exp" in payload and not seconds < _time(payload, "exp"):
        return False
    return "nbf" not in payload or seconds >= _time(payload, "nbf")


def _time(payload: Object, name: str) -> int | Number:
    return numeric(payload.get(name))
