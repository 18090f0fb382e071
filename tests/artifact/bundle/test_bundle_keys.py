"""Keys that verify bundles: whole configurations or none, files of keys, and secrets that nobody is shown."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from rich.console import Console

from capgate.artifact.bundle import BundleKeys
from capgate.artifact.bundle.bundle_keys import ALGORITHMS, ASYMMETRIC, parse_bundle_keys
from capgate.cli.configuration import configured_bundle_keys
from capgate.errors import ConfigError, SignatureInvalid
from capgate.middleware.contract import contract_of
from capgate.settings.select import select_checker
from capgate.settings.settings import Settings
from capgate.settings.trust import load_bundle_keys
from capgate.store import load_wasm_artifact

from ...support.ed25519_points import SMALL_ORDER, encoded
from ...support.guests import guest
from ...support.packing import (
    KEYS,
    MODULE,
    SECRET,
    configured,
    pack,
    private,
    public_pem,
    signed,
)


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


@pytest.mark.parametrize("raw", SMALL_ORDER, ids=bytes.hex)
def test_a_key_with_which_everybody_can_sign_is_refused(raw: bytes) -> None:  # S-8, A21
    """The library takes most of them, and with the first verifies what nobody has signed."""
    neutral = encoded(1)
    ed25519.Ed25519PublicKey.from_public_bytes(neutral).verify(neutral + bytes(32), b"anything at all")
    key = _spki(raw)
    with pytest.raises(ConfigError) as caught:
        BundleKeys({"release": {"algorithm": "EdDSA", "key": key}})
    assert caught.value.key == ("release", "key")
    assert key not in str(caught.value)


def _spki(raw: bytes) -> str:
    data = base64.b64encode(bytes.fromhex("302a300506032b6570032100") + raw).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{data}\n-----END PUBLIC KEY-----\n"


def test_an_honest_ed25519_key_is_taken() -> None:
    raw = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    assert BundleKeys({"release": {"algorithm": "EdDSA", "key": _spki(raw)}}).ids == ("release",)
