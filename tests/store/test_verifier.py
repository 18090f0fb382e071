"""A module with its two files beside it: from settings to a checker, or a refusal that says which of them is wrong."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from capgate import Allow, PolicyInput, Resource, Settings, WasmPolicyChecker, build_policy, select_checker
from capgate.errors import ArtifactError, ConfigError, DigestMismatch, ManifestError, SignatureInvalid
from capgate.settings.trust import load_trusted_keys
from capgate.store import Manifest, Verifier, WasmArtifact
from capgate.store.signing import format_signatures
from capgate.store.verifier import MANIFEST_SUFFIX, SIGNATURE_SUFFIX

from ..support.keys import DAY, GOLDEN, KEYS, NOW, Clock, Made, module, verifier

LINES = tuple(pair.public.line for pair in KEYS)


def write(folder: Path, made: Made, *, signed: bool = True) -> Path:
    path = folder / "policy.wasm"
    path.write_bytes(made.module)
    Path(f"{path}{MANIFEST_SUFFIX}").write_bytes(made.manifest)
    if signed:
        Path(f"{path}{SIGNATURE_SUFFIX}").write_bytes(made.signatures)
    return path


def test_everything_holds(tmp_path: Path) -> None:
    made = Made()
    policy = verifier().load(write(tmp_path, made), made.parsed.sha256)
    assert (policy.artifact.data, policy.manifest) == (made.module, made.parsed)
    assert (policy.signers, policy.active) == ((KEYS[0].public.id,), None)


# What only runs needs no fixtures, and takes a policy that was released with some.
def test_fixtures_are_not_for_applications(tmp_path: Path) -> None:
    made = Made(fixtures=GOLDEN)
    policy = verifier().load(write(tmp_path, made))
    assert (policy.manifest.fixtures, policy.fixtures) == (hashlib.sha256(made.fixtures or b"").hexdigest(), ())


# A2: with keys, "unsigned" is never "therefore fine".
@pytest.mark.parametrize("suffix", [MANIFEST_SUFFIX, SIGNATURE_SUFFIX])
def test_a_missing_file_is_a_missing_signature(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path, Made())
    os.unlink(f"{path}{suffix}")
    with pytest.raises(SignatureInvalid) as caught:
        verifier().load(path)
    assert (caught.value.reason, caught.value.path) == ("missing", f"{path}{suffix}")


# A14, A18
@pytest.mark.parametrize("suffix", ["", MANIFEST_SUFFIX, SIGNATURE_SUFFIX])
def test_what_is_no_file_or_too_large(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path, Made())
    with open(f"{path}{suffix}", "r+b") as file:
        file.truncate(10 << 30)
    with pytest.raises(ArtifactError):
        verifier().load(path)
    os.unlink(f"{path}{suffix}")
    os.mkfifo(f"{path}{suffix}")
    with pytest.raises(ArtifactError):
        verifier().load(path)


# A6, A13: the digest in the manifest decides, whatever else is signed.
def test_mix_and_match(tmp_path: Path) -> None:
    first, second = Made(1), Made(2)
    mixed = write(tmp_path, second)
    mixed.write_bytes(first.module)
    with pytest.raises(DigestMismatch) as mismatch:
        verifier().load(mixed)
    assert (mismatch.value.expected, mismatch.value.actual) == (second.parsed.sha256, first.parsed.sha256)
    Path(f"{mixed}{MANIFEST_SUFFIX}").write_bytes(first.manifest)
    with pytest.raises(SignatureInvalid) as invalid:
        verifier().load(mixed)
    assert invalid.value.reason == "forged"


# A6: each change of what is signed, with the signature of what it was.
@pytest.mark.parametrize(
    "changed",
    [
        {"name": "payments"},
        {"version": 2},
        {"label": "x"},
        {"expires": NOW + 999 * DAY},
        {"environment": ("prod",)},
        {"service": "x"},
        {"limits": {"fuel": 5_000}},
        {"inputs": ("action",)},
        {"policy_hash": "0" * 64},
        {"created": NOW - DAY},
        {"fixtures": GOLDEN},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_metadata_is_signed(changed: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path, Made())
    Path(f"{path}{MANIFEST_SUFFIX}").write_bytes(Made(**{"text": "release 1", **changed}).manifest)
    with pytest.raises(SignatureInvalid) as caught:
        verifier().load(path)
    assert caught.value.reason == "forged"


# A7
def test_for_somebody_else(tmp_path: Path) -> None:
    path = write(tmp_path, Made(environment=("test",), service="billing"))
    refused: dict[str, dict[str, Any]] = {
        "environment": {"mode": "prod"},
        "service": {"service": "orders"},
        "name": {"name": "x"},
    }
    for field, audience in refused.items():
        with pytest.raises(ManifestError) as caught:
            verifier(**audience).load(path)
        assert caught.value.field == field
    assert verifier(mode="test", service="billing", name="orders").load(path).manifest.service == "billing"


# A10
def test_expired(tmp_path: Path) -> None:
    clock = Clock()
    path = write(tmp_path, Made(expires=NOW + DAY))
    assert verifier(clock=clock).load(path).manifest.version == 1
    clock.now = NOW + DAY
    with pytest.raises(ManifestError) as caught:
        verifier(clock=clock).load(path)
    assert caught.value.field == "expires"
    clock.now = NOW - DAY
    with pytest.raises(ManifestError) as caught:
        verifier(clock=clock).load(path)
    assert caught.value.field == "created"


# A22
def test_a_pin_holds_as_well(tmp_path: Path) -> None:
    path = write(tmp_path, Made())
    with pytest.raises(DigestMismatch) as caught:
        verifier().load(path, "0" * 64)
    assert (caught.value.expected, caught.value.actual) == ("0" * 64, Made().parsed.sha256)
    with pytest.raises(ConfigError):
        verifier().load(path, Made().parsed.sha256.upper())


def test_a_signed_file_that_is_no_module(tmp_path: Path) -> None:
    made = Made()
    data = b"(module)"
    sha256 = WasmArtifact.from_bytes(module()).sha256
    manifest = made.manifest.replace(made.parsed.sha256.encode(), sha256.encode())
    path = tmp_path / "policy.wasm"
    path.write_bytes(data)
    Path(f"{path}{MANIFEST_SUFFIX}").write_bytes(manifest)
    Path(f"{path}{SIGNATURE_SUFFIX}").write_bytes(format_signatures([KEYS[0].sign(manifest)]))
    with pytest.raises(ArtifactError):
        verifier().load(path)


def test_without_keys_no_signature_is_looked_at(tmp_path: Path) -> None:
    path = write(tmp_path, Made(), signed=False)
    policy = Verifier(clock=Clock()).load(path)
    assert policy.signers == ()
    Path(f"{path}{SIGNATURE_SUFFIX}").write_bytes(b"nonsense")
    assert Verifier(clock=Clock()).load(path).manifest == policy.manifest


# A3
def test_half_a_verifier_is_refused() -> None:
    for arguments in ({"require_signature": True}, {"keys": LINES}, {"keys": ()}):
        with pytest.raises(ConfigError) as caught:
            Verifier(**arguments)  # what a caller without a type checker passes
        assert caught.value.setting == "trusted_keys"


class TestKeyFile:
    def test_of_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "keys.txt"
        path.write_text("# release\n" + "\n".join(LINES))
        assert len(load_trusted_keys(path, 2).keys) == 3
        (tmp_path / "link").symlink_to(path)
        assert len(load_trusted_keys(tmp_path / "link").keys) == 3
        with pytest.raises(ConfigError) as caught:
            load_trusted_keys(path, 4)
        assert caught.value.setting == "signature_threshold"

    # A16: who may write the keys decides what is signed.
    def test_that_others_may_write(self, tmp_path: Path) -> None:
        path = tmp_path / "keys.txt"
        path.write_text(LINES[0])
        path.chmod(0o666)
        self.refused(path)
        path.chmod(0o644)
        tmp_path.chmod(0o777)
        self.refused(path)
        tmp_path.chmod(0o755)
        assert len(load_trusted_keys(path).keys) == 1

    def test_that_is_none(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / "empty").touch()
        for name in ("absent", "fifo", "empty", ".", "a\0b"):
            self.refused(tmp_path / name)

    def refused(self, path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            load_trusted_keys(path)
        assert caught.value.setting == "trusted_keys"


class TestSettings:
    """From ``Settings`` to a checker that answers."""

    def signed(self, folder: Path, **fields: Any) -> Path:
        data = build_policy({"name": "orders", "version": "3", "cache": ["orders"]})
        manifest = Manifest.describing(
            WasmArtifact.from_bytes(data), version=1, **{"created": NOW, **fields}
        ).to_bytes()
        path = folder / "policy.wasm"
        path.write_bytes(data)
        Path(f"{path}{MANIFEST_SUFFIX}").write_bytes(manifest)
        Path(f"{path}{SIGNATURE_SUFFIX}").write_bytes(format_signatures([KEYS[0].sign(manifest)]))
        return path

    async def test_a_signed_policy_answers(self, tmp_path: Path, engine_name: str) -> None:
        path = self.signed(tmp_path, service="orders-api", environment=("prod",))
        settings = Settings(
            artifact=path,
            trusted_keys=LINES[:1],
            service="orders-api",
            policy_name="orders",
            engine=engine_name,
            cache_size=0,
        )
        checker = select_checker(settings)
        assert isinstance(checker, WasmPolicyChecker)
        async with checker:
            answer = await checker.check(PolicyInput("cache.read", resource=Resource("namespace", "orders")))
        assert isinstance(answer, Allow)

    @pytest.mark.parametrize(
        ("changed", "refusal"),
        [
            ({"trusted_keys": LINES[1:]}, SignatureInvalid),
            ({"trusted_keys": LINES, "signature_threshold": 2}, SignatureInvalid),
            ({"mode": "dev"}, ManifestError),
            ({"service": "billing"}, ManifestError),
            ({"policy_name": "payments"}, ManifestError),
            ({"artifact_sha256": "0" * 64}, DigestMismatch),
        ],
        ids=str,
    )
    def test_one_that_is_not_for_it_does_not_start(
        self, changed: dict[str, Any], refusal: type[Exception], tmp_path: Path
    ) -> None:
        path = self.signed(tmp_path, service="capgate", environment=("prod",))
        given = {"artifact": path, "trusted_keys": LINES[:1], **changed}
        with pytest.raises(refusal):
            select_checker(Settings(**given))

    def test_an_unsigned_one_does_not_start(self, tmp_path: Path) -> None:  # A2
        path = self.signed(tmp_path)
        os.unlink(f"{path}{SIGNATURE_SUFFIX}")
        with pytest.raises(SignatureInvalid):
            select_checker(Settings(artifact=path, trusted_keys=LINES[:1]))
        assert select_checker(Settings(artifact=path)) is not None  # nobody asked for signatures

    def test_keys_of_a_file(self, tmp_path: Path) -> None:
        path, keys = self.signed(tmp_path), tmp_path / "keys.txt"
        with pytest.raises(ConfigError) as caught:
            select_checker(Settings(artifact=path, trusted_keys=keys))
        assert caught.value.setting == "trusted_keys"
        keys.write_text(LINES[0])
        assert select_checker(Settings(artifact=path, trusted_keys=str(keys))) is not None

    # A3
    @pytest.mark.parametrize(
        ("given", "setting"),
        [
            ({"require_signature": True}, "trusted_keys"),
            ({"signature_threshold": 2}, "signature_threshold"),
            ({"policy_name": "orders"}, "policy_name"),
            ({"trusted_keys": LINES[:1], "artifact": None}, "trusted_keys"),
            ({"trusted_keys": LINES[:1], "artifact": None, "policy": {"cache": "any"}}, "trusted_keys"),
            ({"trusted_keys": LINES[:1], "signature_threshold": 2}, "signature_threshold"),
            ({"trusted_keys": ()}, "trusted_keys"),
            ({"trusted_keys": LINES[0]}, "trusted_keys"),
            ({"trusted_keys": (LINES[0], LINES[0])}, "trusted_keys"),
            ({"trusted_keys": (LINES[0].rpartition(" ")[0],)}, "trusted_keys"),
            ({"trusted_keys": ""}, "trusted_keys"),
            ({"trusted_keys": list(LINES)}, "trusted_keys"),
        ],
        ids=str,
    )
    def test_half_a_configuration_is_an_error(self, given: dict[str, Any], setting: str) -> None:
        with pytest.raises(ConfigError) as caught:
            Settings(**{"artifact": "policy.wasm", **given})
        assert caught.value.setting == setting

    def test_from_the_environment(self) -> None:
        environ = {
            "CAPGATE_ARTIFACT": "policy.wasm",
            "CAPGATE_TRUSTED_KEYS": ", ".join(LINES[:2]),
            "CAPGATE_SIGNATURE_THRESHOLD": "2",
            "CAPGATE_REQUIRE_SIGNATURE": "true",
            "CAPGATE_POLICY_NAME": "orders",
        }
        settings = Settings.from_env(environ)
        assert (settings.trusted_keys, settings.signature_threshold) == (LINES[:2], 2)
        assert (settings.require_signature, settings.policy_name) == (True, "orders")
        assert Settings.from_env({**environ, "CAPGATE_TRUSTED_KEYS": "/etc/keys"}).trusted_keys == "/etc/keys"
        del environ["CAPGATE_TRUSTED_KEYS"]
        with pytest.raises(ConfigError):
            Settings.from_env(environ)


class TestInputs:
    """What a policy looks at decides what may be remembered of it, so a manifest may not say less than is known."""

    def load(self, folder: Path, inputs: tuple[str, ...] | None) -> Manifest:
        rules = [{"effect": "deny", "actions": ["cache.read"], "modes": ["dev"], "reason": "not here"}]
        data = build_policy({"name": "orders", "cache": "any", "rules": rules})
        artifact = WasmArtifact.from_bytes(data)
        given = {} if inputs is None else {"inputs": inputs}
        manifest = Manifest.describing(artifact, version=1, created=NOW, **given).to_bytes()
        path = folder / "policy.wasm"
        path.write_bytes(data)
        Path(f"{path}{MANIFEST_SUFFIX}").write_bytes(manifest)
        Path(f"{path}{SIGNATURE_SUFFIX}").write_bytes(format_signatures([KEYS[0].sign(manifest)]))
        return verifier().load(path).manifest

    def test_are_those_of_the_module_unless_said(self, tmp_path: Path) -> None:
        assert self.load(tmp_path, None).inputs == ("action", "mode", "resource")
        assert self.load(tmp_path, ("action", "actor", "mode", "resource")).inputs is not None

    def test_less_than_the_module_looks_at(self, tmp_path: Path) -> None:
        with pytest.raises(ManifestError) as caught:
            self.load(tmp_path, ("action", "resource"))
        assert caught.value.field == "inputs"
