from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from capgate.artifact.build import build_policy
from capgate.errors import DigestMismatch
from capgate.limits import Limits
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.model import ALLOW, PolicyInput, PolicyResult
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.gates import (
    KINDS,
    PATIENT,
    POLICY,
    SETTINGS,
    Ran,
    Recording,
    events,
    example,
    gated,
    make_checker,
    plain,
    read,
)
from ..support.lifespan import LIFESPAN, serving


class Counting:
    """A checker that allows everything, and counts what becomes of it. ``fails`` raises at the start."""

    def __init__(self, fails: BaseException | None = None, *, slow: float = 0.0) -> None:
        self.started = self.closed = 0
        self.fails = fails
        self.slow = slow

    async def start(self) -> None:
        self.started += 1
        await anyio.sleep(self.slow)
        if self.fails is not None:
            raise self.fails

    async def aclose(self) -> None:
        self.closed += 1

    async def check(self, input: PolicyInput) -> PolicyResult:
        return ALLOW


def write_artifact(folder: Path, document: dict[str, Any] = POLICY) -> tuple[Path, str]:
    data = build_policy(document)
    path = folder / "policy.wasm"
    path.write_bytes(data)
    return path, hashlib.sha256(data).hexdigest()


def lifecycle_app(log: list[str], **options: Any) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        log.append("app starts")
        yield {"from": "lifespan"}
        log.append("app stops")

    async def state(request: Request) -> JSONResponse:
        return JSONResponse({"from": request.state._state.get("from")})

    app = Starlette(routes=[Route("/state", read("good")(state))], lifespan=lifespan)
    app.add_middleware(CapabilityMiddleware, **options)
    return app


# -- with a lifespan


@pytest.mark.parametrize("kind", KINDS)
async def test_lifespan_starts_the_checker_and_passes_through(kind: str, tmp_path: Path) -> None:  # S2
    if kind == "local":
        settings = Settings(policy=POLICY, limits=PATIENT)
    else:
        path, digest = write_artifact(tmp_path)
        settings = Settings(artifact=path, artifact_sha256=digest, engine=kind, limits=PATIENT)
    log: list[str] = []
    app = lifecycle_app(log, settings=settings)
    for _ in range(2):  # an application may be started again, as tests do
        async with serving(app) as lifespan:
            assert lifespan.types == ["startup.complete"]
            call = await Call(http_scope("/state")).to(app)
            assert call.status == 200
            with events() as found:
                await Call(http_scope("/nowhere")).to(app)
            assert (found[0]["policy"], found[0]["engine"]) == ("web", kind)
        assert lifespan.types == ["startup.complete", "shutdown.complete"]
        assert lifespan.error is None
    assert log == ["app starts", "app stops"] * 2


async def test_the_applications_own_state_is_kept() -> None:  # S2
    app = lifecycle_app([], settings=Settings(policy=POLICY))
    call, scope = (
        Call(LIFESPAN, [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]),
        {**LIFESPAN, "state": {}},
    )
    call.scope = scope
    await call.to(app)
    assert scope["state"] == {"from": "lifespan"}
    state = await Call(http_scope("/state", state=scope["state"])).to(app)
    assert state.json == {"from": "lifespan"}


async def test_a_mismatch_stops_the_start_with_both_digests(tmp_path: Path) -> None:
    path, digest = write_artifact(tmp_path)
    log: list[str] = []
    app = lifecycle_app(log, settings=Settings(artifact=path, artifact_sha256="0" * 64))
    async with serving(app) as lifespan:
        pass
    assert lifespan.types == ["startup.failed"]
    assert digest in lifespan.sent[0]["message"]
    assert "0" * 64 in lifespan.sent[0]["message"]
    assert isinstance(lifespan.error, DigestMismatch)
    assert log == []


