"""Reads public keys that settings trust, as lines of text: ``capgate-ed25519 <base64 of 32 bytes> <key id>``.

The id is the first 16 hex digits of the SHA-256 of the 32 bytes, so that no key goes by two ids. Nothing here needs a
package for cryptography: a setting can be rejected where none is installed.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Final

import msgspec

from ..artifact.ed25519 import problem_of_key
from ..errors import ConfigError
from ..limits import MOST_KEYS

ALGORITHM: Final = "capgate-ed25519"
VALID: Final = f"lines '{ALGORITHM} <base64> <key id>' as capgate keygen prints them"


class PublicKey(msgspec.Struct, frozen=True, order=True):
    """An Ed25519 public key, ``raw`` as RFC 8032 encodes it.

    Raises :class:`ConfigError` for anything else than 32 bytes, and for three sorts of key that libraries accept and
    nobody generates. They are an encoding that is not canonical, no point of the curve, and a point of small order
    (which verifies signatures that no private key has made).
    """

    raw: bytes

    def __post_init__(self) -> None:
        problem = problem_of_key(self.raw)
        if problem:
            raise ConfigError("public key", self.raw, f"the 32 bytes of an Ed25519 public key; this is {problem}")

    @property
    def id(self) -> str:
        """The first 16 hex digits of the SHA-256 of ``raw``."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    @property
    def line(self) -> str:
        """The key as text, for settings and files."""
        return f"{ALGORITHM} {base64.b64encode(self.raw).decode()} {self.id}"


def parse_key(line: object, setting: str = "trusted_keys") -> PublicKey:
    """Return the key that ``line`` is, exactly as :attr:`PublicKey.line` gives it, or raise :class:`ConfigError`."""
    parts = line.split(" ") if type(line) is str else []
    if len(parts) != 3 or parts[0] != ALGORITHM or not parts[1].isascii():
        raise ConfigError(setting, line, VALID)
    try:
        key = PublicKey(base64.b64decode(parts[1], validate=True))
    except ValueError as error:
        raise ConfigError(setting, line, VALID) from error
    except ConfigError as error:
        raise ConfigError(setting, line, error.valid) from error
    if key.line != line:
        raise ConfigError(setting, line, f"the id that belongs to this key: {key.line!r}")
    return key


def parse_keys(lines: Iterable[object], setting: str = "trusted_keys") -> tuple[PublicKey, ...]:
    """Return the keys of those lines, 1 to :data:`MOST_KEYS`, each once, in order, or raise :class:`ConfigError`."""
    lines = tuple(lines)
    keys = tuple(parse_key(line, setting) for line in lines)
    if not 1 <= len(keys) <= MOST_KEYS or len(set(keys)) != len(keys):
        raise ConfigError(setting, lines, f"1 to {MOST_KEYS} {VALID}, each of them once")
    return keys


def parse_key_file(data: bytes, setting: str = "trusted_keys") -> tuple[PublicKey, ...]:
    """Return the keys of a file: one on each line, and lines that are empty or begin with ``#``."""
    try:
        lines = data.decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(setting, f"{len(data)} bytes", f"a file of {VALID}") from error
    return parse_keys((line for line in lines if line and not line.startswith("#")), setting)
