"""Gated HTTP through proxies, mounts and sockets, and what a transport is not made with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from capgate.capabilities import CapabilityDenied, using
from capgate.capabilities.http import (
    AsyncGatedTransport,
    GatedTransport,
    OutboundRules,
    gated_async_client,
    gated_client,
)
from capgate.errors import ConfigError

from .http_requests import ALLOWED, DENIED, admitting, asked_about, assert_untouched, refusal
from .http_servers import Server, serving_unix

pytestmark = pytest.mark.usefixtures("environment_of_httpx")


@pytest.mark.parametrize(
    ("hosts", "id", "part"), [((ALLOWED,), "shop.example", "url"), (("shop.example",), ALLOWED, "proxy")]
)
def test_a_proxy_and_what_is_behind_it_must_both_be_allowed(
    hosts: tuple[str, ...], id: str, part: str, allowed: Server
) -> None:
    proxy, url = f"http://ann:secret@{ALLOWED}:{allowed.port}", "http://shop.example/x"
    with using(admitting(*hosts)), gated_client(proxy=proxy) as client, pytest.raises(CapabilityDenied) as error:
        client.get(url)
    resource = refusal(error)[1]
    assert (resource.id, resource.attributes["part"]) == (id, part)
    assert_untouched(allowed)
    with using(admitting(ALLOWED, "shop.example")), gated_client(proxy=proxy, ports={80}) as client:
        assert client.get(url).status_code == 200
    assert allowed.arrivals.targets == [url]


async def test_a_tunnel_through_a_proxy(allowed: Server) -> None:
    with using(admitting(ALLOWED)):
        async with gated_async_client(proxy=allowed.url()) as client:
            with pytest.raises(CapabilityDenied):
                await client.get("https://shop.example/")
    assert_untouched(allowed)


def test_a_proxy_from_the_environment(allowed: Server, denied: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable is enough to move every request (and a ``Proxy:`` header becomes one under CGI: "httpoxy")."""
    monkeypatch.setenv("HTTP_PROXY", denied.url())
    with using(admitting(ALLOWED)):
        with gated_client() as client, pytest.raises(CapabilityDenied) as error:
            client.get(allowed.url())
        assert refusal(error)[1].id == DENIED
        assert_untouched(denied)
        with gated_client(trust_env=False) as client:
            assert client.get(allowed.url("/direct")).status_code == 200
        monkeypatch.setenv("NO_PROXY", ALLOWED)
        with gated_client() as client:
            assert client.get(allowed.url("/excepted")).status_code == 200
            with pytest.raises(CapabilityDenied):
                client.get("http://localhost/")
    assert_untouched(denied)
    with using(admitting(DENIED, "shop.example")), gated_client() as client:
        assert client.get("http://shop.example/x").status_code == 200
    assert denied.arrivals.targets == ["http://shop.example/x"]
    assert allowed.arrivals.targets == ["/direct", "/excepted"]


def test_an_ipv6_address_through_a_forwarding_proxy(allowed: Server) -> None:
    """httpcore writes ``http://::1:8080/``: the proxy may read another address."""
    request = httpx.Request("GET", "http://[::1]:8080/")
    forwarded = asked_about(OutboundRules(None, None, allowed.url()), request)
    assert (forwarded.id, forwarded.attributes["refused"]) == (None, "address")
    assert asked_about(OutboundRules(None, None, "socks5://localhost"), request).id == "::1"


def test_each_mount_is_gated(allowed: Server, denied: Server) -> None:
    mounts: dict[str, httpx.BaseTransport | None] = {
        f"all://{DENIED}": httpx.HTTPTransport(),
        "all://localhost": None,
        "all://other.example": GatedTransport(httpx.HTTPTransport(), capabilities=admitting()),
    }
    with using(admitting(ALLOWED, "other.example")), gated_client(mounts=mounts) as client:
        for url in (denied.url(), f"http://localhost:{allowed.port}/", "http://other.example/"):
            with pytest.raises(CapabilityDenied):
                client.get(url)
        assert client.get(allowed.url()).status_code == 200
    assert_untouched(denied)
    assert len(allowed.arrivals.requests) == 1


async def test_each_mount_is_gated_async(allowed: Server, denied: Server) -> None:
    mounts = {f"all://{DENIED}": httpx.AsyncHTTPTransport()}
    with using(admitting(ALLOWED)):
        async with gated_async_client(mounts=mounts, transport=httpx.AsyncHTTPTransport()) as client:
            with pytest.raises(CapabilityDenied):
                await client.get(denied.url())
            assert (await client.get(allowed.url())).status_code == 200
    assert_untouched(denied)


class Falsy(httpx.HTTPTransport):
    def __bool__(self) -> bool:
        return False


def test_a_transport_that_counts_as_false_is_gated_too(denied: Server) -> None:
    for options in ({"transport": Falsy()}, {"mounts": {"all://": Falsy()}}):
        with using(admitting(ALLOWED)), gated_client(**options) as client, pytest.raises(CapabilityDenied):
            client.get(denied.url())
    assert_untouched(denied)


def test_a_unix_socket_is_where_its_transport_leads(tmp_path: Path) -> None:
    """The URL is asked about; where the socket is, whoever made the transport decided."""
    with serving_unix(tmp_path / "s") as server:
        inner = httpx.HTTPTransport(uds=str(tmp_path / "s"))
        with using(admitting("daemon")), gated_client(transport=inner) as client:
            with pytest.raises(CapabilityDenied):
                client.get("http://other/")
            assert_untouched(server)
            assert client.get("http://daemon/").status_code == 200


@pytest.mark.parametrize(
    ("setting", "options"),
    [
        ("inner", {"inner": httpx.HTTPTransport(proxy="http://proxy.example")}),
        ("inner", {"inner": httpx.HTTPTransport(proxy="https://proxy.example")}),
        ("inner", {"inner": httpx.AsyncHTTPTransport()}),
        ("proxy", {"proxy": "ftp://proxy.example"}),
        ("proxy", {"proxy": "http:///nowhere"}),
        ("ports", {"ports": [0]}),
        ("ports", {"ports": [True]}),
        ("ports", {"ports": "443"}),
        ("ports", {"ports": [65_536]}),
        ("capabilities", {"capabilities": object()}),
    ],
)
def test_what_a_transport_is_not_made_with(setting: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as error:
        GatedTransport(**options)
    assert error.value.setting == setting


async def test_what_an_async_transport_is_not_made_with() -> None:
    proxied = httpx.AsyncHTTPTransport(proxy="http://proxy.example")
    for inner in (proxied, httpx.HTTPTransport()):
        with pytest.raises(ConfigError) as error:
            AsyncGatedTransport(inner)  # type: ignore[arg-type]
        assert error.value.setting == "inner"


def test_no_ports_is_no_port(allowed: Server) -> None:
    with using(admitting(ALLOWED)), gated_client(ports=()) as client, pytest.raises(CapabilityDenied):
        client.get(allowed.url())
    assert_untouched(allowed)