BROKEN: dict[str, dict[str, Any]] = {
    "no policy at all": {"settings": Settings()},
    "a policy file that is missing": {"settings": Settings(policy="missing.json")},
    "an artifact that is missing": {"settings": Settings(artifact="missing.wasm")},
    "an artifact that is a folder": {"settings": Settings(artifact="/")},
    "an artifact that is a device": {"settings": Settings(artifact="/dev/zero")},
    "a document with unknown keys": {"settings": Settings(policy={"sequel": []})},
    "settings of another type": {"settings": {"policy": {}}},
    "a checker that does not check": {"settings": SETTINGS, "checker": object()},
    "a checker that does not start": {"settings": SETTINGS, "checker": Counting(OSError("disk"))},
    "an actor that is not a function": {"settings": SETTINGS, "checker": make_checker(), "actor": "ada"},
    "a resolver that is not a function": {"settings": SETTINGS, "checker": make_checker(), "resolver": 5},
}


@pytest.mark.parametrize("options", BROKEN.values(), ids=BROKEN)
async def test_what_cannot_work_stops_the_start(options: dict[str, Any]) -> None:  # C7
    log: list[str] = []
    async with serving(lifecycle_app(log, **options)) as lifespan:
        pass
    assert lifespan.types == ["startup.failed"]
    assert lifespan.sent[0]["message"].isascii()
    assert log == []


