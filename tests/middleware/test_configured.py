"""What operators set holds, whichever way it is set and whichever way a question comes: each cell of the matrix."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Route
from starlette.types import Receive, Scope, Send

from capgate.artifact.build import build_policy
from capgate.artifact.load import load_wasm_artifact
from capgate.checker.base import PolicyChecker
from capgate.checker.wasm import WasmPolicyChecker
from capgate.cli.demo.server import serving as uvicorn_serving
from capgate.errors import PolicyUnavailable
from capgate.limits import Limits
from capgate.middleware.middleware import CapabilityMiddleware
from capgate.model import Allow, PolicyInput, Resource
from capgate.runtime.pool import WasmPool
from capgate.settings.select import select_checker
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope, websocket_scope
from ..support.gates import (
    PATIENT,
    POLICY,
    SETTINGS,
    Answering,
    Ran,
    Recording,
    events,
    example,
    gated,
    make_checker,
    read,
)
from ..support.guests import ALLOW as ALLOW_RECORD
from ..support.guests import guest
from ..support.lifespan import serving
from .test_lifecycle import write_artifact

#: Allows after so many rounds of a loop, each of which costs several units of fuel; or never answers.
ROUNDS = 10_000_000
LONG = f"""(local $i i32)
(loop $again (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const {ROUNDS}))))
{ALLOW_RECORD}"""
ENDLESS = f"(loop $again (br $again)) {ALLOW_RECORD}"

# Four instances: none of the three requests has to wait for one, which a millisecond might not be enough for.
ENOUGH = {"fuel": 1_000_000_000, "deadline": 60.0}
#: The guest, the limits, and the reason of the denial; ``None`` where these limits do not keep it from allowing.
CELLS: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "endless, default fuel": (ENDLESS, {"deadline": 60.0}, "policy_timeout"),
    "endless, little fuel": (ENDLESS, {"fuel": 10_000, "deadline": 60.0}, "policy_timeout"),
    "long, little fuel": (LONG, {**ENOUGH, "fuel": 1_000_000}, "policy_timeout"),
    # Ten million rounds take more than a millisecond on any machine. The deadline is for waiting: an answer counts.
    "long, short deadline": (LONG, {**ENOUGH, "deadline": 0.001}, None),
    "long, enough of both": (LONG, ENOUGH, None),
}


def configured(ran: Ran, framework: type[Starlette] = Starlette, *, debug: bool = False, **options: Any) -> Starlette:
    """The example with a gate that is given these options only."""
    app = framework(debug=debug, routes=example(ran).routes)
    app.add_middleware(CapabilityMiddleware, **options)
    return app


def by_settings(path: Path, engine: str, limits: dict[str, Any]) -> dict[str, Any]:
    return {"settings": Settings(artifact=path, engine=engine, pool_size=4, limits=Limits(**limits))}


def by_environment(path: Path, engine: str, limits: dict[str, Any]) -> dict[str, Any]:
    variables = {f"CAPGATE_{name.upper()}": str(value) for name, value in limits.items()}
    given = {"CAPGATE_ARTIFACT": str(path), "CAPGATE_ENGINE": engine, "CAPGATE_POOL_SIZE": "4"}
    return {"settings": Settings.from_env({**given, **variables})}


def by_pool(path: Path, engine: str, limits: dict[str, Any]) -> dict[str, Any]:
    """The policy's own limits, under settings whose limits would do."""
    pool = WasmPool(load_wasm_artifact(path), 4, engine, Limits(**limits))
    return {"checker": WasmPolicyChecker(pool), "settings": Settings(limits=PATIENT)}


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("set_by", [by_settings, by_environment, by_pool])
async def test_limits_hold_in_each_cell(set_by: Any, cell: str, engine_name: str, tmp_path: Path) -> None:  # C6, G1
    body, limits, reason = CELLS[cell]
    (tmp_path / "policy.wasm").write_bytes(guest(body))
    ran = Ran()
    app = configured(ran, **set_by(tmp_path / "policy.wasm", engine_name, limits))
    for scope in (http_scope("/good"), websocket_scope("/ws"), http_scope("/good")):  # the last as good as the first
        with events() as found:
            await Call(scope).to(app)
        assert [event["reason"] for event in found] == ([] if reason is None else [reason])
    assert ran.names == ([] if reason else ["good", "ws", "good"])


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("set_by", [by_settings, by_environment, by_pool])
async def test_limits_hold_in_worker_threads(
    set_by: Any, cell: str, engine_name: str, tmp_path: Path
) -> None:  # C6, G1
    body, limits, reason = CELLS[cell]
    (tmp_path / "policy.wasm").write_bytes(guest(body))
    given = set_by(tmp_path / "policy.wasm", engine_name, limits)
    checker = given.get("checker") or select_checker(given["settings"])
    assert isinstance(checker, WasmPolicyChecker)
    question = PolicyInput("db.read", resource=Resource("sql_query", "good"))
    result = await anyio.to_thread.run_sync(checker.evaluate_now, question)
    assert getattr(result, "reason", None) == reason
    assert (type(result) is Allow) == (reason is None)


