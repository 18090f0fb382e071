"""Ends long work on modules, between two functions of one, when nobody wants it any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

#: Seconds between two looks at whether something is still wanted.
_ASKING: Final = 0.1


class Interrupted(Exception):
    """Whoever wanted this module has left. It says nothing of the module."""


class _Unwanted(threading.local):
    """What says of the work of a thread that nobody wants it."""

    def __init__(self) -> None:
        self.is_unwanted: Callable[[], bool] | None = None


_here: Final = _Unwanted()


@contextmanager
def interruptible(is_unwanted: Callable[[], bool]) -> Iterator[None]:
    """Have :func:`check_interrupted` ask ``is_unwanted`` in this thread, and raise :class:`Interrupted` if so."""
    before, _here.is_unwanted = _here.is_unwanted, is_unwanted
    try:
        yield
    finally:
        _here.is_unwanted = before


def check_interrupted() -> None:
    """Raise :class:`Interrupted` where the work of this thread is not wanted any more."""
    is_unwanted = _here.is_unwanted
    if is_unwanted is not None and is_unwanted():
        raise Interrupted


@contextmanager
def calling_when_unwanted(end: Callable[[], object]) -> Iterator[None]:
    """Have ``end`` called, by another thread, where the work of this thread is not wanted any more: it waits."""
    is_unwanted = _here.is_unwanted
    if is_unwanted is None:
        yield
        return
    done = threading.Event()

    def look() -> None:
        while not done.wait(_ASKING):
            if is_unwanted():
                end()
                return

    looking = threading.Thread(target=look, name="capgate-wanted", daemon=True)
    looking.start()
    try:
        yield
    finally:
        done.set()
        looking.join()
