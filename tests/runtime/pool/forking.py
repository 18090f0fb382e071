"""A program that forks with a pool in use, and asks it on both sides; run by ``test_lifecycle``."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable

import trio

from capgate.checker.wasm import WasmPolicyChecker
from capgate.model import Allow, Deny
from capgate.runtime import pool as pools
from capgate.runtime.pool import WasmPool

from ...support.pool_guests import DENY, TOLD, TRAP, check_balance, make_pool, order

#: Seconds after which a child that hangs is ended.
PATIENCE = 200
#: That a process with threads forks is what this is about.
warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)


def ask(pool: WasmPool, expected: str) -> None:
    """Outside and inside event loops, and on another thread."""
    checker = WasmPolicyChecker(pool)
    allowed, denied = (Allow(), TOLD) if expected == "allow" else (Deny(expected), Deny(expected))
    trapped = Deny("policy_trap" if expected == "allow" else expected)

    def now() -> None:
        assert checker.evaluate_now(order()) == allowed
        assert checker.evaluate_now(order(TRAP)) == trapped
        assert checker.evaluate_now(order(DENY)) == denied

    async def later() -> None:
        for _ in range(5):
            assert await checker.evaluate(order()) == allowed

    now()
    asyncio.run(later())
    trio.run(later)
    failures: list[BaseException] = []

    def on_thread() -> None:
        try:
            now()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=on_thread)
    thread.start()
    thread.join()
    assert not failures, failures
    check_balance(pool.statistics())


def fork(in_child: Callable[[], None]) -> None:
    """Run ``in_child`` in a forked child, and wait for it. Raises if it fails there."""
    child = os.fork()
    if not child:
        signal.alarm(PATIENCE)
        code = 1
        try:
            in_child()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with {status:#x}"


def main(engine: str, where: str) -> None:
    pool = make_pool(engine, 2)
    logging.getLogger("capgate").setLevel(logging.CRITICAL)
    # A compiler whose threads were left behind would wait for them for ever.
    after = "policy_unavailable" if engine == "wasmer" and where != "never_started" else "allow"

    def in_child() -> None:
        statistics = check_balance(pool.statistics())
        assert (statistics.made, statistics.calls) == (0, 0)
        # Nothing of the parent is dropped here, on whichever thread it was.
        kept = sum(len(item) for item in pools._BEFORE_FORK if isinstance(item, set))
        assert kept == {"main": 1, "thread": 2, "beside_threads": 5, "never_started": 0, "another_compiled": 1}[where]
        ask(pool, after)

    def in_child_of_loop() -> None:
        # The parent's loop is on the stack, and no loop of this process; on this thread another cannot start.
        expected = Allow() if after == "allow" else Deny(after)
        for _ in range(5):
            assert WasmPolicyChecker(pool).evaluate_now(order()) == expected

    if where == "another_compiled":
        other = make_pool(engine, 2)
        ask(other, "allow")
    elif where != "never_started":
        ask(pool, "allow")
    before = check_balance(pool.statistics())
    if where in ("main", "never_started", "another_compiled"):
        fork(in_child)
    elif where == "thread":

        def call_and_fork() -> None:
            pool.call(order())
            fork(in_child)

        run(call_and_fork)
    elif where == "beside_threads":
        beside_threads(pool, lambda: fork(in_child))
    else:

        async def forking() -> None:
            await pool.start()
            async with pool.acquire():
                fork(in_child_of_loop)

        if where == "in_asyncio":
            asyncio.run(forking())
        else:
            trio.run(forking)
    after_fork = check_balance(pool.statistics())
    assert (after_fork.made, after_fork.calls) >= (before.made, before.calls)
    ask(pool, "allow")
    print("both as expected")


def run(work: Callable[[], object]) -> None:
    """``work`` on another thread, whose failure is raised here."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def beside_threads(pool: WasmPool, work: Callable[[], None]) -> None:
    """``work`` while other threads have instances of their own."""
    ready, finished = threading.Barrier(5), threading.Event()

    def stay() -> None:
        pool.call(order())
        ready.wait(PATIENCE)
        finished.wait(PATIENCE)
        pool.call(order())

    threads = [threading.Thread(target=stay) for _ in range(4)]
    for thread in threads:
        thread.start()
    ready.wait(PATIENCE)
    try:
        work()
    finally:
        finished.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
