"""Gated httpx: a transport that asks ``http.outbound`` on the host of each request before anything of it leaves.

::

    client = gated_async_client(follow_redirects=True)          # everything that httpx.AsyncClient takes
    client = httpx.Client(transport=GatedTransport())           # the same by hand; mounts need their own

A transport sees each request that leaves, so each hop of a redirect and each round of an authentication flow is a
question of its own. All of these must be allowed, and are asked as one batch:

- the host of the URL, as it is sent: names are lower-case ASCII (IDNA by httpx), IPv6 addresses have no brackets. A
  trailing dot, another spelling of an address or another IDNA form is another name, which a policy does not list
- the host of a ``Host`` header, and of the extension ``sni_hostname``, where it is another one
- the host of the proxy, which is where the connection goes

Asked without an id, thus denied ``missing_resource``:

- a URL without a host, and a scheme other than http, https, ws and wss
- a port outside of 1 to 65535 or of ``ports``
- the method CONNECT
- a ``Host`` that is not exactly one plain name
- header names that begin with a colon (HTTP/2 has fields of its own)
- every extension but ``timeout`` and ``sni_hostname``. One, ``target``, replaces the target of the request. Another,
  ``trace``, is handed what httpcore is about to connect to, and may change it

``Resource.attributes`` hold ``part`` (which of these it is), ``scheme``, ``port``, ``method``, and ``refused`` where
there is no id.

Not gated:

- the address that a name resolves to
- a unix socket, a local address or a network backend that ``inner`` was made with
- what an allowed server does on behalf of a request, and what code does with the ``network_stream`` of a response
- any code that opens a connection without these transports
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, TypeVar, Union

import httpcore
import httpx

from ..enforcement.capabilities import Capabilities, Question
from ..enforcement.current import current
from ..errors import ConfigError
from ..model import Resource
from ..spelling import is_read_alike, normal_host

ProxyLike = Union[str, httpx.URL, httpx.Proxy]

ACTION: Final = "http.outbound"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_PROXY_PORTS: Final = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
_PORTS: Final = range(1, 65_536)
#: Extensions of httpcore that lead nowhere else; ``sni_hostname`` is asked about.
_EXTENSIONS: Final = frozenset({"timeout", "sni_hostname"})
#: A ``Host`` header: a name or an address, and perhaps a port. Stricter than RFC 9110.
_HOST: Final = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?", re.ASCII)
#: What of a client's options its transports are made with.
_TRANSPORT_OPTIONS: Final = ("verify", "cert", "trust_env", "http1", "http2", "limits")

_Transport = TypeVar("_Transport", httpx.BaseTransport, httpx.AsyncBaseTransport)


class GatedTransport(httpx.BaseTransport):
    """Asks before each request, and hands it to ``inner`` (:class:`httpx.HTTPTransport` by default) if it may leave.

    ``capabilities``  whom to ask; by default those of the request that is being served
    ``ports``         the only ports that are allowed; by default any
    ``proxy``         the proxy that requests go through, which is asked about too. Without ``inner``, one is made that
                      uses it; with one, say here what it was made with

    A denied request raises :class:`~capgate.errors.CapabilityDenied`, and nothing of it leaves. Streams, timeouts and
    everything else pass through. :class:`ConfigError` for an ``inner`` that has a proxy which is not named here.
    """

    def __init__(
        self,
        inner: httpx.BaseTransport | None = None,
        *,
        capabilities: Capabilities | None = None,
        ports: Iterable[int] | None = None,
        proxy: ProxyLike | None = None,
    ) -> None:
        self._rules = OutboundRules(capabilities, ports, proxy)
        self._inner = httpx.HTTPTransport(proxy=proxy) if inner is None else inner
        if not isinstance(self._inner, httpx.BaseTransport):
            raise ConfigError("inner", inner, "a transport of httpx (synchronous)")
        if isinstance(self._inner, httpx.HTTPTransport) and proxy is None:
            _reject_hidden_proxy(self._inner, httpcore.ConnectionPool)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Raises :class:`~capgate.errors.CapabilityDenied`, or what ``inner`` raises."""
        request = snapshot(request)
        self._rules.capabilities.require_all_now(self._rules.questions(request))
        return self._inner.handle_request(request)

    def close(self) -> None:
        self._inner.close()

    def __enter__(self) -> GatedTransport:
        self._inner.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._inner.__exit__(exc_type, exc_value, traceback)


