"""A checker that follows a store: what is active there answers, and never anything in between."""

from __future__ import annotations

import gc
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from capgate.checker.cached import CachedChecker
from capgate.checker.following import FollowingChecker
from capgate.checker.wasm import WasmPolicyChecker
from capgate.checker.watcher import RETRY, Alarm, Generation, Probation
from capgate.errors import (
    AbiError,
    ArtifactError,
    ConfigError,
    PolicyError,
    PolicyTimeout,
    PolicyTrap,
    SignatureInvalid,
)
from capgate.model import ALLOW, Deny, Reason
from capgate.runtime.pool import WasmPool
from capgate.settings.select import select_checker
from capgate.settings.settings import Settings
from capgate.store import Active, StoreReader, VerifiedPolicy, WasmArtifact
from capgate.store.release_fixtures import format_fixtures

from ..support.engines import EXPECTED_ENGINES
from ..support.keys import GOLDEN
from ..support.stores import SELDOM, STRANGER, Shelf, ask, document, trapping

ENGINES = pytest.mark.parametrize("engine", EXPECTED_ENGINES)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "store")
    shelf.release(1)
    return shelf


def follow(shelf: Shelf, **options: Any) -> FollowingChecker:
    checker = select_checker(shelf.settings(**options))
    assert isinstance(checker, FollowingChecker)
    return checker


async def answers(checker: Any, version: int) -> None:
    """That ``version`` answers, whichever way it is asked, and no other one does."""
    for other in range(1, 5):
        expected = ALLOW if other == version else Deny(Reason.NOT_IN_ALLOWLIST)
        assert await checker.evaluate(ask(other)) == expected
        assert await checker.evaluate_many([ask(other)]) == [expected]
        assert checker.evaluate_now(ask(other)) == expected
        assert await anyio.to_thread.run_sync(checker.evaluate_now, ask(other)) == expected
    assert checker.policy.version == str(version)


@ENGINES
async def test_what_becomes_active_answers(shelf: Shelf, engine: str) -> None:  # A24
    async with follow(shelf, engine=engine) as checker:
        await answers(checker, 1)
        assert await checker.refresh() is False
        shelf.publish(2)
        assert await checker.refresh() is False  # published is not active
        shelf.store.activate("orders", 2)
        assert await checker.refresh() is True
        await answers(checker, 2)
        shelf.store.rollback("orders")
        assert await checker.refresh() is True
        await answers(checker, 1)
        status = checker.status()
        assert (status.sequence, status.version, status.swaps, status.problem) == (3, 1, 2, None)
        assert status.sha256 == shelf.store.read_active("orders").sha256


# Applications need no fixtures: what was activated is taken up, and gone back to, whatever became of them since.
@pytest.mark.slow
@pytest.mark.parametrize("spoiled", [False, True])
async def test_a_release_with_fixtures_is_one_like_others(shelf: Shelf, spoiled: bool) -> None:
    async with follow(shelf) as checker:
        shelf.release(2, fixtures=format_fixtures(GOLDEN))
        (fixtures,) = shelf.path.rglob("fixtures.json")
        if spoiled:
            fixtures.write_bytes(b"[]")
        assert await checker.refresh() is True
        await answers(checker, 2)
        shelf.release(3)
        assert await checker.refresh() is True
        shelf.store.rollback("orders")
        assert await checker.refresh() is True
        await answers(checker, 2)
        assert checker.status().problem is None


@ENGINES
async def test_it_looks_by_itself(shelf: Shelf, engine: str) -> None:
    async with follow(shelf, engine=engine, store_poll=0.05) as checker:
        shelf.release(2)
        with anyio.fail_after(30):
            while checker.status().version != 2:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        await answers(checker, 2)


@pytest.mark.slow
@ENGINES
@pytest.mark.parametrize(
    "fault",
    ["signature", "module", "record", "gone", "expired", "audience", "start traps", "initializer traps", "interface"],
)
async def test_whatever_is_wrong_leaves_the_last_good_one(shelf: Shelf, fault: str, engine: str) -> None:  # A1, A2
    async with follow(shelf, engine=engine) as checker:
        spoil(shelf, fault)
        for _ in range(2):
            assert await checker.refresh() is False
            await answers(checker, 1)
        status = checker.status()
        assert status.problem is not None
        assert (status.version, status.swaps) == (1, 0)


