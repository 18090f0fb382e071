"""Bundles that are signed, as OPA signs them: what holds, and everything that must not."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from hypothesis import given as drawn
from hypothesis import strategies as st
from rich.console import Console

from capgate.artifact.bundle import BundleKeys, read_bundle
from capgate.artifact.bundle.bundle_keys import ALGORITHMS, ASYMMETRIC, parse_bundle_keys
from capgate.artifact.bundle.contents import DATA_BYTES
from capgate.cli.trust import configured_bundle_keys
from capgate.errors import BundleError, ConfigError, SignatureInvalid
from capgate.middleware.contract import contract_of
from capgate.settings.select import select_checker
from capgate.settings.settings import Settings
from capgate.settings.trust import load_bundle_keys
from capgate.store import WasmArtifact, load_wasm_artifact

from ...support.guests import guest
from ...support.packing import (
    FILES,
    KEYS,
    MODULE,
    SECRET,
    configured,
    listed,
    manifest,
    pack,
    private,
    public_pem,
    signed,
    token,
    with_files,
)

NOW = 1_800_000_000.0
MOST = 1 << 20


def keys(given: Any = None, scope: str | None = None) -> BundleKeys:
    return BundleKeys(configured() if given is None else given, scope, clock=lambda: NOW)


def reason(files: dict[str, bytes], trusted: BundleKeys | None = None) -> str:
    """Why a bundle is refused, by the reader and as an artifact alike."""
    trusted = trusted or keys()
    with pytest.raises(SignatureInvalid) as caught:
        read_bundle(pack(files), MOST, trusted, path="bundle.tar.gz")
    assert caught.value.path == "bundle.tar.gz"
    with pytest.raises(SignatureInvalid):
        WasmArtifact.from_bytes(pack(files), bundle_keys=trusted)
    return caught.value.reason


def with_token(text: str) -> dict[str, bytes]:
    return signed(FILES, text)


def b64(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_algorithm(algorithm: str) -> None:
    found = read_bundle(pack(signed(algorithm=algorithm)), MOST, keys(configured(algorithm))).bundle.signature
    assert found is not None
    assert (found.key, found.algorithm, found.scope, found.issuer, found.issued) == (
        "release",
        algorithm,
        "",
        None,
        None,
    )


def test_what_the_signer_says() -> None:
    files = signed(scope="write", iss="builder", iat=int(NOW) - 5, keyid="release", note="OPA lets one add claims")
    found = read_bundle(pack(files), MOST, keys(scope="write")).bundle
    assert found.is_signed
    signature = found.signature
    assert signature is not None
    assert (signature.scope, signature.issuer, signature.issued) == ("write", "builder", NOW - 5)


def test_without_keys_nothing_is_verified_and_nothing_said_to_be() -> None:
    found = WasmArtifact.from_bytes(pack(signed(FILES, "nonsense"))).bundle
    assert found is not None
    assert (found.is_signed, found.signature) == (True, None)


# -- A2: what is stripped or missing is not "unsigned, therefore fine"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "missing"),
        (b'{"signatures": []}', "missing"),
        (b"", "malformed"),
        (b"{}", "malformed"),
        (b"[]", "malformed"),
        (b"null", "malformed"),
        (b'{"signatures": null}', "malformed"),
        (b'{"signatures": {}}', "malformed"),
        (b'{"signatures": [5]}', "malformed"),
        (b'{"signatures": [""]}', "malformed"),
        (b'{"signatures": ["a.b"]}', "malformed"),
        (b'{"signatures": ["a.b.c.d"]}', "malformed"),
        (b'{"signatures": ["\xff"]}', "malformed"),
        (b" " * 3_000_000, "malformed"),
        (b"[" * 100_000, "malformed"),
    ],
)
def test_signature_files_that_are_none(content: bytes | None, expected: str) -> None:
    files = FILES if content is None else {**FILES, "/.signatures.json": content}
    with pytest.raises(SignatureInvalid) as caught:
        read_bundle(pack(files), 8 << 20, keys())
    assert caught.value.reason == expected


def test_one_signature_exactly() -> None:  # A5
    good = token()
    assert reason(signed(FILES, good, good)) == "malformed"
    twice = b'{"signatures": ["a"], "signatures": ["' + good.encode() + b'"]}'
    assert reason({**FILES, "/.signatures.json": twice}) == "malformed"
    plugin = json.dumps({"signatures": [good], "plugin": "custom"}).encode()
    assert reason({**FILES, "/.signatures.json": plugin}) == "malformed"


def test_a_bare_module_is_refused() -> None:  # A2
    for data in (MODULE, guest(), b"", b"\0asm"):
        with pytest.raises(SignatureInvalid) as caught:
            WasmArtifact.from_bytes(data, bundle_keys=keys())
        assert caught.value.reason == "missing"


@pytest.mark.slow
def test_every_flipped_bit_of_the_signatures_is_seen() -> None:  # A1
    files = signed()
    original = files["/.signatures.json"]
    assert read_bundle(pack(files), MOST, keys()).bundle.signature
    for position in range(len(original)):
        for bit in range(8):
            flipped = bytearray(original)
            flipped[position] ^= 1 << bit
            with pytest.raises(SignatureInvalid):
                keys().verify({name[1:]: data for name, data in {**files, "/.signatures.json": bytes(flipped)}.items()})


def test_truncated_signatures_are_refused() -> None:  # A2
    files = {name[1:]: data for name, data in signed().items()}
    original = files[".signatures.json"]
    for length in range(len(original)):
        with pytest.raises(SignatureInvalid):
            keys().verify({**files, ".signatures.json": original[:length]})


@pytest.mark.parametrize("name", sorted(FILES))
def test_every_flipped_bit_of_a_file_is_seen_or_means_nothing(name: str) -> None:  # A1
    files = {key[1:]: data for key, data in signed().items()}
    trusted, original = keys(), FILES[name]
    for position in range(len(original)):
        flipped = bytearray(original)
        flipped[position] ^= 1 << position % 8
        with pytest.raises(SignatureInvalid):
            trusted.verify({**files, name[1:]: bytes(flipped)})


SIGNED = pack(signed())
UNPACKED = gzip.decompress(SIGNED)


@drawn(st.lists(st.tuples(st.integers(0, len(UNPACKED) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_whatever_is_changed_only_what_was_signed_runs(changes: list[tuple[int, int]]) -> None:  # A1
    """Also inside of the compression, where no checksum helps."""
    tar = bytearray(UNPACKED)
    for position, value in changes:
        tar[position] = value
        header = position - position % 512
        block = tar[header : header + 512]
        if block[257:262] == b"ustar":  # with a checksum that fits
            block[148:156] = b" " * 8
            tar[header + 148 : header + 156] = b"%06o\0 " % sum(block)
    expected = read_bundle(SIGNED, MOST, keys())
    try:
        found = read_bundle(gzip.compress(tar, 1), MOST, keys())
    except (BundleError, SignatureInvalid):
        return
    assert (found.module, found.data, found.bundle.roots) == (expected.module, expected.data, expected.bundle.roots)


# -- which files


def test_every_file_is_covered_and_nothing_else() -> None:  # A2, A6, A13
    good = token()
    assert reason({**with_token(good), "/extra.rego": b""}) == "files"
    assert reason({**with_token(good), "/orders/data.json": b"{}"}) == "files"
    for name in ("data", "manifest", "module", "rego"):
        assert (
            reason({**with_files(**{name: None}), "/.signatures.json": with_token(good)["/.signatures.json"]})
            == "files"
        )
    for name, other in (
        ("manifest", manifest(revision="2026-12")),
        ("data", b'{"orders": {"admins": ["mallory"]}}'),
        ("module", guest()),
        ("rego", b"package orders\n\nallow := true\n"),
    ):
        files = {**with_files(**{name: other}), "/.signatures.json": with_token(good)["/.signatures.json"]}
        assert reason(files) == "files"


def test_only_the_value_of_structured_files_counts() -> None:
    spaced = json.dumps(json.loads(FILES["/data.json"]), indent=8).encode()
    files = {**with_files(data=spaced), "/.signatures.json": with_token(token())["/.signatures.json"]}
    assert read_bundle(pack(files), MOST, keys()).bundle.signature is not None
    renamed = {"/notes.json": b'{"a": 1}', **FILES}
    files = {**renamed, "/notes.json": b'{"a":1}', "/.signatures.json": signed(renamed)["/.signatures.json"]}
    assert reason(files) == "files"


def claims(files: list[Any]) -> dict[str, bytes]:
    return with_token(
        jwt.PyJWS().encode(json.dumps({"files": files}).encode(), KEYS["ES256"], "ES256", {"kid": "release"})
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda files: [], "files"),
        (lambda files: [*files, files[0]], "files"),
        (lambda files: [*files, {**files[0], "name": "more"}], "files"),
        (lambda files: [*files[1:], {**files[0], "name": "/data.json"}], "files"),
        (lambda files: [*files, {**files[0], "name": ".signatures.json"}], "files"),
        (lambda files: [*files[1:], {**files[0], "hash": files[0]["hash"].upper()}], "files"),
        (lambda files: [*files[1:], {**files[0], "hash": ""}], "files"),
        (lambda files: [*files[1:], {**files[0], "algorithm": "MD5"}], "algorithm"),
        (lambda files: [*files[1:], {**files[0], "algorithm": "SHA-1"}], "algorithm"),
        (lambda files: [*files[1:], {**files[0], "algorithm": "sha-256"}], "algorithm"),
        (lambda files: [*files[1:], {**files[0], "algorithm": ""}], "algorithm"),
        (lambda files: [*files[1:], {**files[0], "algorithm": "SHA-512"}], "files"),
        (lambda files: [*files[1:], {"name": files[0]["name"], "hash": files[0]["hash"]}], "malformed"),
        (lambda files: [*files[1:], {**files[0], "size": 1}], "malformed"),
        (lambda files: "data.json", "malformed"),
        (lambda files: None, "malformed"),
    ],
)
def test_lists_of_files(change: Callable[[Any], Any], expected: str) -> None:
    assert reason(claims(change(listed(FILES)))) == expected


# -- A4, A5: the key and the algorithm come from settings


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


# -- scope and time


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


def test_nothing_is_read_before_the_signature_holds() -> None:
    """What is wrong with the rest of a bundle is nobody's business until it is known who made it."""
    assert reason(with_files(manifest=b"no JSON")) == "missing"
    assert reason({**FILES, "/data.yaml": b""}) == "missing"
    with pytest.raises(BundleError):
        read_bundle(pack(signed(with_files(manifest=manifest(roots=["other"])))), MOST, keys())


