"""Finds where to begin again in the folder of a policy, whatever became of its records.

A record follows the one before it where all that there is adds up. Where it does not, or where the numbers have run
out, what there is gets set aside as it is, and numbers go on from the highest that leaves room.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ..errors import ArtifactNotFound, StoreError
from .folders import Folder
from .records import RECORD_BYTES, Active
from .store_reader import HISTORY, SET_ASIDE, history_files, number_of, read_archive, read_record

#: What is above this was not reached by counting.
HIGHEST_COUNTED: Final = 2**52


class Beginning(msgspec.Struct, frozen=True):
    """Where a reset begins.

    ``latest``    the newest record that can be read, which is the active one, usually
    ``before``    the same, if a reset can follow it: if all that is before it adds up
    ``sequence``  a number above all that were given, but for those that nobody reached by counting
    """

    latest: Active | None
    before: Active | None
    sequence: int


def find_beginning(folder: Folder, name: str) -> Beginning:
    """Look at every record of ``name``. Raises :class:`StoreError` where one cannot be looked at."""
    latest, lost = None, 0
    try:
        latest = read_record(folder, name)
    except ArtifactNotFound:
        return Beginning(None, None, 1)  # nothing was ever active
    except StoreError as error:
        if error.reason != "corrupt":
            raise
        lost = 1  # the record that cannot be read had a number too
    files = history_files(folder)
    latest = latest or _newest_archived(folder, files, name)
    numbers = [number_of(file) for file in files] + ([] if latest is None else [latest.sequence])
    counted = [number for number in numbers if number <= HIGHEST_COUNTED]
    adds_up = latest is not None and counted == numbers and max(numbers) == latest.sequence and _adds_up(folder, latest)
    return Beginning(latest, latest if adds_up else None, 1 + lost + max(counted, default=0))


def set_history_aside(folder: Folder, sequence: int) -> None:
    """Give the history another name, after the record that begins without it."""
    if folder.has(HISTORY):
        aside = f"{SET_ASIDE}{sequence:016}"
        while folder.has(aside):
            aside += "+"
        folder.rename(HISTORY, aside)


def _newest_archived(folder: Folder, files: list[str], name: str) -> Active | None:
    for file in reversed(files):
        with folder.enter(HISTORY) as history:
            try:
                return Active.from_bytes(history.read(file, RECORD_BYTES), name, path=history.path)
            except StoreError as error:
                if error.reason != "corrupt":
                    raise
    return None


def _adds_up(folder: Folder, record: Active) -> bool:
    """Say whether every record before this one is there, and is the one that was named."""
    try:
        for older in read_archive(folder, record.name, below=record.sequence):
            if record.before != older.digest:
                return False
            record = older
    except StoreError as error:
        if error.reason != "corrupt":
            raise
        return False
    return record.before is None
