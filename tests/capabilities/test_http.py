"""Gated httpx with real servers at the other end: what is denied does not arrive, not even as a connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from capgate.capabilities import Capabilities, CapabilityDenied, capabilities_for, using
from capgate.capabilities.http import (
    AsyncGatedTransport,
    GatedTransport,
    OutboundRules,
    gated_async_client,
    gated_client,
)
from capgate.errors import ConfigError
from capgate.model import ALLOW, Allow, PolicyInput, PolicyResult, Resource, User

from ..support.asgi import Call, http_scope
from ..support.gates import KINDS, Recording, events, gated, make_checker, read
from .http_servers import Server, serving, serving_unix

ALLOWED, DENIED = "127.0.0.1", "127.0.0.2"
REDIRECTS = (301, 302, 303, 307, 308)


@pytest.fixture
def allowed() -> Iterator[Server]:
    with serving(ALLOWED) as server:
        yield server


@pytest.fixture
def denied() -> Iterator[Server]:
    with serving(DENIED) as server:
        yield server


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def admitting(*hosts: str, kind: str = "local") -> Capabilities:
    return capabilities_for(make_checker(kind, {"egress": list(hosts)}), User("ann"))


def refusal(error: pytest.ExceptionInfo[CapabilityDenied]) -> tuple[str, Resource]:
    """The reason, and the resource that was asked about."""
    decision = error.value.decision
    assert decision.input.action == "http.outbound"
    return decision.result.reason, decision.input.resource


def asked_about(outbound: OutboundRules, request: httpx.Request) -> Resource:
    """What the first question about ``request`` is about, which is its URL."""
    resource = outbound.questions(request)[0][1]
    assert isinstance(resource, Resource)
    return resource


def assert_untouched(server: Server) -> None:
    assert (server.arrivals.connections, server.arrivals.requests) == (0, [])


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


# -- redirects


@pytest.mark.parametrize("status", REDIRECTS)
@pytest.mark.parametrize("hops", [1, 3])
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
        ("http://example.com./", "example.com."),  # another name: it skips the search list
        ("http://bücher.example/", "xn--bcher-kva.example"),
        ("http://xn--bcher-kva.example/", "xn--bcher-kva.example"),
        ("http://XN--BCHER-KVA.example/", "xn--bcher-kva.example"),
        ("http://[::1]/", "::1"),
        ("http://[0:0:0:0:0:0:0:1]/", "0:0:0:0:0:0:0:1"),
        ("http://example.com:443/", "example.com"),
        ("http://example.com\\.other.example/", "example.com\\.other.example"),
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


# -- what else httpx and httpcore would let a request be moved by


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


# -- proxies, mounts, sockets


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
