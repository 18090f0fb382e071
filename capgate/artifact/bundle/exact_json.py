"""Reads JSON as bundles have it, strictly and with numbers as they are written, and writes one text of each value.

OPA signs of a structured file not its bytes but its value, in one canonical text. There, objects have their keys in the
order of their UTF-8 bytes, there is no white space, and numbers are as written. Text is as Go's ``encoding/json``
writes it without HTML escapes (OPA's documentation, "Bundles", "Signing": the hash of a structured file). That is also
the form in which data reach a module.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from ...errors import BundleError
from ...policy.strict import StrictDecoder

#: Nesting of data, all folders on the way included.
NESTING: Final = 200
#: Go writes these two as escapes, which Python does not.
_SEPARATORS: Final = {0x2028: "\\u2028", 0x2029: "\\u2029"}


class WrittenNumber(str):
    """A number as it is written."""

    __slots__ = ()


#: Numbers as written, because a signature covers how they are.
_JSON: Final = StrictDecoder(WrittenNumber, WrittenNumber)


def read_json(text: bytes, member: str, reason: str = "data") -> Any:
    """Return the value of a JSON file: UTF-8 without a mark, no key twice, no ``NaN``.

    Numbers are :class:`WrittenNumber`. Raises :class:`BundleError`, with ``reason``.
    """
    try:
        return _JSON.decode(text.decode())
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BundleError(f"{member!r} is no strict JSON in UTF-8: {why}", reason=reason, member=member) from error


def canonical_json(value: Any, member: str, reason: str = "data") -> bytes:
    """Return the one text of a value that :func:`read_json` gave. Raises :class:`BundleError` where it has none."""
    pieces: list[str] = []
    try:
        _write(value, pieces.append, NESTING)
        return "".join(pieces).translate(_SEPARATORS).encode()
    except (ValueError, RecursionError) as error:  # ValueError: a lone surrogate, too
        raise BundleError(f"{member!r}: {error}", reason=reason, member=member) from error


def merge_data(into: dict[str, Any], added: Mapping[str, Any], member: str) -> None:
    """Add the objects of ``added`` to those of ``into``. Raises :class:`BundleError` where something is said twice."""
    work: list[tuple[dict[str, Any], Mapping[str, Any]]] = [(into, added)]
    while work:
        target, source = work.pop()
        for key, value in source.items():
            if key not in target:
                target[key] = value
                continue
            present = target[key]
            if not (isinstance(present, dict) and isinstance(value, dict)):
                raise BundleError(f"{member!r} says again what {key!r} is", reason="data", member=member)
            work.append((present, value))


def _write(value: Any, write: Callable[[str], None], left: int) -> None:
    if not left:
        raise ValueError(f"nested more than {NESTING} deep")
    if isinstance(value, dict):
        opened = "{"
        for key in sorted(value):  # by code point, which is by bytes of UTF-8
            write(f"{opened}{json.dumps(key, ensure_ascii=False)}:")
            _write(value[key], write, left - 1)
            opened = ","
        write("{}" if opened == "{" else "}")
    elif isinstance(value, list):
        opened = "["
        for item in value:
            write(opened)
            _write(item, write, left - 1)
            opened = ","
        write("[]" if opened == "[" else "]")
    else:
        write(value if isinstance(value, WrittenNumber) else json.dumps(value, ensure_ascii=False))
