"""Policies about files, and a look at folders from outside."""

from __future__ import annotations

import os
from pathlib import Path

READ, WRITE = "fs.read", "fs.write"
ANY = {"fs": "any"}


def tree(folder: Path) -> dict[str, str]:
    """Everything below ``folder``, as somebody else sees it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = (
            f"-> {os.readlink(path)}" if path.is_symlink() else path.read_text("latin-1") if path.is_file() else "/"
        )
    return found
