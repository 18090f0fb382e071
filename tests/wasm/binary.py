"""Modules made from parts, for sizes that nobody would write as text."""

from __future__ import annotations

from collections.abc import Iterable

from capgate.wasm.encode import name, vector
from capgate.wasm.leb128 import unsigned

HEADER = b"\0asm\1\0\0\0"
EMPTY_TYPE = b"\x60\0\0"
CHECK_TYPE = b"\x60\1\x7f\1\x7f"


def section(number: int, payload: bytes) -> bytes:
    return bytes([number]) + unsigned(len(payload)) + payload


def body(code: bytes, locals_: Iterable[bytes] = ()) -> bytes:
    """A function body: local declarations, code, and the ``end``."""
    content = vector(locals_) + code + b"\x0b"
    return unsigned(len(content)) + content


def module(*sections: tuple[int, bytes]) -> bytes:
    return HEADER + b"".join(section(number, payload) for number, payload in sections)


def one_function(code: bytes, locals_: Iterable[bytes] = (), *, kind: bytes = CHECK_TYPE) -> bytes:
    """A module with one function of that type, exported as ``f``."""
    return module(
        (1, vector([kind])),
        (3, vector([b"\0"])),
        (7, vector([name("f") + b"\0\0"])),
        (10, vector([body(code, locals_)])),
    )
