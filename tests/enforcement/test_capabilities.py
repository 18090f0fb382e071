"""What handlers ask: request.state.capabilities, its forms, and who is asking."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Scope

from capgate.artifact.build import build_policy
from capgate.artifact.load import WasmArtifact
from capgate.checker.wasm import WasmPolicyChecker
from capgate.enforcement.capabilities import BATCH, Capabilities
from capgate.enforcement.current import capabilities_for, current
from capgate.enforcement.point import EnforcementPoint
from capgate.errors import CapabilityDenied, PoolExhausted
from capgate.limits import RANGES, Limits
from capgate.model import ALLOW, ANONYMOUS, Allow, CompilerTool, Decision, Deny, Environment, Reason, Resource, User
from capgate.runtime.pool import WasmPool
from capgate.settings.settings import Settings

from ..support.asgi import Call, http_scope
from ..support.gates import KINDS, POLICY, Answering, Recording, events, gated, make_checker
from .application import BAD, GOOD, answer, at, names

# -- asking


@pytest.mark.parametrize("kind", KINDS)
async def test_a_handler_asks(kind: str) -> None:
    async def handler(request: Request) -> Response:
        gate: Capabilities = request.state.capabilities
        assert current() is gate
        assert await gate.check(*GOOD) == ALLOW
        assert await gate.check("db.read", Resource("sql_query", "good")) == ALLOW
        assert await gate.check(*BAD) == Deny(Reason.NOT_IN_ALLOWLIST)
        assert await gate.check("db.read") == Deny(Reason.MISSING_RESOURCE)
        assert await gate.check("db.read", "sql_query") == Deny(Reason.MISSING_RESOURCE)
        assert await gate.check("no.such") == Deny(Reason.UNKNOWN_ACTION)
        assert names(await gate.check_many([GOOD, BAD, (*GOOD, "0" * 64), ("db.write", None)])) == [
            "Allow",
            "Deny",
            "Allow",
            "Deny",
        ]
        await gate.require(*GOOD)
        await gate.require_all([GOOD, GOOD])
        return JSONResponse("asked")

    checker = make_checker(kind)
    async with checker:
        assert await answer(at(handler, checker)) == "asked"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_handler_in_a_worker_thread_asks(kind: str) -> None:
    def handler(request: Request) -> Response:
        gate: Capabilities = request.state.capabilities
        assert current() is gate
        assert gate.check_now(*GOOD) == ALLOW
        assert gate.check_now(*BAD) == Deny(Reason.NOT_IN_ALLOWLIST)
        assert names(gate.check_many_now([GOOD, BAD])) == ["Allow", "Deny"]
        gate.require_now(*GOOD)
        gate.require_all_now([GOOD])
        with pytest.raises(CapabilityDenied):
            gate.require_all_now([GOOD, BAD])
        return JSONResponse("asked")

    async with make_checker(kind) as checker:
        assert await answer(at(handler, checker)) == "asked"


async def test_a_checker_of_the_applications_is_asked_from_worker_threads_too() -> None:
    def handler(request: Request) -> Response:
        gate: Capabilities = request.state.capabilities
        return JSONResponse(names(gate.check_many_now([GOOD, BAD])))

    checker = Recording()
    assert await answer(at(handler, checker)) == ["Allow", "Deny"]
    assert checker.questions == [("db.read", "good"), ("db.read", "good"), ("db.read", "bad")]


async def test_where_nothing_can_be_awaited_a_checker_of_the_applications_cannot_be_asked() -> None:
    async def handler(request: Request) -> Response:
        return JSONResponse(request.state.capabilities.check_now(*GOOD).reason)  # on the event loop itself

    assert await answer(at(handler, Recording())) == Reason.POLICY_UNAVAILABLE


async def test_background_tasks_ask_after_the_response() -> None:
    asked: list[Any] = []

    async def later() -> None:
        asked.append(await current().check(*GOOD))
        asked.append(await anyio.to_thread.run_sync(lambda: current().check_now(*BAD)))

    def sync_later() -> None:
        asked.append(current().check_now(*GOOD))

    async def handler(request: Request) -> Response:
        return PlainTextResponse("x", background=BackgroundTask(later))

    def sync_handler(request: Request) -> Response:
        return PlainTextResponse("x", background=BackgroundTask(sync_later))

    for endpoint in (handler, sync_handler):
        assert (await Call(http_scope("/")).to(at(endpoint))).status == 200
    assert names(asked) == ["Allow", "Deny", "Allow"]


async def test_who_asks_is_the_actor_of_the_request() -> None:
    async def slow(scope: Scope) -> User:
        await anyio.lowlevel.checkpoint()
        return User("grace")

    for actor in (lambda scope: User("grace"), slow):

        async def handler(request: Request) -> Response:
            await request.state.capabilities.check(*GOOD)
            await request.state.capabilities.for_actor(CompilerTool("codegen")).check(*GOOD)
            return JSONResponse("x")

        checker = Recording()
        await answer(at(handler, checker, actor=actor))
        assert [input.actor for input, _ in checker.asked] == [User("grace"), User("grace"), CompilerTool("codegen")]
        assert {(input.env.service, input.env.mode) for input, _ in checker.asked} == {("web-tests", "test")}


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_on_a_public_route_the_actor_is_found_when_somebody_asks(sync: bool, asynchronous: bool) -> None:
    found: list[Scope] = []

    def actor(scope: Scope) -> Any:
        found.append(scope)
        return slow() if asynchronous else User("grace")

    async def slow() -> User:
        await anyio.lowlevel.checkpoint()
        return User("grace")

    def ask(request: Request) -> Response:
        return JSONResponse(names([request.state.capabilities.check_now(*GOOD)]))

    async def handler(request: Request) -> Response:
        await request.state.capabilities.check(*GOOD)
        return JSONResponse(names([await request.state.capabilities.check(*GOOD)]))

    settings = Settings(public=("/",), limits=Limits(deadline=20.0))
    checker = Recording()
    app = gated([Route("/", ask if sync else handler)], checker, settings, actor=actor)
    assert await answer(app) == ["Allow"]
    assert {input.actor for input, _ in checker.asked} == {User("grace")}
    assert len(found) == 1 + (sync and asynchronous)  # once more on the loop, where it can be awaited


@pytest.mark.parametrize("actor", [lambda scope: None, lambda scope: "grace", lambda scope: 1 / 0])
async def test_without_an_actor_nothing_is_allowed(actor: Any) -> None:
    async def handler(request: Request) -> Response:
        return JSONResponse((await request.state.capabilities.check(*GOOD)).reason)

    settings = Settings(public=("/",), limits=Limits(deadline=20.0))
    assert await answer(gated([Route("/", handler)], None, settings, actor=actor)) == Reason.INTERNAL_ERROR


async def test_an_actor_that_takes_too_long_is_a_timeout() -> None:
    async def never(scope: Scope) -> User:
        await anyio.sleep_forever()
        return User("x")

    async def handler(request: Request) -> Response:
        return JSONResponse((await request.state.capabilities.check(*GOOD)).reason)

    settings = Settings(public=("/",), limits=Limits(actor_seconds=0.01))
    assert await answer(gated([Route("/", handler)], None, settings, actor=never)) == Reason.ACTOR_TIMEOUT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("questions", "reason"),
    [
        ([("db.read", "no colon: at all")], Reason.MALFORMED_INPUT),
        ([("db.read", "sql_query:")], Reason.MALFORMED_INPUT),
        ([("db.read", ":good")], Reason.MALFORMED_INPUT),
        ([("db.read", 5)], Reason.MALFORMED_INPUT),
        ([(5, "sql_query:good")], Reason.MALFORMED_INPUT),
        ([("db.read", "sql_query:good", 5)], Reason.MALFORMED_INPUT),
        ([("db.read", "sql_query:good", "0" * 64, "and more")], Reason.MALFORMED_INPUT),
        ([("db.read",)], Reason.INTERNAL_ERROR),
        ([5], Reason.INTERNAL_ERROR),
        ([GOOD] * (BATCH + 1), Reason.MALFORMED_INPUT),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
async def test_what_cannot_be_asked_is_denied(kind: str, questions: Any, reason: str) -> None:
    async with make_checker(kind) as checker:
        gate = capabilities_for(checker, ANONYMOUS, deadline=20.0)
        assert await gate.check_many(questions) == [Deny(reason)] * len(questions)
        assert gate.check_many_now(questions) == [Deny(reason)] * len(questions)
        assert await gate.check_many([GOOD] * BATCH) == [ALLOW] * BATCH


@pytest.mark.parametrize("kind", KINDS[1:])
async def test_a_batch_is_under_one_deadline_whichever_way_it_is_asked(kind: str) -> None:
    artifact = WasmArtifact.from_bytes(build_policy(POLICY))
    pool = WasmPool(artifact, 1, kind, Limits(deadline=RANGES["deadline"][0]))  # a microsecond for each question
    async with WasmPolicyChecker(pool) as checker:
        gate = capabilities_for(checker, ANONYMOUS)
        assert set(gate.check_many_now([GOOD] * BATCH)) == {Deny(Reason.POLICY_TIMEOUT)}
        assert set(await gate.check_many([GOOD] * BATCH)) == {Deny(Reason.POLICY_TIMEOUT)}


async def test_nothing_required_is_nothing_allowed() -> None:
    gate = capabilities_for(make_checker(), ANONYMOUS)
    assert await gate.check_many([]) == []
    with pytest.raises(CapabilityDenied):
        await gate.require_all([])
    with pytest.raises(CapabilityDenied):
        gate.require_all_now([])


@pytest.mark.parametrize("reply", [RuntimeError(), None, True, "allow", {"kind": "allow"}, [Allow()], Deny(5)])  # type: ignore[arg-type]
async def test_a_checker_that_is_no_checker_allows_nothing(reply: Any) -> None:
    gate = capabilities_for(Answering(reply), ANONYMOUS, deadline=20.0)
    expected = Reason.INTERNAL_ERROR if isinstance(reply, RuntimeError) else Reason.MALFORMED_RESULT
    assert await gate.check(*GOOD) == Deny(expected)
    assert await anyio.to_thread.run_sync(lambda: gate.check_now(*GOOD)) == Deny(expected)


async def test_a_checker_that_does_not_answer_is_a_timeout() -> None:
    class Silent:
        async def check(self, input: Any) -> Any:
            await anyio.sleep_forever()

    assert await capabilities_for(Silent(), ANONYMOUS, deadline=0.01).check(*GOOD) == Deny(Reason.POLICY_TIMEOUT)


@pytest.mark.parametrize("kind", KINDS)
async def test_checkers_answer_batches(kind: str) -> None:
    from capgate.model import PolicyInput

    inputs = [PolicyInput("db.read", resource=Resource("sql_query", id)) for id in ("good", "bad", "other")]
    async with make_checker(kind) as checker:
        with events() as found:
            assert names(await checker.check_many(inputs)) == ["Allow", "Deny", "Allow"]
        assert [event["resource_id"] for event in found] == ["bad"]
        assert names(await checker.evaluate_many(inputs)) == names(checker.answer_many_now(inputs) or [])
        assert await checker.check_many([]) == []


async def test_cancellation_is_not_an_answer() -> None:
    class Silent:
        async def check(self, input: Any) -> Any:
            await anyio.sleep_forever()

    after: list[Any] = []
    with anyio.move_on_after(0.01):
        after.append(await capabilities_for(Silent(), ANONYMOUS, deadline=20.0).check(*GOOD))
    assert after == []


async def test_allows_are_sampled_and_denials_are_not() -> None:
    import logging

    async def handler(request: Request) -> Response:
        await request.state.capabilities.check(*GOOD)
        await request.state.capabilities.check(*BAD)
        return JSONResponse("x")

    settings = Settings(sample_allows=1.0, limits=Limits(deadline=20.0))
    with events(logging.INFO) as found:
        await answer(at(handler, settings=settings))
    assert [(event["decision"], event["resource_id"]) for event in found] == [
        ("allow", "good"),
        ("allow", "good"),
        ("deny", "bad"),
    ]


# -- what is denied without a question


async def test_a_cause_is_one_denial_with_all_that_is_known() -> None:
    point = EnforcementPoint(make_checker(), Environment("jobs", "dev"))
    told: list[Decision] = []

    class Listener:
        ended = False

        def note(self, denial: Decision) -> None:
            told.append(denial)

        def note_allow(self) -> None:
            raise AssertionError("nothing is allowed here")

    scope = {"type": "http", "method": "PUT", "path": "/orders"}
    mine = Capabilities(point, User("ada"), None, scope, Listener())
    crowd = PoolExhausted("so many")
    for action, resource in ((None, None), ("compute.long", Resource("job", "report"))):
        with events() as found, pytest.raises(CapabilityDenied) as caught:
            mine.deny(crowd, action, resource)
        decision, (event,) = caught.value.decision, found
        assert told.pop() is decision
        assert told == []
        assert caught.value.__cause__ is crowd
        assert (decision.result, decision.policy) == (Deny(Reason.POOL_EXHAUSTED), point.checker.policy)
        expected = {
            "decision_id": decision.decision_id,
            "reason": "pool_exhausted",
            "service": "jobs",
            "mode": "dev",
            "policy": "web",
            "action": action,
            "resource_id": None if resource is None else "report",
            "actor_id": None if action is None else "ada",
            "method": "PUT",
            "path": "/orders",
        }
        assert {name: event[name] for name in expected} == expected
        assert event["cause"].startswith("capgate.errors.PoolExhausted")


def test_an_error_of_nobodys_is_internal() -> None:
    with events() as found, pytest.raises(CapabilityDenied) as caught:
        capabilities_for(Answering(ALLOW), ANONYMOUS).deny(ValueError("secret"))
    assert caught.value.decision.result == Deny(Reason.INTERNAL_ERROR)
    assert [event["policy"] for event in found] == [None]


@pytest.mark.parametrize("gone", ["asked", "found out"])
async def test_cancellation_while_the_actor_is_awaited_passes(gone: str) -> None:
    """It is no denial: nobody is left to whom it could be told."""
    ended: list[object] = []

    async def who(scope: Any) -> Any:
        await anyio.sleep_forever()

    nobody = Capabilities(EnforcementPoint(make_checker(), deadline=20.0), None, who)

    async def ask() -> None:
        ended.append(await nobody.check(*GOOD))

    with events() as found:
        async with anyio.create_task_group() as tasks:
            if gone == "asked":
                tasks.start_soon(ask)
            else:
                tasks.start_soon(nobody.require, *GOOD)
            await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    assert (ended, found) == ([], [])