@pytest.mark.parametrize("options", BROKEN.values(), ids=BROKEN)
async def test_without_lifespan_it_denies_every_request_and_is_logged_once(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:  # C7, P13
    app = lifecycle_app([], **options)
    with caplog.at_level(logging.ERROR, "capgate"), events() as found:
        for scope in (http_scope("/state"), http_scope("/state"), websocket_scope("/state")):
            call = await Call(scope).to(app)
            assert call.sent[0].get("status", call.sent[0].get("code")) in (403, 1008)
    assert [event["reason"] for event in found] == ["policy_unavailable"] * 3
    assert len([record for record in caplog.records if record.name == "capgate"]) == 1


async def test_a_bad_environment_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:  # C4
    monkeypatch.setenv("CAPGATE_FULE", "5000")
    async with serving(lifecycle_app([])) as lifespan:
        pass
    assert lifespan.types == ["startup.failed"]
    assert "CAPGATE_FULE" in lifespan.sent[0]["message"]


async def test_settings_come_from_the_environment_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, digest = write_artifact(tmp_path)
    for name, value in {
        "ARTIFACT": str(path),
        "ARTIFACT_SHA256": digest,
        "DEADLINE": "20",
        "EXPOSE_REASONS": "1",
    }.items():
        monkeypatch.setenv(f"CAPGATE_{name}", value)
    app = lifecycle_app([])
    async with serving(app):
        assert (await Call(http_scope("/state")).to(app)).status == 200
        assert (await Call(http_scope("/x")).to(app)).json["reason"] == "undeclared_route"


async def test_a_failed_start_is_tried_again_at_the_next_lifespan() -> None:
    checker = Counting(OSError("disk"))
    app = lifecycle_app([], settings=SETTINGS, checker=checker)
    async with serving(app) as lifespan:
        assert lifespan.types == ["startup.failed"]
    checker.fails = None
    async with serving(app) as lifespan:
        assert lifespan.types == ["startup.complete"]
        assert (await Call(http_scope("/state")).to(app)).status == 200


async def test_the_text_of_a_foreign_error_is_printable() -> None:  # O3
    async with serving(
        lifecycle_app([], settings=SETTINGS, checker=Counting(OSError("a\r\nb\x1b[31m\u202e")))
    ) as lifespan:
        pass
    assert lifespan.sent[0]["message"].isprintable()


async def test_an_application_that_fails_to_start_is_not_hidden() -> None:  # S2
    async def connect() -> None:
        raise RuntimeError("no database")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await connect()
        yield

    app = Starlette(lifespan=lifespan)
    app.add_middleware(CapabilityMiddleware, settings=Settings(policy=POLICY))
    async with serving(app) as started:
        pass
    assert started.types == ["startup.failed"]
    assert isinstance(started.error, RuntimeError)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_application_without_lifespan_is_served_all_the_same(kind: str) -> None:  # S2, P13
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await plain(scope, receive, send)

    checker = make_checker(kind)
    gate = CapabilityMiddleware(read("good")(app), settings=SETTINGS, checker=checker)
    async with serving(gate) as lifespan:
        assert isinstance(lifespan.error, AssertionError)
        assert (await Call(http_scope()).to(gate)).status == 200
    await checker.aclose()


async def test_a_checker_that_was_passed_in_is_its_owners_to_close() -> None:
    checker = Counting()
    app = lifecycle_app([], settings=SETTINGS, checker=checker)
    for _ in range(2):
        async with serving(app):
            pass
    assert (checker.started, checker.closed) == (2, 0)


async def test_a_checker_made_here_is_closed_before_shutdown_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    checker, closed_at = Counting(), []
    monkeypatch.setattr("capgate.middleware.startup.select_checker", lambda settings: checker)
    app = lifecycle_app([], settings=Settings(policy=POLICY))
    async with serving(app) as lifespan:
        closed_at.append(checker.closed)
    assert (closed_at, checker.closed, lifespan.types[-1]) == ([0], 1, "shutdown.complete")


async def test_a_checker_that_cannot_be_closed_fails_the_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:  # S2
    class Sticky(Counting):
        async def aclose(self) -> None:
            raise OSError("sticky")

    monkeypatch.setattr("capgate.middleware.startup.select_checker", lambda settings: Sticky())
    async with serving(lifecycle_app([], settings=Settings(policy=POLICY))) as lifespan:
        pass
    assert lifespan.types == ["startup.complete", "shutdown.failed"]
    assert "sticky" in lifespan.sent[-1]["message"]


@pytest.mark.slow
async def test_a_lifespan_that_is_cancelled_closes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    checker = Counting()
    monkeypatch.setattr("capgate.middleware.startup.select_checker", lambda settings: checker)
    call = Call(LIFESPAN, [{"type": "lifespan.startup"}], hangs=True)
    with anyio.move_on_after(0.5) as scope:
        await call.to(lifecycle_app([], settings=Settings(policy=POLICY)))
    assert scope.cancelled_caught
    assert checker.closed == 1


async def test_a_first_message_that_is_not_startup_is_passed_on() -> None:
    heard: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        heard.append((await receive())["type"])

    checker = Counting()
    await Call(LIFESPAN, [{"type": "lifespan.shutdown"}]).to(
        CapabilityMiddleware(app, settings=SETTINGS, checker=checker)
    )
    assert (heard, checker.started) == (["lifespan.shutdown"], 0)


# -- without


async def test_others_have_their_turn_while_a_module_is_loaded(engine_name: str, tmp_path: Path) -> None:
    path, _ = write_artifact(tmp_path)
    settings = Settings(artifact=path, engine=engine_name, limits=PATIENT)
    app = Starlette(routes=[Route("/x", read("good")(Ran().endpoint("x")))])
    app.add_middleware(CapabilityMiddleware, settings=settings)
    call, turns = Call(http_scope("/x")), 0
    async with anyio.create_task_group() as group:
        group.start_soon(call.to, app)
        await anyio.lowlevel.checkpoint()  # the request has begun, and would not give way before its answer
        while not call.starts:
            turns += 1
            await anyio.sleep(0.001)
    assert call.status == 200
    assert turns > 0


@pytest.mark.parametrize("kind", KINDS)
async def test_the_first_request_starts_the_gate_once(kind: str, tmp_path: Path) -> None:  # P13
    path, _ = write_artifact(tmp_path)
    source: dict[str, Any] = {"policy": POLICY} if kind == "local" else {"artifact": path, "engine": kind}
    app = example(Ran(), settings=Settings(**source, limits=PATIENT), checker=None)
    app.user_middleware[0].kwargs["checker"] = None
    calls = [Call(http_scope(f"/by-name/{'good' if number % 2 else 'bad'}")) for number in range(20)]
    async with anyio.create_task_group() as group:
        for call in calls:
            group.start_soon(call.to, app)
    assert [call.status for call in calls] == [403, 200] * 10


async def test_concurrent_first_requests_wait_for_the_one_start() -> None:
    checker = Counting(slow=0.05)
    app = gated([Route("/", read("good")(Ran().endpoint("it")))], checker, Settings(limits=PATIENT))
    calls = [Call(http_scope()) for _ in range(10)]
    async with anyio.create_task_group() as group:
        for call in calls:
            group.start_soon(call.to, app)
    assert checker.started == 1
    assert [call.status for call in calls] == [200] * 10


class Slow(Counting):
    """Starts when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.going_on = anyio.Event()

    async def start(self) -> None:
        await super().start()
        await self.going_on.wait()


@pytest.mark.slow
async def test_a_start_may_take_longer_than_the_deadline_of_a_question() -> None:  # G-8
    checker = Slow()
    app = gated([Route("/", read("good")(Ran().endpoint("it")))], checker, Settings(limits=Limits(deadline=1.0)))
    calls = [Call(http_scope()) for _ in range(20)]
    async with anyio.create_task_group() as group:
        for call in calls:
            group.start_soon(call.to, app)
        await anyio.sleep(1.1)
        assert not any(call.sent for call in calls)
        checker.going_on.set()
    assert [call.status for call in calls] == [200] * 20
    assert checker.started == 1


async def test_who_waits_for_a_start_waits_no_longer_than_a_start_may_take() -> None:
    checker = Slow()
    limits = Limits(start_seconds=0.2)
    app = gated([Route("/", read("good")(Ran().endpoint("it")))], checker, Settings(limits=limits))
    calls = [Call(http_scope()) for _ in range(2)]
    with events() as found:
        async with anyio.create_task_group() as group:
            for call in calls:
                group.start_soon(call.to, app)
    assert [event["reason"] for event in found] == ["start_timeout"] * 2
    assert all("start_seconds are 0.2" in event["cause"] for event in found)
    assert [call.status for call in calls] == [403] * 2
    checker.going_on.set()
    assert (await Call(http_scope()).to(app)).status == 200


async def test_a_first_request_that_is_cancelled_leaves_the_gate_started() -> None:  # P2
    checker = Counting(slow=0.05)
    app = gated([Route("/", read("good")(Ran().endpoint("it")))], checker, Settings(limits=PATIENT))
    with anyio.move_on_after(0.01):
        await Call(http_scope()).to(app)
    assert (await Call(http_scope()).to(app)).status == 200
    assert checker.started == 1


class Sudden(BaseException):
    pass


async def test_a_start_that_panics_is_a_start_that_failed() -> None:  # P3
    app = gated([Route("/", read("good")(Ran().endpoint("it")))], Counting(Sudden()), Settings(limits=PATIENT))
    with events() as found:
        assert (await Call(http_scope()).to(app)).status == 403
    assert found[0]["reason"] == "policy_unavailable"


async def test_a_start_that_is_interrupted_is_begun_again() -> None:
    checker = Counting(KeyboardInterrupt())
    app = gated([Route("/", read("good")(Ran().endpoint("it")))], checker, Settings(limits=PATIENT))
    interrupted = False
    try:  # not pytest.raises, which the runner of trio would not see through
        await Call(http_scope()).to(app)
    except KeyboardInterrupt:
        interrupted = True
    checker.fails = None
    assert (interrupted, (await Call(http_scope()).to(app)).status, checker.started) == (True, 200, 2)


async def test_a_lifespan_after_the_first_request_starts_nothing_twice() -> None:
    checker = Counting()
    app = lifecycle_app([], settings=SETTINGS, checker=checker)
    assert (await Call(http_scope("/state")).to(app)).status == 200
    async with serving(app) as lifespan:
        assert lifespan.types == ["startup.complete"]
    assert checker.started == 1


def test_several_event_loops_one_after_another(engine_name: str) -> None:  # P12
    ran, checker = Ran(), make_checker(engine_name)
    app = example(ran, checker, Settings(limits=PATIENT))

    async def request() -> None:
        assert (await Call(http_scope("/good")).to(app)).status == 200
        assert (await Call(http_scope("/bad")).to(app)).status == 403

    for _ in range(3):
        asyncio.run(request())
        trio.run(request)
    assert ran.names == ["good"] * 6


def test_several_event_loops_at_once(engine_name: str) -> None:  # P12
    ran, checker = Ran(), make_checker(engine_name)
    app = example(ran, checker, Settings(limits=PATIENT))
    together = threading.Barrier(4)
    failures: list[BaseException] = []

    def serve() -> None:
        async def requests() -> None:
            for _ in range(25):
                assert (await Call(http_scope("/good")).to(app)).status == 200
                assert (await Call(http_scope("/bad")).to(app)).status == 403

        together.wait()
        try:
            asyncio.run(requests())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert ran.names == ["good"] * 100


async def test_requests_during_and_after_shutdown_are_answered() -> None:  # P13
    entered, shut_down = anyio.Event(), anyio.Event()

    @read("good")
    async def slow(request: Request) -> JSONResponse:
        entered.set()
        await shut_down.wait()
        return JSONResponse({})

    app = Starlette(routes=[Route("/", slow)])
    app.add_middleware(CapabilityMiddleware, settings=Settings(policy=POLICY, limits=PATIENT))
    call = Call(http_scope())
    async with anyio.create_task_group() as group:
        async with serving(app) as lifespan:
            group.start_soon(call.to, app)
            await entered.wait()
        assert lifespan.types == ["startup.complete", "shutdown.complete"]
        shut_down.set()
    assert call.status == 200
    assert (await Call(http_scope()).to(app)).status == 200


@pytest.mark.parametrize("kind", KINDS)
async def test_fastapi_with_its_lifespan(kind: str) -> None:
    checker = Recording(make_checker(kind))
    app = FastAPI()
    app.add_middleware(CapabilityMiddleware, settings=SETTINGS, checker=checker)

    @app.get("/items/{name}")
    @read("{name}")
    async def item(name: str, verbose: bool = False) -> dict[str, Any]:
        return {"name": name, "verbose": verbose}

    async with serving(app) as lifespan:
        assert lifespan.types == ["startup.complete"]
        allowed = await Call(http_scope("/items/good", query_string=b"verbose=1")).to(app)
        assert allowed.json == {"name": "good", "verbose": True}
        assert (await Call(http_scope("/items/bad")).to(app)).status == 403
    assert checker.questions == [("db.read", "good"), ("db.read", "bad")]
    schema = app.openapi()["paths"]["/items/{name}"]["get"]["parameters"]
    assert [parameter["name"] for parameter in schema] == ["name", "verbose"]
    await checker.inner.aclose()


# -- starting that takes time


async def test_two_servers_may_start_one_application_at_once() -> None:  # P13
    checker = Counting(slow=0.05)
    app = lifecycle_app([], settings=Settings(), checker=checker)
    with anyio.fail_after(20):
        async with serving(app) as one, serving(app) as other:
            assert one.types == other.types == ["startup.complete"]
            assert (await Call(http_scope("/state")).to(app)).status == 200
    assert checker.started == 1


async def test_a_lifespan_that_comes_while_a_request_starts_the_gate() -> None:  # P13
    checker = Counting(slow=0.05)
    app, call = lifecycle_app([], settings=Settings(limits=PATIENT), checker=checker), Call(http_scope("/state"))
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(call.to, app)
            await anyio.sleep(0.01)
            async with serving(app) as lifespan:
                assert lifespan.types == ["startup.complete"]
    assert (call.status, checker.started) == (200, 1)


async def test_a_start_that_never_ends_is_given_up() -> None:  # P13
    checker = Counting(slow=math.inf)
    app = lifecycle_app([], settings=Settings(limits=Limits(start_seconds=0.1)), checker=checker)
    with anyio.fail_after(20):
        for tried in (1, 2):
            call = await Call(http_scope("/state")).to(app)
            assert (call.status, checker.started) == (403, tried)
        checker.slow = 0.0
        assert (await Call(http_scope("/state")).to(app)).status == 200
