"""``io.jwt.*`` with tokens that are signed here, and those of RFC 7515."""

from __future__ import annotations

import base64
import datetime
import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from capgate.errors import BuiltinError
from capgate.rego import BUILTINS, Context, Number, Object, Undefined, Value
from capgate.rego.terms import plain

from .cases import NOW

#: RFC 7515, appendix A.1: a token and its key.
RFC_TOKEN = (
    "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9"
    ".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    ".dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
)
RFC_KEY = '{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}'
RFC_CLAIMS = {"iss": "joe", "exp": 1300819380, "http://example.com/is_root": True}

RSA = rsa.generate_private_key(65537, 2048)
EC = {"ES256": ec.generate_private_key(ec.SECP256R1()), "ES384": ec.generate_private_key(ec.SECP384R1())}
EC["ES512"] = ec.generate_private_key(ec.SECP521R1())
ED = ed25519.Ed25519PrivateKey.generate()
HASHES: dict[str, hashes.HashAlgorithm] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
UNVERIFIED = (False, Object(), Object())
ASYMMETRIC = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(algorithm: str, message: bytes, secret: bytes = b"secret") -> bytes:
    if algorithm == "EdDSA":
        return ED.sign(message)
    hash_ = HASHES[algorithm[2:]]
    if algorithm.startswith("HS"):
        mac = HMAC(secret, hash_)
        mac.update(message)
        return mac.finalize()
    if algorithm.startswith("RS"):
        return RSA.sign(message, padding.PKCS1v15(), hash_)
    if algorithm.startswith("PS"):
        return RSA.sign(message, padding.PSS(padding.MGF1(hash_), padding.PSS.DIGEST_LENGTH), hash_)
    key = EC[algorithm]
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hash_)))
    size = (key.key_size + 7) // 8
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def token(algorithm: str, claims: Any, *, signed_by: str | None = None, **header: Any) -> str:
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    message = f"{encoded(json.dumps({'alg': algorithm, **header}).encode())}.{encoded(payload)}"
    return f"{message}.{encoded(sign(signed_by or algorithm, message.encode()))}"


def public_key(algorithm: str) -> Any:
    if algorithm == "EdDSA":
        return ED.public_key()
    return EC[algorithm].public_key() if algorithm.startswith("ES") else RSA.public_key()


