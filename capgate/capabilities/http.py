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

Asked without an id, thus denied ``missing_resource``: a URL without a host, a scheme other than http, https, ws and
wss, a port outside of 1 to 65535 or of ``ports``, the method CONNECT, a ``Host`` that is not exactly one plain name,
header names that begin with a colon (HTTP/2 has fields of its own), and every extension but ``timeout`` and
``sni_hostname``: ``target`` replaces the target of the request, ``trace`` is handed what httpcore is about to connect
to, and may change it. ``Resource.attributes`` hold ``part`` (which of these it is), ``scheme``, ``port``, ``method``,
and ``refused`` where there is no id.

Not gated: where a name resolves to; a unix socket, a local address or a network backend that ``inner`` was made with;
what an allowed server does on behalf of a request; what code does with the ``network_stream`` of a response; and
any code that opens a connection without these transports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Final

import httpcore
import httpx

from ..enforcement.capabilities import Capabilities
from ..errors import ConfigError
from ._outbound import Outbound, ProxyLike, checked_ports, snapshot

#: What of a client's options its transports are made with.
_TRANSPORT_OPTIONS: Final = ("verify", "cert", "trust_env", "http1", "http2", "limits")


class GatedTransport(httpx.BaseTransport):
    """Asks before each request, and hands it to ``inner`` (:class:`httpx.HTTPTransport` by default) if it may leave.

    ``capabilities``  whom to ask; by default those of the request that is being served (:func:`~capgate.enforcement.current`)
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
        self._outbound = Outbound(capabilities, ports, proxy)
        self._inner = httpx.HTTPTransport(proxy=proxy) if inner is None else inner
        if not isinstance(self._inner, httpx.BaseTransport):
            raise ConfigError("inner", inner, "a transport of httpx (synchronous)")
        if isinstance(self._inner, httpx.HTTPTransport) and proxy is None:
            _refuse_hidden_proxy(self._inner, httpcore.ConnectionPool)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Raises :class:`~capgate.errors.CapabilityDenied`, or what ``inner`` raises."""
        request = snapshot(request)
        self._outbound.capabilities.require_all_now(self._outbound.questions(request))
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
        self._outbound = Outbound(capabilities, ports, proxy)
        self._inner = httpx.AsyncHTTPTransport(proxy=proxy) if inner is None else inner
        if not isinstance(self._inner, httpx.AsyncBaseTransport):
            raise ConfigError("inner", inner, "a transport of httpx (asynchronous)")
        if isinstance(self._inner, httpx.AsyncHTTPTransport) and proxy is None:
            _refuse_hidden_proxy(self._inner, httpcore.AsyncConnectionPool)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises :class:`~capgate.errors.CapabilityDenied`, or what ``inner`` raises."""
        request = snapshot(request)
        await self._outbound.capabilities.require_all(self._outbound.questions(request))
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
    """An :class:`httpx.Client` with these options, of which every transport is a :class:`GatedTransport`: its own, that
    of ``proxy`` or of each proxy in the environment (unless ``trust_env=False``), and each of ``mounts``."""
    ports = None if ports is None else checked_ports(ports)

    def gate(inner: httpx.BaseTransport, proxy: ProxyLike | None = None) -> httpx.BaseTransport:
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

    def gate(inner: httpx.AsyncBaseTransport, proxy: ProxyLike | None = None) -> httpx.AsyncBaseTransport:
        if isinstance(inner, AsyncGatedTransport):
            return inner
        return AsyncGatedTransport(inner, capabilities=capabilities, ports=ports, proxy=proxy)

    transport, mounted = _transports(gate, httpx.AsyncHTTPTransport, transport, proxy, mounts, options)
    return httpx.AsyncClient(transport=transport, mounts=mounted, **options)


def _transports(
    gate: Callable[..., Any],
    make: Callable[..., Any],
    transport: Any,
    proxy: ProxyLike | None,
    mounts: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> tuple[Any, dict[str, Any]]:
    """The transport and the mounts that a client of httpx would have with these options, all through ``gate``."""
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
        mounted[pattern] = None if inner is None else gate(inner)
    return gate(make(**own) if transport is None else transport), mounted


def _refuse_hidden_proxy(inner: Any, plain: type) -> None:
    # The pools of httpcore that use a proxy are subclasses. Where the attribute is gone nothing is known: refused.
    if type(getattr(inner, "_pool", None)) is not plain:
        raise ConfigError("inner", inner, "a transport without a proxy, or proxy= with the one that it was made with")
