"""Looks at the encodings of Ed25519 public keys: libraries take some with which everybody can sign."""

from __future__ import annotations

from typing import Final

# RFC 8032: points (x, y) with y² - x² = 1 + d x² y², modulo p, encoded as y with the sign of x in the highest bit.
_P: Final = 2**255 - 19
_D: Final = -121665 * pow(121666, -1, _P) % _P


def problem_of_key(raw: object) -> str | None:
    """Return what is wrong with an encoding, or ``None``."""
    if type(raw) is not bytes or len(raw) != 32:
        return "not 32 bytes"
    y, sign = int.from_bytes(raw, "little") & (1 << 255) - 1, raw[31] >> 7
    if y >= _P:
        return "not encoded canonically"
    x2 = _x_squared(y)
    if (x2 == 0 and sign) or pow(x2, (_P - 1) // 2, _P) not in (0, 1):
        return "no point of the curve"
    for _ in range(3):  # the cofactor is 8: doubled three times, a point of small order is the neutral one
        y = _doubled(y)
    return "a point of small order" if y == 1 else None


def _x_squared(y: int) -> int:
    return (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P


def _doubled(y: int) -> int:
    """Return the y of twice the point, which does not depend on the sign of x."""
    x2, y2 = _x_squared(y), y * y % _P
    return (y2 + x2) * pow(1 - _D * x2 * y2, -1, _P) % _P