class AsyncGatedTransport(httpx.AsyncBaseTransport):
    """:class:`GatedTransport` for :class:`httpx.AsyncClient`, under asyncio and trio."""

    def __init__(
        self,
        inner: httpx.AsyncBaseTransport | None = None,
        *,
        capabilities: Capabilities | None = None,
        ports: Iterable[int] | None = None,
        proxy: ProxyLike | None = None,
    ) -> None:
        self._rules = OutboundRules(capabilities, ports, proxy)
        self._inner = httpx.AsyncHTTPTransport(proxy=proxy) if inner is None else inner
        if not isinstance(self._inner, httpx.AsyncBaseTransport):
            raise ConfigError("inner", inner, "a transport of httpx (asynchronous)")
        if isinstance(self._inner, httpx.AsyncHTTPTransport) and proxy is None:
            _reject_hidden_proxy(self._inner, httpcore.AsyncConnectionPool)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises :class:`~capgate.errors.CapabilityDenied`, or what ``inner`` raises."""
        request = snapshot(request)
        await self._rules.capabilities.require_all(self._rules.questions(request))
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> AsyncGatedTransport:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._inner.__aexit__(exc_type, exc_value, traceback)


def gated_client(
    *,
    capabilities: Capabilities | None = None,
    ports: Iterable[int] | None = None,
    transport: httpx.BaseTransport | None = None,
    proxy: ProxyLike | None = None,
    mounts: Mapping[str, httpx.BaseTransport | None] | None = None,
    **options: Any,
) -> httpx.Client:
    """Make an :class:`httpx.Client` with these options, of which every transport is a :class:`GatedTransport`.

    That is its own, that of ``proxy`` or of each proxy in the environment (unless ``trust_env=False``), and each of
    ``mounts``.
    """
    ports = None if ports is None else checked_ports(ports)

    def gate(inner: httpx.BaseTransport, proxy: ProxyLike | None) -> httpx.BaseTransport:
        if isinstance(inner, GatedTransport):
            return inner
        return GatedTransport(inner, capabilities=capabilities, ports=ports, proxy=proxy)

    transport, mounted = _transports(gate, httpx.HTTPTransport, transport, proxy, mounts, options)
    return httpx.Client(transport=transport, mounts=mounted, **options)


def gated_async_client(
    *,
    capabilities: Capabilities | None = None,
    ports: Iterable[int] | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    proxy: ProxyLike | None = None,
    mounts: Mapping[str, httpx.AsyncBaseTransport | None] | None = None,
    **options: Any,
) -> httpx.AsyncClient:
    """:func:`gated_client` for :class:`httpx.AsyncClient`."""
    ports = None if ports is None else checked_ports(ports)

    def gate(inner: httpx.AsyncBaseTransport, proxy: ProxyLike | None) -> httpx.AsyncBaseTransport:
        if isinstance(inner, AsyncGatedTransport):
            return inner
        return AsyncGatedTransport(inner, capabilities=capabilities, ports=ports, proxy=proxy)

    transport, mounted = _transports(gate, httpx.AsyncHTTPTransport, transport, proxy, mounts, options)
    return httpx.AsyncClient(transport=transport, mounts=mounted, **options)


def _transports(
    gate: Callable[[_Transport, ProxyLike | None], _Transport],
    make: Callable[..., _Transport],
    transport: _Transport | None,
    proxy: ProxyLike | None,
    mounts: Mapping[str, _Transport | None] | None,
    options: Mapping[str, Any],
) -> tuple[_Transport, dict[str, _Transport | None]]:
    """Return the transport and the mounts that a client of httpx would have with these options, through ``gate``."""
    own = {name: options[name] for name in _TRANSPORT_OPTIONS if name in options}
    proxies: Mapping[str, ProxyLike | None] = {}
    if proxy is not None:
        proxies = {"all://": proxy}
    elif transport is None and options.get("trust_env", True):
        # httpx's own reading of the environment; no public way leads to it, and without it this raises.
        from httpx._utils import get_environment_proxies

        proxies = get_environment_proxies()
    mounted = {pattern: None if url is None else gate(make(proxy=url, **own), url) for pattern, url in proxies.items()}
    for pattern, inner in (mounts or {}).items():
        mounted[pattern] = None if inner is None else gate(inner, None)
    return gate(make(**own) if transport is None else transport, None), mounted


def _reject_hidden_proxy(inner: object, plain: type) -> None:
    # The pools of httpcore that use a proxy are subclasses. Where the attribute is gone nothing is known: rejected.
    if type(getattr(inner, "_pool", None)) is not plain:
        raise ConfigError("inner", inner, "a transport without a proxy, or proxy= with the one that it was made with")


# -- the questions about one request


class OutboundRules:
    """What a transport is told when it is made: whom to ask, which ports, and through which proxy requests go."""

    def __init__(self, capabilities: Capabilities | None, ports: Iterable[int] | None, proxy: ProxyLike | None) -> None:
        if capabilities is not None and not isinstance(capabilities, Capabilities):
            raise ConfigError("capabilities", capabilities, "Capabilities, or None for those of the current request")
        self._capabilities = capabilities
        self._ports = None if ports is None else checked_ports(ports)
        self._proxy = None if proxy is None else _proxy_question(proxy)
        self._forwards = proxy is not None and _proxy_url(proxy).scheme in ("http", "https")

    @property
    def capabilities(self) -> Capabilities:
        """Whom to ask about what happens now."""
        return current() if self._capabilities is None else self._capabilities

    def questions(self, request: httpx.Request) -> list[Question]:
        """Return all that must be allowed for ``request`` to leave."""
        url, method = request.url, request.method
        scheme, host = url.scheme, url.raw_host.decode("ascii")
        port = _DEFAULT_PORTS.get(scheme, 0) if url.port is None else url.port
        uncertain = _uncertain(request) or self._uncertain_port(port)
        if self._proxy is not None and not is_read_alike(host):
            uncertain = "address"  # the proxy may take 010.0.0.1 for another one than resolvers do
        if self._forwards and ":" in host:
            uncertain = "address"  # httpcore writes it without brackets, so its end and the port are anybody's guess
        attributes = {"scheme": scheme, "port": str(port), "method": method}
        questions = [_question(None if uncertain else host, "url", attributes, uncertain)]
        for part, other, other_port in _also_named(request, port):
            if (other, other_port) != (host.lower(), port):
                why = "name" if other is None else self._uncertain_port(other_port)
                there = {**attributes, "port": str(other_port)}
                questions.append(_question(None if why else other, part, there, why))
        if self._proxy is not None:
            questions.append(self._proxy)
        return questions

    def _uncertain_port(self, port: int) -> str | None:
        # Zero is no port: httpcore takes the default for it. Above the range, resolvers take the lower 16 bits.
        return None if port in _PORTS and (self._ports is None or port in self._ports) else "port"


def snapshot(request: httpx.Request) -> httpx.Request:
    """Copy ``request`` as it is now: what is sent is what was asked about, whoever else has hold of the original."""
    return httpx.Request(
        request.method, request.url, headers=request.headers, stream=request.stream, extensions=request.extensions
    )


def checked_ports(ports: Iterable[int]) -> frozenset[int]:
    """Return ``ports``, or raise :class:`ConfigError`."""
    checked = frozenset(ports)
    for port in checked:
        if type(port) is not int or port not in _PORTS:
            raise ConfigError("ports", port, "whole numbers from 1 to 65535")
    return checked


def _uncertain(request: httpx.Request) -> str | None:
    """Say in a word why no host of ``request`` is known for certain; ``None`` where one is."""
    if not request.url.raw_host:
        return "name"
    if request.url.scheme not in _DEFAULT_PORTS:
        return "scheme"
    if request.method == "CONNECT":
        return "method"
    if not _EXTENSIONS.issuperset(request.extensions):
        return "extension"
    return "header" if any(name.startswith(b":") for name, _ in request.headers.raw) else None


def _also_named(request: httpx.Request, port: int) -> list[tuple[str, str | None, int]]:
    """List the other places that name a host: ``(part, host, port)``, the host ``None`` where it cannot be told."""
    places: list[tuple[str, str | None, int]] = []
    hosts = [value for name, value in request.headers.raw if name.lower() == b"host"]
    for value in hosts:
        match = _HOST.fullmatch(value) if len(hosts) == 1 else None
        if match is None:
            places.append(("host_header", None, port))
        else:
            name = (match[1] or match[2]).decode("ascii").lower()
            places.append(("host_header", name, port if match[3] is None else int(match[3])))
    sni = request.extensions.get("sni_hostname")
    if sni is not None:
        places.append(("sni", sni.lower() if type(sni) is str and sni.isascii() and sni else None, port))
    return places


def _question(host: str | None, part: str, attributes: dict[str, str], uncertain: str | None) -> Question:
    if uncertain is None and (host is None or normal_host(host) is None):
        uncertain = "name"
    more = {"part": part} if uncertain is None else {"part": part, "refused": uncertain}
    return ACTION, Resource("host", host, {**attributes, **more})


def _proxy_question(proxy: ProxyLike) -> Question:
    """Return what is asked about ``proxy``. Raises :class:`ConfigError` where no host of it is known."""
    url = _proxy_url(proxy)
    port = _PROXY_PORTS.get(url.scheme, 0) if url.port is None else url.port
    if not url.raw_host or url.scheme not in _PROXY_PORTS or port not in _PORTS:
        valid = "a URL with a host and one of the schemes " + ", ".join(_PROXY_PORTS)
        raise ConfigError("proxy", f"{url.scheme}://{url.host}:{url.port}", valid)
    attributes = {"scheme": url.scheme, "port": str(port), "method": "CONNECT"}
    return _question(url.raw_host.decode("ascii"), "proxy", attributes, None)


def _proxy_url(proxy: ProxyLike) -> httpx.URL:
    return proxy.url if isinstance(proxy, httpx.Proxy) else httpx.URL(proxy)