# -- A3: a configuration of signatures is whole, or none


def pem(private_key: Any) -> str:
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return str(private_key.public_key().public_bytes(*form).decode())


PRIVATE = KEYS["ES256"].private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)
PUBLIC = public_pem("ES256")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"": {"algorithm": "ES256", "key": PUBLIC}},
        {5: {"algorithm": "ES256", "key": PUBLIC}},
        {"a\n": {"algorithm": "ES256", "key": PUBLIC}},
        {"release": PUBLIC},
        {"release": {}},
        {"release": {"algorithm": "ES256"}},
        {"release": {"key": PUBLIC}},
        {"release": {"algorithm": "ES256", "key": ""}},
        {"release": {"algorithm": "ES256", "key": None}},
        {"release": {"algorithm": "ES256", "key": PUBLIC.encode()}},
        {"release": {"algorithm": "ES256", "key": PUBLIC[:100]}},
        {"release": {"algorithm": "ES256", "key": PUBLIC, "kid": "x"}},
        {"release": {"algorithm": "ES256", "key": PUBLIC, "scope": ""}},
        {"release": {"algorithm": "ES256", "key": PUBLIC, "scope": 5}},
        {"release": {"algorithm": "none", "key": PUBLIC}},
        {"release": {"algorithm": "", "key": PUBLIC}},
        {"release": {"algorithm": "es256", "key": PUBLIC}},
        {"release": {"algorithm": None, "key": PUBLIC}},
        {"release": {"algorithm": "ES256K", "key": PUBLIC}},
        {"release": {"algorithm": "RS256", "key": PUBLIC}},
        {"release": {"algorithm": "ES384", "key": PUBLIC}},
        {"release": {"algorithm": "EdDSA", "key": PUBLIC}},
        {"release": {"algorithm": "ES256", "key": public_pem("RS256")}},
        {"release": {"algorithm": "ES256", "key": public_pem("ES384")}},
        {"release": {"algorithm": "ES256", "key": public_pem("EdDSA")}},
        {"release": {"algorithm": "EdDSA", "key": pem(ed448.Ed448PrivateKey.generate())}},
        {"release": {"algorithm": "ES256", "key": pem(ec.generate_private_key(ec.SECP256K1()))}},
        {"release": {"algorithm": "RS256", "key": pem(rsa.generate_private_key(65_537, 1_024))}},
        {"release": {"algorithm": "ES256", "key": PRIVATE.decode()}},
        {"release": {"algorithm": "HS256", "key": "x" * 31}},
        {"release": {"algorithm": "HS512", "key": "x" * 63}},
        {"release": {"algorithm": "HS256", "key": PRIVATE.decode()}},
        {"release": {"algorithm": "HS256", "key": "x" * 40 + PUBLIC}},
        {f"key-{n}": {"algorithm": "ES256", "key": PUBLIC} for n in range(33)},
    ],
)
def test_keys_that_are_refused_and_not_shown(given: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        BundleKeys(given)
    assert caught.value.setting == "bundle_keys"
    for secret in (PUBLIC[40:80], PRIVATE.decode()[40:80], "x" * 31):
        assert secret not in str(caught.value)


def test_half_a_configuration_is_none(tmp_path: Path) -> None:  # A3
    path = tmp_path / "bundle.tar.gz"
    path.write_bytes(pack(signed()))
    incomplete: list[tuple[dict[str, Any], str]] = [
        ({"bundle_scope": "write"}, "bundle_keys"),
        ({"bundle_keys": {}}, "bundle_keys"),
        ({"require_signature": True}, "trusted_keys"),
        ({"bundle_keys": configured(), "artifact": None, "policy": {"cache": "any"}}, "bundle_keys"),
        ({"bundle_keys": configured(), "artifact": None}, "bundle_keys"),
        (
            {"bundle_keys": configured(), "artifact": None, "store": "/srv/policies", "policy_name": "orders"},
            "trusted_keys",
        ),
    ]
    for given, setting in incomplete:
        with pytest.raises(ConfigError) as caught:
            Settings(**{"artifact": path, **given})
        assert caught.value.setting == setting, given
    unusable: list[tuple[dict[str, Any], str]] = [
        ({"bundle_keys": tmp_path / "no such file"}, "bundle_keys"),
        ({"bundle_keys": configured(scope="read"), "bundle_scope": "write"}, "bundle_scope"),
        ({"bundle_keys": configured(key=PUBLIC[:-40])}, "bundle_keys"),
    ]
    for given, setting in unusable:
        with pytest.raises(ConfigError) as caught:
            select_checker(Settings(artifact=path, **given))
        assert caught.value.setting == setting, given


def test_what_replaces_a_file_that_is_signed_chooses_no_work() -> None:  # A18
    """Of structured files the value is hashed. Who cannot sign may still put another one in place of one that was."""
    nested = b"[" + b"[]," * (DATA_BYTES // 3) + b"0]"
    for name in ("/data.json", "/orders/data.json", "/.manifest", "/orders/.manifest"):
        files = {**FILES, name: FILES.get(name, b"{}")}
        with pytest.raises(BundleError) as caught:
            read_bundle(pack({**signed(files), name: nested}), 1 << 26, keys())
        assert caught.value.reason == "size"
    both = {"/data.json": nested[: DATA_BYTES - 100], "/orders/data.json": nested[:200]}
    with pytest.raises(BundleError) as caught:
        read_bundle(pack({**signed(), **both}), 1 << 26, keys())
    assert caught.value.reason == "size"


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


def test_a_key_does_not_show_its_secret() -> None:
    (key,) = parse_bundle_keys(configured("HS256"))
    shown = StringIO()
    Console(file=shown, width=10_000).print(key)
    assert SECRET not in shown.getvalue()
    assert SECRET not in repr(key)
    assert "release" in shown.getvalue()


def test_settings_do_not_show_secrets() -> None:
    settings = Settings(artifact="bundle.tar.gz", bundle_keys=configured("HS256"))
    assert SECRET not in repr(settings)
    assert "release" in repr(settings)
    assert SECRET not in repr(BundleKeys(configured("HS256")))
    shown = StringIO()
    Console(file=shown, width=10_000).print(settings)
    assert SECRET not in shown.getvalue()
    assert "release" in shown.getvalue()
    for given in (json.dumps(configured("HS256")), f"[release]\nkey = '{SECRET}'", PUBLIC):
        with pytest.raises(ConfigError) as caught:
            Settings.from_env({"CAPGATE_ARTIFACT": "bundle.tar.gz", "CAPGATE_BUNDLE_KEYS": given})
        assert caught.value.setting == "CAPGATE_BUNDLE_KEYS"
        assert SECRET not in str(caught.value)


def test_keys_in_place_of_a_path_are_shown_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    inline = json.dumps(configured("HS256"))
    monkeypatch.setenv("CAPGATE_BUNDLE_KEYS", inline)
    for attempt in (
        configured_bundle_keys,  # of commands
        lambda: load_bundle_keys(inline),
        lambda: load_bundle_keys(Path(inline)),
        lambda: load_bundle_keys(f"[release]\nkey = '{SECRET}'"),
        lambda: Settings(artifact="bundle.tar.gz", bundle_keys=Path(inline)),
    ):
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert caught.value.setting == "bundle_keys"
        assert SECRET not in f"{caught.value} {caught.value.seen!r} {caught.value.__cause__!r}"


def test_nothing_unsigned_gets_past_settings(tmp_path: Path) -> None:  # A2, A3, A4
    """Whatever reads the artifact that settings name: only a bundle signed by the configured key."""
    path = tmp_path / "bundle.tar.gz"
    settings = Settings(artifact=path, bundle_keys=configured(), require_signature=True)
    for data in (pack(), MODULE, guest(), pack(signed(algorithm="RS256")), pack({**signed(), "/more.rego": b""})):
        path.write_bytes(data)
        for attempt in (lambda: select_checker(settings), lambda: contract_of(_app(), settings)):
            with pytest.raises(SignatureInvalid):
                attempt()
    path.write_bytes(pack(signed()))
    assert contract_of(_app(), settings).artifact_sha256 == load_wasm_artifact(path).sha256


def _app() -> Any:
    from starlette.applications import Starlette

    return Starlette()


# -- files of keys


def test_a_file_of_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({**configured(), **configured("RS256", "other", scope="write")}))
    assert load_bundle_keys(path).ids == ("other", "release")
    toml = tmp_path / "keys.toml"
    toml.write_text(f'[release]\nalgorithm = "ES256"\nkey = """\n{PUBLIC}"""\n')
    assert load_bundle_keys(str(toml)).verify({name[1:]: data for name, data in signed().items()}).key == "release"
    path.chmod(0o666)  # A16: who can write the keys decides what is signed
    with pytest.raises(ConfigError):
        load_bundle_keys(path)


@pytest.mark.parametrize("text", ["", "[]", "null", '{"a": 1, "a": 2}', "{", f'{{"release": "{SECRET}', "\ud800"])
def test_files_of_keys_that_are_refused_and_not_shown(text: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError) as caught:
        load_bundle_keys(path)
    assert caught.value.setting == "bundle_keys"
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_without_the_libraries_it_is_said_what_to_install() -> None:
    code = (
        "import sys\n"
        "sys.modules[sys.argv[1]] = None\n"
        "from capgate.errors import ConfigError\n"
        "from capgate.settings.trust import load_bundle_keys\n"
        "from capgate.store import WasmArtifact\n"
        f"WasmArtifact.from_bytes({pack()!r})\n"
        f"try: load_bundle_keys({configured('HS256')!r})\n"
        "except ConfigError as error: print(error.setting, error.valid)\n"
    )
    for missing in ("jwt", "cryptography"):
        done = subprocess.run([sys.executable, "-c", code, missing], capture_output=True, text=True, check=True)
        assert done.stdout == "bundle_keys pip install 'capgate[sign]'\n", missing


def test_the_names_of_algorithms_are_those_of_the_library() -> None:
    assert set(ALGORITHMS) <= set(jwt.algorithms.get_default_algorithms())
    assert "none" not in ALGORITHMS
    assert set(ASYMMETRIC) < set(ALGORITHMS)
    assert all(private(algorithm) is not None for algorithm in ALGORITHMS)
