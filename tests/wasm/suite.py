"""The official WebAssembly test suite, converted once per session with wabt's ``wast2json``."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..support.tools import ROOT, require_path, require_tool

FOLDER = ROOT.parent / "shared" / "wasm-testsuite"


def convert(target: Path) -> list[Path]:
    """Convert every ``.wast`` of the suite into ``target``: the JSON files. Skips where suite or tool is absent."""
    wast2json = require_tool("wast2json")
    sources = sorted(require_path(FOLDER).glob("*.wast"))
    for source in sources:
        subprocess.run([wast2json, str(source), "-o", str(target / f"{source.stem}.json")], check=True)
    return [target / f"{source.stem}.json" for source in sources]


def commands(files: list[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every command of the converted suite, with the file it is in."""
    for file in files:
        for command in json.loads(file.read_text())["commands"]:
            yield file, command


def binaries(files: list[Path]) -> Iterator[tuple[str, str, str, bytes]]:
    """Every binary module of the suite: (file name, command type, expected text, bytes)."""
    for file, command in commands(files):
        if "filename" in command and command.get("module_type") != "text":
            data = (file.parent / command["filename"]).read_bytes()
            yield command["filename"], command["type"], command.get("text", ""), data
