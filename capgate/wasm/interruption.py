"""Ends long work on modules, between two functions of one, when nobody wants it any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final


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
