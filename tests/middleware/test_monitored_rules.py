"""What a rule that only monitors would deny goes on, and is an event each time: whoever asks, whatever remembers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from capgate.artifact.build import build_policy
from capgate.checker.base import Checker
from capgate.checker.cached import CachedChecker
from capgate.enforcement.current import capabilities_for, using
from capgate.metrics import OTHER, Metrics
from capgate.model import Service, User
from capgate.routes.declare import requires
from capgate.settings.select import select_checker
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope
from ..support.gates import KINDS, PATIENT, Ran, events, gated, make_checker, read
from ..support.stores import Shelf

DOCUMENT: dict[str, Any] = {
    "name": "watched",
    "sql": "any",
    "rules": [
        {"effect": "deny", "actions": ["db.write"], "reason": "no writing"},
        {"effect": "deny", "actions": ["db.*"], "resources": ["sql_query:a"], "reason": "not a", "monitor": True},
        {"effect": "deny", "actions": ["db.read"], "actors": ["user:eve"], "reason": "not eve", "monitor": True},
    ],
}
A, EVE = ("not a", 1), ("not eve", 2)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def app_of(checker: Any, settings: Settings | None = None, ran: Ran | None = None) -> Any:
    ran = ran or Ran()

    @read("b")
    async def handler(request: Request) -> Response:
        gate = request.state.capabilities
        allowed = [
            type(result).__name__ for result in await gate.check_many([("db.read", f"sql_query:{q}") for q in "abc"])
        ]
        return JSONResponse(allowed)

    write = requires("db.write", resource="sql_query:a")
    both = read("c")(read("a")(ran.endpoint("both")))
    routes: list[BaseRoute] = [
        Route("/q/{q}", read("{q}")(ran.endpoint("q"))),
        Route("/write", write(ran.endpoint("write"))),
        Route("/both", both),
        Route("/handler", handler),
    ]
    settings = settings or Settings(limits=PATIENT)
    actor = lambda scope: User(dict(scope["headers"]).get(b"who", b"ada").decode())  # noqa: E731
    return gated(routes, checker, settings, actor=actor)


async def asked(app: Any, path: str, who: str = "ada", status: int = 200) -> list[tuple[str | None, int | None]]:
    with events() as found:
        call = await Call(http_scope(path, headers=(("host", "x"), ("who", who)))).to(app)
    assert call.status == status
    for event in found:
        assert (event["decision"], event["enforce"]) == ("allow" if event["would_deny"] else "deny", "always")
        assert event["policy"] == "watched"
    return [(event["would_deny"] or event["reason"], event["rule"]) for event in found]


@pytest.mark.parametrize("remembers", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_it_goes_on_and_is_recorded_each_time(kind: str, remembers: bool) -> None:
    ran = Ran()
    inner: Any = make_checker(kind, DOCUMENT)
    async with inner:
        checker = CachedChecker(inner, size=64) if remembers else inner
        app = app_of(checker, ran=ran)
        for _ in range(3):
            assert await asked(app, "/q/a") == [A]
            assert await asked(app, "/q/b") == []
            assert await asked(app, "/q/a", "eve") == [A]  # the first one
            assert await asked(app, "/q/b", "eve") == [EVE]
            assert await asked(app, "/both") == [A]
            assert await asked(app, "/write", status=403) == [("no writing", None)]  # one that counts
        assert ran.names == [*["q"] * 4, "both"] * 3
        if remembers:
            assert checker.remembered == 4  # who asks matters for no answer


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_handler_asks(kind: str) -> None:
    async with make_checker(kind, DOCUMENT) as checker:
        assert await asked(app_of(checker), "/handler") == [A]
        assert await asked(app_of(checker), "/handler", "eve") == [EVE, A, EVE, EVE]
        with events() as found, using(capabilities_for(checker, Service("job"))) as gate:
            await gate.require("db.read", "sql_query:a")
            gate.require_now("db.read", "sql_query:a")
        assert [event["rule"] for event in found] == [1, 1]


async def test_what_is_safe_was_not_asked_about() -> None:
    checker = CachedChecker(make_checker(document=DOCUMENT), safe=("db.read sql_query:a",))
    app = app_of(checker)
    assert await asked(app, "/q/a", "eve") == []
    assert await asked(app, "/q/b", "eve") == [EVE]


async def test_a_sampled_allow_is_one_event() -> None:
    app = app_of(make_checker(document=DOCUMENT), Settings(limits=PATIENT, sample_allows=1.0))
    with events(logging.INFO) as found:
        for path in ("/q/a", "/q/b"):
            await Call(http_scope(path)).to(app)
    assert [(event["resource_id"], event["would_deny"]) for event in found] == [("a", "not a"), ("b", None)]


async def test_a_gate_that_only_monitors_records_both() -> None:
    app = app_of(make_checker(document=DOCUMENT), Settings(limits=PATIENT, enforce="monitor"))
    with events() as found:
        for path in ("/q/a", "/write"):
            assert (await Call(http_scope(path)).to(app)).status == 200
    assert [(event["would_deny"], event["rule"]) for event in found] == [A, ("no writing", None)]


class Broken(Exception):
    pass


async def test_a_fault_in_the_record_denies_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The allow is the policy's, and no denial is turned round, because only allows get there."""

    def broken(self: Checker, input: Any) -> Any:
        raise Broken

    monkeypatch.setattr("capgate.checker.local.LocalPolicyChecker.would_deny", broken)
    app = app_of(make_checker(document=DOCUMENT))
    assert await asked(app, "/q/a") == []
    assert await asked(app, "/write", status=403) == [("no writing", None)]


@pytest.mark.parametrize("remembered", [0, 64])
async def test_a_store_that_is_followed(remembered: int, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "store")
    shelf.release(1, build_policy({**DOCUMENT, "rules": DOCUMENT["rules"][:1]}))
    checker: Any = select_checker(shelf.settings(cache_size=remembered))
    follower = checker.inner if remembered else checker
    async with checker:
        app = app_of(checker)
        for version, expected in ((2, [A]), (3, []), (4, [A])):
            assert await asked(app, "/q/a") == ([] if expected else [A])
            rules = DOCUMENT["rules"] if expected else DOCUMENT["rules"][:1]
            shelf.release(version, build_policy({**DOCUMENT, "rules": rules}))
            assert await follower.refresh()
            assert await asked(app, "/q/a") == expected


async def test_metrics_count_it() -> None:
    registry = CollectorRegistry()
    checker = make_checker(document=DOCUMENT)
    metrics = Metrics(checker, registry)
    try:
        await asked(app_of(checker), "/q/a")
        await asked(app_of(checker), "/write", status=403)
        for name, action in (("would_deny", "db.read"), ("denials", "db.write")):
            assert registry.get_sample_value(f"capgate_{name}_total", {"action": action, "reason": OTHER}) == 1
    finally:
        metrics.close()
