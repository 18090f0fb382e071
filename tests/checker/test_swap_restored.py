"""Stores that come back from a backup, are rebuilt, or have forged numbers: what is signed says what is newer."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from capgate.checker.following import FollowingChecker
from capgate.errors import StoreError
from capgate.model import ALLOW
from capgate.store import Active
from capgate.store.manifest import HIGHEST_VERSION

from ..support.stores import Shelf, ask
from .swaps import follow


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # nothing here depends on the loop


def forge(path: Path, **changed: Any) -> Active:
    """Change the record of what is active, with its checksum."""
    file = path / "policies/orders/active.json"
    record = msgspec.structs.replace(Active.from_bytes(file.read_bytes(), "orders"), **changed)
    file.write_bytes(record.to_bytes())
    return record


async def follows(checker: FollowingChecker, version: int) -> None:
    assert await checker.refresh() is True
    assert (checker.status().version, checker.status().problem) == (version, None)
    assert await checker.evaluate(ask(version)) == ALLOW


async def refuses(checker: FollowingChecker, shelf: Shelf, version: int) -> None:
    """What runs stays, aloud, at each look."""
    for _ in range(2):
        assert await checker.refresh() is False
        problem = checker.status().problem
        assert problem is not None
        assert str(shelf.store.read_active("orders").sequence) in problem
        assert await checker.evaluate(ask(version)) == ALLOW


async def test_a_store_that_comes_back_from_a_backup(shelf: Shelf, tmp_path: Path) -> None:  # S-3
    shutil.copytree(shelf.path, tmp_path / "backup")
    for version in (2, 3, 4):
        shelf.release(version)
    async with follow(shelf) as checker:
        shutil.rmtree(shelf.path)
        shutil.copytree(tmp_path / "backup", shelf.path)
        await refuses(checker, shelf, 4)  # version 1, as record 1 after record 4
        shelf.release(3)
        await refuses(checker, shelf, 4)
        shelf.release(5)  # as record 3, and signed as the newest
        await follows(checker, 5)
        shelf.store.rollback("orders")  # as record 4
        await follows(checker, 3)


async def test_a_store_that_is_rebuilt_with_the_same_release(shelf: Shelf) -> None:  # S-3
    shelf.release(2)
    active = shelf.store.read_active("orders")
    objects = shelf.path / "sha256"
    module = (objects / active.sha256 / "policy.wasm").read_bytes()
    manifest, signature = (
        (objects / active.manifest / f"{name}.json").read_bytes() for name in ("manifest", "signature")
    )
    async with follow(shelf) as checker:
        shutil.rmtree(shelf.path)
        shelf.store.publish(module, manifest, signature)
        assert shelf.store.activate("orders", 2).sequence == 1
        await checker.refresh()
        assert checker.status().problem is None
        shelf.release(3)  # as record 2 again
        await follows(checker, 3)


async def test_a_reset_after_a_backup_is_followed(shelf: Shelf, tmp_path: Path) -> None:  # S-3
    shutil.copytree(shelf.path, tmp_path / "backup")
    for version in (2, 3):
        shelf.release(version)
    async with follow(shelf) as checker:
        shutil.rmtree(shelf.path)
        shutil.copytree(tmp_path / "backup", shelf.path)
        await refuses(checker, shelf, 3)
        shelf.store.reset("orders")
        await follows(checker, 1)


async def test_a_backup_of_a_reset_is_no_reset(shelf: Shelf, tmp_path: Path) -> None:  # S-3
    reset = shelf.store.reset("orders")
    shutil.copytree(shelf.path, tmp_path / "backup")
    shelf.release(2)
    forge(shelf.path, when=reset.when + timedelta(seconds=60))
    async with follow(shelf) as checker:
        shutil.rmtree(shelf.path)
        shutil.copytree(tmp_path / "backup", shelf.path)
        await refuses(checker, shelf, 2)


@pytest.mark.parametrize("number", [HIGHEST_VERSION, HIGHEST_VERSION - 1])
async def test_a_forged_number_that_leaves_no_room(shelf: Shelf, number: int) -> None:  # S-3, A9
    shelf.release(2)
    async with follow(shelf) as checker:
        forge(shelf.path, sequence=number)
        await checker.refresh()
        assert checker.status().sequence == number
        for version in (3, 4):
            shelf.publish(version)
        if number == HIGHEST_VERSION:
            with pytest.raises(StoreError) as caught:
                shelf.store.activate("orders", 3)
            assert caught.value.reason == "corrupt"
        else:
            shelf.store.activate("orders", 3)
            await follows(checker, 3)
        shelf.store.reset("orders", 2)
        await follows(checker, 2) if number < HIGHEST_VERSION else await checker.refresh()
        assert (checker.status().version, checker.status().problem) == (2, None)
        shelf.store.activate("orders", 4)
        await follows(checker, 4)
        shelf.store.rollback("orders")
        await follows(checker, 2)
        assert [record.version for record in shelf.store.history("orders")] == [2, 4, 2]
        assert json.loads((shelf.path / "policies/orders/active.json").read_bytes())["sequence"] < 10
