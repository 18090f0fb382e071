"""Fails one call of the operating system, out of all that a store makes, on a real disk."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import pytest

#: What :mod:`capgate.store` asks of the operating system.
CALLS: Final = (
    *("close", "fchmod", "fstat", "fsync", "listdir", "mkdir", "open", "read", "rename", "replace", "rmdir", "stat"),
    *("unlink", "utime", "write"),
)


class FailingCalls:
    """Counts calls, and fails the one of number ``fatal``, from 1, with ``code``; none, where that is 0.

    A descriptor whose close fails is closed all the same, as on Linux.
    """

    def __init__(self, fatal: int = 0, code: int = errno.EIO) -> None:
        self.fatal, self.code = fatal, code
        self.names: list[str] = []

    @property
    def failed(self) -> str | None:
        """The call that failed."""
        return self.names[self.fatal - 1] if 0 < self.fatal <= len(self.names) else None

    @contextmanager
    def installed(self) -> Iterator[FailingCalls]:
        """Have the calls of this process counted meanwhile."""
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, self._counted(name, getattr(os, name)))
            patch.setattr(fcntl, "flock", self._counted("flock", fcntl.flock))
            yield self

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            self.names.append(name)
            if len(self.names) != self.fatal:
                return call(*arguments, **named)
            if name == "close":
                call(*arguments, **named)
            raise OSError(self.code, os.strerror(self.code))

        return counted


def descriptors() -> set[str]:
    """The open descriptors of this process, and what they are of."""
    there = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one of the listing
            there.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
    return there