#: 75 kB of code, which take wasmtime five seconds and a gigabyte to compile, wasmer half a second and 130 MB.
BOMB = f"(func (param i32) (result i32) (local.get 0) {'f32.convert_i32_s i32.trunc_f32_s ' * 37_500})"
COMPILING: dict[str, dict[str, Any]] = {
    "compile_time": {"compile_seconds": 0.1, "compile_megabytes": 8_192},
    "compile_memory": {"compile_seconds": 60.0, "compile_megabytes": 64},
}


@pytest.mark.slow
@pytest.mark.parametrize("rule", COMPILING)
@pytest.mark.parametrize("set_by", [by_settings, by_environment])
async def test_a_module_that_takes_too_much_to_compile(
    set_by: Any, rule: str, engine_name: str, tmp_path: Path
) -> None:  # G16, C6
    (tmp_path / "policy.wasm").write_bytes(guest(extra=BOMB))
    ran = Ran()
    app = configured(ran, **set_by(tmp_path / "policy.wasm", engine_name, COMPILING[rule]))
    async with serving(app) as served:
        assert served.types == ["startup.failed"]
        assert served.sent[0]["message"].startswith(f"{rule} ({engine_name})")
    with events() as found:
        await Call(http_scope("/good")).to(app)
    assert ([event["reason"] for event in found], ran.names) == (["policy_unavailable"], [])


