"""Plays somebody who follows a page: writes its files, types its commands, and compares what comes out.

What pages are written by:

- A block of Python or TOML whose first line is ``# NAME`` is that file; with ``# NAME, at the end`` it is added to it.
  A ``{code-block}`` with a ``:caption:`` is the file of that name.
- In a ``console`` block a line with ``$`` is a command, and what follows is what it prints. ``...`` stands for
  anything: within a line for some text, as a line of its own for some lines. Digests and decision ids may be any. A
  command for which nothing is shown has to end with 0.
- The command ``uvicorn``, perhaps with variables before it, starts the application in a terminal of its own, in place
  of the one before.
- A block of JSON is a part of a line that the running application has logged, unless it is a file.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple

from ..support.tools import ROOT

_FENCE: Final = re.compile(
    r"^(```+)(\{code-block\} )?(\w*)\n(?::caption: (\S+)\n\n?)?(.*?)^\1$", re.MULTILINE | re.DOTALL
)
_NAMED: Final = re.compile(r"# ([\w./-]+\.(?:py|toml))(, at the end)?\n")
_ANY_ID: Final = re.compile(r"\b(?:[0-9a-f]{64}|[0-9a-f]{32})\b")
_SERVES: Final = re.compile(r"(?:[A-Z_0-9]+=\S+ )*uvicorn ")
#: What pages call the port of the application.
_PORT: Final = "localhost:8000"
_PATIENCE: Final = 240.0


class Block(NamedTuple):
    """A fenced block; with a ``file`` it is that file, or the end of it."""

    language: str
    text: str
    file: str | None
    at_end: bool


def blocks(text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page in their order."""
    for _, _, language, caption, body in _FENCE.findall(text):
        named = _NAMED.match(body)
        if caption:
            yield Block(language, body, caption, False)
        elif named is not None and language in ("python", "toml"):
            yield Block(language, body, named[1], bool(named[2]))
        else:
            yield Block(language, body, None, False)


def is_as_shown(printed: str, shown: str) -> bool:
    """Say whether a command ``printed`` what a page has ``shown``. White space around a line counts for nothing."""
    pattern = ""
    for line in _lines(shown):
        parts = [re.escape(part) for part in line.split("...")]
        pattern += r"(?:.*\n)*" if line == "..." else ".*".join(parts) + r"\n"
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _lines(printed))) is not None


def _lines(text: str) -> list[str]:
    return [line.strip() for line in _ANY_ID.sub("ID", text.strip()).splitlines()]


class Newcomer:
    """Follows pages in ``folder``, with the environment ``environ``. A context manager: it closes its terminals."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.home = folder
        self._log = folder / "server.log"
        self._mark = 0
        self._shell = subprocess.Popen(
            ["bash", "--norc"],
            cwd=folder,
            env={**environ, "UVICORN_PORT": str(self._port), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self) -> Newcomer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop_server()
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.close()
        self._shell.wait(20)
        self._shell.stdout.close()

    def follow(self, page: Path) -> int:
        """Do all that the page says. Return how many blocks there were."""
        shown = list(blocks(page.read_text(encoding="utf-8")))
        for block in shown:
            if block.file is not None:
                self._write(block)
            elif block.language == "console":
                self._type(block.text)
            elif block.language == "json":
                self._look_for(json.loads(block.text))
            else:
                raise AssertionError(f"{page.name}: nobody can follow a block of {block.language!r}: {block.text}")
        return len(shown)

    def run(self, command: str) -> tuple[int, str]:
        """Type a command; return its exit code and what it printed."""
        self._mark += 1
        mark = f"done-{self._mark}-"
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{command} </dev/null\nprintf '\\n%s%s\\n' {mark} $?\n")
        self._shell.stdin.flush()
        lines: list[str] = []
        for line in self._shell.stdout:
            if line.startswith(mark):
                return int(line.removeprefix(mark)), "".join(lines)[:-1]
            lines.append(line)
        raise AssertionError(f"the shell ended after {command!r}: {''.join(lines)}")

    @property
    def cwd(self) -> Path:
        return Path(self.run("pwd")[1].strip())

    def _write(self, block: Block) -> None:
        assert block.file is not None
        path = self.cwd / block.file
        path.parent.mkdir(exist_ok=True)
        path.write_text(path.read_text() + "\n\n" + block.text if block.at_end else block.text)

    def _type(self, text: str) -> None:
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            if _SERVES.match(command):
                self._start_server(command)
                continue
            code, printed = self.run(command.replace(_PORT, f"localhost:{self._port}"))
            if shown.strip():
                assert is_as_shown(printed, shown), f"{command}\nprinted\n{printed}\nand the page has\n{shown}"
            else:
                assert code == 0, (command, printed)

    def _start_server(self, command: str) -> None:
        self._stop_server()
        self._log.unlink(missing_ok=True)
        self.run(f"{command} >{self._log} 2>&1 & server=$!")
        until = time.monotonic() + _PATIENCE
        while not self._answers():
            alive, _ = self.run("kill -0 $server 2>/dev/null")
            assert alive == 0, self._log.read_text()
            assert time.monotonic() < until, self._log.read_text()
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), 1).close()
        except OSError:
            return False
        return True

    def _stop_server(self) -> None:
        if self._log.exists():
            self.run("kill $server 2>/dev/null; wait $server 2>/dev/null")

    def _look_for(self, fields: dict[str, Any]) -> None:
        """Wait for a line of the log that has these ``fields``: a handler writes it after the client is answered."""
        until = time.monotonic() + 20
        while True:
            lines = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
            if any(fields.items() <= line.items() for line in lines):
                return
            assert time.monotonic() < until, (fields, lines)
            time.sleep(0.05)


def clean_environment(path: str) -> dict[str, str]:
    """The environment of somebody who has just logged in: nothing but where programs and certificates are."""
    kept = re.compile(r"(?:PIP_|SSL_|REQUESTS_|CURL_)\w+|LANG|TMPDIR")
    return {
        "PATH": path,
        "LANG": "C.UTF-8",
        **{name: value for name, value in os.environ.items() if kept.fullmatch(name)},
    }


def here(folder: Path) -> Newcomer:
    """Somebody in an empty home below ``folder``, who has the commands of the environment that the tests run in."""
    bin, home = folder / "bin", folder / "home"
    bin.mkdir()
    home.mkdir()
    for name, arguments in {"python": "", "capgate": "-m capgate", "uvicorn": "-m uvicorn"}.items():
        (bin / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
        (bin / name).chmod(0o755)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = clean_environment(f"{bin}:/usr/local/bin:/usr/bin:/bin")
    return Newcomer(home, {**environ, "HOME": str(home), "PYTHONPATH": os.pathsep.join(paths)})
