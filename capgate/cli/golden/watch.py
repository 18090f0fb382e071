"""Judges the fixtures whenever the policy or one of them changes: ``capgate test --watch``."""

from __future__ import annotations

import os
import sys
from typing import Final

import watchfiles

from ...errors import CapgateError
from ...testing.golden.fixture_files import find_files
from .command import GoldenOptions, run

#: Milliseconds between two looks at the files where nothing tells of a change.
LOOKING: Final = 1_000


def run_on_changes(options: GoldenOptions) -> int:
    """Run now and after each change, until Ctrl-C; return the exit code of the last run.

    What notices changes may miss one, as while a run goes on, so the files are looked at every :data:`LOOKING`
    milliseconds, too.
    """
    code = 1
    seen: object = None
    try:
        while True:
            before = _state(options)
            if before != seen:
                seen, code = before, _attempt(options)
                print("watching; Ctrl-C ends it", file=sys.stderr, flush=True)
            folders = _folders(options)
            for _ in watchfiles.watch(
                *folders, recursive=False, rust_timeout=LOOKING, yield_on_timeout=True, debounce=100, step=20
            ):
                if _state(options) != seen:
                    break
    except KeyboardInterrupt:
        return code


def _attempt(options: GoldenOptions) -> int:
    """Run, where a mistake in a file is told and not the end."""
    try:
        return run(options)
    except CapgateError as error:
        print(f"capgate: {error}", file=sys.stderr, flush=True)
        return 2


def _files(options: GoldenOptions) -> list[str]:
    try:
        files = [file.path for file in find_files(options.sources)]
    except CapgateError:
        files = [os.fspath(path) for path in options.sources]
    return files if options.policy is None else [os.fspath(options.policy), *files]


def _state(options: GoldenOptions) -> list[tuple[object, ...]]:
    """Return what is different once a file changed."""
    return [_status(path) for path in _files(options)]


def _status(path: str) -> tuple[object, ...]:
    try:
        status = os.stat(path)
    except OSError:
        return (path,)
    return path, status.st_mtime_ns, status.st_size, status.st_ino


def _folders(options: GoldenOptions) -> list[str]:
    """Return the folders where a file may change or be added.

    Editors replace files, so it is folders that are watched.
    """
    watched = {os.path.dirname(os.path.abspath(path)) for path in _files(options)}
    for source in options.sources:
        for top, folders, _ in os.walk(source):
            folders[:] = [name for name in folders if not name.startswith(".")]
            watched.add(os.path.abspath(top))
    return sorted(folder for folder in watched if os.path.isdir(folder)) or [os.getcwd()]
