from __future__ import annotations

import logging
import re
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Host, Mount, Route, Router

from capgate.middleware.middleware import CapabilityMiddleware
from capgate.routes.declare import asks_itself
from capgate.routes.route_report import RouteReport, check_inside, check_routes, report_routes
from capgate.routes.target import find_target

from ..support.asgi import Call, http_scope
from ..support.gates import SETTINGS, events, gated, make_checker, plain, read
from .applications import (
    Blank,
    Dispatching,
    MatchingRouter,
    Wrapper,
    fastapi,
    fresh,
    included,
    mounted,
    routes,
    versioned,
)


def test_the_report_lists_every_route() -> None:  # C10
    app = Router(
        [
            Route("/open", fresh()),
            Route("/said/{name}", fresh("{name}")),
            Route("/missing/{nam}", fresh("{name}")),
            Route("/silent", fresh(), methods=["POST"]),
            Mount("/m/{a}", routes=[Route("/{b}", fresh("{a}{b}"))]),
            Mount("/static", app=plain),
            Host("h.example", Router([Route("/x", fresh())])),
            Blank(),
        ]
    )
    report = {
        route.template: (route.status, route.missing) for route in report_routes(find_target(app), frozenset({"/open"}))
    }
    assert report == {
        "/open": ("public", ()),
        "/said/{name}": ("declared", ()),
        "/missing/{nam}": ("declared", ("name",)),
        "/silent": ("undeclared", ()),
        "/m/{a}/{b}": ("declared", ()),
        "/static/{path:path}": ("undeclared", ()),
        "h.example/x": ("undeclared", ()),
        "Blank": ("unresolvable", ()),
    }


def test_the_report_sees_through_included_routers() -> None:
    found = [route.template for route in report_routes(find_target(fastapi()))]
    assert {
        "/one",
        "/v1/outer/inner/one",
        "/v2/{tenant}/mounted/one",
        "/v1/outer/static/{path:path}",
    } <= set(found)
    for router in (versioned(), MatchingRouter()):
        report = report_routes(find_target(included(router)))
        assert [route.status for route in report] == ["unresolvable", "declared"]


def test_a_router_that_dispatches_in_its_own_way_is_one_route_that_is_denied() -> None:
    for app, template in (
        (Dispatching(routes()), "/{path:path}"),
        (Wrapper(Dispatching(routes())), "/{path:path}"),
        (mounted(Dispatching(routes())), "/sub/{path:path}"),
        (Router([Host("h.example", Dispatching(routes()))]), "h.example/{path:path}"),
    ):
        assert report_routes(find_target(app)) == [RouteReport(template, (), "unresolvable")]
        assert check_routes(find_target(app), frozenset(), logging.getLogger("capgate")) == [f"'{template}'"]


def test_an_application_without_routes_is_one_route_if_anything_is_asked_there() -> None:
    assert report_routes(find_target(plain)) == []
    for app, status in ((read("x")(Wrapper(plain)), "declared"), (asks_itself(Wrapper(plain)), "deferred")):
        assert [(route.template, route.status) for route in report_routes(find_target(app))] == [
            ("/{path:path}", status)
        ]
        assert check_routes(find_target(app), frozenset(), logging.getLogger("capgate")) == []


def test_what_is_reported(caplog: pytest.LogCaptureFixture) -> None:  # C10
    app = Router(
        [*routes(), Route("/x/{a}", fresh("{b}")), Route("/two", fresh()), Route("/two", fresh(), methods=["POST"])]
    )
    with caplog.at_level(logging.WARNING):
        check_routes(find_target(app), frozenset({"/two", "/nowhere", "/one"}), logging.getLogger("capgate"))
    lines = caplog.messages
    assert len(lines) == 5
    assert ["/none" in lines[0], "/two" in lines[0]] == [True, False]
    assert ["/x/{a}" in lines[1], lines[1].endswith("b")] == [True, True]
    assert [("/nowhere" in lines[2]), ("/one" in lines[3]), ("/two" in lines[4])] == [True, True, True]


