"""Signs manifests and verifies signatures: Ed25519, one format, through ``cryptography`` (the extra ``sign``).

Signed are :data:`DOMAIN` and the exact bytes of the manifest file, so that a signature cannot mean anything else. The
signature file names no algorithm to choose from, and no key: only ids, of keys that settings have to know.

To replace a key, trust the old and the new one with a threshold of 2, and sign with both. When every service has these
settings, trust the new one alone, with a threshold of 1. A key that is no longer trusted counts for nothing at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ..errors import ConfigError, SignatureInvalid
from ..limits import MOST_KEYS
from .canonical import MalformedFile, decode, encode
from .public_keys import PublicKey, parse_keys

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

DOMAIN: Final = b"capgate-manifest-v1\0"
FORMAT: Final = 1
#: Bytes of a signature file, and of a private key file.
SIGNATURE_BYTES: Final = 16_384
KEY_BYTES: Final = 16_384

_ID: Final = re.compile(r"[0-9a-f]{16}", re.ASCII)
_PRIVATE: Final = "an Ed25519 private key as PEM (PKCS #8), as capgate keygen writes it"


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, order=True):
    """``key`` is an id, ``signature`` the 64 bytes of RFC 8032, base64 in the file."""

    key: str
    signature: bytes


class SignatureFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``signatures`` are sorted by key, one of each key at most."""

    format: int
    signatures: tuple[Signature, ...]


class KeyPair:
    """A private key and its public one. ``repr`` shows the latter."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = PublicKey(private.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"KeyPair({self.public.line!r})"

    @classmethod
    def generate(cls) -> KeyPair:
        """Make a new one, from the operating system's randomness."""
        return cls(_ed25519().Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, data: bytes, passphrase: bytes | None = None, *, path: str = "the key") -> KeyPair:
        """Return the pair of a private key file. Raises :class:`ConfigError`, which shows ``path`` and nothing of the
        key.
        """
        ed25519 = _ed25519()
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            private = load_pem_private_key(data, passphrase)
        except (ValueError, TypeError) as error:  # TypeError: a passphrase is missing, or there is none to give
            raise ConfigError("key", path, f"{_PRIVATE}, with its passphrase if it has one") from error
        except Exception as error:  # an algorithm that this build of the library does not have
            raise ConfigError("key", path, _PRIVATE) from error
        if not isinstance(private, ed25519.Ed25519PrivateKey):
            raise ConfigError("key", path, _PRIVATE)
        return cls(private)

    def to_pem(self, passphrase: bytes | None = None) -> bytes:
        """Return the private key as PEM (PKCS #8), encrypted where there is a passphrase."""
        from cryptography.hazmat.primitives import serialization as form

        how = form.NoEncryption() if passphrase is None else form.BestAvailableEncryption(passphrase)
        return self._private.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, how)

    def sign(self, manifest: bytes) -> Signature:
        """Return the signature of the bytes of a manifest file."""
        return Signature(self.public.id, self._private.sign(DOMAIN + manifest))


class TrustedKeys:
    """The keys that settings trust, and how many of them have to have signed. Each key counts once.

    Keys are lines as :mod:`capgate.store.public_keys` has them, or :class:`PublicKey`. Raises :class:`ConfigError` for
    a bad one, for one given twice, for a threshold that they cannot reach, and where ``cryptography`` is not installed.
    """

    def __init__(self, keys: Iterable[PublicKey | str], threshold: int = 1) -> None:
        trusted = parse_keys(key.line if isinstance(key, PublicKey) else key for key in keys)
        if type(threshold) is not int or not 1 <= threshold <= len(trusted):
            raise ConfigError(
                "signature_threshold", threshold, f"a whole number from 1 to the {len(trusted)} trusted keys"
            )
        self.keys = trusted
        self.threshold = threshold
        from_raw = _ed25519().Ed25519PublicKey.from_public_bytes
        self._public: dict[str, Ed25519PublicKey] = {key.id: from_raw(key.raw) for key in trusted}
        if len(self._public) != len(trusted):
            raise ConfigError("trusted_keys", [key.line for key in trusted], "keys that each have an id of their own")

    def verify(self, manifest: bytes, signatures: bytes | None, *, path: str | None = None) -> tuple[str, ...]:
        """Return the ids of the trusted keys that have signed ``manifest``: ``threshold`` of them or more.

        ``signatures`` are the bytes of the signature file. Raises :class:`SignatureInvalid` where they are ``None`` or
        malformed, do not suffice, or one by a trusted key does not verify. Those of other keys are not looked at.
        """
        if signatures is None:
            raise SignatureInvalid("it is not signed", reason="missing", threshold=self.threshold, path=path)
        signers = []
        for signature in parse_signatures(signatures, path=path):
            if signature.key not in self._public:
                continue
            if not _is_by(self._public[signature.key], signature.signature, DOMAIN + manifest):
                message = f"the signature of key {signature.key} is of something else"
                raise SignatureInvalid(message, reason="forged", threshold=self.threshold, path=path)
            signers.append(signature.key)
        if len(signers) < self.threshold:
            message = f"signed by {len(signers)} of the trusted keys, needed are {self.threshold}"
            raise SignatureInvalid(
                message, reason="threshold", signers=tuple(signers), threshold=self.threshold, path=path
            )
        return tuple(signers)


def parse_signatures(data: bytes, *, path: str | None = None) -> tuple[Signature, ...]:
    """Return the signatures of a file.

    Raises :class:`SignatureInvalid` (``malformed``) for any but the canonical form.
    """
    try:
        if len(data) > SIGNATURE_BYTES:
            raise MalformedFile(f"{len(data)} bytes, the limit is {SIGNATURE_BYTES}")
        file = decode(data, SignatureFile)
        _check(file)
    except MalformedFile as error:
        raise SignatureInvalid(f"malformed: {error}", reason="malformed", path=path) from error
    return file.signatures


def format_signatures(signatures: Iterable[Signature]) -> bytes:
    """Return the file of those signatures, and of one key's the last. The counterpart of :func:`parse_signatures`."""
    by_key = {signature.key: signature for signature in signatures}
    file = SignatureFile(FORMAT, tuple(sorted(by_key.values())))
    _check(file)
    return encode(file)


def _check(file: SignatureFile) -> None:
    ids = [signature.key for signature in file.signatures]
    if file.format != FORMAT:
        raise MalformedFile(f"format {file.format}, the only one is {FORMAT}")
    if not 1 <= len(ids) <= MOST_KEYS or ids != sorted(set(ids)):
        raise MalformedFile(f"1 to {MOST_KEYS} signatures are needed, sorted by key, one of each")
    for signature in file.signatures:
        if _ID.fullmatch(signature.key) is None or len(signature.signature) != 64:
            raise MalformedFile(f"{signature.key!r}: an id is 16 hex digits, a signature 64 bytes")


def _is_by(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ConfigError("cryptography", "not installed", "pip install 'capgate[sign]'") from error
    return ed25519
