"""What would wait for ever fails instead."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

import pytest

from ...support.tools import IN_CI

SECONDS = 600 if IN_CI else 120


def _fail(number: int, frame: FrameType | None) -> NoReturn:
    pytest.fail(f"not done after {SECONDS} s")


@pytest.fixture(autouse=True)
def ends() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, _fail)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
