"""Reads the keys that verify OPA bundles, as settings have them: by id, each with the one algorithm that it is for.

``{"release": {"algorithm": "ES256", "key": "-----BEGIN PUBLIC KEY-----...", "scope": "write"}}``, where ``scope`` may
be missing. Nothing here needs a package for cryptography: a setting can be rejected where none is installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ...errors import ConfigError
from ...limits import MOST_KEYS

#: RFC 7518, section 3.1, and EdDSA of RFC 8037, with Ed25519 only. There is no ``none``.
ASYMMETRIC: Final = (
    *("ES256", "ES384", "ES512", "EdDSA"),
    *("PS256", "PS384", "PS512", "RS256", "RS384", "RS512"),
)
#: With a shared secret, and the fewest bytes of one (RFC 7518, section 3.2).
SYMMETRIC: Final[dict[str, int]] = {"HS256": 32, "HS384": 48, "HS512": 64}
ALGORITHMS: Final = (*ASYMMETRIC, *SYMMETRIC)
#: Characters of a key, and of its id and scope.
KEY_LENGTH: Final = 16_384
TEXT_LENGTH: Final = 256

VALID: Final = (
    "key ids, each with 'algorithm' (one of "
    + ", ".join(ALGORITHMS)
    + "), 'key' (a public key as PEM; a secret for HS)"
    " and perhaps 'scope'; or the path of a JSON or TOML file with them"
)
HIDDEN: Final = "a value that is not shown"
_FIELDS: Final = {"algorithm", "key", "scope"}
_BEGIN: Final = "-----BEGIN"


class BundleKey(msgspec.Struct, frozen=True):
    """``key`` is what verifies: the text of a PEM file, or for ``HS…`` the secret itself, which ``repr`` does not show.
    ``scope`` is the only one that it may be used for, ``None`` where any that is asked for will do."""

    id: str
    algorithm: str
    key: str
    scope: str | None = None

    def __repr__(self) -> str:
        return f"BundleKey(id={self.id!r}, algorithm={self.algorithm!r}, scope={self.scope!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return the same for rich, which would otherwise show all fields."""
        return [("id", self.id), ("algorithm", self.algorithm), ("scope", self.scope)]


def are_themselves(text: str) -> bool:
    """Say whether ``text``, where the path of a file is wanted, is what would be in it.

    Then it is shown to nobody.
    """
    return any(sign in text for sign in (_BEGIN, "{", "\n"))


def parse_bundle_keys(given: Mapping[Any, Any], setting: str = "bundle_keys") -> tuple[BundleKey, ...]:
    """Return the keys, 1 to 32 of them, sorted by id. Raises :class:`ConfigError`, which shows no key."""
    if not 1 <= len(given) <= MOST_KEYS:
        raise ConfigError(setting, f"{len(given)} keys", f"1 to {MOST_KEYS} {VALID}")
    for id in given:
        if not _is_text(id):
            raise ConfigError(setting, id, f"ids of keys that are printable text of 1 to {TEXT_LENGTH} characters")
    return tuple(_key(id, given[id], setting) for id in sorted(given))


def key_error(setting: str, id: str, field: str, seen: object, valid: str) -> ConfigError:
    """Return the error for a field of a key."""
    return ConfigError(setting, seen, f"as the {field!r} of {id!r}, {valid}", key=(id, field))


def _key(id: str, given: object, setting: str) -> BundleKey:
    if not isinstance(given, Mapping) or not {"algorithm", "key"} <= set(given) <= _FIELDS:
        seen = sorted(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
        valid = f"for {id!r} 'algorithm', 'key', perhaps 'scope', and nothing else"
        raise ConfigError(setting, seen, valid, key=(id,))
    algorithm, key, scope = given["algorithm"], given["key"], given.get("scope")
    if algorithm not in ALGORITHMS:
        raise key_error(setting, id, "algorithm", algorithm, "one of " + ", ".join(ALGORITHMS))
    if scope is not None and not _is_text(scope):
        raise key_error(setting, id, "scope", scope, f"printable text of 1 to {TEXT_LENGTH} characters")
    if not isinstance(key, str) or len(key) > KEY_LENGTH or "PRIVATE KEY" in key:
        raise key_error(setting, id, "key", HIDDEN, "the text of a key, and no private one")
    if algorithm in SYMMETRIC:
        # A public key as a secret would be one that everybody has.
        least = SYMMETRIC[algorithm]
        if _BEGIN in key or key.startswith("ssh-") or len(key.encode("utf-8", "replace")) < least:
            raise key_error(
                setting, id, "key", HIDDEN, f"a secret of {least} bytes or more for {algorithm}, and no PEM"
            )
    elif not key.lstrip().startswith(f"{_BEGIN} PUBLIC KEY-----"):
        raise key_error(setting, id, "key", HIDDEN, f"'{_BEGIN} PUBLIC KEY-----', as PEM has it")
    return BundleKey(id, algorithm, key, scope)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= TEXT_LENGTH and value.isprintable()
