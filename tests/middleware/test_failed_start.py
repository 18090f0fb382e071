"""A gate that cannot start says so: to a test that enters the application, and to later requests, which try again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from capgate.artifact.build import build_policy
from capgate.errors import ArtifactNotFound, CapgateError, ConfigError, PolicyUnavailable
from capgate.middleware import startup
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.model import ALLOW, PolicyInput, PolicyResult
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope
from ..support.gates import PATIENT, POLICY, SETTINGS, Ran, events, gated, make_checker, read
from ..support.lifespan import serving

POLICY_JSON = '{"name": "web", "sql": ["good"]}'


def app_of(settings: Settings | None, kind: type[Starlette] = Starlette, **options: Any) -> Starlette:
    app = kind(routes=[Route("/", read("good")(Ran().endpoint("it"))), Route("/undeclared", Ran().endpoint("it"))])
    app.add_middleware(CapabilityMiddleware, settings=settings, **options)
    return app


# -- in a lifespan


@pytest.mark.parametrize("kind", [Starlette, FastAPI])
@pytest.mark.parametrize(
    ("settings", "error", "shown"),
    [
        (Settings(policy="missing.json"), ArtifactNotFound, "missing.json"),
        (Settings(artifact="missing.wasm"), ArtifactNotFound, "missing.wasm"),
        (Settings(policy={"sqll": ["good"]}), ConfigError, "sqll"),
        (Settings(policy=POLICY, strict=True), ConfigError, "/undeclared"),
        (Settings(policy=POLICY, contract="missing.json"), ArtifactNotFound, "missing.json"),
        (Settings(), ConfigError, "policy"),
    ],
)
def test_a_test_client_raises_the_reason(
    kind: type[Starlette], settings: Settings, error: type[CapgateError], shown: str
) -> None:  # G-7
    with pytest.raises(error, match=shown), TestClient(app_of(settings, kind)):
        raise AssertionError("not reached")


def test_a_test_client_raises_what_is_wrong_with_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:  # G-7
    monkeypatch.setenv("CAPGATE_POLCY", "policy.json")
    with pytest.raises(ConfigError) as caught, TestClient(app_of(None)):
        raise AssertionError("not reached")
    assert caught.value.setting == "CAPGATE_POLCY"


async def test_the_server_is_told_before_it_is_raised() -> None:  # G-7
    async with serving(app_of(Settings(policy="missing.json"))) as lifespan:
        pass
    assert lifespan.types == ["startup.failed"]
    assert isinstance(lifespan.error, ArtifactNotFound)
    assert "missing.json" in lifespan.sent[0]["message"]


class Sudden(BaseException):
    pass


async def test_a_panic_is_told_and_raised_as_an_error() -> None:  # P3
    checker = Failing()
    checker.fails = Sudden("boom")
    async with serving(app_of(SETTINGS, checker=checker)) as lifespan:
        pass
    assert lifespan.types == ["startup.failed"]
    assert isinstance(lifespan.error, PolicyUnavailable)
    assert lifespan.error.__cause__ is checker.fails


def test_after_the_reason_was_mended_a_test_client_enters(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    app = app_of(Settings(policy=path))
    with pytest.raises(ArtifactNotFound), TestClient(app):
        raise AssertionError("not reached")
    path.write_text(POLICY_JSON)
    with TestClient(app) as client:
        assert client.get("/").status_code == 200


# -- without


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that pauses between two starts are measured by, in seconds."""
    now = [1_000.0]

    class Clock:
        monotonic = staticmethod(lambda: now[0])

    monkeypatch.setattr(startup, "time", Clock)
    return now


@pytest.mark.parametrize("kind", ["document", "artifact"])
async def test_a_later_request_starts_the_gate(kind: str, tmp_path: Path, clock: list[float]) -> None:  # G-8
    path = tmp_path / "policy"
    given: dict[str, Any] = {"policy": path} if kind == "document" else {"artifact": path}
    app = app_of(Settings(**given, limits=PATIENT))
    with events() as found:
        assert (await Call(http_scope()).to(app)).status == 403
    assert [event["reason"] for event in found] == ["policy_unavailable"]
    path.write_bytes(POLICY_JSON.encode() if kind == "document" else build_policy(POLICY))
    assert (await Call(http_scope()).to(app)).status == 403  # it is too soon to try again
    clock[0] += startup.RETRY
    assert [(await Call(http_scope()).to(app)).status for _ in range(3)] == [200] * 3


class Failing:
    """A checker that does not start. ``close_fails``: nor does it close."""

    def __init__(self) -> None:
        self.started = self.closed = 0
        self.close_fails = False
        self.fails: BaseException = OSError("disk")

    async def start(self) -> None:
        self.started += 1
        raise self.fails

    async def aclose(self) -> None:
        self.closed += 1
        if self.close_fails:
            raise OSError("sticky")

    async def check(self, input: PolicyInput) -> PolicyResult:
        return ALLOW