def spoil(shelf: Shelf, fault: str) -> None:
    record = shelf.path / "policies" / "orders" / "active.json"
    now = datetime.now(timezone.utc).replace(microsecond=0)
    other = Shelf(shelf.path)
    other.store = type(shelf.store)(shelf.path)  # which trusts everybody, as an attacker's would
    if fault == "signature":
        other.release(2, key=STRANGER)
    elif fault == "module":
        shelf.release(2)
        digest = shelf.store.read_active("orders").sha256
        (shelf.path / "sha256" / digest / "policy.wasm").write_bytes(document(3))
    elif fault == "record":
        record.write_bytes(record.read_bytes()[:-1])
    elif fault == "gone":
        record.unlink()
    elif fault == "expired":
        Shelf(shelf.path, ago=100).release(2, expires=now - timedelta(seconds=10))  # not expired by then
    elif fault == "audience":
        other.release(2, service="another")
    elif fault == "start traps":
        shelf.release(2, starting_with("(func $boom (unreachable)) (start $boom)"))
    elif fault == "initializer traps":  # P-12
        shelf.release(2, starting_with('(func (export "_initialize") (unreachable))'))
    elif fault == "interface":
        shelf.release(2, b"\0asm\x01\0\0\0")


def starting_with(extra: str) -> bytes:
    from ..support.guests import ALLOW as ALLOWING
    from ..support.guests import guest

    return guest(ALLOWING, extra=extra)


@ENGINES
async def test_after_trouble_the_next_good_one_answers(shelf: Shelf, engine: str) -> None:
    async with follow(shelf, engine=engine) as checker:
        shelf.release(2, b"\0asm\x01\0\0\0")
        assert await checker.refresh() is False
        shelf.release(3)
        assert await checker.refresh() is True
        await answers(checker, 3)
        assert checker.status().problem is None


