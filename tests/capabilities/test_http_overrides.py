"""What else httpx and httpcore would let a request be moved by: headers, extensions, authentication, hooks."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import httpx
import pytest

from capgate.capabilities import CapabilityDenied, capabilities_for, using
from capgate.capabilities.http import (
    gated_async_client,
    gated_client,
)
from capgate.model import ALLOW, PolicyInput, PolicyResult, User

from ..support.gates import Recording, make_checker
from .http_requests import ALLOWED, DENIED, admitting, assert_untouched, refusal
from .http_servers import Server

pytestmark = pytest.mark.usefixtures("environment_of_httpx")


@pytest.mark.parametrize(
    ("host", "id"),
    [
        (DENIED, DENIED),
        ("internal.example:8080", "internal.example"),
        ("[::1]", "::1"),
        (f"{ALLOWED}, {DENIED}", None),
        (f"{ALLOWED}@{DENIED}", None),
        (f"{ALLOWED}/x", None),
        (f"{ALLOWED}:80:80", None),
        ("", None),
        (" ", None),
    ],
)
def test_host_header_names_another_host(host: str, id: str | None, allowed: Server) -> None:
    with using(admitting(ALLOWED)), gated_client() as client, pytest.raises(CapabilityDenied) as error:
        client.get(allowed.url(), headers={"Host": host})
    resource = refusal(error)[1]
    assert (resource.id, resource.attributes["part"]) == (id, "host_header")
    assert_untouched(allowed)


def test_host_header_that_is_listed(allowed: Server) -> None:
    with using(admitting(ALLOWED, "shop.example")), gated_client() as client:
        for host in ("shop.example", "SHOP.example:80", ALLOWED, f"{ALLOWED}:{allowed.port}"):
            assert client.get(allowed.url(), headers={"Host": host}).status_code == 200
    assert [host for _, _, host in allowed.arrivals.requests][:2] == ["shop.example", "SHOP.example:80"]


def test_two_host_headers(allowed: Server) -> None:
    """Even where both are listed: which of them counts is anybody's guess."""
    headers = [("Host", ALLOWED), ("hOST", "localhost")]
    with using(admitting(ALLOWED, "localhost")), gated_client() as client, pytest.raises(CapabilityDenied) as error:
        client.get(allowed.url(), headers=headers)
    assert refusal(error)[0] == "missing_resource"
    assert_untouched(allowed)


def test_fields_of_http2(allowed: Server) -> None:
    with using(admitting(ALLOWED)), gated_client() as client, pytest.raises(CapabilityDenied) as error:
        client.get(allowed.url(), headers={":authority": DENIED})
    assert refusal(error)[1].attributes["refused"] == "header"
    assert_untouched(allowed)


def test_connect_would_be_a_tunnel(allowed: Server) -> None:
    with using(admitting(ALLOWED)), gated_client() as client:
        for method in ("CONNECT", "connect"):
            with pytest.raises(CapabilityDenied) as error:
                client.request(method, allowed.url())
            assert refusal(error)[1].attributes["refused"] == "method"
    assert_untouched(allowed)


def test_a_replaced_target(allowed: Server, denied: Server) -> None:
    """httpcore's extension: an absolute-form target makes a forward proxy out of a server that is one."""
    extensions = {"target": denied.url("/stolen").encode()}
    with httpx.Client() as ungated:
        ungated.get(allowed.url(), extensions=extensions)
    assert allowed.arrivals.targets == [denied.url("/stolen")], "without the gate it is sent"
    with using(admitting(ALLOWED)), gated_client() as client, pytest.raises(CapabilityDenied) as error:
        client.get(allowed.url(), extensions=extensions)
    assert refusal(error)[1].attributes["refused"] == "extension"
    assert len(allowed.arrivals.requests) == 1


def test_a_trace_that_moves_the_connection(allowed: Server, denied: Server) -> None:
    """httpcore hands its ``trace`` the very arguments that it connects with."""

    def trace(name: str, info: dict[str, Any]) -> None:
        if name == "connection.connect_tcp.started":
            info.update(host=DENIED, port=denied.port)

    with httpx.Client() as ungated:
        ungated.get(allowed.url(), extensions={"trace": trace})
    assert len(denied.arrivals.requests) == 1, "without the gate it leads there"
    with using(admitting(ALLOWED)), gated_client() as client, pytest.raises(CapabilityDenied):
        client.get(allowed.url(), extensions={"trace": trace})
    assert len(denied.arrivals.requests) == 1
    assert_untouched(allowed)


@pytest.mark.parametrize(("sni", "id"), [(DENIED, DENIED), ("", None), (b"localhost", None), ("örtlich", None)])
def test_the_name_shown_in_tls(sni: Any, id: str | None, allowed: Server) -> None:
    with using(admitting(ALLOWED, "localhost")), gated_client() as client:
        assert client.get(allowed.url(), extensions={"sni_hostname": "LOCALHOST"}).status_code == 200
        with pytest.raises(CapabilityDenied) as error:
            client.get(allowed.url(), extensions={"sni_hostname": sni})
    resource = refusal(error)[1]
    assert (resource.id, resource.attributes["part"]) == (id, "sni")
    assert len(allowed.arrivals.requests) == 1


async def test_each_round_of_an_authentication_is_asked(allowed: Server, denied: Server) -> None:
    recording = Recording(make_checker("local", {"egress": [ALLOWED]}))

    class Elsewhere(httpx.Auth):
        def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
            yield httpx.Request("POST", denied.url("/token"))
            yield request

    with using(capabilities_for(recording, User("ann"), deadline=20.0)):
        async with gated_async_client() as client:
            response = await client.get(allowed.url("/digest"), auth=httpx.DigestAuth("ann", "secret"))
            assert response.status_code == 200
            with pytest.raises(CapabilityDenied):
                await client.get(allowed.url("/x"), auth=Elsewhere())
    assert [id for _, id in recording.questions] == [ALLOWED, ALLOWED, DENIED]
    assert allowed.arrivals.targets == ["/digest", "/digest"]
    assert_untouched(denied)


def test_an_event_hook_that_changes_the_request(allowed: Server, denied: Server) -> None:
    def hook(request: httpx.Request) -> None:
        request.url = httpx.URL(denied.url())

    client = gated_client(event_hooks={"request": [hook]})
    with client, using(admitting(ALLOWED)), pytest.raises(CapabilityDenied) as error:
        client.get(allowed.url())
    assert refusal(error)[1].id == DENIED
    assert_untouched(denied)


async def test_what_is_sent_is_what_was_asked_about(allowed: Server, denied: Server) -> None:
    """A request that changes while the policy is asked, as when another task has hold of it."""
    request = httpx.Request("GET", allowed.url("/asked"))

    class Changing:
        async def check(self, input: PolicyInput) -> PolicyResult:
            request.url = httpx.URL(denied.url())
            request.headers["Host"] = DENIED
            request.extensions["target"] = b"/other"
            request.method = "DELETE"
            return ALLOW

    with using(capabilities_for(Changing(), User("ann"), deadline=20.0)):
        async with gated_async_client() as client:
            assert (await client.send(request)).status_code == 200
    assert allowed.arrivals.requests == [("GET", "/asked", f"{ALLOWED}:{allowed.port}")]
    assert_untouched(denied)
