"""Reads public keys that verify tokens: PEM (a certificate, or a public key) and JSON Web Keys.

What OPA may read and this does not is no reason to call a token unsigned: such a key raises :class:`BuiltinError`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Union

import msgspec

from ..errors import BuiltinError
from .base import Undefined
from .encodings import read_json
from .encodings import url_bytes as _bytes
from .terms import Object, Value

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
except ImportError:  # pragma: no cover - the functions are not provided then
    NEEDS: tuple[tuple[str, object], ...] = (("cryptography", None),)
else:
    NEEDS = (("cryptography", x509),)

if TYPE_CHECKING:
    VerifyingKey = Union[rsa.RSAPublicKey, ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey]

#: The algorithms of RFC 7518 and RFC 8037 that OPA knows.
ALGORITHMS: Final = frozenset(f"{kind}{bits}" for kind in ("RS", "PS", "ES", "HS") for bits in (256, 384, 512)) | {
    "EdDSA"
}
_PEM: Final = re.compile(r"-----BEGIN ([A-Z ]+)-----\n(?:[A-Za-z0-9+/=]{1,76}\n)+-----END \1-----\n?", re.ASCII)
_CURVES: Final = {"P-256": "SECP256R1", "P-384": "SECP384R1", "P-521": "SECP521R1"}
_CURVE_NAMES: Final = frozenset(name.lower() for name in _CURVES.values())
#: A signature takes about as long as this many units of work.
COST: Final = 2_000
MAX_KEYS: Final = 50


class Key(msgspec.Struct, frozen=True):
    """A public key, or the bytes of a shared one, with what its JSON says of the algorithm and of its name."""

    key: VerifyingKey | bytes
    algorithm: str = ""
    id: str = ""


def read_keys(text: str) -> list[Key]:
    if "-----BEGIN" in text:
        return [Key(_pem(text))]
    value = read_json(text)
    if not isinstance(value, Object):
        raise Undefined
    keys = value.get("keys") if "keys" in value else (value,)
    if not isinstance(keys, tuple) or len(keys) > MAX_KEYS:
        raise _unusable("no array of up to 50 keys")
    read = [_json_key(item) for item in keys]
    return [key for key in read if not key.algorithm or key.algorithm in ALGORITHMS]


def _unusable(detail: str) -> BuiltinError:
    return BuiltinError("io.jwt", "ambiguous", f"a key that is not read: {detail}")


def _pem(text: str) -> VerifyingKey:
    match = _PEM.fullmatch(text)
    if match is None or match[1] not in ("CERTIFICATE", "PUBLIC KEY"):
        raise _unusable("PEM that is not one certificate or one public key")
    try:
        if match[1] == "CERTIFICATE":
            key: object = x509.load_pem_x509_certificate(text.encode()).public_key()
        else:
            key = load_pem_public_key(text.encode())
        if isinstance(key, (rsa.RSAPublicKey, ed25519.Ed25519PublicKey)):
            return key
        curve = getattr(getattr(key, "curve", None), "name", None)
        if isinstance(key, ec.EllipticCurvePublicKey) and curve in _CURVE_NAMES:
            return key
        raise _unusable(f"{type(key).__name__} {curve or ''}")
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unusable(str(error)[:200]) from error


def _json_key(value: Value) -> Key:
    if not isinstance(value, Object):
        raise _unusable("a key that is no object")
    parts = {name: _text(value, name) for name in ("kty", "alg", "kid", "crv", "n", "e", "x", "y", "k")}
    if "d" in value:
        raise _unusable("a private key")
    try:
        return Key(_public_key(parts), parts["alg"], parts["kid"])
    except (ValueError, Undefined, UnsupportedAlgorithm) as error:
        raise _unusable(str(error)[:200]) from error


def _text(value: Object, name: str) -> str:
    text = value.get(name, "")
    if not isinstance(text, str):
        raise _unusable(f"{name!r} is no string")
    return text


def _public_key(parts: dict[str, str]) -> VerifyingKey | bytes:
    key_type, curve = parts["kty"], parts["crv"]
    if key_type == "RSA":
        return rsa.RSAPublicNumbers(_integer(parts["e"]), _integer(parts["n"])).public_key()
    if key_type == "EC" and curve in _CURVES:
        numbers = ec.EllipticCurvePublicNumbers(
            _integer(parts["x"]), _integer(parts["y"]), getattr(ec, _CURVES[curve])()
        )
        return numbers.public_key()
    if key_type == "OKP" and curve == "Ed25519":
        return ed25519.Ed25519PublicKey.from_public_bytes(_bytes(parts["x"]))
    if key_type == "oct":
        return _bytes(parts["k"])
    raise _unusable(f"kind {key_type!r} with curve {curve!r}")


def _integer(text: str) -> int:
    data = _bytes(text)
    if not data:
        raise _unusable("an empty number")
    return int.from_bytes(data, "big")


def is_signed(key: VerifyingKey | bytes, algorithm: str, message: bytes, signature: bytes) -> bool:
    """Say whether ``signature`` is that of ``message``; not so where the key is of another kind than the algorithm."""
    try:
        return _verify(key, algorithm, message, signature)
    except InvalidSignature:
        return False
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unusable(str(error)[:200]) from error


def _verify(key: VerifyingKey | bytes, algorithm: str, message: bytes, signature: bytes) -> bool:
    if algorithm == "EdDSA":
        if not isinstance(key, ed25519.Ed25519PublicKey):
            return False
        key.verify(signature, message)
        return True
    made: dict[str, hashes.HashAlgorithm] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
    hash_ = made[algorithm[2:]]
    if algorithm.startswith("ES"):
        if not isinstance(key, ec.EllipticCurvePublicKey) or not signature:
            return False
        half = len(signature) // 2
        r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
        key.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(hash_))
        return True
    if not isinstance(key, rsa.RSAPublicKey):
        return False
    if key.key_size < 1024:  # which Go refuses since 1.24
        raise _unusable(f"an RSA key of {key.key_size} bits")
    if algorithm.startswith("RS"):
        key.verify(signature, message, padding.PKCS1v15(), hash_)
    else:
        key.verify(signature, message, padding.PSS(padding.MGF1(hash_), padding.PSS.AUTO), hash_)
    return True
