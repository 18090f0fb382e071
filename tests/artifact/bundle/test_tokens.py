"""The token of a signature: the key and algorithm come from settings, scope and time hold, and nothing else is said."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from capgate.artifact.bundle import read_bundle
from capgate.artifact.bundle.bundle_keys import ALGORITHMS
from capgate.errors import ConfigError, SignatureInvalid

from ...support.packing import (
    FILES,
    configured,
    listed,
    pack,
    private,
    public_pem,
    signed,
    token,
)
from .verifying import MOST, NOW, b64, keys, reason, with_token


def test_no_algorithm_but_the_configured_one() -> None:  # A5
    none = f"{b64({'alg': 'none', 'kid': 'release'})}.{b64({'files': listed(FILES)})}."
    assert reason(with_token(none)) == "malformed"
    assert reason(with_token(f"{none}AA")) == "algorithm"
    for algorithm in ALGORITHMS:
        if algorithm != "ES256":
            assert reason(signed(algorithm=algorithm)) == "algorithm"
    assert reason(signed(algorithm="PS256"), keys(configured("RS256"))) == "algorithm"
    assert reason(signed(algorithm="RS512"), keys(configured("RS256"))) == "algorithm"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_public_key_is_no_secret(algorithm: str) -> None:  # A5: the classic confusion
    import hashlib
    import hmac

    pem = public_pem(algorithm)
    for said in ("HS256", algorithm):
        parts = f"{b64({'alg': said, 'kid': 'release'})}.{b64({'files': listed(FILES)})}"
        forged = f"{parts}.{b64(hmac.new(pem.encode(), parts.encode(), hashlib.sha256).digest())}"
        expected = "algorithm" if said == "HS256" else "forged"
        assert reason(with_token(forged), keys(configured(algorithm))) == expected
    with pytest.raises(ConfigError):
        keys({"release": {"algorithm": "HS256", "key": pem}})


@pytest.mark.parametrize("field", ["jwk", "jku", "x5c", "x5u", "x5t", "crit", "b64", "zip", "cty", "enc", "ALG"])
def test_nothing_in_the_header_brings_a_key(field: str) -> None:  # A4
    stranger = ec.generate_private_key(ec.SECP256R1())
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(stranger.public_key()))
    value = {"jwk": jwk, "crit": ["kid"], "b64": False}.get(field, "https://keys.example.com/1")
    head, body = b64({"alg": "ES256", "kid": "release", field: value}), b64({"files": listed(FILES)})
    made = jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256).sign(f"{head}.{body}".encode(), stranger)
    assert reason(with_token(f"{head}.{body}.{b64(made)}")) == "malformed"


def test_another_key_of_the_same_id() -> None:  # A4
    assert reason(signed(key=ec.generate_private_key(ec.SECP256R1()))) == "forged"


@pytest.mark.parametrize(
    ("kid", "keyid", "expected"),
    [
        ("release", None, ""),
        (None, "release", ""),
        ("release", "release", ""),
        ("nightly", None, "key"),
        (None, "nightly", "key"),
        ("release", "nightly", "key"),
        ("release", 5, "key"),
        (None, ["release"], "key"),
        ("", None, "key"),
        ("../release", None, "key"),
    ],
)
def test_the_token_only_chooses_among_configured_keys(kid: str | None, keyid: Any, expected: str) -> None:  # A3, A4
    files = signed(kid=kid, **({} if keyid is None else {"keyid": keyid}))
    if expected:
        assert reason(files) == expected
    else:
        assert read_bundle(pack(files), MOST, keys()).bundle.signature is not None


def test_a_token_that_names_no_key() -> None:
    """The only key is meant, as with OPA's own setting; with several, nothing says which."""
    assert read_bundle(pack(signed(kid=None)), MOST, keys()).bundle.signature is not None
    several = {**configured("ES256"), **configured("RS256", "other")}
    assert reason(signed(kid=None), keys(several)) == "key"
    for algorithm, id in (("ES256", "release"), ("RS256", "other")):
        found = read_bundle(pack(signed(algorithm=algorithm, kid=id)), MOST, keys(several)).bundle.signature
        assert found is not None
        assert found.key == id
    assert reason(signed(algorithm="RS256", kid="release"), keys(several)) == "algorithm"


