"""Provides ``crypto.*``: digests and message authentication codes of strings, in hex; and ``hex.*``."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Final

from .base import Context, Undefined, builtin, string, text_of
from .terms import Value

_ALGORITHMS: Final = ("md5", "sha1", "sha256")


def _digest(algorithm: str) -> Callable[[Context, Value], Value]:
    def digest(context: Context, text: Value) -> Value:
        return hashlib.new(algorithm, string(text).encode(), usedforsecurity=False).hexdigest()

    return digest


def _authenticate(algorithm: str) -> Callable[[Context, Value, Value], Value]:
    def authenticate(context: Context, text: Value, key: Value) -> Value:
        message = string(text).encode()
        return hmac.new(string(key).encode(), message, algorithm).hexdigest()

    return authenticate


for _algorithm in _ALGORITHMS:
    builtin(f"crypto.{_algorithm}")(_digest(_algorithm))
for _algorithm in (*_ALGORITHMS, "sha512"):
    builtin(f"crypto.hmac.{_algorithm}")(_authenticate(_algorithm))


@builtin("crypto.hmac.equal")
def equal_codes(context: Context, first: Value, second: Value) -> Value:
    """Say whether two codes are the same, in time that does not tell where they differ."""
    return hmac.compare_digest(string(first).encode(), string(second).encode())


@builtin("hex.encode")
def hex_encode(context: Context, text: Value) -> Value:
    return string(text).encode().hex()


@builtin("hex.decode")
def hex_decode(context: Context, text: Value) -> Value:
    digits = string(text)
    if not all(char in "0123456789abcdefABCDEF" for char in digits) or len(digits) % 2:  # fromhex skips white space
        raise Undefined
    return text_of(bytes.fromhex(digits))
