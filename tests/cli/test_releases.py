"""From a key to a rollback, as people type it; exit codes, files and their modes, and what is refused."""

from __future__ import annotations

import json
import os
import pty
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from capgate import build_policy
from capgate.actions import policy_hash
from capgate.store import KeyPair, PolicyStore

from ..support.command import Command, environment
from ..support.guests import guest

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test in a folder of its own, with a module and a key in it."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("CAPGATE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    build("1")
    return tmp_path


def build(version: str, path: str = "policy.wasm") -> None:
    Path(path).write_bytes(build_policy({"name": "orders", "version": version, "cache": ["orders"]}))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture
def signed(run: Command) -> Command:
    """With a key, and version 1 of the policy signed by it."""
    assert run("keygen", "key.pem") == 0
    assert run("sign", "policy.wasm", "--key", "key.pem", "--version", "1") == 0
    return run


KEYS = ("--trusted-keys", "key.pem.pub")
STORE = ("--store", "store", *KEYS)


def release(run: Command, *versions: int) -> None:
    """Publish and activate those versions."""
    for version in versions:
        build(str(version))
        assert run("sign", "policy.wasm", "--key", "key.pem", "--version", str(version), "--replace") == 0
        assert run("publish", "policy.wasm", *STORE) == 0
        assert run("activate", "orders", str(version), *STORE, "--yes", "--without-fixtures") == 0, run.errors


class TestKeygen:
    def test_a_pair_with_safe_modes(self, run: Command, folder: Path) -> None:
        before = os.umask(0)
        try:
            assert run("keygen") == 0
        finally:
            os.umask(before)
        private, public = folder / "capgate-key.pem", folder / "capgate-key.pem.pub"
        assert stat.S_IMODE(private.stat().st_mode) == 0o600
        assert stat.S_IMODE(public.stat().st_mode) == 0o644
        pair = KeyPair.from_pem(private.read_bytes())
        assert run.output == public.read_text() == f"{pair.public.line}\n"
        assert "PRIVATE" not in run.output + run.errors

    def test_as_json(self, run: Command) -> None:
        found = run.json("keygen", "key.pem")
        assert found["key"].split()[2] == found["id"]
        assert (found["private"], found["public"]) == ("key.pem", "key.pem.pub")

    @pytest.mark.parametrize("there", ["key.pem", "key.pem.pub"])
    def test_nothing_is_ever_overwritten(self, there: str, run: Command, folder: Path) -> None:
        (folder / there).write_text("precious")
        assert run("keygen", "key.pem") == 2
        assert (folder / there).read_text() == "precious"
        assert sorted(os.listdir(folder)) == sorted([there, "policy.wasm"])

    def test_nor_through_a_link(self, run: Command, folder: Path) -> None:
        (folder / "key.pem").symlink_to("elsewhere")
        assert run("keygen", "key.pem") == 2
        assert not (folder / "elsewhere").exists()

    def test_with_a_passphrase(self, run: Command, folder: Path) -> None:
        (folder / "passphrase").write_text("correct horse\n")
        (folder / "passphrase").chmod(0o600)
        assert run("keygen", "key.pem", "--passphrase-file", "passphrase") == 0
        assert b"ENCRYPTED" in (folder / "key.pem").read_bytes()
        sign = ("sign", "policy.wasm", "--key", "key.pem", "--version", "1")
        assert run(*sign) == 2
        assert run(*sign, "--passphrase-file", "passphrase") == 0
        (folder / "passphrase").write_text("battery staple")
        assert run(*sign, "--replace", "--passphrase-file", "passphrase") == 2
        assert "staple" not in run.errors

    @pytest.mark.parametrize("path", ["absent/key.pem", "."])
    def test_where_it_cannot_be(self, path: str, run: Command) -> None:
        assert run("keygen", path) == 2
        assert run.output == ""


