"""The other commands, help, and what a user sees when something is missing."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer.main

from capgate import build_policy, load_wasm_artifact
from capgate.cli import main
from capgate.cli.app import app

from ..support.command import capgate, environment

pytestmark = pytest.mark.slow

DOCUMENT = {"name": "orders", "version": "3", "cache": ["orders"]}
COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]  # it is a group


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(DOCUMENT))
    return path


def test_version() -> None:
    done = capgate("--version")
    assert (done.returncode, done.stdout.strip()) == (0, version("capgate"))


def call(*arguments: str) -> int:
    """The exit code of the command, called in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["capgate", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)], ids=str)
def test_each_command_has_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*arguments, "--help") == 0
    assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["demo", "x"],
        ["demo", "--engine", "v8"],
        ["demo", "--repeat", "0"],
        ["demo", "--port", "70000"],
        ["build"],
    ],
)
def test_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*arguments) == 2
    assert capsys.readouterr().out == ""


def test_each_option_has_help() -> None:
    for command in typer.main.get_command(app).commands.values():  # type: ignore[attr-defined]  # it is a group
        assert command.help, command.name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{command.name} {parameter.name}"


def test_build_writes_the_module_and_prints_its_digest(document: Path, tmp_path: Path) -> None:
    output = tmp_path / "policy.wasm"
    output.write_bytes(b"an older one")
    done = capgate("build", str(document), "-o", str(output))
    assert (done.returncode, done.stderr) == (0, "")
    digest, shown = done.stdout.split()
    assert (digest, shown) == (hashlib.sha256(output.read_bytes()).hexdigest(), str(output))
    artifact = load_wasm_artifact(output, digest)
    assert (artifact.data, artifact.name, artifact.version) == (build_policy(DOCUMENT), "orders", "3")
    assert stat.S_IMODE(output.stat().st_mode) == 0o644
    assert sorted(os.listdir(tmp_path)) == ["policy.json", "policy.wasm"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"sqll": []}', '{"sql": [1]}', '{"sql": [], "sql": []}', "\N{LATIN SMALL LETTER E WITH ACUTE}"],
)
def test_a_bad_document_is_exit_code_2_and_leaves_the_output_alone(
    text: str, document: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "policy.wasm"
    output.write_bytes(b"the running one")
    document.write_text(text, encoding="utf-8")
    assert call("build", str(document), "-o", str(output)) == 2
    assert capsys.readouterr().out == ""
    assert output.read_bytes() == b"the running one"


def test_paths_that_cannot_be_used_are_exit_code_2(
    document: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "fifo")
    for source in ("absent.json", ".", "fifo"):
        assert call("build", str(tmp_path / source), "-o", str(tmp_path / "policy.wasm")) == 2, source
    for target in ("absent/policy.wasm", "."):
        assert call("build", str(document), "-o", str(tmp_path / target)) == 2, target
    assert capsys.readouterr().out == ""
    assert sorted(os.listdir(tmp_path)) == ["fifo", "policy.json"]


def test_only_a_regular_file_is_replaced(document: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    for target in ("fifo", "link", "."):
        assert call("build", str(document), "-o", str(tmp_path / target)) == 2, target
    assert capsys.readouterr().out == ""
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["fifo", "link", "policy.json"]


def test_a_link_stays_one(document: Path, tmp_path: Path) -> None:
    (tmp_path / "current.wasm").symlink_to("policy-1.wasm")
    for _ in range(2):  # where it leads to nothing yet, and where it leads to a file
        assert call("build", str(document), "-o", str(tmp_path / "current.wasm")) == 0
        assert (tmp_path / "current.wasm").is_symlink()
        assert (tmp_path / "policy-1.wasm").read_bytes() == build_policy(DOCUMENT)


def test_a_name_that_is_no_text(document: Path, tmp_path: Path) -> None:
    output = os.fsencode(tmp_path) + b"/\xff.wasm"
    done = capgate("build", str(document), "-o", os.fsdecode(output), PYTHONIOENCODING="utf-8:strict")
    assert (done.returncode, done.stderr) == (0, "")
    assert os.path.exists(output)


def test_output_that_cannot_be_written_is_one_sentence(document: Path, tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "capgate", "build", str(document), "-o", str(tmp_path / "policy.wasm")],
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("capgate: ")
    assert done.stderr.count("\n") == 1


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def demo_without(package: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``capgate demo`` where ``package`` does not import."""
    return run_python(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {package!r}: raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        f"sys.argv = ['capgate', 'demo', '--repeat', '1', *{arguments!r}]\n"
        "from capgate.cli import main\n"
        "main()\n"
    )


@pytest.mark.parametrize("name", ["typer", "uvicorn", "httpx", "fastapi", "rich"])
def test_a_missing_package_of_the_extra_is_named(name: str) -> None:
    done = demo_without(name)
    assert (done.returncode, done.stdout) == (2, "")
    assert name in done.stderr
    assert "capgate[cli]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["wasmer", "wasmtime"])
def test_an_engine_that_does_not_import_is_exit_code_2(name: str) -> None:
    done = demo_without(name, "--engine", name)
    assert (done.returncode, done.stdout) == (2, "")
    assert name in done.stderr
    assert "Traceback" not in done.stderr


def test_auto_does_without_wasmer() -> None:
    done = demo_without("wasmer", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["engine"] == "wasmtime"
