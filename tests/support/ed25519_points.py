"""Encodings of points of the curve of Ed25519, for tests of which public keys are taken."""

from __future__ import annotations

from typing import Final

P: Final = 2**255 - 19


def encoded(y: int, sign: int = 0) -> bytes:
    return (y | sign << 255).to_bytes(32, "little")


_ORDER_8: Final = int.from_bytes(
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"
)
#: The points of small order: y of order 1, 2, 4 and 8 (both), as RFC 8032 encodes them, with either sign.
SMALL_ORDER: Final = [encoded(y, sign) for y in (1, P - 1, 0, _ORDER_8, P - _ORDER_8) for sign in (0, 1)]
