"""Gated httpx with real servers at the other end: what is denied does not arrive, not even as a connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from capgate.capabilities import Capabilities, CapabilityDenied, capabilities_for, using
from capgate.capabilities.http import (
    AsyncGatedTransport,
    GatedTransport,
    gated_async_client,
    gated_client,
)
from capgate.model import Allow, PolicyInput, PolicyResult, User

from ..support.asgi import Call, http_scope
from ..support.gates import events, gated, make_checker, read
from .http_requests import ALLOWED, DENIED, admitting, assert_untouched, refusal
from .http_servers import Server
from .kinds import KINDS

pytestmark = pytest.mark.usefixtures("environment_of_httpx")


# -- the plain way, in both worlds, on each engine


@pytest.mark.parametrize("kind", KINDS)
def test_sync_client_reaches_what_is_listed_and_nothing_else(kind: str, allowed: Server, denied: Server) -> None:
    with using(admitting(ALLOWED, kind=kind)), gated_client() as client:
        assert client.get(allowed.url("/a")).content == b"here"
        with pytest.raises(CapabilityDenied) as error:
            client.post(denied.url("/b"), content=b"secret")
    reason, resource = refusal(error)
    assert (reason, resource.id) == ("not_in_allowlist", DENIED)
    attributes = {"part": "url", "scheme": "http", "port": str(denied.port), "method": "POST"}
    assert resource.attributes == attributes
    assert allowed.arrivals.targets == ["/a"]
    assert_untouched(denied)


@pytest.mark.parametrize("kind", KINDS)
async def test_async_client_reaches_what_is_listed_and_nothing_else(kind: str, allowed: Server, denied: Server) -> None:
    with using(admitting(ALLOWED, kind=kind)):
        async with gated_async_client() as client:
            assert (await client.get(allowed.url("/a"))).content == b"here"
            with pytest.raises(CapabilityDenied) as error:
                await client.post(denied.url("/b"), content=b"secret")
    assert refusal(error)[1].id == DENIED
    assert allowed.arrivals.targets == ["/a"]
    assert_untouched(denied)


def test_nobody_to_ask_is_a_denial(allowed: Server) -> None:
    with gated_client() as client, pytest.raises(CapabilityDenied) as error:
        client.get(allowed.url())
    assert error.value.decision.result.reason == "policy_unavailable"
    assert_untouched(allowed)


def test_capabilities_given_at_the_start_hold_whoever_is_current(allowed: Server, denied: Server) -> None:
    with gated_client(capabilities=admitting(ALLOWED)) as client:
        assert client.get(allowed.url()).status_code == 200
        with using(admitting(DENIED)), pytest.raises(CapabilityDenied):
            client.get(denied.url())
    assert_untouched(denied)


# -- what passes through


def test_streams_and_closing_pass_through(allowed: Server) -> None:
    with using(admitting(ALLOWED)):
        with gated_client() as client, client.stream("GET", allowed.url("/parts")) as response:
            assert b"".join(response.iter_raw()) == b"onetwo"
            assert response.http_version == "HTTP/1.1"
        allowed.wait_closed()
        with httpx.Client(transport=GatedTransport()) as client:
            response = client.post(allowed.url("/in"), content=iter([b"a", b"b"]), headers={"Content-Length": "2"})
            assert response.status_code == 200
        allowed.wait_closed()
    assert allowed.arrivals.bodies[-1] == b"ab"


async def test_streams_and_closing_pass_through_async(allowed: Server) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    with using(admitting(ALLOWED)):
        async with httpx.AsyncClient(transport=AsyncGatedTransport()) as client:
            async with client.stream("GET", allowed.url("/parts")) as response:
                assert b"".join([part async for part in response.aiter_raw()]) == b"onetwo"
            await client.post(allowed.url("/in"), content=parts(), headers={"Content-Length": "2"})
    allowed.wait_closed()
    assert allowed.arrivals.bodies[-1] == b"ab"


async def test_timeouts_pass_through(allowed: Server) -> None:
    with using(admitting(ALLOWED)):
        async with gated_async_client(timeout=httpx.Timeout(30, read=0.05)) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.get(allowed.url("/slow"))
        with gated_client(timeout=httpx.Timeout(30, read=0.05)) as sync, pytest.raises(httpx.ReadTimeout):
            sync.get(allowed.url("/slow"))


def test_a_denied_body_is_not_read(denied: Server) -> None:
    read: list[bytes] = []

    def body() -> Iterator[bytes]:
        read.append(b"secret")
        yield b"secret"

    with using(admitting()), gated_client() as client, pytest.raises(CapabilityDenied):
        client.post(denied.url(), content=body())
    assert read == []
    assert_untouched(denied)


# -- the whole way: an application that knows nothing of policies


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("style", ["async", "sync"])
async def test_handlers_without_a_policy_call(kind: str, style: str, allowed: Server, denied: Server) -> None:
    """A ``def`` endpoint runs in a worker thread."""
    async_client, client = gated_async_client(follow_redirects=True), gated_client(follow_redirects=True)

    @read("good")
    async def fetch_async(request: Request) -> PlainTextResponse:
        return PlainTextResponse((await async_client.get(request.query_params["url"])).text)

    @read("good")
    def fetch_sync(request: Request) -> PlainTextResponse:
        return PlainTextResponse(client.get(request.query_params["url"]).text)

    endpoint = fetch_async if style == "async" else fetch_sync
    checker = make_checker(kind, {"egress": [ALLOWED], "sql": ["good"]})
    app = gated([Route("/fetch", endpoint)], checker)

    async def call(url: str) -> Call:
        query = str(httpx.QueryParams(url=url)).encode()
        return await Call(http_scope("/fetch", query_string=query)).to(app)

    lead = str(httpx.URL(allowed.url("/to"), params={"url": denied.url("/stolen")}))
    with events() as found:
        assert (await call(allowed.url("/a"))).body == b"here"
        answers = [await call(denied.url()), await call(lead)]
    assert [answer.status for answer in answers] == [403, 403]
    assert [event["decision_id"] for event in found] == [answer.json["decision_id"] for answer in answers]
    for event in found:
        seen = (event["action"], event["resource_kind"], event["resource_id"], event["reason"])
        assert seen == ("http.outbound", "host", DENIED, "not_in_allowlist")
    assert_untouched(denied)
    assert (await call(allowed.url("/b"))).status == 200
    await async_client.aclose()
    client.close()
    await checker.aclose()


def test_asyncio_tasks_ask_for_their_own_request(allowed: Server) -> None:
    """One client shared by tasks: each is judged by the capabilities that are current in it."""

    async def main() -> list[object]:
        async with gated_async_client() as client:

            async def one(capabilities: Capabilities) -> object:
                with using(capabilities):
                    try:
                        return (await client.get(allowed.url())).status_code
                    except CapabilityDenied as error:
                        return error.decision.result.reason

            return await asyncio.gather(*(one(admitting(ALLOWED) if n % 2 else admitting()) for n in range(10)))

    assert asyncio.run(main()) == ["not_in_allowlist", 200] * 5
    assert len(allowed.arrivals.requests) == 5


def test_answers_are_decisions(allowed: Server) -> None:
    """The policy was asked in these words: a checker sees the host as id and the rest as attributes."""
    asked: list[PolicyInput] = []

    class Keeping:
        async def check(self, input: PolicyInput) -> PolicyResult:
            asked.append(input)
            return Allow()

    async def main() -> None:
        with using(capabilities_for(Keeping(), User("ann"), deadline=20.0)):
            async with gated_async_client() as client:
                await client.get(allowed.url(), headers={"Host": "shop.example"})

    asyncio.run(main())
    assert [(one.resource.id, one.resource.attributes["part"]) for one in asked if one.resource] == [
        (ALLOWED, "url"),
        ("shop.example", "host_header"),
    ]
