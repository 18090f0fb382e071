"""Verifies signatures of bundles: one JWT in ``.signatures.json`` that lists each file with its hash.

Format: OPA's documentation, "Bundles", "Signing"; RFC 7515 and 7519, through ``PyJWT`` (the extra ``sign``). The key
comes from settings, and so does the algorithm: the token has to say the same.

This is stricter than OPA. Every file is covered, without exceptions. The header names nothing but algorithm, key id and
type. Only SHA-2 counts, ``exp`` and ``nbf`` hold, and there is one spelling of each token.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from ...errors import BundleError, ConfigError, SignatureInvalid
from ..ed25519 import problem_of_key
from .bundle_keys import HIDDEN, SYMMETRIC, BundleKey, key_error, parse_bundle_keys
from .exact_json import canonical_json, read_json
from .exact_yaml import read_data

SIGNATURES: Final = ".signatures.json"
#: Bytes of the file, enough for each of the files that an archive may have.
SIGNATURE_BYTES: Final = 2_097_152
#: Seconds that two clocks may be apart.
CLOCK_SKEW: Final = 300
#: Bits of an RSA key, at least.
RSA_BITS: Final = 2_048

#: Files of which the value counts and not its bytes, by the last part of their names.
STRUCTURED: Final[dict[str, Callable[[bytes, str], Any]]] = {
    "data.json": read_json,
    "data.yaml": read_data,
    ".manifest": read_json,
}
_HASHES: Final = {"SHA-256": hashlib.sha256, "SHA-384": hashlib.sha384, "SHA-512": hashlib.sha512}
_CURVES: Final = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_HEADER: Final = {"alg", "kid", "typ"}


class BundleSignature(msgspec.Struct, frozen=True):
    """A signature that holds. ``key`` is the id of the configured key.

    ``issuer``, ``issued`` and ``expires`` (both in seconds since the epoch) are what the signer said, ``None`` where it
    said nothing.
    """

    key: str
    algorithm: str
    scope: str = ""
    issuer: str | None = None
    issued: float | None = None
    expires: float | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    hash: str
    algorithm: str


class _Claims(msgspec.Struct, frozen=True):
    files: list[_File]
    scope: str = ""
    keyid: str | None = None
    iss: str | None = None
    iat: float | None = None
    nbf: float | None = None
    exp: float | None = None


class BundleKeys:
    """The keys that verify bundles, and the scope that they have to be signed for. Immutable; threads may share it.

    ``keys`` is as :mod:`capgate.artifact.bundle.bundle_keys` has it. Raises :class:`ConfigError` for a bad one, for a
    scope that none of them may be used for, and where ``PyJWT`` or ``cryptography`` is not installed.
    """

    def __init__(
        self, keys: Mapping[str, Any], scope: str | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        parsed = parse_bundle_keys(keys)
        self.scope = scope
        self.clock = clock
        if scope is not None and all(key.scope not in (None, scope) for key in parsed):
            raise ConfigError("bundle_scope", scope, "the scope of one of the bundle_keys")
        self._keys = {key.id: (key, _prepared(key)) for key in parsed}

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the keys, sorted."""
        return tuple(self._keys)

    def verify(self, files: Mapping[str, bytes], *, path: str | None = None) -> BundleSignature:
        """Return the signature of a bundle's ``files``, by their names. Raises :class:`SignatureInvalid`."""
        try:
            return self._verify(files)
        except SignatureInvalid as error:
            raise SignatureInvalid(str(error), reason=error.reason, path=path) from error.__cause__
        except BundleError as error:  # JSON that is none
            raise SignatureInvalid(str(error), reason="malformed", path=path) from error

    def _verify(self, files: Mapping[str, bytes]) -> BundleSignature:
        if SIGNATURES not in files:
            raise SignatureInvalid(f"there is no {SIGNATURES}", reason="missing")
        token = _token(files[SIGNATURES])
        header, claims = (_part(part) for part in token.split(".")[:2])
        key, material = self._named(header, claims)
        if header.get("alg") != key.algorithm:
            message = f"the algorithm is {header.get('alg')!r}, key {key.id!r} is configured for {key.algorithm}"
            raise SignatureInvalid(message, reason="algorithm")
        payload = _payload(token, key, material)
        self._check(payload, key)
        _check_files(payload.files, files)
        return BundleSignature(key.id, key.algorithm, payload.scope, payload.iss, payload.iat, payload.exp)

    def _named(self, header: Any, claims: Any) -> tuple[BundleKey, Any]:
        """Return the configured key that the token names, or the only one there is.

        This is no more than a choice: what is in the token is not believed before the key has verified it.
        """
        is_plain = isinstance(header, dict) and all(type(value) is str for value in header.values())
        if not is_plain or not isinstance(claims, dict) or not set(header) <= _HEADER:
            message = f"the header is not an object of text with {sorted(_HEADER)} and nothing else"
            raise SignatureInvalid(message, reason="malformed")
        ids = [id for id in (header.get("kid"), claims.get("keyid")) if id is not None]
        if not ids and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        # Compared and not looked up, because the one of the claims may be any JSON.
        configured = next((key for name, key in self._keys.items() if ids and all(name == id for id in ids)), None)
        if configured is None:
            message = f"the key it names is {' and '.join(map(repr, ids))}; configured are {list(self._keys)}"
            raise SignatureInvalid(message, reason="key")
        return configured

    def _check(self, claims: _Claims, key: BundleKey) -> None:
        wanted = self.scope or key.scope or ""
        if claims.scope != wanted or key.scope not in (None, wanted):
            message = f"the scope is {claims.scope!r}, key {key.id!r} has {key.scope!r}, configured is {self.scope!r}"
            raise SignatureInvalid(message, reason="scope")
        now = self.clock()
        for name, moment, is_over in (
            ("exp", claims.exp, True),
            ("nbf", claims.nbf, False),
            ("iat", claims.iat, False),
        ):
            if moment is not None and not (now < moment if is_over else now >= moment - CLOCK_SKEW):
                raise SignatureInvalid(f"{name} is {moment:.0f}, and now is {now:.0f}", reason="time")