@pytest.mark.parametrize(
    ("said", "of_key", "of_setting", "expected"),
    [
        (None, None, None, ""),
        ("", None, None, ""),
        ("write", None, None, "scope"),
        ("write", "write", None, ""),
        (None, "write", None, "scope"),
        ("read", "write", None, "scope"),
        ("write", None, "write", ""),
        (None, None, "write", "scope"),
        ("Write", None, "write", "scope"),
        ("write", "write", "write", ""),
        (5, None, None, "malformed"),
    ],
)
def test_the_scope(said: Any, of_key: str | None, of_setting: str | None, expected: str) -> None:  # A7
    trusted = keys(configured(**({} if of_key is None else {"scope": of_key})), of_setting)
    files = signed(**({} if said is None else {"scope": said}))
    if expected:
        assert reason(files, trusted) == expected
    else:
        assert read_bundle(pack(files), MOST, trusted).bundle.signature is not None


def test_a_key_is_for_no_other_scope_than_its_own() -> None:  # A7
    several = {**configured("ES256", scope="read"), **configured("RS256", "other", scope="write")}
    assert reason(signed(scope="write"), keys(several, "write")) == "scope"
    assert reason(signed(scope="read"), keys(several, "write")) == "scope"
    assert read_bundle(pack(signed(algorithm="RS256", kid="other", scope="write")), MOST, keys(several, "write"))


@pytest.mark.parametrize(
    ("field", "moment", "expected"),
    [
        ("exp", NOW + 1, ""),
        ("exp", NOW, "time"),
        ("exp", NOW - 1_000, "time"),
        ("nbf", NOW + 299, ""),
        ("nbf", NOW + 301, "time"),
        ("iat", NOW + 301, "time"),
        ("iat", NOW - 10**8, ""),
        ("exp", "tomorrow", "malformed"),
        ("iat", True, "malformed"),
    ],
)
def test_times(field: str, moment: Any, expected: str) -> None:  # A10
    files = signed(**{field: moment})
    if expected:
        assert reason(files) == expected
    else:
        assert read_bundle(pack(files), MOST, keys()).bundle.signature is not None


@pytest.mark.parametrize("field", ["alg", "kid", "typ"])
def test_a_header_of_anything_but_text(field: str) -> None:
    head = {"alg": "ES256", "kid": "release", "typ": "JWT"}
    body, end = token().split(".")[1:]
    for value in ([], {}, 1, 1.5, True, None, ["JWT"], {"a": "b"}):
        assert reason(signed(FILES, f"{b64({**head, field: value})}.{body}.{end}")) == "malformed"
    deep = json.dumps(head)[:-1] + ', "typ": ' + "[" * 400 + "]" * 400 + "}"
    encoded = base64.urlsafe_b64encode(deep.replace('"typ": "JWT", ', "").encode()).rstrip(b"=").decode()
    assert reason(signed(FILES, f"{encoded}.{body}.{end}")) == "malformed"


def test_claims_nested_too_deeply_are_malformed() -> None:
    for depth in (150, 900, 970, 980, 990, 1_000, 5_000):
        claims = '{"files": ' + json.dumps(listed(FILES)) + ', "more": ' + "[" * depth + "]" * depth + "}"
        made = jwt.PyJWS().encode(claims.encode(), private("ES256"), "ES256", {"kid": "release"})
        try:
            read_bundle(pack(signed(FILES, made)), MOST, keys())
        except SignatureInvalid as error:
            assert error.reason == "malformed"  # noqa: PT017  # shallow ones hold, and how deep that is differs
