"""Other clocks for other processes, by libfaketime: of each only the time of day, and neither files nor waiting."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from .tools import missing

_LIBRARY: Final = "libfaketimeMT.so.1"
_FOLDERS: Final = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/local/lib/faketime")


class FakeTime:
    """The clock of processes that are started with :attr:`variables`: so many seconds from that of the machine."""

    def __init__(self, folder: Path, seconds: int = 0) -> None:
        self._file = folder / "clock"
        self.set(seconds)

    def set(self, seconds: int) -> None:
        """Set it, for processes that run as well."""
        self._file.write_text(f"{seconds:+d}")

    @property
    def variables(self) -> dict[str, str]:
        libraries = [path for folder in _FOLDERS for path in Path("/").glob(f"{folder[1:]}/{_LIBRARY}")]
        if not libraries:
            missing(f"{_LIBRARY}, of Debian's libfaketime,")
        return {
            "LD_PRELOAD": str(libraries[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
            "FAKE_UTIME": "1",  # takes the difference off again, so that files have the time of the machine
        }