def _token(data: bytes) -> str:
    """Return the one token in the file. Every character of it counts: there is no other spelling of the same token."""
    if len(data) > SIGNATURE_BYTES:
        raise SignatureInvalid(f"{len(data)} bytes, the limit is {SIGNATURE_BYTES}", reason="malformed")
    value = read_json(data, SIGNATURES)
    tokens = value.get("signatures") if isinstance(value, dict) and set(value) == {"signatures"} else None
    if not isinstance(tokens, list) or not all(type(token) is str for token in tokens):
        raise SignatureInvalid(f"{SIGNATURES} is not an object with 'signatures', a list of text", reason="malformed")
    if not tokens:
        raise SignatureInvalid(f"there is no signature in {SIGNATURES}", reason="missing")
    if len(tokens) != 1:
        raise SignatureInvalid(f"{len(tokens)} signatures; OPA has exactly one", reason="malformed")
    if _TOKEN.fullmatch(tokens[0]) is None or not all(map(_is_canonical, tokens[0].split("."))):
        raise SignatureInvalid("the signature is no JWT in compact form", reason="malformed")
    return str(tokens[0])


def _is_canonical(part: str) -> bool:
    """Say whether no bit of the last character is left over.

    Libraries ignore such bits, so that two texts would be one token.
    """
    return len(part) % 4 != 1 and base64.urlsafe_b64encode(_decoded(part)).rstrip(b"=").decode() == part


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _part(part: str) -> Any:
    return read_json(_decoded(part), SIGNATURES)


def _payload(token: str, key: BundleKey, material: Any) -> _Claims:
    import jwt

    try:
        decoded = jwt.PyJWS().decode_complete(token, material, algorithms=[key.algorithm])
        return msgspec.json.decode(decoded["payload"], type=_Claims)
    except jwt.InvalidSignatureError as error:
        raise SignatureInvalid(f"key {key.id!r} has not signed this", reason="forged") from error
    except (jwt.PyJWTError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise SignatureInvalid(f"the token is malformed: {error}", reason="malformed") from error


def _check_files(listed: list[_File], files: Mapping[str, bytes]) -> None:
    """Raise :class:`SignatureInvalid` unless exactly the files that there are, but for the signatures, are listed.

    Each has to be there once, with the hash that it has.
    """
    names = [file.name for file in listed]
    if len(set(names)) != len(names) or set(names) != set(files) - {SIGNATURES}:
        differing = sorted(set(names) ^ (set(files) - {SIGNATURES})) or sorted(names)
        message = f"the signature lists other files than there are: {differing[:8]}"
        raise SignatureInvalid(message, reason="files")
    for file in listed:
        if file.algorithm not in _HASHES:
            message = f"{file.name!r} is hashed by {file.algorithm!r}; valid: {', '.join(_HASHES)}"
            raise SignatureInvalid(message, reason="algorithm")
        actual = _HASHES[file.algorithm](hashed(file.name, files[file.name])).hexdigest()
        if actual != file.hash:
            raise SignatureInvalid(f"{file.name!r} has {file.algorithm} {actual}, signed is another", reason="files")


def hashed(name: str, content: bytes) -> bytes:
    """Return what is hashed of a file: its bytes, or of a structured one its canonical text."""
    read = STRUCTURED.get(name.rpartition("/")[2])
    return content if read is None else canonical_json(read(content, name), name)


def _prepared(key: BundleKey) -> Any:
    """Return what ``PyJWT`` takes: a public key of the type that the algorithm is for, or the bytes of a secret."""
    try:
        import jwt  # noqa: F401  # to say so now, and not when the first bundle comes
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as error:
        raise ConfigError("bundle_keys", f"{error.name} is not installed", "pip install 'capgate[sign]'") from error
    if key.algorithm in SYMMETRIC:
        return key.key.encode()
    try:
        public = load_pem_public_key(key.key.encode())
    except Exception as error:  # ValueError, or an algorithm that this build of the library does not have
        raise key_error("bundle_keys", key.id, "key", HIDDEN, "a public key as PEM") from error
    wanted = _algorithms_of(public)
    if not key.algorithm.startswith(wanted[0]) or (wanted[1] and _CURVES.get(key.algorithm) != wanted[1]):
        valid = f"a key for {key.algorithm}; RSA has {RSA_BITS} bits or more"
        raise key_error("bundle_keys", key.id, "key", wanted[2], valid)
    if isinstance(public, Ed25519PublicKey) and (problem := problem_of_key(public.public_bytes_raw())):
        raise key_error("bundle_keys", key.id, "key", HIDDEN, f"an Ed25519 public key; this is {problem}")
    return public


def _algorithms_of(public: object) -> tuple[tuple[str, ...], str, str]:
    """Return which algorithms a key is for, by their beginnings; its curve; and what to call it."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(public, rsa.RSAPublicKey):
        return (("RS", "PS") if public.key_size >= RSA_BITS else ()), "", f"RSA of {public.key_size} bits"
    if isinstance(public, ec.EllipticCurvePublicKey):
        return ("ES",), public.curve.name, public.curve.name
    return (("EdDSA",) if isinstance(public, ed25519.Ed25519PublicKey) else ()), "", type(public).__name__
