"""The host that gated HTTP asks about: of redirects, and of names that only look like an allowed one."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from capgate.capabilities import CapabilityDenied, using
from capgate.capabilities.http import (
    OutboundRules,
    gated_async_client,
    gated_client,
)

from .http_requests import ALLOWED, DENIED, admitting, asked_about, assert_untouched, refusal
from .http_servers import Server, serving

pytestmark = pytest.mark.usefixtures("environment_of_httpx")

#: One that keeps the method and the body; the others are left to the full run.
REDIRECTS = [307, *(pytest.param(status, marks=pytest.mark.slow) for status in (301, 302, 303, 308))]


# -- redirects


@pytest.mark.parametrize("status", REDIRECTS)
@pytest.mark.parametrize("hops", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_redirect_to_a_denied_host(status: int, hops: int, allowed: Server, denied: Server) -> None:
    url = denied.url("/stolen")
    for _ in range(hops):
        url = str(httpx.URL(allowed.url("/to"), params={"url": url, "status": str(status)}))
    with httpx.Client(follow_redirects=True) as ungated:
        ungated.post(url, content=b"body")
    assert len(denied.arrivals.requests) == 1, "without the gate it leads there"
    with using(admitting(ALLOWED)), gated_client(follow_redirects=True) as client:
        with pytest.raises(CapabilityDenied) as error:
            client.post(url, content=b"body")
        assert client.get(allowed.url("/after")).status_code == 200
    assert refusal(error)[1].id == DENIED
    assert len(denied.arrivals.requests) == 1
    assert len(allowed.arrivals.requests) == 2 * hops + 1


@pytest.mark.parametrize("status", REDIRECTS)
async def test_redirect_to_a_denied_host_async(status: int, allowed: Server, denied: Server) -> None:
    url = httpx.URL(allowed.url("/to"), params={"url": denied.url(), "status": str(status)})
    with using(admitting(ALLOWED)):
        async with gated_async_client(follow_redirects=True) as client:
            with pytest.raises(CapabilityDenied):
                await client.get(url)
    assert len(allowed.arrivals.requests) == 1
    assert_untouched(denied)


@pytest.mark.parametrize(
    "location",
    [
        "//{denied}/x",  # the scheme of the page
        "http://{allowed}@{denied}/x",  # the allowed host as a user
        "http://{allowed}\\@{denied}/x",
        "HTTP://{denied}/x",
    ],
)
def test_locations_that_look_like_the_allowed_host(location: str, allowed: Server, denied: Server) -> None:
    places = {"allowed": f"{ALLOWED}:{allowed.port}", "denied": f"{DENIED}:{denied.port}"}
    url = httpx.URL(allowed.url("/to"), params={"url": location.format(**places)})
    with using(admitting(ALLOWED)), gated_client(follow_redirects=True) as client, pytest.raises(CapabilityDenied):
        client.get(url)
    assert_untouched(denied)


def test_denials_keep_no_connection(allowed: Server, denied: Server) -> None:
    """A pool of one: it would be exhausted if a denied hop kept the connection of the one before."""
    url = httpx.URL(allowed.url("/to"), params={"url": denied.url()})
    options: dict[str, Any] = {"limits": httpx.Limits(max_connections=1), "timeout": httpx.Timeout(30, pool=5)}
    with using(admitting(ALLOWED)), gated_client(follow_redirects=True, **options) as client:
        for _ in range(20):
            with pytest.raises(CapabilityDenied):
                client.get(url)
        assert client.get(allowed.url("/after")).status_code == 200
    assert allowed.arrivals.connections == 1
    assert_untouched(denied)


# -- names. For each: what it is, and whether httpx as it is gets to the denied server, on any machine.


TRICKS: dict[str, tuple[str, bool]] = {
    "the allowed host as a user": ("http://{a}@{d}/", True),
    "the allowed host as a user, with a port": ("http://{a}:{pa}@{d}:{pd}/", True),
    "a backslash before the @": ("http://{a}:{pa}\\@{d}:{pd}/", True),
    "an encoded slash before the @": ("http://{a}%2f@{d}:{pd}/", True),
    "two @": ("http://{a}@{a}@{d}:{pd}/", True),
    "the address as one number": ("http://2130706434:{pd}/", True),
    "the address in hexadecimal": ("http://0x7f.0.0.2:{pd}/", True),
    "the address without its zeros": ("http://127.2:{pd}/", True),
    "the address in octal": ("http://0177.0.0.2:{pd}/", False),
    "a trailing dot": ("http://{d}.:{pd}/", False),
    "an encoded dot": ("http://127.0.0%2e2:{pd}/", False),
    "a fullwidth digit": ("http://127.0.0.\uff12:{pd}/", False),
    "an upper-case scheme": ("HTTP://{d}:{pd}/", True),
    "no scheme": ("//{d}:{pd}/", False),
    "no host": ("http:///{d}:{pd}/", False),
    "a scheme that leads elsewhere": ("ftp://{d}:{pd}/", False),
    "a websocket's scheme": ("ws://{d}:{pd}/", True),
    "an IPv4 address as IPv6": ("http://[::ffff:127.0.0.2]:{pd}/", False),
    "an IPv4 address as IPv6, in hexadecimal": ("http://[::ffff:7f00:2]:{pd}/", False),
}


def trick(name: str, allowed: Server, denied: Server) -> str:
    """The URL of that name. Credentials without a port need the port of the host after them."""
    url = TRICKS[name][0].replace("@{d}/", "@{d}:{pd}/")
    return url.format(a=ALLOWED, pa=allowed.port, d=DENIED, pd=denied.port)


@pytest.mark.parametrize("name", TRICKS)
def test_names_that_lead_past_an_allowlist_elsewhere(name: str, allowed: Server, denied: Server) -> None:
    url = trick(name, allowed, denied)
    with using(admitting(ALLOWED)), gated_client() as client, pytest.raises((CapabilityDenied, httpx.InvalidURL)):
        client.get(url)
    assert_untouched(denied)
    assert_untouched(allowed)
    if TRICKS[name][1]:
        with httpx.Client() as ungated:
            ungated.get(url)
        assert len(denied.arrivals.requests) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", TRICKS)
async def test_names_that_lead_past_an_allowlist_elsewhere_async(name: str, allowed: Server, denied: Server) -> None:
    url = trick(name, allowed, denied)
    with using(admitting(ALLOWED)):
        async with gated_async_client() as client:
            with pytest.raises((CapabilityDenied, httpx.InvalidURL)):
                await client.get(url)
    assert_untouched(denied)


@pytest.mark.parametrize(
    ("url", "id"),
    [
        ("http://EXAMPLE.com/", "example.com"),
        ("http://example.com./", "example.com"),
        ("http://bücher.example/", "xn--bcher-kva.example"),
        ("http://xn--bcher-kva.example/", "xn--bcher-kva.example"),
        ("http://XN--BCHER-KVA.example/", "xn--bcher-kva.example"),
        ("http://[::1]/", "::1"),
        ("http://[0:0:0:0:0:0:0:1]/", "::1"),
        ("http://example.com:443/", "example.com"),
        ("http://example.com\\.other.example/", None),
        ("http://user:pass@example.com/", "example.com"),
        ("http:///path", None),
        ("http://", None),
        ("http://:80/", None),
        ("ftp://example.com/", None),
        ("file:///etc/passwd", None),
        ("http://example.com:0/", None),  # httpcore takes port 80
        ("http://example.com:65536/", None),
        ("http://example.com:65616/", None),  # a resolver may take port 80
        ("http://example.com:-1/", None),
    ],
)
def test_the_host_that_is_asked_about(url: str, id: str | None) -> None:
    assert asked_about(OutboundRules(None, None, None), httpx.Request("GET", url)).id == id


def test_upper_case_is_the_same_name(allowed: Server) -> None:
    """# S7: A to Z as a to z, and nothing else."""
    with using(admitting("LOCALHOST")), gated_client() as client:
        assert client.get(f"http://LocalHost:{allowed.port}/").status_code == 200


def test_ports(allowed: Server) -> None:
    with serving(ALLOWED) as other, gated_client(capabilities=admitting(ALLOWED), ports={allowed.port}) as client:
        assert client.get(allowed.url()).status_code == 200
        for port in (other.port, other.port + 65_536, 0):
            with pytest.raises(CapabilityDenied) as error:
                client.get(f"http://{ALLOWED}:{port}/")
            reason, resource = refusal(error)
            assert (reason, resource.id, resource.attributes["refused"]) == ("missing_resource", None, "port")
        with pytest.raises(CapabilityDenied):
            client.get(allowed.url(), headers={"Host": f"{ALLOWED}:{other.port}"})
        assert_untouched(other)
    assert len(allowed.arrivals.requests) == 1
