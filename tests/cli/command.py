"""The command as a user has it: a process of its own, without a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


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
