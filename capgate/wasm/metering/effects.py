"""Tabulates, for a fast loop, what opcodes do to the height of the operand stack, and how to skip their immediates."""

from __future__ import annotations

from typing import Final

from ..opcodes import OPCODES

# Classes of opcodes with a fixed effect on the stack, by the immediates to skip; everything else has a method.
NONE, LEB, LOCAL, GLOBAL, MEMARG, BYTES4, BYTES8, METHOD = range(8)
_CLASS_OF: Final = {
    "-": NONE,
    "i32": LEB,
    "i64": LEB,
    "table": LEB,
    "ref": LEB,
    "zero": LEB,
    "memarg": MEMARG,
    "f32": BYTES4,
    "f64": BYTES8,
}
# Stack effects that the table leaves to the control stack or the immediates, though they are fixed.
_FIXED: Final = {0x1A: -1, 0x1B: -2, 0x20: 1, 0x21: -1, 0x22: 0, 0x23: 1, 0x24: -1}


def _tables() -> tuple[bytes, list[int]]:
    classes, deltas = bytearray([METHOD] * 256), [0] * 256
    for code, row in OPCODES.items():
        if code > 0xFF or not row.allowed:
            continue
        if row.operands is not None and row.results is not None:
            deltas[code] = len(row.results) - len(row.operands)
            classes[code] = _CLASS_OF.get(row.immediates, METHOD)
    for code, delta in _FIXED.items():
        deltas[code] = delta
    classes[0x01] = classes[0x1A] = classes[0x1B] = NONE
    classes[0x20] = classes[0x21] = classes[0x22] = LOCAL
    classes[0x23] = classes[0x24] = GLOBAL
    classes[0x40] = METHOD
    return bytes(classes), deltas


CLASSES, DELTAS = _tables()
PREFIXED_DELTAS: Final = {
    code: len(row.results or "") - len(row.operands or "")
    for code, row in OPCODES.items()
    if code >= 0xFC00 and row.allowed
}
