"""Runs the command: as a user has it, in a process of its own without a terminal, or in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from capgate.cli import main

from .tools import ROOT


def environment(**changes: str) -> dict[str, str]:
    """The environment of this process without capgate's own variables, with ``changes``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CAPGATE_")}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **changes}


def capgate(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m capgate`` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "capgate", *arguments],
        env=environment(**changes),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


class Command:
    """``capgate`` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.output = self.errors = ""

    def __call__(self, *arguments: str) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["capgate", *arguments])
            with pytest.raises(SystemExit) as caught:
                main()
        self.output, self.errors = self.capsys.readouterr()
        assert "Traceback" not in self.errors
        assert isinstance(caught.value.code, int)
        return caught.value.code

    def json(self, *arguments: str, code: int = 0) -> Any:
        assert self(*arguments, "--json") == code, self.errors
        return json.loads(self.output)