class TestSign:
    def test_everything_that_is_signed(self, run: Command, folder: Path) -> None:
        run("keygen", "key.pem")
        found = run.json(
            *("sign", "policy.wasm", "--key", "key.pem", "--version", "7", "--name", "shop", "--label", "spring"),
            *("--expires", "2099-01-31T00:00:00Z", "--environment", "test", "--environment", "prod"),
            *("--service", "orders-api", "--limit", "fuel=5000", "--limit", "call_depth=100"),
            *("--vocabulary", "builtin"),
        )
        assert (found["name"], found["version"], found["label"]) == ("shop", 7, "spring")
        assert (found["expires"], found["environment"]) == ("2099-01-31T00:00:00Z", ["prod", "test"])
        assert (found["service"], found["limits"]) == ("orders-api", {"call_depth": 100, "fuel": 5_000})
        assert found["policyHash"] == policy_hash()
        for path in found["files"]:
            assert stat.S_IMODE((folder / path).stat().st_mode) == 0o644
        assert run("verify", "policy.wasm", *KEYS, "--name", "shop", "--mode", "test", "--service", "orders-api") == 0

    def test_a_second_signature(self, signed: Command) -> None:
        signed("keygen", "second.pem")
        both = ",".join(Path(name).read_text().strip() for name in ("key.pem.pub", "second.pem.pub"))
        assert signed("verify", "policy.wasm", "-k", both, "--threshold", "2") == 1
        assert signed("sign", "policy.wasm", "--key", "second.pem") == 0
        assert len(signed.json("verify", "policy.wasm", "-k", both, "--threshold", "2")["signers"]) == 2
        assert signed("sign", "policy.wasm", "--key", "second.pem") == 0  # again
        assert signed("verify", "policy.wasm", "-k", both, "--threshold", "2") == 0

    def test_by_several_at_once(self, run: Command) -> None:
        for name in ("a.pem", "b.pem"):
            run("keygen", name)
        found = run.json("sign", "policy.wasm", "--key", "a.pem", "--key", "b.pem", "--version", "1")
        assert len(found["signatures"]) == 2

    def test_a_manifest_is_replaced_only_on_request(self, signed: Command, folder: Path) -> None:
        before = (folder / "policy.wasm.manifest.json").read_bytes()
        again = ("sign", "policy.wasm", "--key", "key.pem", "--version", "2")
        assert signed(*again) == 2
        assert (folder / "policy.wasm.manifest.json").read_bytes() == before
        assert signed(*again, "--replace") == 0
        assert signed.json("verify", "policy.wasm", *KEYS)["version"] == 2

    def test_of_another_module_than_the_manifest_says(self, signed: Command) -> None:
        build("2")
        assert signed("sign", "policy.wasm", "--key", "key.pem") == 1

    @pytest.mark.parametrize(
        "options",
        [
            [],  # no manifest, and no version for a new one
            ["--expires", "90d"],
            ["--version", "1", "--expires", "tomorrow"],
            ["--version", "1", "--expires", "99999d", "--expires", "2024-02-30T00:00:00Z"],
            ["--version", "1", "--limit", "fuel"],
            ["--version", "1", "--limit", "fuel=1e6"],
        ],
        ids=str,
    )
    def test_what_is_no_request(self, options: list[str], run: Command, folder: Path) -> None:
        run("keygen", "key.pem")
        assert run("sign", "policy.wasm", "--key", "key.pem", *options) == 2
        assert not list(folder.glob("*.json"))

    @pytest.mark.parametrize(
        "options",
        [["--version", "0"], ["--version", "1", "--limit", "x=1"], ["--version", "1", "--vocabulary", "mine"]],
        ids=str,
    )
    def test_what_is_no_manifest(self, options: list[str], run: Command, folder: Path) -> None:
        run("keygen", "key.pem")
        assert run("sign", "policy.wasm", "--key", "key.pem", *options) == 1
        assert not list(folder.glob("*.json"))

    def test_with_a_key_that_others_may_read(self, signed: Command, folder: Path) -> None:
        (folder / "key.pem").chmod(0o644)
        assert signed("sign", "policy.wasm", "--key", "key.pem") == 2
        assert "chmod 600" in signed.errors

    def test_with_what_is_no_key(self, signed: Command, folder: Path) -> None:
        (folder / "key.pem.pub").chmod(0o600)
        for name in ("key.pem.pub", "policy.wasm", "absent.pem", "."):
            os.chmod("policy.wasm", 0o600)
            assert signed("sign", "policy.wasm", "--key", name) == 2