@pytest.mark.slow
@pytest.mark.parametrize("rule", COMPILING)
def test_a_server_does_not_start_with_it(
    rule: str, engine_name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # G16
    """uvicorn, on a port of loopback: it neither hangs nor serves, and its log has the reason."""
    (tmp_path / "policy.wasm").write_bytes(guest(extra=BOMB))
    app = configured(Ran(), **by_settings(tmp_path / "policy.wasm", engine_name, COMPILING[rule]))
    with pytest.raises(PolicyUnavailable), uvicorn_serving(app):
        pytest.fail("it serves")
    assert [record.levelname for record in caplog.records if f"{rule} ({engine_name})" in record.getMessage()]


@pytest.mark.parametrize("lifespan", [True, False])
async def test_an_engine_that_does_not_import(
    lifespan: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # C1
    for engine in ("wasmer", "wasmtime"):
        monkeypatch.setitem(sys.modules, f"capgate.runtime.engine._{engine}", None)
        path, digest = write_artifact(tmp_path)
        ran = Ran()
        app = configured(ran, settings=Settings(artifact=path, artifact_sha256=digest, engine=engine))
        if lifespan:
            async with serving(app) as served:
                assert served.types == ["startup.failed"]
                assert f"pip install '{engine}" in served.sent[0]["message"]
        with events() as found:
            await Call(http_scope("/good")).to(app)
        assert ([event["reason"] for event in found], ran.names) == (["policy_unavailable"], [])


async def test_a_worse_file_changes_nothing_while_a_policy_runs(engine_name: str, tmp_path: Path) -> None:  # C8
    """There is no reload: a file is read once, at start-up. After a restart a worse one is refused, and all denied."""
    path, digest = write_artifact(tmp_path)
    settings = Settings(artifact=path, artifact_sha256=digest, engine=engine_name, limits=PATIENT)
    ran = Ran()
    app = configured(ran, settings=settings)
    async with serving(app):
        for worse in (build_policy({**POLICY, "sql": "any"}), guest(ENDLESS), b""):
            path.write_bytes(worse)
            assert (await Call(http_scope("/good")).to(app)).status == 200
            assert (await Call(http_scope("/bad")).to(app)).status == 403
    assert ran.names == ["good"] * 3
    async with serving(app) as again:
        assert again.types == ["startup.failed"]
        assert (await Call(http_scope("/good")).to(app)).status == 403
    assert ran.names == ["good"] * 3


@pytest.mark.parametrize("framework", [Starlette, FastAPI])
async def test_debug_mode_shows_and_skips_nothing(framework: type[Starlette], tmp_path: Path) -> None:  # C9
    path, _ = write_artifact(tmp_path)
    unverified: dict[str, Any] = {"settings": Settings(artifact=path, artifact_sha256="0" * 64)}
    faulty: dict[str, Any] = {"settings": SETTINGS, "checker": Answering(RuntimeError("t0p-secret"))}
    accept = http_scope("/good", headers=[("host", "x"), ("accept", "text/html")])
    for options in (unverified, faulty):
        ran = Ran()
        app = configured(ran, framework, debug=True, **options)
        call = await Call(accept).to(app)
        assert (call.status, ran.names) == (403, [])
        assert call.headers["content-type"] == "application/problem+json"
        assert not [word for word in (b"Traceback", b"t0p-secret", b"RuntimeError", b"File ") if word in call.body]


# -- what a request brings along


#: Ways of writing a header that means something to somebody, none of which mean anything to the gate.
STRANGE: list[list[tuple[str, str]]] = [
    [("x-capability", "db.write"), ("x-capability", "db.read")],
    [("x-capability", "db.read, db.write")],
    [("x_capability", "a"), ("X-CAPABILITY", "b"), ("x-capability", " \xff\xfe ")],
    [("x-capability", "first\r\n second")],
    [("x-forwarded-user", "root"), ("x-forwarded-user", "ada")],
]


@pytest.mark.parametrize("headers", STRANGE)
async def test_no_header_speaks_for_a_capability(headers: list[tuple[str, str]]) -> None:  # S13
    checker, ran = Recording(), Ran()
    app = example(ran, checker)
    for path in ("/good", "/bad"):
        await Call(http_scope(path, headers=[("host", "testserver"), *headers])).to(app)
    assert checker.questions == [("db.read", "good"), ("db.read", "bad")]
    assert [type(input.actor).__name__ for input, _ in checker.asked] == ["Anonymous"] * 2
    assert ran.names == ["good"]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([(":authority", "inside.example"), ("host", "other.example")], "bad"),
        ([(":path", "/good"), (":method", "POST"), ("host", "inside.example")], "good"),
        ([("Host", "inside.example"), ("host", "other.example")], "bad"),
        ([(":authority", "inside.example")], "bad"),
    ],
)
async def test_pseudo_headers_speak_for_nothing(headers: list[tuple[str, str]], expected: str) -> None:  # S14
    """Servers make ``host`` of ``:authority``; whatever else is there, the gate and the router take the same header."""
    checker, ran = Recording(make_checker(document={**POLICY, "sql": "any"})), Ran()
    inside = Starlette(routes=[Route("/same", read("good")(ran.endpoint("good")))])
    outside = Route("/same", read("bad")(ran.endpoint("bad")))
    await Call(http_scope("/same", headers=headers)).to(gated([Host("inside.example", inside), outside], checker))
    assert (checker.questions, ran.names) == ([("db.read", expected)], [expected])


class Rewriting:
    """Middleware that sends everything to ``/bad``."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["path"], scope["raw_path"] = "/bad", b"/bad"
        await self.app(scope, receive, send)


def gate(app: Any, checker: PolicyChecker) -> CapabilityMiddleware:
    return CapabilityMiddleware(app, settings=SETTINGS, checker=checker)


async def test_a_path_that_is_rewritten_before_a_gate_is_judged_as_rewritten() -> None:  # S16
    checker, ran = Recording(), Ran()
    routes = [Route(f"/{name}", read(name)(ran.endpoint(name))) for name in ("good", "bad")]
    orders = Starlette(routes=[*routes])
    outside = Rewriting(gate(orders, checker))
    assert (await Call(http_scope("/good")).to(outside)).status == 403
    # What is rewritten behind a gate is asked about as it is where the route is chosen, by each gate around it.
    twice = gate(Rewriting(gate(orders, checker)), checker)
    assert (await Call(http_scope("/good")).to(twice)).status == 403
    assert checker.questions == [("db.read", "bad"), ("db.read", "bad")]
    assert ran.names == []


async def test_a_scope_that_the_application_changes_is_its_own_affair() -> None:  # S16
    checker = Recording()
    seen: list[str] = []

    @read("good")
    async def endpoint(request: Any) -> PlainTextResponse:
        seen.append(request.scope["path"])
        request.scope["path"] = "/bad"
        request.scope["endpoint"] = None
        return PlainTextResponse("done")

    app = gated([Route("/good", endpoint)], checker)
    for _ in range(2):
        assert (await Call(http_scope("/good")).to(app)).status == 200
    assert (checker.questions, seen) == ([("db.read", "good")] * 2, ["/good"] * 2)
