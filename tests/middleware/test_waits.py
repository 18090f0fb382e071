"""What a request may wait for: each with a limit of its own, which counts what was waited, and nothing else."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Message, Scope

from capgate.checker.wasm import WasmPolicyChecker
from capgate.limits import Limits
from capgate.middleware import bodies
from capgate.middleware.bodies import PIECE
from capgate.model import ALLOW, Allow, Deny, PolicyInput, PolicyResult, Reason, User
from capgate.runtime.bounded_wait import TICK
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope
from ..support.engines import EXPECTED_ENGINES
from ..support.gates import Ran, Recording, events, gated, make_checker, read
from ..support.pool_guests import make_pool, order
from ..support.tools import examples

#: As they are where nobody says anything else.
USUAL = Settings(expose_reasons=True)


class Upload(Call):
    """A request whose body comes in pieces, after pauses in seconds."""

    def __init__(self, parts: Iterable[tuple[float, bytes]], path: str = "/") -> None:
        self._parts = list(parts)
        super().__init__(http_scope(path, "POST"), [])

    async def receive(self) -> Message:
        self.received += 1
        if not self._parts:
            return {"type": "http.disconnect"}
        pause, body = self._parts.pop(0)
        if pause:
            await anyio.sleep(pause)
        return {"type": "http.request", "body": body, "more_body": bool(self._parts)}


def upload_app(checker: Any = None, given: Settings = USUAL, **options: Any) -> Any:
    endpoint = read("good", args_hash="body")(Ran().endpoint("body"))
    return gated([Route("/", endpoint, methods=["POST"])], checker, given, **options)


# -- honest requests, with the limits of the default


@pytest.mark.parametrize("kind", EXPECTED_ENGINES)
async def test_a_body_that_comes_late_is_allowed(kind: str) -> None:  # T-1
    async with make_checker(kind) as checker:
        call = await Upload([(0.15, b"x" * 100)]).to(upload_app(checker))
    assert call.status == 200


async def test_a_body_that_comes_slowly_is_allowed() -> None:  # T-1
    checker = Recording()
    body = bytes(range(250)) * 20
    call = await Upload([(0.01, body)] * 20).to(upload_app(checker))  # 100 kB at 0.5 MB/s
    assert (call.status, len(call.json["body"])) == (200, 100_000)
    assert [question.args_hash for question, _ in checker.asked] == [hashlib.sha256(20 * body).hexdigest()]


async def test_an_actor_that_fetches_keys_is_allowed() -> None:  # T-1
    async def fetch(scope: Scope) -> User:
        await anyio.sleep(0.3)
        return User("ada")

    checker = Recording()
    assert (await Upload([(0.15, b"x")]).to(upload_app(checker, actor=fetch))).status == 200
    assert [question.actor for question, _ in checker.asked] == [User("ada")]


async def test_who_waits_too_long_for_an_instance_is_told_so(engine_name: str) -> None:
    async with make_pool(engine_name, 1, Limits(deadline=0.03)) as pool, pool.acquire():
        app = gated([Route("/", read("good")(Ran().endpoint("it")))], WasmPolicyChecker(pool), USUAL)
        call = await Call(http_scope()).to(app)
    assert (call.status, call.json["reason"]) == (403, Reason.POOL_EXHAUSTED)


@pytest.mark.parametrize("kind", EXPECTED_ENGINES)
def test_each_request_of_a_test_client_brings_an_event_loop_of_its_own(kind: str) -> None:  # T-2
    """Where a module belongs to a thread it is compiled for each, which takes longer than an instance is waited for."""
    pool = make_pool(kind, 1, Limits(deadline=0.001))
    app = gated([Route("/", read("good")(Ran().endpoint("it")))], WasmPolicyChecker(pool), USUAL)
    client = TestClient(app)
    assert [client.get("/").status_code for _ in range(5)] == [200] * 5


# -- in pieces


class Counted:
    """A SHA-256 that keeps how much it was given at once, and what the loop did in between."""

    def __init__(self) -> None:
        self.real = hashlib.sha256()
        self.updates: list[int] = []

    def update(self, data: bytes) -> None:
        self.updates.append(len(data))
        self.real.update(data)

    def hexdigest(self) -> str:
        return self.real.hexdigest()


@pytest.mark.parametrize("cuts", [1, 3, 16, 1_000])
async def test_a_body_is_hashed_in_pieces_as_they_come(cuts: int, monkeypatch: pytest.MonkeyPatch) -> None:  # T-11
    counted, turns = Counted(), [0]
    monkeypatch.setattr(bodies, "sha256", lambda: counted)
    body = b"0123456789abcdef" * 62_500  # a million bytes
    size = -(-len(body) // cuts)
    parts = [(0.0, body[at : at + size]) for at in range(0, len(body), size)]

    async def take_turns() -> None:
        while True:
            turns[0] += 1
            await anyio.lowlevel.checkpoint()

    checker = Recording()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take_turns)
        call = await Upload(parts).to(upload_app(checker))
        seen = turns[0]
        tasks.cancel_scope.cancel()
    assert call.status == 200
    assert call.json["body"].encode() == body
    assert [question.args_hash for question, _ in checker.asked] == [hashlib.sha256(body).hexdigest()]
    assert max(counted.updates) <= PIECE
    assert sum(counted.updates) == len(body)
    assert cuts > 1 or seen >= len(body) // PIECE // 2  # others had their turns in between


async def test_the_application_is_given_the_body_in_pieces_and_then_what_comes() -> None:  # T-11
    heard: list[Message] = []

    async def endpoint(scope: Scope, receive: Any, send: Any) -> None:
        while not heard or heard[-1]["type"] == "http.request":
            heard.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    class Endpoint:
        __call__ = staticmethod(endpoint)

    app = gated([Route("/", read("good", args_hash="body")(Endpoint()), methods=["POST"])], None, USUAL)
    body = bytes(1_000) * 200
    await Upload([(0.0, body)]).to(app)
    assert b"".join(message.get("body", b"") for message in heard) == body
    assert [message.get("more_body") for message in heard] == [True, True, True, False, None]
    assert max(len(message.get("body", b"")) for message in heard) <= PIECE


# -- delays wherever there is a clock or an await


class Delays:
    """Delays in seconds, of which each place where something could wait takes the next."""

    def __init__(self, given: list[tuple[str, float]]) -> None:
        self._given = given
        self._next = 0
        self.waited: dict[str, float] = {}
        #: Seconds in which the loop stood still, but for what the clock of the loop counts of each such time.
        self.stood_still = 0.0

    async def at(self, place: str) -> None:
        """Wait, or block the loop, as the next delay says; and keep how long ``place`` took in all."""
        how, seconds = self._given[self._next % len(self._given)] if self._given else ("wait", 0.0)
        self._next += 1
        started = time.monotonic()
        if how == "block":
            time.sleep(seconds)  # noqa: ASYNC251  # somebody's blocking call
            self.stood_still += max(0.0, time.monotonic() - started - 2 * TICK)
            await anyio.lowlevel.checkpoint()
        else:
            try:
                await anyio.sleep(seconds)
            finally:
                self.waited[place] = self.waited.get(place, 0.0) + time.monotonic() - started


#: Reason codes of time that has passed, the place that waits, and the limit.
OF_TIME = {
    "actor_timeout": ("actor", 0.05),
    "body_timeout": ("body", 0.05),
    "policy_timeout": ("checker", 0.05),
    "start_timeout": ("start", 0.1),
}
LIMITS = Limits(actor_seconds=0.05, body_seconds=0.08, body_idle_seconds=0.05, deadline=0.05, start_seconds=0.1)
_DELAYS = st.lists(
    st.tuples(st.sampled_from(["wait", "block"]), st.sampled_from([0.0, 0.0, 0.01, 0.03, 0.07, 0.15])), max_size=6
)


@pytest.mark.sampled
@settings(
    max_examples=examples(60),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(delays=_DELAYS, jumps=st.lists(st.sampled_from([0.0, 0.0, 0.5, 30.0]), max_size=8))
def test_a_denial_for_time_names_a_limit_that_passed(
    delays: list[tuple[str, float]], jumps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:  # T-1, T-2
    """``jumps`` are put between two readings of the clock, as where the process was stopped there."""
    given_delays, left, ahead = Delays(delays), list(jumps), [0.0]

    def clock() -> float:
        ahead[0] += left.pop() if left else 0.0
        return time.monotonic() + ahead[0]

    class Delayed:
        async def start(self) -> None:
            await given_delays.at("start")

        async def check(self, input: PolicyInput) -> PolicyResult:
            await given_delays.at("checker")
            return ALLOW

    class Delaying(Call):
        async def receive(self) -> Message:
            await given_delays.at("body")
            return await super().receive()

    async def who(scope: Scope) -> User:
        await given_delays.at("actor")
        return User("ada")

    async def ask() -> tuple[int, list[Any]]:
        app = upload_app(Delayed(), Settings(limits=LIMITS), actor=who)
        parts: list[Message] = [{"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.request"}]
        with events() as seen:
            call = await Delaying(http_scope("/", "POST"), parts).to(app)
        return call.status, [event["reason"] for event in seen]

    with monkeypatch.context() as patched:
        patched.setattr("capgate.runtime.bounded_wait.monotonic", clock)
        status, reasons = anyio.run(ask)
    if status == 200:
        assert reasons == []
        return
    (reason,) = reasons
    place, limit = OF_TIME[reason]
    assert given_delays.waited.get(place, 0.0) >= limit
    assert "wait" in {how for how, seconds in delays if seconds}


@pytest.mark.sampled
@settings(
    max_examples=examples(40),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(delays=_DELAYS, jumps=st.lists(st.sampled_from([0.0, 0.0, 0.5, 30.0]), max_size=8), in_thread=st.booleans())
@pytest.mark.parametrize("kind", EXPECTED_ENGINES)
def test_who_is_denied_for_want_of_an_instance_has_waited_for_one(
    kind: str, delays: list[tuple[str, float]], jumps: list[float], in_thread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:  # T-2
    """The only instance is held for as long as ``delays`` say, while a request, and a thread, ask."""
    given_delays, left, ahead = Delays(delays), list(jumps), [0.0]
    answers: list[PolicyResult] = []
    held = 0.0

    def clock() -> float:
        ahead[0] += left.pop() if left else 0.0
        return time.monotonic() + ahead[0]

    async def ask() -> None:
        nonlocal held
        async with make_pool(kind, 1, LIMITS, reuse=True) as pool:
            checker = WasmPolicyChecker(pool)
            app = gated([Route("/", read("good")(Ran().endpoint("it")))], checker, Settings(limits=LIMITS))

            async def send() -> None:
                call = await Call(http_scope()).to(app)
                answers.append(ALLOW if call.status == 200 else Deny(found[-1]["reason"]))

            async def ask_in_thread() -> None:
                answers.append(await anyio.to_thread.run_sync(checker.evaluate_now, order()))

            async with anyio.create_task_group() as tasks, pool.acquire():
                since = time.monotonic()
                tasks.start_soon(send)
                if in_thread:
                    tasks.start_soon(ask_in_thread)
                while not pool.statistics().waiting and not answers:
                    await anyio.lowlevel.checkpoint()
                for _ in delays:
                    await given_delays.at("instance")
                held = time.monotonic() - since

    with monkeypatch.context() as patched, events() as found:
        patched.setattr("capgate.runtime.bounded_wait.monotonic", clock)
        anyio.run(ask)
    if Deny(Reason.POOL_EXHAUSTED) in answers:
        assert held - given_delays.stood_still >= LIMITS.deadline
    else:
        assert answers == [ALLOW] * (1 + in_thread)


async def test_somebody_elses_blocking_call_denies_nobody() -> None:  # T-1
    """The loop stands still for longer than any limit, again and again, while each of these waits for a moment."""

    async def block() -> None:
        while True:
            time.sleep(0.2)  # noqa: ASYNC251
            await anyio.sleep(0.002)

    class Slow:
        async def check(self, input: PolicyInput) -> PolicyResult:
            await anyio.sleep(0.002)
            return ALLOW

    async def who(scope: Scope) -> User:
        await anyio.sleep(0.002)
        return User("ada")

    app = upload_app(Slow(), Settings(limits=LIMITS), actor=who)
    async with anyio.create_task_group() as tasks:
        assert (await Upload([(0.0, b"x")]).to(app)).status == 200
        tasks.start_soon(block)
        assert (await Upload([(0.002, b"x"), (0.002, b"y")]).to(app)).status == 200
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("kind", EXPECTED_ENGINES)
async def test_who_waits_for_an_instance_is_not_denied_for_a_blocking_call(kind: str) -> None:  # T-2
    answers: list[PolicyResult] = []

    async with make_pool(kind, 1, Limits(deadline=0.05), reuse=True) as pool:
        checker = WasmPolicyChecker(pool)

        async def ask() -> None:
            answers.append(await checker.check(order()))

        async with anyio.create_task_group() as tasks, pool.acquire():
            tasks.start_soon(ask)
            while not pool.statistics().waiting:
                await anyio.lowlevel.checkpoint()
            time.sleep(0.3)  # noqa: ASYNC251
    assert answers == [Allow()]
