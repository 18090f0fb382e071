"""``python -m tests.checker.swapping ENGINE SWAPS``: changes policies, and says what it holds at half time and at last.

In a process of its own: the memory of one in which other tests ran grows and shrinks by more than this measures.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

import anyio
import anyio.to_thread
import psutil
import pytest

from capgate.checker.cached import CachedChecker
from capgate.checker.following import FollowingChecker
from capgate.checker.wasm import WasmPolicyChecker
from capgate.limits import Limits
from capgate.model import ALLOW
from capgate.runtime.pool import WasmPool
from capgate.store import VerifiedPolicy

from ..support.stores import SELDOM, ask
from .swaps import Carousel, Crew, at_once, following, live


def main(engine: str, swaps: int) -> list[dict[str, Any]]:
    process, source, crew = psutil.Process(), Carousel(), Crew(2)
    limits = Limits(deadline=20.0)

    def make(policy: VerifiedPolicy) -> WasmPolicyChecker:
        return WasmPolicyChecker(WasmPool(policy.artifact, 2, engine, limits))

    checker = CachedChecker(FollowingChecker(source, "orders", make, poll=SELDOM), size=10)
    seen: list[dict[str, Any]] = []

    async def swap() -> None:
        async with checker:
            for turn in range(swaps):
                source.sequence += 1
                assert await following(checker).refresh() is True
                await anyio.to_thread.run_sync(crew.do, lambda: checker.answer_many_now([ask(threading.get_ident())]))
                assert await checker.check(ask("always")) == ALLOW
                if turn in (swaps // 2, swaps - 1):
                    memory = process.memory_info().rss
                    counted = {"descriptors": process.num_fds(), "threads": process.num_threads(), "memory": memory}
                    seen.append({"live": live(), **counted})
        await anyio.to_thread.run_sync(crew.dismiss)

    with pytest.MonkeyPatch.context() as monkeypatch, at_once(monkeypatch):
        anyio.run(swap)
    return seen


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