async def test_what_was_refused_is_tried_again_less_and_less_often(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[int] = []
    load = StoreReader.load
    async with follow(shelf) as checker:
        shelf.release(2, b"\0asm\x01\0\0\0")

        def counted(self: StoreReader, active: Active) -> VerifiedPolicy:
            loads.append(active.version)
            return load(self, active)

        monkeypatch.setattr(StoreReader, "load", counted)
        for _ in range(5):
            await checker.refresh()
        assert loads == [2]
        waits = []
        for _ in range(12):
            refused = checker._watcher._rejected
            waits.append(refused.wait)
            refused._not_before = 0.0
            await checker.refresh()
        assert waits[0] == RETRY[0]
        assert waits[-1] == RETRY[1]
        assert waits == sorted(waits)


async def test_a_store_that_went_back_in_time_is_not_followed(shelf: Shelf, tmp_path: Path) -> None:  # A8, A16
    import shutil

    shutil.copytree(shelf.path, tmp_path / "backup")
    async with follow(shelf) as checker:
        shelf.release(2)
        assert await checker.refresh() is True
        shutil.rmtree(shelf.path)
        shutil.copytree(tmp_path / "backup", shelf.path)
        assert await checker.refresh() is False
        await answers(checker, 2)
        assert checker.status().problem is not None


async def test_the_first_policy_has_to_load(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        follow(shelf, store=tmp_path / "none")
    with pytest.raises(ArtifactError):
        follow(shelf, policy_name="other")
    with pytest.raises(SignatureInvalid):
        follow(shelf, trusted_keys=(STRANGER.public.line,))


@ENGINES
async def test_a_pinned_application_follows_nothing(shelf: Shelf, engine: str) -> None:
    pinned = shelf.store.read_active("orders").sha256
    shelf.release(2)
    checker = select_checker(shelf.settings(artifact_sha256=pinned, engine=engine))
    assert type(checker) is WasmPolicyChecker
    async with checker:
        await answers(checker, 1)
    with pytest.raises(ArtifactError):
        select_checker(shelf.settings(artifact_sha256="0" * 64))


def test_a_store_without_keys_has_to_be_meant(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:  # A3, A16
    """A store that is signed, and keys that were forgotten: whoever may write there would decide."""
    with pytest.raises(ConfigError) as caught:
        shelf.settings(trusted_keys=None)
    assert caught.value.setting == "trusted_keys"
    given = {"CAPGATE_STORE": str(shelf.path), "CAPGATE_POLICY_NAME": "orders", "CAPGATE_CACHE_SIZE": "0"}
    with pytest.raises(ConfigError) as caught:
        Settings.from_env(given)
    assert caught.value.setting == "trusted_keys"
    with pytest.raises(ConfigError):
        Settings.from_env({**given, "CAPGATE_REQUIRE_SIGNATURE": "true"})
    pinned = shelf.store.read_active("orders").sha256
    assert type(select_checker(Settings.from_env({**given, "CAPGATE_ARTIFACT_SHA256": pinned}))) is WasmPolicyChecker
    assert caplog.records == []
    checker = select_checker(Settings.from_env({**given, "CAPGATE_REQUIRE_SIGNATURE": "false"}))
    assert isinstance(checker, FollowingChecker)
    assert checker.status().signers == ()
    assert [record.name for record in caplog.records] == ["capgate.store"]


def test_settings_that_make_no_sense_together(shelf: Shelf) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"policy": {}}, "store"),
        ({"artifact": "x"}, "store"),
        ({"policy_name": None}, "policy_name"),
        ({"policy_name": "../x"}, "policy_name"),
        ({"store_poll": 0}, "store_poll"),
        ({"rollback_share": 0.001}, "rollback_share"),
        ({"rollback_share": 1.5}, "rollback_share"),
    ]
    for options, setting in cases:
        with pytest.raises(ConfigError) as caught:
            shelf.settings(**options)
        assert caught.value.setting == setting
    with pytest.raises(ConfigError) as caught:
        select_checker(shelf.settings(contract="contract.json"))
    assert caught.value.setting == "contract"


@ENGINES
async def test_a_policy_that_expires_while_it_runs_denies(shelf: Shelf, engine: str) -> None:  # A10
    shelf.release(2, expires=datetime.now(timezone.utc).replace(microsecond=0) + timedelta(hours=1))
    async with follow(shelf, engine=engine) as checker, follow(shelf, engine=engine, keep_expired=True) as keeping:
        assert await checker.evaluate(ask(2)) == ALLOW
        for one in (checker, keeping):
            one.current.checker._clock = lambda: time.time() + 3_600
        assert await checker.evaluate(ask(2)) == Deny(Reason.POLICY_UNAVAILABLE)
        assert checker.evaluate_now(ask(2)) == Deny(Reason.POLICY_UNAVAILABLE)
        assert await keeping.evaluate(ask(2)) == ALLOW
        shelf.release(3)
        assert await checker.refresh() is True
        await answers(checker, 3)


# -- probation


async def prove(checker: FollowingChecker, times: int) -> None:
    for _ in range(times):
        await checker.evaluate(ask("always"))
        await anyio.lowlevel.checkpoint()  # for the pool, which replaces what trapped


@ENGINES
async def test_a_policy_that_fails_is_rolled_back_once(shelf: Shelf, engine: str) -> None:  # A23
    async with follow(shelf, engine=engine) as checker:
        shelf.release(2, trapping(2))
        assert await checker.refresh() is True
        await prove(checker, 19)
        assert await checker.refresh() is False
        await prove(checker, 1)
        await checker.refresh()  # if it has not woken up by itself
        await answers(checker, 1)
        assert checker.status().rolled_back == 2
        await checker.refresh()
        active = shelf.store.read_active("orders")
        assert (active.sequence, active.version, active.action) == (3, 1, "rollback")
        assert (checker.status().sequence, checker.status().problem) == (3, None)
        # Activated once more, with a higher version, it is tried once more, and rolled back once more.
        shelf.release(3, trapping(3))
        assert await checker.refresh() is True
        await prove(checker, 20)
        await checker.refresh()
        await answers(checker, 1)
        assert shelf.store.read_active("orders").sequence == 5


