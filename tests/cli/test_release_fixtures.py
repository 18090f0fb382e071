"""Golden fixtures as a part of a release, as people type it: signed and published with it, judged before it runs."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest

from capgate.errors import ArtifactNotFound
from capgate.store import PolicyStore
from capgate.store.release_fixtures import FIXTURES_BYTES
from capgate.testing.golden import read_fixtures, release_file

from ..support.command import Command
from ..support.guests import guest
from .test_releases import KEYS, STORE, build, folder, run

pytestmark = pytest.mark.slow

__all__ = ["folder", "run"]  # fixtures of pytest's

MANIFEST, SIGNATURE, FIXTURES = (f"policy.wasm.{kind}.json" for kind in ("manifest", "signature", "fixtures"))
SIGN = ("sign", "policy.wasm", "--key", "key.pem")
ALLOW = {"kind": "allow"}
#: A name that is no question where the limit on those is the least there is.
LONG = "payments" * 200
DENY = {"kind": "deny", "reason": "not_in_allowlist"}


def write(path: str, *answers: tuple[str, dict[str, str]]) -> None:
    """A file of fixtures: what reading each of these namespaces has to give."""
    fixtures = [
        {
            "description": f"About {id[:16]}.",
            "input": {"action": "cache.read", "resource": {"kind": "namespace", "id": id}},
            "expected": expected,
        }
        for id, expected in answers
    ]
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(json.dumps(fixtures))


def state(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def golden(run: Command) -> Command:
    """With a key, and a folder of fixtures that the policy passes."""
    assert run("keygen", "key.pem") == 0
    write("golden/orders.json", ("orders", ALLOW), (LONG, DENY))
    return run


@pytest.fixture
def signed(golden: Command) -> Command:
    """With version 1 signed, and its fixtures with it."""
    assert golden(*SIGN, "--version", "1", "--fixtures", "golden") == 0, golden.errors
    return golden


@pytest.fixture
def active(signed: Command) -> Command:
    """With that version published and active, and version 2 published."""
    assert signed("publish", "policy.wasm", *STORE) == 0, signed.errors
    assert signed("activate", "orders", "1", *STORE, "--yes") == 0, signed.errors
    build("2")
    assert signed(*SIGN, "--version", "2", "--fixtures", "golden", "--replace") == 0, signed.errors
    assert signed("publish", "policy.wasm", *STORE) == 0, signed.errors
    return signed


def in_store(version: int) -> Path:
    release = next(one for one in PolicyStore("store").releases("orders") if one.manifest.version == version)
    return Path("store", "sha256", release.digest, "fixtures.json")


def active_version() -> int:
    return PolicyStore("store").load_active("orders").manifest.version


class TestSign:
    def test_the_file_and_its_digest(self, golden: Command, folder: Path) -> None:
        found = golden.json(*SIGN, "--version", "1", "--fixtures", "golden")
        data = (folder / FIXTURES).read_bytes()
        assert data == release_file(read_fixtures("golden"))
        assert found["fixtures"] == hashlib.sha256(data).hexdigest()
        assert found["files"] == [MANIFEST, SIGNATURE, FIXTURES]
        assert [one["name"] for one in json.loads(data)] == ["orders[0]", "orders[1]"]
        assert stat.S_IMODE((folder / FIXTURES).stat().st_mode) == 0o644
        assert golden.json("verify", "policy.wasm", *KEYS)["fixtures"] == found["fixtures"]

    def test_of_several_files(self, golden: Command) -> None:
        write("more.json", ("invoices", DENY))
        assert golden(*SIGN, "--version", "1", "--fixtures", "golden", "--fixtures", "more.json") == 0
        names = [one["name"] for one in json.loads(Path(FIXTURES).read_bytes())]
        assert names == ["orders[0]", "orders[1]", "more[0]"]

    def test_without_any(self, golden: Command, folder: Path) -> None:
        found = golden.json(*SIGN, "--version", "1")
        assert (found["fixtures"], found["files"]) == (None, [MANIFEST, SIGNATURE])
        assert "fixtures" not in json.loads((folder / MANIFEST).read_bytes())
        assert golden.json("verify", "policy.wasm", *KEYS)["fixtures"] is None

    def test_one_that_fails_stops_it(self, golden: Command, folder: Path) -> None:
        write("golden/wrong.json", ("payments", ALLOW))
        before = state(folder)
        assert golden(*SIGN, "--version", "1", "--fixtures", "golden") == 1
        assert golden("test", "policy.wasm", "golden") == 1
        diff = [line for line in golden.output.splitlines() if line.startswith(("  - ", "  + "))]
        assert len(diff) == 2
        assert golden(*SIGN, "--version", "1", "--fixtures", "golden") == 1
        assert [line for line in golden.errors.splitlines() if line.startswith(("  - ", "  + "))] == diff
        found = golden.json(*SIGN, "--version", "1", "--fixtures", "golden", code=1)
        assert (found["refused"], found["total"]) == ("FixturesFailed", 3)
        assert [(one["name"], one["expected"], one["outcome"]) for one in found["failures"]] == [
            ("wrong[0]", ALLOW, "failed")
        ]
        assert state(folder) == before

    def test_under_the_limits_of_production(self, golden: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CAPGATE_INPUT_BYTES", "1024")
        found = golden.json(*SIGN, "--version", "1", "--fixtures", "golden", code=1)
        assert [one["name"] for one in found["failures"]] == ["orders[1]"]

    @pytest.mark.parametrize(
        ("content", "code"),
        [
            (None, 2),
            ("[]", 1),
            ("{", 2),
            ('{"input": {"action": "env.read"}, "expected": {"kind": "allow"}, "policy": {}}', 2),
        ],
    )
    def test_what_is_no_fixtures(self, content: str | None, code: int, golden: Command, folder: Path) -> None:
        if content is not None:
            (folder / "some.json").write_text(content)
        before = state(folder)
        assert golden(*SIGN, "--version", "1", "--fixtures", "some.json") == code
        assert state(folder) == before

    def test_too_many(self, golden: Command, folder: Path) -> None:  # A18
        write("many.json", ("x" * FIXTURES_BYTES, DENY))
        before = state(folder)
        assert golden.json(*SIGN, "--version", "1", "--fixtures", "many.json", code=1)["field"] == "fixtures"
        assert state(folder) == before

    def test_a_second_signer_judges_them_again(self, signed: Command, folder: Path) -> None:
        signed("keygen", "second.pem")
        second = ("sign", "policy.wasm", "--key", "second.pem")
        assert signed(*second, "--fixtures", "golden") == 2  # they are part of what is signed already
        assert len(signed.json(*second)["signatures"]) == 2
        (folder / FIXTURES).write_bytes(release_file(read_fixtures("golden")[:1]))  # A13
        assert signed.json(*second, code=1)["refused"] == "DigestMismatch"
        (folder / FIXTURES).unlink()
        assert signed.json(*second, code=1)["field"] == "fixtures"

    def test_they_are_replaced_with_the_manifest(self, signed: Command, folder: Path) -> None:
        before = state(folder)
        assert signed(*SIGN, "--version", "2", "--fixtures", "golden") == 2
        assert state(folder) == before
        write("golden/orders.json", ("orders", ALLOW))
        assert signed(*SIGN, "--version", "2", "--fixtures", "golden", "--replace") == 0
        assert len(json.loads((folder / FIXTURES).read_bytes())) == 1
        assert signed("verify", "policy.wasm", *KEYS) == 0
        assert signed(*SIGN, "--version", "3", "--replace") == 0
        assert not (folder / FIXTURES).exists()
        assert signed("verify", "policy.wasm", *KEYS) == 0

    @pytest.mark.parametrize("options", [[], ["--replace"], ["--fixtures", "golden"]], ids=str)
    def test_a_file_that_nobody_named_is_not_lost(self, options: list[str], golden: Command, folder: Path) -> None:
        write(FIXTURES, ("orders", ALLOW))
        before = state(folder)
        assert golden(*SIGN, "--version", "1", *options) == 2
        assert state(folder) == before
        assert golden(*SIGN, "--version", "1", "--fixtures", FIXTURES, "--replace") == 0
        assert golden("verify", "policy.wasm", *KEYS) == 0


# What verify and publish refuse, and activate would: each leaves no store behind.
class TestVerifyAndPublish:
    def refused(self, command: Command, refusal: str, field: str | None = None) -> None:
        for arguments in (("verify", "policy.wasm", *KEYS), ("publish", "policy.wasm", *STORE)):
            found = command.json(*arguments, code=1)
            assert (found["refused"], found.get("field")) == (refusal, field)
        assert not Path("store").exists()

    def test_absent(self, signed: Command) -> None:  # A2
        os.unlink(FIXTURES)
        self.refused(signed, "ManifestError", "fixtures")
        os.mkfifo(FIXTURES)  # A14
        self.refused(signed, "ManifestError", "fixtures")

    def test_of_another_digest(self, signed: Command) -> None:  # A1, A6, A13
        Path(FIXTURES).write_bytes(release_file(read_fixtures("golden")[:1]))
        self.refused(signed, "DigestMismatch")
        assert FIXTURES in signed.errors

    def test_too_large(self, signed: Command) -> None:  # A18
        with open(FIXTURES, "r+b") as file:
            file.truncate(10 << 30)
        self.refused(signed, "ArtifactError")

    def test_signed_and_yet_no_fixtures(self, signed: Command, monkeypatch: pytest.MonkeyPatch) -> None:  # A2
        """What only another signer than this one would sign."""
        from capgate.cli.release import signing

        monkeypatch.setattr(signing, "_check_fixtures", lambda *_: None)
        monkeypatch.setattr(signing, "_fixtures_file", lambda _: b"[]\n")
        assert signed(*SIGN, "--version", "1", "--fixtures", "golden", "--replace") == 0
        self.refused(signed, "ManifestError", "fixtures")

    def test_that_the_manifest_does_not_name(self, signed: Command) -> None:  # A13
        data = Path(FIXTURES).read_bytes()
        assert signed(*SIGN, "--version", "1", "--replace") == 0
        Path(FIXTURES).write_bytes(data)
        self.refused(signed, "ManifestError", "fixtures")

    def test_what_is_published_says_so(self, signed: Command) -> None:
        found = signed.json("publish", "policy.wasm", *STORE)
        data = in_store(1).read_bytes()
        assert found["fixtures"] == hashlib.sha256(data).hexdigest()
        assert data == Path(FIXTURES).read_bytes()


class TestActivate:
    def test_they_pass(self, active: Command) -> None:
        assert active_version() == 1
        assert active("activate", "orders", "2", *STORE, "--yes") == 0
        assert active_version() == 2

    @pytest.mark.parametrize("engine", ["auto", "wasmtime"])
    def test_one_that_fails_here(self, engine: str, active: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        """What passed where it was signed fails under the limits of this place."""
        monkeypatch.setenv("CAPGATE_INPUT_BYTES", "1024")
        before = state(Path("store"))
        assert active("activate", "orders", "2", *STORE, "--yes", "--engine", engine) == 1
        shown = active.errors.splitlines()
        assert sum(line.startswith("  - ") for line in shown) == sum(line.startswith("  + ") for line in shown) == 1
        assert "orders[1]" in active.errors
        assert any("Not done" in line and "version 1 " in line for line in shown)  # the running one stays, and says so
        found = active.json("activate", "orders", "2", *STORE, "--yes", "--engine", engine, code=1)
        assert (found["refused"], found["total"], len(found["failures"])) == ("FixturesFailed", 2, 1)
        # Nor does it help to say that none are needed.
        assert active("activate", "orders", "2", *STORE, "--yes", "--without-fixtures") == 1
        assert state(Path("store")) == before
        assert active_version() == 1

    def test_others_are_added(self, active: Command) -> None:
        write("more/more.json", ("payments", ALLOW))
        found = active.json("activate", "orders", "2", *STORE, "--yes", "--fixtures", "more", code=1)
        assert (found["total"], [one["name"] for one in found["failures"]]) == (3, ["more[0]"])
        Path("none").mkdir()
        assert active("activate", "orders", "2", *STORE, "--yes", "--fixtures", "none") == 1
        assert active_version() == 1
        write("more/more.json", ("payments", DENY))
        assert active("activate", "orders", "2", *STORE, "--yes", "--fixtures", "more") == 0
        assert active_version() == 2

    # A1, A2, A13, A14, A18
    @pytest.mark.parametrize("damage", ["gone", "empty", "flipped", "other", "large", "link"])
    def test_damaged(self, damage: str, active: Command) -> None:
        victim = in_store(2)
        data = victim.read_bytes()
        spoil(victim, damage)
        before = state(Path("store", "policies"))
        for options in ([], ["--without-fixtures"], ["--fixtures", "golden"]):
            assert active("activate", "orders", "2", *STORE, "--yes", *options) == 1
        assert state(Path("store", "policies")) == before
        assert active_version() == 1
        victim.unlink(missing_ok=True)
        victim.write_bytes(data)
        assert active("activate", "orders", "2", *STORE, "--yes") == 0

    def test_without_any_it_has_to_be_said(self, active: Command) -> None:
        build("3")
        assert active(*SIGN, "--version", "3", "--replace") == 0
        assert active("publish", "policy.wasm", *STORE) == 0
        found = active.json("activate", "orders", "3", *STORE, "--yes", code=1)
        assert (found["refused"], found["total"]) == ("FixturesFailed", 0)
        assert "--without-fixtures" in active.errors
        assert active_version() == 1
        assert active("activate", "orders", "3", *STORE, "--yes", "--without-fixtures") == 0
        assert active_version() == 3

    def test_or_others_have_to_be_there(self, active: Command) -> None:
        build("3")
        assert active(*SIGN, "--version", "3", "--replace") == 0
        assert active("publish", "policy.wasm", *STORE) == 0
        assert active("activate", "orders", "3", *STORE, "--yes", "--fixtures", "golden") == 0
        assert active_version() == 3

    def test_without_fixtures_it_still_has_to_answer(self, active: Command) -> None:
        Path("policy.wasm").write_bytes(guest("unreachable"))
        assert active(*SIGN, "--version", "3", "--name", "orders", "--replace") == 0
        assert active("publish", "policy.wasm", *STORE) == 0
        found = active.json("activate", "orders", "3", *STORE, "--yes", "--without-fixtures", code=1)
        assert found["refused"] == "PolicyTrap"
        assert active_version() == 1

    def test_the_first_one_too(self, signed: Command) -> None:
        assert signed("publish", "policy.wasm", *STORE) == 0
        spoil(in_store(1), "flipped")
        assert signed("activate", "orders", "1", *STORE, "--yes") == 1
        with pytest.raises(ArtifactNotFound):
            PolicyStore("store").read_active("orders")


def spoil(victim: Path, damage: str) -> None:
    data = victim.read_bytes()
    if damage in ("gone", "link"):
        victim.unlink()
    if damage == "link":
        Path("elsewhere").write_bytes(data)
        victim.symlink_to(Path("elsewhere").absolute())
    elif damage == "large":
        with victim.open("r+b") as file:
            file.truncate(10 << 30)
    elif damage != "gone":
        other = release_file(read_fixtures("golden")[:1])
        victim.write_bytes({"empty": b"", "flipped": bytes([data[0] ^ 1]) + data[1:], "other": other}[damage])


class TestAfterwards:
    def test_going_back_needs_none(self, active: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        assert active("activate", "orders", "2", *STORE, "--yes") == 0
        in_store(1).unlink()
        assert active("rollback", "orders", *STORE, "--yes") == 0
        assert active_version() == 1

    def test_beginning_again_judges_what_there_is(self, active: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.setenv("CAPGATE_INPUT_BYTES", "1024")
            found = active.json("reset", "orders", "--to", "2", *STORE, "--yes", code=1)
            assert found["refused"] == "FixturesFailed"
        assert active_version() == 1
        assert active("reset", "orders", "--to", "2", *STORE, "--yes") == 0

    def test_status_and_history_say_what_has_some(self, active: Command) -> None:
        build("3")
        assert active(*SIGN, "--version", "3", "--replace") == 0
        assert active("publish", "policy.wasm", *STORE) == 0
        assert active("activate", "orders", "2", *STORE, "--yes") == 0
        (status,) = active.json("status", *STORE)["policies"]
        digest = hashlib.sha256(in_store(2).read_bytes()).hexdigest()
        assert (status["manifest"]["fixtures"], status["problem"]) == (digest, None)
        assert [one["manifest"]["fixtures"] is not None for one in status["releases"]] == [False, True, True]
        assert active("activate", "orders", "3", *STORE, "--yes", "--without-fixtures") == 0
        records = active.json("history", "orders", "--store", "store")["history"]
        assert [(one["version"], one["fixtures"]) for one in records] == [(3, False), (2, True), (1, True)]
        assert active("prune", "--store", "store", "--keep", "0", "--yes") == 0
        records = active.json("history", "orders", "--store", "store")["history"]
        assert [(one["version"], one["fixtures"]) for one in records] == [(3, False), (2, True), (1, None)]
        assert len(list(Path("store").rglob("fixtures.json"))) == 1

    @pytest.mark.parametrize("damage", ["gone", "empty", "flipped", "other", "large", "link"])
    def test_status_verifies_them(self, damage: str, active: Command) -> None:  # A1
        spoil(in_store(1), damage)
        (status,) = active.json("status", *STORE, code=1)["policies"]
        assert status["problem"]
        assert status["active"]["version"] == active_version() == 1
