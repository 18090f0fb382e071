"""A real PostgreSQL on a Unix socket, for the tests of gated engines."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .tools import missing

#: Where Debian keeps the programs of a server, which are not on PATH there.
DEBIAN: Final = Path("/usr/lib/postgresql")
#: Who runs the server where the tests run as root, which it refuses to be run as.
USER: Final = "postgres"


def _programs() -> Path:
    """The folder of ``initdb``; without it the test is skipped, or fails where ``CI=true``."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).parent
    newest = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda program: int(program.parts[-3]))
    if not newest:
        missing("the program 'initdb', of PostgreSQL")
    return newest[-1].parent


@contextmanager
def postgresql_server() -> Iterator[str]:
    """The URL of a server with an empty database, for SQLAlchemy with psycopg, until the end of the block."""
    programs = _programs()
    user = USER if os.geteuid() == 0 else None
    if user is not None and user not in {entry.pw_name for entry in pwd.getpwall()}:
        missing(f"the user {user!r}, to run PostgreSQL as,")
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # a short path, as sockets need, that the user can reach
    try:
        if user is not None:
            shutil.chown(folder, user)
        made = [programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", "capgate", "-E", "UTF8", "--no-sync"]
        subprocess.run(
            [*map(str, made), "--locale=C"], check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL, timeout=120
        )
        options = ["-D", folder / "data", "-k", folder, "-c", "listen_addresses=", "-F"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [programs / "postgres", *map(str, options)], user=user, cwd=folder, stdout=log, stderr=log
            )
        try:
            _wait(folder, process)
            yield f"postgresql+psycopg://capgate@/postgres?host={folder}"
        finally:
            process.terminate()
            process.wait(30)
    finally:
        shutil.rmtree(folder)


def _wait(folder: Path, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1_500):
        ready = folder / "data" / "postmaster.pid"
        if ready.exists() and ready.read_text().rstrip().endswith("ready"):
            return
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise AssertionError((folder / "log").read_text())