def pem(algorithm: str) -> str:
    return str(public_key(algorithm).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def number(value: int, size: int | None = None) -> str:
    return encoded(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def jwk(algorithm: str, **more: str) -> dict[str, str]:
    key = public_key(algorithm)
    if algorithm == "EdDSA":
        raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        return {"kty": "OKP", "crv": "Ed25519", "x": encoded(raw), **more}
    numbers = key.public_numbers()
    if algorithm.startswith("ES"):
        size = (key.key_size + 7) // 8
        curve = {256: "P-256", 384: "P-384", 521: "P-521"}[key.key_size]
        return {"kty": "EC", "crv": curve, "x": number(numbers.x, size), "y": number(numbers.y, size), **more}
    return {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e), **more}


def certificate() -> str:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    start = datetime.datetime(2020, 1, 1)
    built = x509.CertificateBuilder(name, name, RSA.public_key(), 1, start, start + datetime.timedelta(3650))
    return built.sign(RSA, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def call(name: str, *arguments: Any, now: int = NOW) -> Value:
    return BUILTINS[name].call(Context(now), *map(plain, arguments))


def verify(algorithm: str, signed: str, key: str) -> Value:
    return call(f"io.jwt.verify_{algorithm.lower()}", signed, key)


def altered(signed: str) -> str:
    header, _, signature = signed.split(".")
    payload = encoded(json.dumps({"x": 1}).encode())
    return f"{header}.{payload}.{signature}"


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_signatures_are_verified_with_keys_of_every_form(algorithm: str) -> None:
    signed = token(algorithm, {"sub": "a"})
    for key in (pem(algorithm), json.dumps(jwk(algorithm)), json.dumps({"keys": [jwk("RS256"), jwk(algorithm)]})):
        assert verify(algorithm, signed, key) is True
        assert verify(algorithm, altered(signed), key) is False
    other = "ES256" if not algorithm.startswith("ES") else "EdDSA"
    assert verify(algorithm, signed, pem(other)) is False


def test_a_certificate_is_a_key() -> None:
    assert verify("RS256", token("RS256", {}), certificate()) is True
    assert call("io.jwt.decode_verify", token("RS256", {"a": 1}), {"cert": certificate()}) == (
        True,
        plain({"alg": "RS256"}),
        plain({"a": 1}),
    )


@pytest.mark.parametrize("bits", ["256", "384", "512"])
def test_shared_secrets(bits: str) -> None:
    signed = token(f"HS{bits}", {})
    assert call(f"io.jwt.verify_hs{bits}", signed, "secret") is True
    assert call(f"io.jwt.verify_hs{bits}", signed, "Secret") is False
    assert call(f"io.jwt.verify_hs{bits}", altered(signed), "secret") is False


def test_the_token_of_the_standard() -> None:
    header = {"typ": "JWT", "alg": "HS256"}
    signature = "7418dfb49799e0254ffa607dd8adbbba16d4254d69d6bff05b58055853848d79"
    assert call("io.jwt.decode", RFC_TOKEN) == (plain(header), plain(RFC_CLAIMS), signature)
    constraints = {"cert": RFC_KEY, "alg": "HS256", "iss": "joe", "time": 1300819379 * 10**9}
    assert call("io.jwt.decode_verify", RFC_TOKEN, constraints) == (True, plain(header), plain(RFC_CLAIMS))
    assert call("io.jwt.decode_verify", RFC_TOKEN, {**constraints, "time": 1300819380 * 10**9}) == UNVERIFIED


def test_the_named_key_alone_is_tried() -> None:
    keys = json.dumps({"keys": [jwk("ES256", kid="other"), jwk("RS256", kid="mine")]})
    assert verify("RS256", token("RS256", {}, kid="mine"), keys) is True
    assert verify("RS256", token("RS256", {}, kid="other"), keys) is False
    assert verify("RS256", token("RS256", {}, kid="neither"), keys) is True
    assert verify("RS256", token("RS256", {}), json.dumps(jwk("RS256", alg="RS512"))) is False
    assert verify("RS256", token("RS256", {}), json.dumps(jwk("RS256", alg="unheard-of"))) is False


def test_a_key_is_for_its_own_kind_of_algorithm() -> None:  # A5
    """The public key as a shared secret, ``none``, and a header that names another algorithm."""
    message = f"{encoded(json.dumps({'alg': 'HS256'}).encode())}.{encoded(b'{}')}"
    confused = f"{message}.{encoded(sign('HS256', message.encode(), pem('RS256').encode()))}"
    assert call("io.jwt.decode_verify", confused, {"cert": pem("RS256")}) == UNVERIFIED
    for algorithm in ("none", "None", "", "HS257", "RS256"):
        unsigned = f"{encoded(json.dumps({'alg': algorithm}).encode())}.{encoded(b'{}')}."
        assert call("io.jwt.decode_verify", unsigned, {"cert": pem("RS256")}) == UNVERIFIED
        assert call("io.jwt.decode_verify", unsigned, {"secret": "secret"}) == UNVERIFIED
    assert call("io.jwt.decode_verify", token("RS256", {}), {"cert": pem("RS256"), "alg": "PS256"}) == UNVERIFIED
    assert call("io.jwt.decode_verify", token("RS256", {}), {"secret": "secret"}) == UNVERIFIED


CLAIMS = [
    ({"exp": 2_000_000_000}, {}, True),
    ({"exp": 1_000_000_000}, {}, False),
    ({"exp": 1_000_000_000}, {"time": 999_999_999 * 10**9}, True),
    ({"exp": 1136214245.2}, {}, True),
    ({"exp": 1136214245.1}, {}, False),
    ({"nbf": 1_000_000_000}, {}, True),
    ({"nbf": 2_000_000_000}, {}, False),
    ({"nbf": 5}, {"time": 5 * 10**9}, True),
    ({"exp": 5}, {"time": 5 * 10**9}, False),
    ({"iss": "a"}, {"iss": "a"}, True),
    ({"iss": "a"}, {"iss": "b"}, False),
    ({}, {"iss": "b"}, False),
    ({"iss": "a"}, {}, True),
    ({"aud": "a"}, {"aud": "a"}, True),
    ({"aud": ["b", "a", 1]}, {"aud": "a"}, True),
    ({"aud": ["b"]}, {"aud": "a"}, False),
    ({"aud": {"a": 1}}, {"aud": "a"}, False),
    ({"aud": "a"}, {}, False),
    ({}, {"aud": "a"}, False),
]


@pytest.mark.parametrize(("claims", "constraints", "met"), CLAIMS)
def test_constraints(claims: dict[str, Any], constraints: dict[str, Any], met: bool) -> None:
    result = call("io.jwt.decode_verify", token("HS256", claims), {"secret": "secret", **constraints})
    assert result == ((True, plain({"alg": "HS256"}), read(claims)) if met else UNVERIFIED)


def read(claims: dict[str, Any]) -> Value:
    return plain(json.loads(json.dumps(claims), parse_float=Number))


def test_the_time_is_that_of_the_question() -> None:
    signed = token("HS256", {"exp": 100, "nbf": 50})
    times = {t: call("io.jwt.decode_verify", signed, {"secret": "secret"}, now=t * 10**9) for t in (49, 50, 99, 100)}
    assert {t: result != UNVERIFIED for t, result in times.items()} == {49: False, 50: True, 99: True, 100: False}


def test_critical_parameters() -> None:
    constraints = {"secret": "secret"}
    assert call("io.jwt.decode_verify", token("HS256", {}, crit=["x"], x=1), constraints) == UNVERIFIED
    assert call("io.jwt.decode_verify", token("HS256", {}, crit=["kid"], kid="a"), constraints) != UNVERIFIED
    with pytest.raises(Undefined):
        call("io.jwt.decode_verify", token("HS256", {}, crit=[]), constraints)


def test_a_token_in_a_token() -> None:
    outer = token("HS256", token("HS256", {"a": 1}).encode(), cty="JWT")
    header, claims = plain({"alg": "HS256"}), plain({"a": 1})
    assert call("io.jwt.decode_verify", outer, {"secret": "secret"}) == (True, header, claims)
    decoded = call("io.jwt.decode", outer)
    assert isinstance(decoded, tuple)
    assert decoded[:2] == (header, claims)


UNDEFINED: list[tuple[str, tuple[Any, ...]]] = [
    ("io.jwt.decode", ("a.b",)),
    ("io.jwt.decode", ("e30.e30.e30.e30",)),
    ("io.jwt.decode", ("!!.e30.e30",)),
    ("io.jwt.decode", ("e30.W10.e30",)),  # a payload that is an array
    ("io.jwt.decode", (encoded(b'{"enc": "A128GCM"}') + ".e30.e30",)),
    ("io.jwt.decode", (1,)),
    ("io.jwt.verify_rs256", ("e30.e30.e30", "no key")),
    ("io.jwt.verify_hs256", ("a", "secret")),
    ("io.jwt.decode_verify", (RFC_TOKEN, {})),
    ("io.jwt.decode_verify", (RFC_TOKEN, {"secret": ""})),
    ("io.jwt.decode_verify", (RFC_TOKEN, {"secret": "a", "cert": RFC_KEY})),
    ("io.jwt.decode_verify", (RFC_TOKEN, {"secret": "a", "sub": "b"})),
    ("io.jwt.decode_verify", (RFC_TOKEN, {"secret": "a", "time": -1})),
    ("io.jwt.decode_verify", (RFC_TOKEN, {"secret": "a", "time": 10**500})),
    ("io.jwt.decode_verify", (RFC_TOKEN, {"secret": "a", "time": Number("1e400")})),
    ("io.jwt.decode_verify", (RFC_TOKEN, {"secret": "a", "alg": 1})),
    ("io.jwt.decode_verify", (token("HS256", {"exp": "soon"}), {"secret": "secret"})),
    ("io.jwt.decode_verify", (token("HS256", b"[]"), {"secret": "secret"})),
]


@pytest.mark.parametrize(("name", "arguments"), UNDEFINED)
def test_what_is_no_token_or_no_constraint_is_undefined(name: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(Undefined):
        call(name, *arguments)


def test_a_key_that_is_not_read_is_a_denial() -> None:
    """What OPA might read: calling the token unsigned, or undefined, would be a guess."""
    private = {**jwk("RS256"), "d": "AQAB"}
    odd = [
        pem("RS256") + pem("ES256"),
        " " + pem("RS256"),
        json.dumps(private),
        '{"kty": "EC", "crv": "secp256k1"}',
        "{}",
    ]
    for key in odd:
        with pytest.raises(BuiltinError) as caught:
            verify("RS256", token("RS256", {}), key)
        assert caught.value.reason == "ambiguous"


def test_every_algorithm_is_there() -> None:
    names = {f"io.jwt.verify_{algorithm.lower()}" for algorithm in [*ASYMMETRIC, "HS256", "HS384", "HS512"]}
    assert {name for name in BUILTINS if name.startswith("io.jwt.")} == names | {
        "io.jwt.decode",
        "io.jwt.decode_verify",
    }