async def test_it_wakes_up_for_that(shelf: Shelf) -> None:
    async with follow(shelf, store_poll=SELDOM) as checker:
        shelf.release(2, trapping(2))
        await checker.refresh()
        await prove(checker, 30)
        with anyio.fail_after(30):
            while checker.status().version != 1:  # noqa: ASYNC110
                await anyio.sleep(0.01)


async def test_several_processes_roll_back_once(shelf: Shelf) -> None:
    async with follow(shelf) as one, follow(shelf) as other:
        shelf.release(2, trapping(2))
        for checker in (one, other):
            await checker.refresh()
            await prove(checker, 20)
        for checker in (one, other, one, other):
            await checker.refresh()
            await answers(checker, 1)
        assert shelf.store.read_active("orders").sequence == 3
        assert [checker.status().sequence for checker in (one, other)] == [3, 3]


async def test_a_store_that_cannot_be_written_is_left_in_this_process(shelf: Shelf) -> None:
    def refuse(sequence: int) -> None:
        raise PermissionError("a read-only file system")

    async with follow(shelf) as checker:
        checker._watcher._rollback = refuse
        shelf.release(2, trapping(2))
        await checker.refresh()
        await prove(checker, 20)
        await checker.refresh()
        for _ in range(3):
            await checker.refresh()
            await answers(checker, 1)
        assert checker.status().problem is not None
        assert shelf.store.read_active("orders").version == 2


async def test_denials_are_no_faults(shelf: Shelf) -> None:
    async with follow(shelf) as checker:
        shelf.release(2)
        await checker.refresh()
        for _ in range(100):
            checker.evaluate_now(ask("nothing"))
        assert await checker.refresh() is False
        await answers(checker, 2)


async def test_the_first_policy_has_nothing_to_go_back_to(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "store")
    shelf.release(1, trapping(1))
    async with follow(shelf) as checker:
        await prove(checker, 50)
        assert await checker.refresh() is False
        assert await checker.evaluate(ask("always")) == Deny(Reason.POLICY_TRAP)
        assert shelf.store.read_active("orders").sequence == 1


def test_probation_ends() -> None:
    checker = WasmPolicyChecker(WasmPool(WasmArtifact.from_bytes(document(1)), 1))
    alarm = Alarm()
    generation = Generation(None, checker, Probation(0.5, 4, 10.0), alarm)  # type: ignore[arg-type]

    def failed(error: PolicyError) -> None:
        generation._counted(checker._fault(error, None))

    generation._counted(ALLOW)
    for error in (PolicyTrap("unreachable"), PolicyTimeout()):
        failed(error)
        assert not generation.fails()
    generation._counted(Deny(Reason.NOT_IN_ALLOWLIST))
    assert generation.fails()
    generation._counted(ALLOW)
    assert not generation.fails()
    assert not alarm.event.is_set()
    failed(AbiError("discriminant"))
    assert generation.fails()
    assert alarm.event.is_set()
    alarm.event.clear()
    failed(AbiError("discriminant"))
    assert not alarm.event.is_set()  # rung once, whatever becomes of it
    generation.since -= 10.5
    assert not generation.fails()


@pytest.mark.parametrize("options", [{"share": 0}, {"share": 1.1}, {"questions": 0}, {"seconds": 0}, {"share": True}])
def test_probations_are_checked(options: Any) -> None:
    with pytest.raises(ConfigError):
        Probation(**options)


# -- what else is going on


