"""Writes down what happens in the processes of a server, and reads it.

That is each decision that reaches the log, each endpoint that runs, and the lifespan of the application.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

#: The variable of the environment that names the file.
JOURNAL: Final = "SERVER_TEST_JOURNAL"


def note(what: str, detail: object) -> None:
    """Append one line, in one call, so that the lines of several processes do not mix."""
    line = json.dumps({"what": what, "detail": detail, "pid": os.getpid()}) + "\n"
    file = os.open(os.environ[JOURNAL], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode("ascii"))
    finally:
        os.close(file)


class _JournalHandler(logging.Handler):
    never_blocks = True  # so that it is written before the client is answered

    def emit(self, record: logging.LogRecord) -> None:
        note("decision", record.capgate)  # type: ignore[attr-defined]


def note_decisions() -> None:
    """Note what the standard logger is given, which no server's own configuration of logging may silence."""
    logger = logging.getLogger("capgate.decisions")
    logger.addHandler(_JournalHandler())
    logger.setLevel(logging.INFO)


@asynccontextmanager
async def noted_lifespan(app: Any) -> AsyncIterator[None]:
    """Note the two moments of an application's lifespan."""
    note("lifespan", "startup")
    yield
    note("lifespan", "shutdown")


class Lines:
    """What was written down between two readings."""

    def __init__(self, lines: list[dict[str, Any]]) -> None:
        self.lines = lines

    def _details(self, what: str) -> list[Any]:
        return [line["detail"] for line in self.lines if line["what"] == what]

    @property
    def ran(self) -> list[str]:
        """The endpoints that ran."""
        return self._details("ran")

    @property
    def decisions(self) -> list[dict[str, Any]]:
        """The events of the decisions."""
        return self._details("decision")

    @property
    def allowed(self) -> list[str | None]:
        """The resources of the questions that were allowed."""
        return [event["resource_id"] for event in self.decisions if event["decision"] == "allow"]

    @property
    def denied(self) -> list[dict[str, Any]]:
        """The events of the denials."""
        return [event for event in self.decisions if event["decision"] == "deny"]

    @property
    def lifespan(self) -> list[str]:
        return self._details("lifespan")

    def process_of(self, decision_id: str) -> int:
        """Return the process that made a decision."""
        decisions = [line for line in self.lines if line["what"] == "decision"]
        processes: dict[str, int] = {line["detail"]["decision_id"]: line["pid"] for line in decisions}
        return processes[decision_id]


class Journal:
    """The file, read from where the last reading ended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._at = 0

    def read(self) -> Lines:
        """Return what was written since the last call."""
        if not self.path.exists():
            return Lines([])
        with self.path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        self._at += len(data)
        return Lines([json.loads(line) for line in data.splitlines()])

    def read_until(self, what: str, count: int, seconds: float) -> Lines:
        """Return what was written since the last call, once ``count`` lines of it are about ``what``."""
        until = time.monotonic() + seconds
        lines: list[dict[str, Any]] = []
        while sum(line["what"] == what for line in lines) < count:
            assert time.monotonic() < until, lines
            time.sleep(0.01)
            lines += self.read().lines
        return Lines(lines)
