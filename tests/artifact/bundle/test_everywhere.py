"""Whatever takes a module takes a bundle: commands, stores, checkers that follow one. And the entry point is signed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from capgate import build_policy, load_wasm_artifact
from capgate.artifact.bundle import BundleKeys
from capgate.artifact.load import OPA_INTERFACE, WITHOUT_FACTS
from capgate.checker.following import FollowingChecker
from capgate.checker.wasm import WasmPolicyChecker
from capgate.errors import ArtifactNotFound, ConfigError, DigestMismatch, ManifestError, SignatureInvalid
from capgate.model import ALLOW, Deny, Entrypoint
from capgate.routes.contract import HandlerContract
from capgate.runtime.interpreter import WasmInterpreter
from capgate.settings.select import select_checker
from capgate.settings.settings import Settings
from capgate.store import Manifest, PolicyStore, WasmArtifact
from capgate.testing.golden import PolicyUnderTest, read_fixtures, run_fixtures

from ...support.command import Command
from ...support.guests import guest
from ...support.opa_guest import ALLOW as ALLOWS
from ...support.opa_guest import NO_DENIALS, UNDEFINED, opa_guest
from ...support.packing import configured, manifest, pack, signed, with_files
from ...support.rego_guests import opa_policy
from ...support.stores import KEY, PATIENT, Shelf, ask

DECISION = Entrypoint("capgate/decision")
NOW = datetime(2026, 11, 1, tzinfo=timezone.utc)


def document(version: int) -> dict[str, Any]:
    return {"name": "orders", "version": str(version), "sql": [f"v{version}", "always"]}


def files(module: bytes, *entrypoints: str, revision: str = "1") -> dict[str, bytes]:
    listed = [{"entrypoint": name, "module": "/policy.wasm"} for name in entrypoints]
    text = manifest(revision=revision, roots=[""], wasm=listed)
    return with_files(module=module, manifest=text, data=b"{}")


def bundle(version: int, entrypoint: str = "capgate/decision") -> bytes:
    """A policy that admits the reading of ``v<version>``, and of nothing else but ``always``."""
    return pack(files(opa_policy(document(version)), entrypoint, revision=f"r{version}"))


def selected(settings: Settings) -> FollowingChecker | WasmPolicyChecker:
    """What :func:`select_checker` gives for an artifact or a store."""
    found = select_checker(settings)
    assert isinstance(found, (FollowingChecker, WasmPolicyChecker))
    return found


def made(**fields: Any) -> Manifest:
    artifact = WasmArtifact.from_bytes(bundle(1))
    return Manifest.describing(artifact, version=1, created=NOW, **{"name": "orders", **fields})


# -- the manifest


def test_the_manifest_says_what_is_asked() -> None:
    assert (made().abi, made().entrypoint) == (OPA_INTERFACE, DECISION)
    several = WasmArtifact.from_bytes(pack(files(opa_policy(document(1)), "capgate/decision", "capgate/allow")))
    bare = WasmArtifact.from_bytes(opa_policy(document(1)))
    for artifact in (several, bare):
        assert Manifest.describing(artifact, version=1, created=NOW, name="orders").entrypoint == Entrypoint()
    chosen = made(entrypoint=Entrypoint("capgate/denials", "denials"))
    assert json.loads(chosen.to_bytes())["entrypoint"] == {"name": "capgate/denials", "result": "denials"}
    assert Manifest.from_bytes(chosen.to_bytes()) == chosen


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"result": "decision"', b'"result": "anything"'),
        (b'"result": "decision"', b'"result": null'),
        (b'"name": "capgate/decision"', b'"name": ""'),
        (b'"name": "capgate/decision"', b'"name": 5'),
        (b'"entrypoint": {', b'"entrypoint": {\n    "more": 1,'),
        (OPA_INTERFACE.encode(), WITHOUT_FACTS.encode()),
    ],
)
def test_manifests_with_another_entry_point_are_refused(old: bytes, new: bytes) -> None:  # A6
    data = made().to_bytes()
    assert old in data
    with pytest.raises(ManifestError):
        Manifest.from_bytes(data.replace(old, new))


def test_a_module_of_opas_needs_one_and_another_has_none() -> None:
    with pytest.raises(ManifestError) as caught:
        made(entrypoint=None)
    assert caught.value.field == "entrypoint"
    own = WasmArtifact.from_bytes(build_policy(document(1)))
    with pytest.raises(ManifestError) as caught:
        Manifest.describing(own, version=1, created=NOW, entrypoint=DECISION)
    assert caught.value.field == "entrypoint"


def test_the_interface_is_the_one_of_the_module(tmp_path: Path) -> None:  # A6, A13
    """A signed manifest about one interface does not let in a module of the other."""
    shelf = Shelf(tmp_path / "store")
    with pytest.raises(ManifestError) as caught:
        shelf.publish(1, guest(), abi=OPA_INTERFACE, entrypoint=Entrypoint())
    assert caught.value.field == "abi"
    with pytest.raises(ManifestError) as caught:
        shelf.publish(1, bundle(1), abi=WITHOUT_FACTS, entrypoint=None)
    assert caught.value.field == "abi"


def test_settings_must_not_contradict_the_manifest() -> None:
    said = dataclasses.replace(WasmArtifact.from_bytes(bundle(1)), entrypoint=DECISION, pin=None)
    assert said.asked(Entrypoint()) == said.asked(DECISION) == DECISION
    for other in (Entrypoint("capgate/allow"), Entrypoint("capgate/decision", "denials"), Entrypoint(None, "denials")):
        with pytest.raises(ConfigError) as caught:
            said.asked(other)
        assert caught.value.setting == "entrypoint"
        with pytest.raises(ConfigError):
            WasmInterpreter(said, entrypoint=other)
    unsaid = WasmArtifact.from_bytes(bundle(1))
    assert unsaid.asked(DECISION) == DECISION


def test_a_pin_is_that_of_the_bundle_and_looked_at_first(tmp_path: Path) -> None:  # A13, A22
    path = tmp_path / "bundle.tar.gz"
    path.write_bytes(bundle(1))
    digest = hashlib.sha256(bundle(1)).hexdigest()
    assert load_wasm_artifact(path, digest).sha256 == digest
    for other in (digest.upper(), digest[:-1], f"{digest}\n", f" {digest}", ""):
        with pytest.raises(ConfigError):
            load_wasm_artifact(path, other)
    inner = hashlib.sha256(opa_policy(document(1))).hexdigest()
    with pytest.raises(DigestMismatch):
        load_wasm_artifact(path, inner)
    path.write_bytes(bundle(1)[:-1])  # damaged, but that is not what is said: it was not unpacked
    with pytest.raises(DigestMismatch):
        load_wasm_artifact(path, digest, bundle_keys=BundleKeys(configured()))


def test_only_a_regular_file_is_read(tmp_path: Path) -> None:  # A14
    os.mkfifo(tmp_path / "bundle.tar.gz")
    with pytest.raises(ArtifactNotFound):
        load_wasm_artifact(tmp_path / "bundle.tar.gz")


# -- a running application


@pytest.mark.slow
def test_a_bundle_answers_as_its_document(engine_name: str) -> None:
    interpreter = WasmInterpreter(WasmArtifact.from_bytes(bundle(1)), engine=engine_name, entrypoint=DECISION)
    assert interpreter.call_policy_check(ask(1)) == ALLOW
    assert interpreter.call_policy_check(ask(2)) == Deny("not_in_allowlist")
    assert interpreter.info.version == "r1"


async def test_an_application_with_a_bundle(tmp_path: Path, engine_name: str) -> None:
    path = tmp_path / "bundle.tar.gz"
    inside = files(opa_policy(document(1)), "capgate/decision")
    path.write_bytes(pack(signed(inside)))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    settings = Settings(
        artifact=path,
        artifact_sha256=digest,
        bundle_keys=configured(),
        require_signature=True,
        entrypoint="capgate/decision",
        engine=engine_name,
    )
    async with selected(settings) as checker:
        assert await checker.check(ask(1)) == ALLOW
        assert await checker.check(ask(2)) == Deny("not_in_allowlist")
        assert isinstance(checker, WasmPolicyChecker)
        assert checker.policy.sha256 == digest
    path.write_bytes(pack(inside))
    with pytest.raises(SignatureInvalid):
        select_checker(msgspec.structs.replace(settings, artifact_sha256=None))


@pytest.mark.slow
async def test_both_kinds_of_signatures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # A2, A4
    """capgate's manifest around a bundle with OPA's signature in it: each of them has to hold."""
    inside = files(opa_policy(document(1)), "capgate/decision")
    shelf = Shelf(tmp_path / "store")
    shelf.release(1, pack(inside))
    both = shelf.settings(bundle_keys=configured())
    with pytest.raises(SignatureInvalid) as caught:
        select_checker(both)
    assert caught.value.reason == "missing"
    shelf.release(2, pack(signed(inside)))
    async with selected(both) as checker:
        assert await checker.check(ask(1)) == ALLOW
        shelf.release(3, pack(signed(inside, algorithm="RS256")))
        assert isinstance(checker, FollowingChecker)
        assert not await checker.refresh()
        assert checker.policy.sha256 == hashlib.sha256(shelf_bytes(shelf, 2)).hexdigest()
        assert await checker.check(ask(1)) == ALLOW


def shelf_bytes(shelf: Shelf, version: int) -> bytes:
    return shelf.store.load_release("orders", version_digest(shelf, version)).artifact.data


def version_digest(shelf: Shelf, version: int) -> str:
    return next(one.manifest.sha256 for one in shelf.store.releases("orders") if one.manifest.version == version)


@pytest.mark.slow
async def test_following_a_store_of_bundles(tmp_path: Path, engine_name: str) -> None:
    shelf = Shelf(tmp_path / "store")
    shelf.release(1, bundle(1))
    async with selected(shelf.settings(engine=engine_name)) as checker:
        assert isinstance(checker, FollowingChecker)
        assert await checker.check(ask(1)) == ALLOW
        shelf.release(2, bundle(2))
        assert await checker.refresh()
        assert await checker.check(ask(1)) == Deny("not_in_allowlist")
        assert await checker.check(ask(2)) == ALLOW
        assert checker.policy.sha256 == hashlib.sha256(bundle(2)).hexdigest()
        # An entry point that the module has not: the one before goes on.
        shelf.release(3, bundle(3), entrypoint=Entrypoint("capgate/none"))
        assert not await checker.refresh()
        assert checker.status().problem
        assert await checker.check(ask(2)) == ALLOW
        shelf.release(4, build_policy(document(4)))  # and on to a module of capgate's own
        assert await checker.refresh()
        assert await checker.check(ask(4)) == ALLOW


async def test_a_following_application_cannot_be_told_another_entry_point(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "store")
    # The same module: one entry point allows, the other is undefined, and an empty set of denials must not count as it.
    module = opa_guest({"orders/allow": ALLOWS, "orders/off": UNDEFINED, "orders/denials": NO_DENIALS})
    inside = pack(files(module, "orders/allow", "orders/off", "orders/denials"))
    shelf.release(1, inside, entrypoint=Entrypoint("orders/off"))
    async with selected(shelf.settings()) as checker:
        assert await checker.check(ask(1)) == Deny("malformed_result")
    for given in ({"entrypoint": "orders/allow"}, {"entrypoint": "orders/off", "entrypoint_result": "denials"}):
        with pytest.raises(ConfigError):
            select_checker(shelf.settings(**given))
    async with selected(shelf.settings(entrypoint="orders/off")) as checker:
        assert await checker.check(ask(1)) == Deny("malformed_result")


def test_a_policy_ends_with_the_signature_of_its_bundle_too(tmp_path: Path) -> None:  # A10
    """Whichever is sooner, its or that of the manifest; and what runs when that comes answers no more."""
    now = int(time.time())
    soon, later = now + 1_000, now + 2_000
    inside = files(opa_guest(), "orders/allow")
    path = tmp_path / "bundle.tar.gz"
    given: dict[str, Any] = {"artifact": path, "bundle_keys": configured(), "limits": PATIENT}
    for claims, expected in (({}, None), ({"exp": soon}, soon)):
        path.write_bytes(pack(signed(inside, **claims)))
        checker = select_checker(Settings(**given))
        assert isinstance(checker, WasmPolicyChecker)
        assert checker.expires == expected
        kept = select_checker(Settings(**given, keep_expired=True))
        assert isinstance(kept, WasmPolicyChecker)
        assert kept.expires is None
    shelf = Shelf(tmp_path / "store")
    for version, (of_bundle, of_manifest) in enumerate(((soon, later), (later, soon), (soon, None)), start=1):
        expires = None if of_manifest is None else datetime.fromtimestamp(of_manifest, timezone.utc)
        shelf.release(version, pack(signed(inside, exp=of_bundle)), expires=expires)
        following = select_checker(shelf.settings(bundle_keys=configured()))
        assert isinstance(following, FollowingChecker)
        assert following.expires == soon


async def test_an_expired_bundle_answers_no_more(tmp_path: Path) -> None:  # A10
    path = tmp_path / "bundle.tar.gz"
    path.write_bytes(pack(signed(files(opa_guest(), "orders/allow"), exp=time.time() + 1_000)))
    async with selected(Settings(artifact=path, bundle_keys=configured(), limits=PATIENT)) as checker:
        assert isinstance(checker, WasmPolicyChecker)
        assert await checker.check(ask(1)) == ALLOW
        checker._clock = lambda: time.time() + 2_000
        assert await checker.check(ask(1)) == Deny("policy_unavailable")


async def test_a_pin_without_keys_does_not_cover_what_the_manifest_says(tmp_path: Path) -> None:  # A6 A13
    """Who may write to the store but not sign could otherwise choose which rule of a pinned module is asked, or that
    it looks at nothing which changes."""
    shelf = Shelf(tmp_path / "store")
    module = opa_guest({"orders/allow": ALLOWS, "orders/off": UNDEFINED})
    inside = pack(files(module, "orders/allow", "orders/off"))
    shelf.release(1, inside, entrypoint=Entrypoint("orders/off"))
    artifact = WasmArtifact.from_bytes(inside)
    forged = Manifest.describing(
        artifact, version=2, created=NOW, name="orders", entrypoint=Entrypoint("orders/allow"), inputs=("action",)
    )
    PolicyStore(shelf.path).publish(inside, forged.to_bytes())

    def pinned(pin: str = artifact.sha256, **given: Any) -> Settings:
        return shelf.settings(trusted_keys=None, artifact_sha256=pin, **given)

    with pytest.raises(ConfigError) as caught:
        async with selected(pinned()):
            pass
    assert caught.value.setting == "entrypoint"
    async with selected(pinned(entrypoint="orders/off")) as checker:
        assert await checker.check(ask(1)) == Deny("malformed_result")
    with pytest.raises(ConfigError) as caught:
        select_checker(pinned(entrypoint="orders/off", cache_size=10))
    assert caught.value.setting == "cache_size"
    # Whoever pins the manifest has pinned what it says.
    genuine = shelf.store.read_active("orders").manifest
    async with selected(pinned(genuine)) as checker:
        assert await checker.check(ask(1)) == Deny("malformed_result")


# -- commands


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("CAPGATE_"):
            monkeypatch.delenv(name)
    Path("bundle.tar.gz").write_bytes(bundle(1))
    Path("new.tar.gz").write_bytes(bundle(2))
    Path("policy.json").write_text(json.dumps(document(1)))
    Path("question.json").write_bytes(msgspec.json.encode(ask(1)))
    fixture = {
        "input": {"action": "db.read", "resource": {"kind": "sql_query", "id": "v1"}},
        "expected": {"kind": "allow"},
    }
    Path("fixtures").mkdir()
    Path("fixtures/read.json").write_text(json.dumps(fixture))
    return Command(capsys)


ENTRY = ("--entrypoint", "capgate/decision")


@pytest.mark.slow
def test_capgate_test(command: Command) -> None:
    assert command.json("test", "bundle.tar.gz", *ENTRY)["passed"]
    assert command("test", "new.tar.gz", "fixtures", *ENTRY) == 1
    assert command("test", "bundle.tar.gz") == 1  # which of its entry points, nobody said


@pytest.mark.slow
def test_fixtures_in_programs(tmp_path: Path) -> None:
    path = tmp_path / "orders.tgz"
    path.write_bytes(bundle(1))
    policy = PolicyUnderTest.load(path, entrypoint=DECISION)
    assert (policy.name, policy.version, policy.document) == ("orders", "r1", None)
    fixture = tmp_path / "read.json"
    fixture.write_bytes(msgspec.json.encode({"input": ask(1), "expected": {"kind": "allow"}}))
    assert all(outcome.passed for outcome in run_fixtures(policy, read_fixtures(fixture)))


@pytest.mark.slow
async def test_an_application_that_does_not_say_what_to_ask_does_not_start(tmp_path: Path) -> None:
    path = tmp_path / "bundle.tar.gz"
    path.write_bytes(bundle(1))
    with pytest.raises(ConfigError):
        async with selected(Settings(artifact=path)):
            pass


@pytest.mark.slow
def test_capgate_explain(command: Command) -> None:
    told = command.json("explain", "bundle.tar.gz", "question.json", *ENTRY)
    assert (told["result"], told["by"], told["policy"]["kind"]) == ({"kind": "allow"}, "module", "module")
    assert told["policy"]["sha256"] == hashlib.sha256(bundle(1)).hexdigest()
    assert command("explain", "new.tar.gz", "question.json", *ENTRY) == 1


@pytest.mark.slow
def test_capgate_diff(command: Command) -> None:
    told = command.json("diff", "bundle.tar.gz", "new.tar.gz", "--replay", "fixtures", *ENTRY, code=1)
    assert (told["questions"], told["changed"]) == (1, 1)
    assert command("diff", "policy.json", "bundle.tar.gz", "--replay", "fixtures", *ENTRY) == 0
    assert command("diff", "policy.json", "bundle.tar.gz", *ENTRY) == 2  # a bundle has no rules to be compared


@pytest.mark.slow
def test_commands_require_signatures_where_applications_do(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """With keys that were forgotten, none of them loads, or runs, what nobody has verified."""  # A3
    assert command("keygen", "release.pem") == 0
    assert command("sign", "bundle.tar.gz", "--key", "release.pem", "--version", "1", "--name", "orders") == 0
    forgotten = [
        ("publish", "bundle.tar.gz"),
        ("activate", "orders", "1", "--yes", "--without-fixtures"),
        ("rollback", "orders", "--yes"),
        ("reset", "orders", "--yes"),
        ("status",),
    ]
    for value in ("true", "1", "perhaps"):
        monkeypatch.setenv("CAPGATE_REQUIRE_SIGNATURE", value)
        assert [command(*words, "--store", "store") for words in forgotten] == [2] * len(forgotten)
        assert not Path("store").exists()
    keys = ("--store", "store", "--trusted-keys", "release.pem.pub")
    monkeypatch.setenv("CAPGATE_REQUIRE_SIGNATURE", "true")
    assert [command(*words, *keys) for words in forgotten[:2]] == [0, 0]
    monkeypatch.setenv("CAPGATE_REQUIRE_SIGNATURE", "false")
    assert command("status", "--store", "store") == 0


@pytest.mark.slow
def test_from_a_bundle_to_a_store(command: Command) -> None:
    assert command("keygen", "release.pem") == 0
    keys = ("--trusted-keys", "release.pem.pub")
    told = command.json("sign", "bundle.tar.gz", "--key", "release.pem", "--version", "1", "--name", "orders")
    assert (told["abi"], told["entrypoint"]) == (OPA_INTERFACE, {"name": "capgate/decision", "result": "decision"})
    assert told["sha256"] == hashlib.sha256(bundle(1)).hexdigest()
    assert told["label"] == "r1"
    assert command.json("verify", "bundle.tar.gz", *keys)["verified"]
    assert command("publish", "bundle.tar.gz", "--store", "store", *keys) == 0
    assert command("activate", "orders", "1", "--store", "store", "--yes", "--fixtures", "fixtures", *keys) == 0
    assert command("sign", "new.tar.gz", "--key", "release.pem", "--version", "2", "--name", "orders") == 0
    assert command("publish", "new.tar.gz", "--store", "store", *keys) == 0
    assert command("activate", "orders", "2", "--store", "store", "--yes", "--fixtures", "fixtures", *keys) == 1
    assert command.json("status", "--store", "store", *keys)["policies"][0]["active"]["version"] == 1
    Path("bundle.tar.gz").write_bytes(bundle(2))  # A13
    assert command("verify", "bundle.tar.gz", *keys) == 1


@pytest.mark.slow
def test_a_bundle_brings_its_fixtures(command: Command) -> None:
    assert command("keygen", "release.pem") == 0
    keys = ("--trusted-keys", "release.pem.pub")
    given = ("--key", "release.pem", "--name", "orders", "--fixtures", "fixtures")
    assert command("sign", "new.tar.gz", *given, "--version", "2") == 1
    assert not Path("new.tar.gz.manifest.json").exists()
    assert command("sign", "bundle.tar.gz", *given, "--version", "1") == 0
    assert command("publish", "bundle.tar.gz", "--store", "store", *keys) == 0
    assert command("activate", "orders", "1", "--store", "store", "--yes", *keys) == 0


def test_sign_takes_an_entry_point(command: Command) -> None:
    Path("policy.wasm").write_bytes(opa_policy(document(1)))
    given = ("--key", "release.pem", "--version", "1", "--name", "orders")
    assert command("keygen", "release.pem") == 0
    told = command.json(
        "sign", "policy.wasm", *given, "--entrypoint", "capgate/denials", "--entrypoint-result", "denials"
    )
    assert told["entrypoint"] == {"name": "capgate/denials", "result": "denials"}
    Path("own.wasm").write_bytes(build_policy(document(1)))
    assert command("sign", "own.wasm", *given, "--entrypoint", "capgate/denials") == 1
    assert not Path("own.wasm.manifest.json").exists()


@pytest.mark.slow
def test_activation_refuses_an_entry_point_that_is_not_there(command: Command) -> None:
    given = ("--key", "release.pem", "--version", "1", "--name", "orders", "--entrypoint", "capgate/none")
    keys = ("--trusted-keys", "release.pem.pub")
    assert command("keygen", "release.pem") == 0
    assert command("sign", "bundle.tar.gz", *given) == 0
    assert command("publish", "bundle.tar.gz", "--store", "store", *keys) == 0
    assert command("activate", "orders", "1", "--store", "store", "--yes", "--without-fixtures", *keys) != 0
    assert command.json("status", "--store", "store", *keys)["policies"][0]["active"] is None


def test_commands_want_opas_signature_where_applications_do(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """CAPGATE_BUNDLE_KEYS holds for verify and publish, too."""
    inside = files(opa_policy(document(1)), "capgate/decision")
    Path("signed.tar.gz").write_bytes(pack(signed(inside)))
    Path("keys.json").write_text(json.dumps(configured()))
    assert command("keygen", "release.pem") == 0
    keys = ("--trusted-keys", "release.pem.pub")
    for path in ("bundle.tar.gz", "signed.tar.gz"):
        assert command("sign", path, "--key", "release.pem", "--version", "1", "--name", "orders") == 0
    monkeypatch.setenv("CAPGATE_BUNDLE_KEYS", "keys.json")
    for path, code in (("bundle.tar.gz", 1), ("signed.tar.gz", 0)):
        assert command("verify", path, *keys) == code
        assert command("publish", path, "--store", "store", *keys) == code
    monkeypatch.setenv("CAPGATE_BUNDLE_KEYS", "none.json")  # A3
    assert command("verify", "signed.tar.gz", *keys) == 2


def test_a_contract_names_the_bundle(tmp_path: Path) -> None:
    from starlette.applications import Starlette

    from capgate.middleware.contract import contract_of

    path = tmp_path / "bundle.tar.gz"
    path.write_bytes(bundle(1))
    found = contract_of(Starlette(), Settings(artifact=path, entrypoint="capgate/decision"))
    assert isinstance(found, HandlerContract)
    assert found.wasm_policy_hash == found.artifact_sha256 == load_wasm_artifact(path).sha256


def test_what_the_store_has_is_the_bundle(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "store")
    shelf.release(1, bundle(1))
    active = shelf.store.load(shelf.store.read_active("orders"))
    assert active.artifact.data == bundle(1)
    assert active.artifact.entrypoint == DECISION
    assert active.signers == (KEY.public.id,)