async def test_the_pauses_between_attempts_grow_up_to_a_minute(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:  # G-8
    checker = Failing()
    app = app_of(SETTINGS, checker=checker)
    pauses = []
    with caplog.at_level(logging.ERROR, "capgate"):
        for _ in range(9):
            await Call(http_scope()).to(app)
            started, since = checker.started, clock[0]
            while checker.started == started:
                clock[0] += 1.0
                assert (await Call(http_scope()).to(app)).status == 403
            pauses.append(clock[0] - since)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    assert len([record for record in caplog.records if record.name == "capgate"]) == checker.started


@pytest.mark.parametrize("close_fails", [False, True])
async def test_a_checker_made_for_a_start_that_failed_is_closed(
    close_fails: bool, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Failing] = []

    def make(settings: Settings) -> Failing:
        made.append(Failing())
        made[-1].close_fails = close_fails
        return made[-1]

    monkeypatch.setattr(startup, "select_checker", make)
    app = app_of(Settings(policy=POLICY))
    for _ in range(3):
        assert (await Call(http_scope()).to(app)).status == 403
        clock[0] += 60.0
    assert [(checker.started, checker.closed) for checker in made] == [(1, 1)] * 3


async def test_a_checker_that_was_passed_in_is_not_closed_where_it_does_not_start(clock: list[float]) -> None:
    checker = Failing()
    await Call(http_scope()).to(app_of(SETTINGS, checker=checker))
    assert (checker.started, checker.closed) == (1, 0)


async def test_nobody_waits_for_another_attempt(clock: list[float]) -> None:  # G-8
    going_on = anyio.Event()

    class Hanging(Failing):
        async def start(self) -> None:
            self.started += 1
            if self.started == 1:
                raise OSError("disk")
            await going_on.wait()

    checker = Hanging()
    app = app_of(SETTINGS, checker=checker)
    await Call(http_scope()).to(app)
    clock[0] += startup.RETRY
    trying, other = Call(http_scope()), Call(http_scope())
    async with anyio.create_task_group() as group:
        group.start_soon(trying.to, app)
        while checker.started < 2:
            await anyio.lowlevel.checkpoint()
        with anyio.fail_after(20):
            await other.to(app)
        going_on.set()
    assert (trying.status, other.status) == (200, 403)


@pytest.mark.parametrize("kind", ["document", "artifact"])
async def test_two_hundred_first_requests_are_all_answered_by_the_policy(kind: str, tmp_path: Path) -> None:  # G-8
    path = tmp_path / "policy"
    path.write_bytes(POLICY_JSON.encode() if kind == "document" else build_policy(POLICY))
    given: dict[str, Any] = {"policy": path} if kind == "document" else {"artifact": path}
    routes = [Route(f"/{name}", read(name)(Ran().endpoint(name))) for name in ("good", "bad")]
    app = Starlette(routes=routes)
    app.add_middleware(CapabilityMiddleware, settings=Settings(**given, limits=PATIENT))
    calls = [Call(http_scope("/good" if number % 2 else "/bad")) for number in range(200)]
    with events() as found:
        async with anyio.create_task_group() as group:
            for call in calls:
                group.start_soon(call.to, app)
    assert [call.status for call in calls] == [403, 200] * 100
    assert {event["reason"] for event in found} == {"not_in_allowlist"}


# -- what contradicts itself


@pytest.mark.parametrize(
    "given",
    [
        {"policy": POLICY},
        {"artifact": "policy.wasm"},
        {"store": "/srv", "policy_name": "web", "require_signature": False},
        {"engine": "wasmtime"},
        {"pool_size": 3},
        {"cache_size": 5},
        {"safe": ("env.read env_var:TZ",)},
        {"reuse": True},
    ],
    ids=lambda given: ", ".join(given),
)
async def test_a_checker_and_settings_that_describe_another_do_not_start(given: dict[str, Any]) -> None:  # G-16
    settings = Settings(**given)
    async with serving(app_of(settings, checker=make_checker())) as lifespan:
        pass
    assert isinstance(lifespan.error, ConfigError)
    assert lifespan.error.setting == "checker"
    assert all(name in lifespan.error.valid for name in given)


async def test_a_checker_and_a_policy_in_the_environment_do_not_start(monkeypatch: pytest.MonkeyPatch) -> None:  # G-16
    monkeypatch.setenv("CAPGATE_POLICY", "policy.json")
    async with serving(app_of(None, checker=make_checker())) as lifespan:
        pass
    assert isinstance(lifespan.error, ConfigError)
    assert lifespan.error.setting == "checker"


async def test_settings_that_say_nothing_of_the_checker_go_with_one() -> None:
    settings = Settings(service="x", mode="dev", public=("/undeclared",), sample_allows=1.0, limits=PATIENT)
    app = gated([Route("/", read("good")(Ran().endpoint("it")))], make_checker(), settings)
    assert (await Call(http_scope()).to(app)).status == 200
