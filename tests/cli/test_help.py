"""The help of every command is whole in 80 columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from rich.cells import cell_len

from capgate.cli.app import app

from ..support.command import Command

WIDTH = 80


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and every group of them, with the words that call it."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


ALL = list(commands(typer.main.get_command(app)))


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) or "capgate" for path, _ in ALL])
def test_help_fits_80_columns_and_nothing_is_cut(
    path: tuple[str, ...], command: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("TERMINAL_WIDTH", str(WIDTH))
    run = Command(capsys)
    assert run(*path, "--help") == 0
    too_long = [line for line in run.output.splitlines() if cell_len(line) > WIDTH]
    assert too_long == []
    assert "\N{HORIZONTAL ELLIPSIS}" not in run.output
    names = [name for param in command.params for name in param.opts if name.startswith("--")]
    names += getattr(command, "commands", {})
    assert [name for name in names if name not in run.output] == []
    # Words are only ever broken between lines, so that each can be found and copied.
    words = {word for param in command.params for word in (getattr(param, "help", None) or "").replace("`", "").split()}
    assert [word for word in words if word not in run.output] == []


def test_all_commands_are_looked_at() -> None:
    assert {("new", "app"), ("doctor",), ("eval",), ("contract", "export"), ("test",)} <= {path for path, _ in ALL}
    assert len(ALL) >= 24
