"""What all commands have in common: help with examples and exit codes, JSON, colour where it belongs, completion."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from capgate import PolicyInput, Resource
from capgate.cli.app import app
from capgate.cli.guide import PANELS, STEPS

from ..support.command import capgate, environment
from ..support.terminal import on_terminal
from .test_commands import call
from .test_explain import FROZEN, Folder

pytestmark = pytest.mark.slow

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, and how it is called."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize(("path", "command"), COMMANDS.items(), ids=["-".join(path) for path in COMMANDS])
def test_each_command_is_like_the_others(
    path: tuple[str, ...], command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert any("--json" in parameter.opts for parameter in command.params)
    assert all(getattr(parameter, "help", None) for parameter in command.params)
    assert call(*path, "--help") == 0
    out = capsys.readouterr().out
    assert "Exit codes: 0" in out
    assert f"capgate {' '.join(path)}" in out.split("Try:")[1]


def test_each_command_has_its_place() -> None:
    placed = {name for names, _ in PANELS.values() for name in names}
    assert {path[0] for path in COMMANDS} <= placed
    assert {name for _, needed in STEPS for name in needed} <= placed


def test_the_help_teaches_the_order_of_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    out = capsys.readouterr().out
    told = [
        out.index(word)
        for word in ("The way of a policy", "schema", "build", "diff", "Start", "Policies", "Exit codes")
    ]
    assert told == sorted(told)
    listed = out.split("Policies", 1)[1]
    order = [listed.index(f"│ {name} ") for name in ("schema", "explain", "build", "diff")]
    assert order == sorted(order)


# Colour.


@pytest.fixture
def calls(folder: Folder) -> list[tuple[str, ...]]:
    new = folder.write("new.toml", "")
    question = folder.ask(FROZEN)
    output = str(folder.path / "out.wasm")
    return [
        ("explain", folder.toml, question),
        ("diff", folder.toml, new),
        ("build", folder.toml, "-o", output),
        ("schema",),
        ("--help",),
    ]


def test_without_a_terminal_there_is_no_colour(calls: list[tuple[str, ...]]) -> None:
    for arguments in calls:
        done = capgate(*arguments)
        assert "\x1b" not in done.stdout + done.stderr, arguments


def test_on_a_terminal_there_is_unless_no_color_says_so(calls: list[tuple[str, ...]]) -> None:
    for arguments in (calls[0], calls[1], calls[-1]):
        _, coloured = on_terminal(*arguments)
        assert COLOURS.search(coloured), arguments
        _, plain = on_terminal(*arguments, NO_COLOR="1")
        assert not re.search(r"\x1b\[(?:[0-9;]*;)?(?:3|4|9|10)[0-7](?:;[0-9;]*)?m", plain), arguments
        _, json_ = on_terminal(*(arguments if arguments == ("--help",) else (*arguments, "--json")))
        assert arguments == ("--help",) or "\x1b" not in json_


# Completion.


@pytest.mark.parametrize(
    ("line", "expected"), [("capgate di", "diff"), ("capgate build --ou", "--output"), ("capgate contract e", "export")]
)
def test_shells_complete(line: str, expected: str) -> None:
    words = line.split()
    done = capgate(_CAPGATE_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    assert expected in done.stdout.split()


def test_completion_installs_itself(tmp_path: Path) -> None:
    """For the shell that calls it, below its home."""
    (tmp_path / ".bashrc").write_text("")
    command = f"{sys.executable} -m capgate --install-completion; exit $?"  # not exec'd, so that bash is the parent
    done = subprocess.run(
        ["bash", "--norc", "-c", command],
        env=environment(HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "_CAPGATE_COMPLETE" in written


# Schema and build.


def test_the_schema_is_written_or_printed(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("schema") == 0
    printed = capsys.readouterr().out
    path = folder.path / "policy.schema.json"
    assert call("schema", "-o", str(path)) == 0
    assert capsys.readouterr().out == ""
    assert path.read_text() == printed
    assert json.loads(printed)["$schema"].startswith("https://json-schema.org/")
    assert call("schema", "-o", str(path), "--json") == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(path)
    for of, title in (("fixtures", "capgate golden fixtures"), ("questions", "capgate question")):
        assert call("schema", of, "-o", str(path)) == 0
        assert json.loads(path.read_text())["title"] == title
    assert call("schema", "question") == 2
    assert call("schema", "-o", str(folder.path)) == 2


def test_toml_and_json_build_the_same(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    digests = []
    for document in (folder.toml, folder.json):
        output = str(folder.path / "out.wasm")
        assert call("build", document, "-o", output, "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["path"], told["bytes"], told["inputs"]) == (
            output,
            os.path.getsize(output),
            ["action", "mode", "resource"],
        )
        digests.append(told["sha256"])
    assert digests[0] == digests[1]


def test_a_mistake_in_toml_is_named_by_file_line_and_column(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    bad = folder.write("bad.TOML", "sql = [\n  'a',\n  3,\n]\n")
    assert call("build", bad, "-o", str(folder.path / "out.wasm")) == 2
    assert capsys.readouterr().err.startswith(f"capgate: {bad}:3:3: sql[1]: ")


def test_only_much_and_only_a_terminal_gets_a_bar(folder: Folder) -> None:
    large = folder.write("large.json", json.dumps({"sql": [f"query_number_{number:06}" for number in range(20_000)]}))
    output = str(folder.path / "out.wasm")
    code, seen = on_terminal("build", large, "-o", output)
    assert code == 0
    assert "building" in seen
    code, seen = on_terminal("build", folder.toml, "-o", output)
    assert (code, "building" in seen) == (0, False)
    done = capgate("build", large, "-o", output)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_question_is_no_policy(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    question = folder.ask(PolicyInput("db.read", resource=Resource("sql_query", "q")))
    assert call("explain", question, folder.toml) == 2
    assert capsys.readouterr().out == ""
