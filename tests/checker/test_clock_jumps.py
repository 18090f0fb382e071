"""Clocks that jump, and clocks that differ: what counts is the time that it is, and the order of records."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from capgate.model import ALLOW
from capgate.settings.select import select_checker

from ..support.command import capgate, environment
from ..support.faketime import FakeTime
from ..support.stores import KEY, Shelf, ask
from ..support.tools import ROOT
from .swaps import follow


def test_a_clock_that_jumps_past_the_expiry_and_back(tmp_path: Path) -> None:  # S-1, A10
    shelf, clock = Shelf(tmp_path / "store"), FakeTime(tmp_path)
    soon = (datetime.now(timezone.utc) + timedelta(hours=1)).replace(microsecond=0)
    shelf.release(1, expires=soon)
    shelf.publish(2, expires=soon)
    command = [sys.executable, "-m", "tests.checker.clock_jumps", str(shelf.path), KEY.public.line, str(tmp_path)]
    ran = subprocess.run(
        command, cwd=ROOT, env=environment(**clock.variables), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said[0] == [True, 1, None]
    assert said[1][:2] == [False, 1]
    field, message = said[2]
    assert field == "expires"
    assert re.search(r"36\d\d s ago", message)
    assert said[3:5] == [["clock", 72], ["clock", 72]]  # whose clock is ahead does not write
    assert said[5] == [True, 1, None]  # one look later
    assert said[6] is None
    assert said[7][:2] == [False, 1]
    assert said[8] == [True, 2, None]
    assert said[9][:2] == [False, 2]
    assert said[10] == [True, 2, None]
    assert said[11] is None
    assert said[12] == [True, 1, None]
    assert said[13][:2] == [True, 1]
    assert said[14] == [True, 1, None]
    assert shelf.store.read_active("orders").version == 1


@pytest.mark.slow
def test_a_writer_whose_clock_is_ahead_is_told_by_how_much(tmp_path: Path) -> None:  # S-2
    shelf, clock = Shelf(tmp_path / "store"), FakeTime(tmp_path, 600)
    shelf.release(1)
    shelf.release(2)
    before = shelf.store.read_active("orders")
    shared = ("orders", "--store", str(shelf.path), "--trusted-keys", KEY.public.line, "--yes", "--json")
    for command in (("rollback", *shared), ("reset", *shared)):
        ran = capgate(*command, **clock.variables)
        assert ran.returncode == 1, ran
        error = json.loads(ran.stdout)
        assert (error["refused"], error["reason"], round(error["ahead"] / 10)) == ("StoreError", "clock", 60)
        assert shelf.store.read_active("orders") == before
    clock.set(200)  # clocks differ a little
    assert capgate("rollback", *shared, **clock.variables).returncode == 0
    assert shelf.store.read_active("orders").version == 1


async def test_a_record_from_a_time_that_is_still_to_come_is_followed(tmp_path: Path) -> None:  # S-2
    shelf = Shelf(tmp_path / "store")
    shelf.release(1)
    shelf.publish(2)
    async with follow(shelf) as checker:
        ahead = Shelf(shelf.path, ago=-4_000).store
        ahead.activate("orders", 2)
        assert await checker.refresh() is True
        assert await checker.evaluate(ask(2)) == ALLOW
        async with select_checker(shelf.settings()) as another:
            assert await another.check(ask(2)) == ALLOW
        shelf.store.rollback("orders")
        assert await checker.refresh() is True
        assert checker.status().problem is None
        assert await checker.evaluate(ask(1)) == ALLOW