def test_no_router_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    check_routes(find_target(plain), frozenset(), logging.getLogger("capgate"))
    assert "resolver=" in caplog.text


class Rewriting(Wrapper):
    pass


def named(app: Any, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    check_inside(app, logging.getLogger("capgate"))
    return re.findall(r"Wrapper|Rewriting|GZipMiddleware|Hidden", " ".join(caplog.messages))


def test_middleware_inside_the_gate_is_named(caplog: pytest.LogCaptureFixture) -> None:  # G-9
    mounted = Starlette(routes=[Mount("/x", routes=routes())], middleware=[Middleware(GZipMiddleware)])
    for app, expected in (
        (Starlette(routes=routes()), []),
        (Router(routes()), []),
        (Starlette(middleware=[Middleware(Rewriting)]), ["Rewriting"]),
        (Wrapper(Starlette(middleware=[Middleware(Rewriting)])), ["Wrapper", "Rewriting"]),
        (Router([Mount("/m", mounted)]), ["GZipMiddleware"]),
        (Router([Mount("/m", routes=[Mount("/n", Wrapper(mounted))])]), ["Wrapper", "GZipMiddleware"]),
        (Router([Mount("/m", routes=[], middleware=[Middleware(Wrapper)])]), ["Wrapper"]),
        (Router(middleware=[Middleware(Rewriting)]), ["Rewriting"]),
        (plain, []),
        (Router([Mount("/m", plain)]), []),
    ):
        assert named(app, caplog) == expected, app


async def test_what_was_added_before_the_gate_stands_inside(caplog: pytest.LogCaptureFixture) -> None:  # G-9
    app = Starlette(routes=routes())
    app.add_middleware(Rewriting)
    app.add_middleware(CapabilityMiddleware, settings=SETTINGS, checker=make_checker())
    app.add_middleware(GZipMiddleware)
    with events():
        await Call(http_scope("/one")).to(app)
    (line,) = [line for line in caplog.messages if "inside the gate" in line]
    assert ("Rewriting" in line, "GZipMiddleware" in line) == (True, False)


async def test_the_report_is_written_once_when_the_gate_starts(caplog: pytest.LogCaptureFixture) -> None:
    app = Starlette(routes=routes(), middleware=[Middleware(Rewriting)])
    app.add_middleware(CapabilityMiddleware, settings=SETTINGS, checker=make_checker())
    for _ in range(2):
        with events():
            await Call(http_scope("/one")).to(app)
    reports = [record.getMessage() for record in caplog.records if record.name == "capgate"]
    assert [("/none" in line, "Rewriting" in line) for line in reports] == [(False, True), (True, False)]


async def test_a_report_that_fails_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("capgate.middleware.startup.check_routes", fail)
    checker = make_checker(document={"sql": ["one"]})
    assert (await Call(http_scope("/one")).to(gated(routes(), checker))).status == 200


def test_a_report_line_is_printable() -> None:
    assert str(RouteReport("/a\r\n\u202eb", ("GET", "HEAD"), "undeclared")) == r"'GET|HEAD /a\r\n\u202eb'"


def test_the_name_of_a_mount_opens_what_is_mounted_as_one(caplog: pytest.LogCaptureFixture) -> None:  # P-17
    async def plain(scope: Any, receive: Any, send: Any) -> None: ...

    def told(public: str) -> tuple[str, list[str]]:
        caplog.clear()
        target = find_target(Router([Mount("/static", app=plain), Mount("/sub", routes=[Route("/a", plain)])]))
        check_routes(target, frozenset({public}), logging.getLogger("capgate"))
        shown = " ".join(record.getMessage() for record in caplog.records if "public route" in record.getMessage())
        return shown, [
            route.template for route in report_routes(target, frozenset({public})) if route.status == "public"
        ]

    assert told("/static") == ("", ["/static/{path:path}"])
    for public, named in (("/static/", "'/static/{path:path}'"), ("/sub", "'/sub/a'"), ("/sub/", "'/sub/a'")):
        shown, opened = told(public)
        assert named in shown
        assert opened == []
    assert told("/other")[0]
