"""A policy on probation: what is remembered makes it neither better nor worse than it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from capgate.checker.cached import CachedChecker
from capgate.checker.watcher import Probation
from capgate.model import ALLOW, Deny, Reason
from capgate.settings.select import select_checker

from ..support.guests import ALLOW as ALLOW_ALL
from ..support.guests import guest
from ..support.stores import Shelf, ask
from .swaps import following

#: Traps where the resource's id has five letters, as "trap!" has, and allows everything else.
ID_LENGTH = "(i32.load offset=40 (local.get 0))"
PARTLY = guest(f"(if (i32.eq {ID_LENGTH} (i32.const 5)) (then (unreachable))) {ALLOW_ALL}")
TRAPPED = Deny(Reason.POLICY_TRAP)
GOOD, BAD = ask("always"), ask("trap!")


async def counted(shelf: Shelf, pattern: str, **options: Any) -> tuple[int, int, bool]:
    """How many were asked, how many of them failed, and whether it is to be rolled back for that.

    The policy answers at each ``.`` of the pattern, and traps otherwise."""
    checker: Any = select_checker(shelf.settings(**options))
    async with checker:
        for number, sign in enumerate(pattern):
            input, expected = (GOOD, ALLOW) if sign == "." else (BAD, TRAPPED)
            if number % 2:
                assert await checker.check(input) == expected
            else:
                assert await checker.check_many([input]) == [expected]
        now = following(checker).current
        return now.asked, now.failed, now.fails()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "fails"),
    [
        ("." * 30 + "x" * 12, False),  # 12 of 13 that the policy itself is asked
        ("x" * 12 + "." * 30, False),
        (".x" * 20, True),
        ("x" * 19 + "." * 19, True),
        ("x" * 19, False),  # too few questions, all of them faults
        ("." * 40, False),
    ],
)
async def test_a_share_is_of_what_was_asked_and_not_of_what_the_policy_was(
    tmp_path: Path, engine_name: str, pattern: str, fails: bool
) -> None:
    shelf = Shelf(tmp_path / "first")  # which has nothing to go back to, so that it goes on answering
    shelf.release(1, PARTLY, inputs=("action", "resource"))
    probation = Probation(share=0.5)
    assert (probation.questions, probation.share) == (20, 0.5)
    options = {"engine": engine_name, "rollback_share": probation.share}
    expected = (len(pattern), pattern.count("x"), fails)
    assert await counted(shelf, pattern, **options, cache_size=0) == expected
    assert await counted(shelf, pattern, **options, cache_size=None) == expected


async def test_faults_are_counted_each_time(shelf: Shelf, engine_name: str) -> None:
    """Nobody remembers them, so a policy that only ever traps is left as soon as without memory."""
    shelf.release(2)
    checker = select_checker(shelf.settings(engine=engine_name, cache_size=None, rollback_share=0.5))
    assert isinstance(checker, CachedChecker)
    async with checker:
        shelf.release(3, PARTLY, inputs=("action", "resource"))
        assert await following(checker).refresh() is True
        assert await checker.check(GOOD) == ALLOW
        assert checker.remembered == 1
        for _ in range(19):  # with the one above as many as a probation takes
            assert await checker.check(BAD) == TRAPPED
        await following(checker).refresh()
        status = checker.status()
        assert status is not None
        assert status.rolled_back == 3
        assert checker.remembered == 0  # nothing of the one that was left
        assert await checker.check(ask(2)) == ALLOW
        assert await checker.check(BAD) == Deny(Reason.NOT_IN_ALLOWLIST)


async def test_without_a_probation_nobody_counts(shelf: Shelf) -> None:
    checker: Any = select_checker(shelf.settings(cache_size=None, rollback_share=0.0))
    async with checker:
        assert following(checker).current.count_answer is None
        for _ in range(3):
            assert await checker.check(ask(1)) == ALLOW
        assert checker.remembered == 1