class TestVerify:
    def test_what_is_signed(self, signed: Command) -> None:
        found = signed.json("verify", "policy.wasm", *KEYS)
        assert (found["verified"], found["name"], found["version"]) == (True, "orders", 1)

    # A1, A2, A7: refused is exit code 1, with the reason.
    @pytest.mark.parametrize(
        ("spoil", "options", "refusal", "fact"),
        [
            ("policy.wasm", [], "DigestMismatch", {}),
            ("policy.wasm.manifest.json", [], "SignatureInvalid", {"reason": "forged"}),
            ("policy.wasm.signature.json", [], "SignatureInvalid", {"reason": "malformed"}),
            ("", ["--mode", "dev"], "ManifestError", {"field": "environment"}),
            ("", ["--name", "payments"], "ManifestError", {"field": "name"}),
        ],
    )
    def test_what_is_refused(
        self, spoil: str, options: list[str], refusal: str, fact: dict[str, str], run: Command, folder: Path
    ) -> None:
        run("keygen", "key.pem")
        run("sign", "policy.wasm", "--key", "key.pem", "--version", "1", "--environment", "prod")
        if spoil:
            data = (folder / spoil).read_bytes()
            (folder / spoil).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        found = run.json("verify", "policy.wasm", *KEYS, *options, code=1)
        assert found["refused"] == refusal
        assert fact.items() <= found.items()
        assert run.errors.startswith("capgate: ")
        assert run.errors.count("\n") == 1

    def test_unsigned(self, signed: Command, folder: Path) -> None:
        (folder / "policy.wasm.signature.json").unlink()
        assert signed.json("verify", "policy.wasm", *KEYS, code=1)["reason"] == "missing"

    def test_needs_keys(self, signed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        assert signed("verify", "policy.wasm") == 2
        monkeypatch.setenv("CAPGATE_TRUSTED_KEYS", Path("key.pem.pub").read_text().strip())
        assert signed("verify", "policy.wasm") == 0
        monkeypatch.setenv("CAPGATE_SIGNATURE_THRESHOLD", "2")
        assert signed("verify", "policy.wasm") == 2

    def test_under_the_limits_of_the_environment(self, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        run("keygen", "key.pem")
        run("sign", "policy.wasm", "--key", "key.pem", "--version", "1", "--limit", "fuel=500000")
        assert run("verify", "policy.wasm", *KEYS) == 0
        monkeypatch.setenv("CAPGATE_FUEL", "499999")
        assert run.json("verify", "policy.wasm", *KEYS, code=1)["field"] == "limits.fuel"


class TestStore:
    def test_from_publishing_to_rolling_back(self, signed: Command) -> None:
        published = signed.json("publish", "policy.wasm", *STORE)
        assert (published["name"], published["version"], published["verified"]) == ("orders", 1, True)
        active = signed.json("activate", "orders", "1", *STORE, "--yes", "--note", "first", "--without-fixtures")
        assert (active["version"], active["action"], active["note"]) == (1, "activate", "first")
        release(signed, 2, 3)
        assert signed.json("rollback", "orders", *STORE, "--yes")["version"] == 2
        assert signed.json("rollback", "orders", *STORE, "--yes", "--to", published["sha256"])["version"] == 1
        assert signed.json("reset", "orders", *STORE, "--yes")["highest"] == 1
        (status,) = signed.json("status", *STORE)["policies"]
        assert (status["name"], status["active"]["version"], status["problem"]) == ("orders", 1, None)
        records = signed.json("history", "orders", "--store", "store")["history"]
        assert [record["action"] for record in records] == ["reset", "rollback", "rollback", *["activate"] * 3]
        assert signed.json("prune", "--store", "store", "--yes", "--keep", "0")["removed"] == []
        assert signed("rollback", "orders", "--to", "3", *STORE, "--yes") == 0
        assert len(signed.json("prune", "--store", "store", "--yes", "--keep", "0")["removed"]) == 2

    # A2, A8: refused is exit code 1, and what runs stays.
    @pytest.mark.parametrize(
        ("arguments", "code", "fact"),
        [
            (["activate", "orders", "1", *STORE], 1, {"reason": "lowers_version"}),
            (["activate", "orders", "9", *STORE], 2, None),
            (["activate", "orders", "latest", *STORE], 2, None),
            (["activate", "payments", "1", *STORE], 2, None),
            (["activate", "../orders", "1", *STORE], 1, {"reason": "name"}),
            (["rollback", "orders", "--to", "9", *STORE], 1, {"reason": "not_recorded"}),
            (["rollback", "orders", "--store", "store", "--trusted-keys", "other.pub"], 1, {"reason": "threshold"}),
            (["rollback", "orders", "--store", "absent"], 2, None),
            (["reset", "orders", "--to", "9", *STORE], 2, None),
            (["activate", "orders", "3", *STORE, "--note", "a\nb"], 2, None),
        ],
        ids=str,
    )
    def test_what_is_refused(
        self, arguments: list[str], code: int, fact: dict[str, str] | None, signed: Command, folder: Path
    ) -> None:
        release(signed, 1, 2)
        build("3")
        signed("sign", "policy.wasm", "--key", "key.pem", "--version", "3", "--replace")
        signed("publish", "policy.wasm", *STORE)
        (folder / "other.pub").write_text(KeyPair.generate().public.line)
        before = PolicyStore("store").read_active("orders")
        assert signed(*arguments, "--yes", "--json") == code
        assert (json.loads(signed.output) if fact is not None else {}).items() >= (fact or {}).items()
        assert PolicyStore("store").read_active("orders") == before

    def test_one_that_does_not_answer_is_not_activated(self, signed: Command, folder: Path) -> None:
        release(signed, 1)
        (folder / "policy.wasm").write_bytes(guest("unreachable"))
        options = ("--key", "key.pem", "--version", "2", "--name", "orders", "--replace")
        assert signed("sign", "policy.wasm", *options) == 0
        assert signed("publish", "policy.wasm", *STORE) == 0
        for engine in ("auto", "wasmtime"):
            given = ("--yes", "--without-fixtures", "--engine", engine)
            found = signed.json("activate", "orders", "2", *STORE, *given, code=1)
            assert found["refused"] == "PolicyTrap"
        (folder / "policy.wasm").write_bytes(b"\0asm\x01\0\0\0")  # a module that exports nothing
        assert signed("sign", "policy.wasm", *options[:3], "3", *options[4:]) == 0
        assert signed("publish", "policy.wasm", *STORE) == 0
        assert signed("activate", "orders", "3", *STORE, "--yes", "--without-fixtures") == 1
        assert PolicyStore("store").read_active("orders").version == 1

    def test_unsigned_is_not_published_where_keys_are_trusted(self, signed: Command, folder: Path) -> None:
        (folder / "policy.wasm.signature.json").unlink()
        assert signed.json("publish", "policy.wasm", *STORE, code=1)["reason"] == "missing"
        assert not (folder / "store").exists()
        assert signed.json("publish", "policy.wasm", "--store", "store")["verified"] is False

    # Whoever changes what runs has to mean it.
    @pytest.mark.parametrize(
        "arguments",
        [
            ["activate", "orders", "2", *STORE],
            ["rollback", "orders", *STORE],
            ["reset", "orders", *STORE],
            ["prune", "--store", "store", "--keep", "0"],
        ],
        ids=str,
    )
    def test_nothing_is_changed_without_a_yes(self, arguments: list[str], signed: Command, folder: Path) -> None:
        release(signed, 1, 2, 3)
        before = {path: path.read_bytes() for path in (folder / "store").rglob("*") if path.is_file()}
        assert signed(*arguments) == 2
        assert "--yes" in signed.errors
        assert {path: path.read_bytes() for path in (folder / "store").rglob("*") if path.is_file()} == before

    def test_on_a_terminal_it_asks(self, signed: Command, folder: Path) -> None:
        release(signed, 1, 2)
        for answer, code, version in (("n", 1, 2), ("y", 0, 1)):
            ours, theirs = pty.openpty()
            with subprocess.Popen(
                [sys.executable, "-m", "capgate", "rollback", "orders", *STORE],
                env=environment(),
                stdin=theirs,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ) as process:
                os.write(ours, f"{answer}\n".encode())
                _, errors = process.communicate(timeout=60)
            os.close(ours)
            os.close(theirs)
            assert process.returncode == code
            assert "version 2" in errors
            assert PolicyStore("store").read_active("orders").version == version

    def test_status_says_what_is_wrong(self, signed: Command, folder: Path) -> None:
        release(signed, 1)
        assert signed("status", *STORE) == 0
        assert "orders" in signed.output
        (victim,) = (folder / "store").rglob("policy.wasm")
        victim.write_bytes(b"")
        (status,) = signed.json("status", *STORE, code=1)["policies"]
        assert status["problem"]
        assert status["active"]["version"] == 1
        assert signed("status", "orders", *STORE) == 1

    @pytest.mark.parametrize("command", [["status"], ["activate", "--yes"], ["rollback", "--yes"], ["reset", "--yes"]])
    def test_a_misspelt_name_is_no_policy_of_which_nothing_is_active(self, signed: Command, command: list[str]) -> None:
        release(signed, 1)
        which = ["1"] if command[0] == "activate" else []
        assert signed(command[0], "ordres", *which, *command[1:], *STORE) == 2
        assert "orders" in signed.errors
        assert signed.output == ""

    def test_without_keys_it_says_that_no_signature_is_looked_at(self, signed: Command) -> None:  # A16
        release(signed, 1)
        assert signed("status", *STORE) == 0
        assert "signatures" not in signed.errors
        assert signed.json("status", "--store", "store")["policies"][0]["signers"] == []
        assert "signatures" in signed.errors
        assert signed("history", "orders", "--store", "store") == 0
        assert signed.errors == ""

    def test_a_module_that_changed_is_named(self, signed: Command, folder: Path) -> None:  # A13
        with (folder / "policy.wasm").open("ab") as module:
            module.write(b"\0\1\0")
        assert signed("publish", "policy.wasm", *STORE) == 1
        assert "policy.wasm" in signed.errors

    def test_a_store_that_others_may_write(self, signed: Command, folder: Path) -> None:  # A16
        release(signed, 1)
        (folder / "store").chmod(0o777)
        assert signed.json("status", *STORE, code=1)["reason"] == "unsafe"

    def test_tables_have_no_colour_where_there_is_no_terminal(self, signed: Command) -> None:
        release(signed, 1, 2)
        for arguments in (["status", *STORE], ["history", "orders", "--store", "store"]):
            assert signed(*arguments) == 0
            assert "\x1b" not in signed.output
            assert "orders" in signed.output or "activate" in signed.output


COMMANDS = ("keygen", "sign", "verify", "publish", "activate", "rollback", "reset", "status", "history", "prune")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_shows_an_example(command: str, run: Command) -> None:
    assert run(command, "--help") == 0
    assert f"capgate {command}" in run.output
    assert "Try:" in run.output


def test_without_cryptography_it_says_what_to_install(folder: Path) -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None; sys.argv = ['capgate', 'keygen']\n"
        "from capgate.cli import main; main()"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env=environment(), cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "capgate[sign]" in done.stderr
    assert "Traceback" not in done.stderr
