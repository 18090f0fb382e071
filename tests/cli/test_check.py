"""``capgate check`` and ``capgate build``: all mistakes of a document at once, for people and for editors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .test_commands import call

MISTYPED = """\
egres = []
sql = ["audit"]

[[rules]]
effect = "deny"
actions = ["db.raed"]
modes = ["prd"]
"""
HIDDEN = 'sql = ["a"]\n[[rules]]\neffect = "deny"\nactions = ["db.*"]\n'


def write(folder: Path, text: str) -> str:
    path = folder / "policy.toml"
    path.write_text(text)
    return str(path)


def test_all_mistakes_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, MISTYPED)
    assert call("check", path) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{path}:1:1", f"{path}:6:12", f"{path}:7:10"]
    assert call("check", path, "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert [(one["line"], one["column"], one["nearest"]) for one in told["findings"]] == [
        *((1, 1, "egress"), (6, 12, "db.read"), (7, 10, "prod")),
    ]
    assert told["ok"] is False


def test_a_build_tells_them_too_and_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, output = write(tmp_path, MISTYPED), tmp_path / "policy.wasm"
    assert call("build", path, "-o", str(output)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert all(place in shown.err for place in (":1:1: error", ":6:12: error", ":7:10: error"))
    assert not output.exists()


def test_nothing_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, 'sql = ["a"]\n')
    assert call("check", path, "--strict") == 0
    capsys.readouterr()
    assert call("check", path, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["findings"]) == (True, [])


def test_warnings_are_mistakes_where_that_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, output = write(tmp_path, HIDDEN), tmp_path / "policy.wasm"
    assert call("check", path) == 0
    assert capsys.readouterr().out.startswith(f"{path}:1:1: warning: sql")
    assert call("check", path, "--strict") == 1
    assert call("build", path, "-o", str(output), "--strict") == 2
    assert not output.exists()
    assert call("build", path, "-o", str(output)) == 0
    assert output.exists()


@pytest.mark.parametrize("text", ["sql = [", "= 1"])
def test_what_is_no_toml(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("check", write(tmp_path, text)) == 1
    assert ":1:" in capsys.readouterr().out


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert call("check", str(tmp_path / "none.toml")) == 2
