"""What reading a document needs everywhere: strict JSON, text that is Unicode, and values fit to be put in an error."""

from __future__ import annotations

import json
from typing import Any, Final

from ..errors import ConfigError

_TO_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def ascii_lower(text: str) -> str:
    """``text`` with A to Z as a to z and every other character as it is: no Kelvin sign becomes a k."""
    return text.lower() if text.isascii() else text.translate(_TO_LOWER)


def is_unicode(text: str) -> bool:
    """Whether ``text`` has an encoding in UTF-8, that is, no lone surrogate."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_json(text: str | bytes) -> object:
    """Strict JSON in UTF-8: one value, no duplicate keys, no NaN. Anything else raises :class:`ConfigError`."""
    try:
        text = text if isinstance(text, str) else text.decode()
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ConfigError("document", _cause(error), "strict JSON in UTF-8") from error


def check_keys(raw: dict[Any, Any], valid: tuple[str, ...], where: str = "") -> None:
    """Raise :class:`ConfigError` for the first key of ``raw`` that is not one of ``valid``."""
    for key in raw:
        if type(key) is not str or key not in valid:
            raise ConfigError(f"{where}{key_path(key)}", key, "the keys " + ", ".join(valid))


def key_path(key: object) -> str:
    """``key`` as a part of a path in an error."""
    return key if isinstance(key, str) and key.isprintable() and len(key) <= 128 else ascii(key)[:128]


def shallow(value: object) -> object:
    """``value`` for an error: of anything nested only the type, because to print it might recurse too deeply."""
    return value if value is None or isinstance(value, (str, bytes, int, float)) else type(value).__name__


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise ConfigError(key_path(name), name, "each key of an object once")
        found[name] = value
    return found


def _refuse_constant(name: str) -> object:
    raise ConfigError("document", name, "numbers that JSON has")


def _cause(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
