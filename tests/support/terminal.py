"""The command on a terminal: what a person sees, escape sequences and all."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading

from .command import environment


def on_terminal(*arguments: str, **changes: str) -> tuple[int, str]:
    """Run ``python -m capgate`` with a terminal as its outputs; exit code, and everything it wrote."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "capgate", *arguments]
    written = bytearray()

    def read() -> None:
        while True:
            try:
                chunk = os.read(ours, 65_536)
            except OSError:  # Linux: nobody has the other side open any more
                return
            if not chunk:
                return
            written.extend(chunk)

    env = environment(TERM="xterm-256color", **changes)
    with subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        reader = threading.Thread(target=read)
        reader.start()
        code = process.wait(timeout=120)
        reader.join(timeout=30)
    os.close(ours)
    return code, written.decode("utf-8", "replace")