@pytest.mark.slow
@ENGINES
async def test_questions_go_on_while_policies_change(shelf: Shelf, engine: str) -> None:  # A24, P4
    """Each answer is of one version; a batch is of one version; nobody is turned away."""
    wrong: list[Any] = []
    asked = [0]
    done = threading.Event()
    every = [ask(version) for version in range(1, 12)]

    async with follow(shelf, engine=engine) as checker:

        async def loop() -> None:
            while not done.is_set():
                check(await checker.check_many(every))
                await anyio.sleep(0.001)  # whoever releases needs the processor, too

        def thread() -> None:
            while not done.is_set():
                time.sleep(0.0005)
                results = [checker.evaluate_now(ask("always"))]
                asked[0] += 1
                if results != [ALLOW]:
                    wrong.append(results)

        def check(results: list[Any]) -> None:
            asked[0] += 1
            if sum(result == ALLOW for result in results) != 1 or {type(one) for one in results} - {Deny, type(ALLOW)}:
                wrong.append(results)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(loop)
            tasks.start_soon(anyio.to_thread.run_sync, thread)
            for version in range(2, 12):
                await anyio.to_thread.run_sync(shelf.release, version)
                assert await checker.refresh() is True
            done.set()
    assert wrong == []
    assert asked[0] > 50


@pytest.mark.slow
@ENGINES
async def test_replaced_policies_are_closed(shelf: Shelf, engine: str) -> None:  # P17
    async with follow(shelf, engine=engine) as checker:
        for version in range(2, 8):
            shelf.release(version)
            await checker.refresh()
            await anyio.to_thread.run_sync(checker.evaluate_now, ask(version))
        watcher = checker._watcher
        watcher._replaced = [(0.0, generation) for _, generation in watcher._replaced]
        replaced = [generation.checker.pool for _, generation in watcher._replaced]
        assert len(replaced) == 5
        await checker.refresh()
        assert watcher._replaced == []
        assert len(watcher.generations()) == 2
        assert all(pool.statistics().idle <= 1 for pool in replaced)  # of a thread that has not asked since
        await answers(checker, 7)


@pytest.mark.slow
async def test_without_anybody_who_holds_it_nobody_looks(shelf: Shelf) -> None:
    checker = follow(shelf, store_poll=0.05)
    await checker.start()
    thread = checker._thread
    assert thread is not None
    assert thread.is_alive()
    await checker.aclose()
    assert not thread.is_alive()
    lost = follow(shelf, store_poll=0.05)
    await lost.start()
    thread = lost._thread
    assert thread is not None
    del lost
    gc.collect()
    await anyio.to_thread.run_sync(thread.join, 30)
    assert not thread.is_alive()


async def test_decisions_are_forgotten_when_another_policy_answers(shelf: Shelf) -> None:
    checker = select_checker(shelf.settings(cache_size=100))
    assert isinstance(checker, CachedChecker)
    async with checker:
        assert await checker.check(ask(1)) == ALLOW
        assert checker.remembered == 1
        shelf.release(2)
        assert isinstance(checker.inner, FollowingChecker)
        await checker.inner.refresh()
        assert await checker.check(ask(1)) == Deny(Reason.NOT_IN_ALLOWLIST)
        assert await checker.check(ask(2)) == ALLOW


async def test_a_manifest_says_what_a_module_of_somebody_elses_looks_at(shelf: Shelf) -> None:
    shelf.release(2, trapping(2))
    with pytest.raises(ConfigError):
        select_checker(shelf.settings(cache_size=10))
    shelf.release(3, trapping(3), inputs=("action", "resource"))
    select_checker(shelf.settings(cache_size=10))


@ENGINES
async def test_in_a_forked_child_somebody_looks_too(shelf: Shelf, engine: str) -> None:  # P10
    import os

    if engine == "wasmer":
        pytest.skip("wasmer cannot compile in a forked child of a process that has compiled")
    checker = follow(shelf, engine=engine, store_poll=0.05)
    async with checker:
        shelf.publish(2)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                until = time.monotonic() + 30
                while time.monotonic() < until and code:
                    code = 0 if checker.evaluate_now(ask(2)) == ALLOW else 1
                    time.sleep(0.01)  # noqa: ASYNC251
            finally:
                os._exit(code)
        shelf.store.activate("orders", 2)
        _, status = await anyio.to_thread.run_sync(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
