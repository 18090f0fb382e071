"""What a request of httpx may only leave with: the questions that :mod:`capgate.capabilities.http` asks about it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Union

import httpx

from ..enforcement.capabilities import Capabilities, Question
from ..enforcement.current import current
from ..errors import ConfigError
from ..model import Resource

ProxyLike = Union[str, httpx.URL, httpx.Proxy]

ACTION: Final = "http.outbound"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_PROXY_PORTS: Final = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
_PORTS: Final = range(1, 65_536)
#: Extensions of httpcore that lead nowhere else; ``sni_hostname`` is asked about.
_EXTENSIONS: Final = frozenset({"timeout", "sni_hostname"})
#: A ``Host`` header: a name or an address, and perhaps a port. Stricter than RFC 9110.
_HOST: Final = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?", re.ASCII)


class Outbound:
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
        """Everything that must be allowed for ``request`` to leave."""
        url, method = request.url, request.method
        scheme, host = url.scheme, url.raw_host.decode("ascii")
        port = _DEFAULT_PORTS.get(scheme, 0) if url.port is None else url.port
        refused = _refused(request) or self._refused_port(port)
        if self._forwards and ":" in host:
            refused = "address"  # httpcore writes it without brackets, so its end and the port are anybody's guess
        attributes = {"scheme": scheme, "port": str(port), "method": method}
        found = [_question(None if refused else host, "url", attributes, refused)]
        for part, other, other_port in _also_named(request, port):
            if (other, other_port) != (host.lower(), port):
                why = "name" if other is None else self._refused_port(other_port)
                there = {**attributes, "port": str(other_port)}
                found.append(_question(None if why else other, part, there, why))
        if self._proxy is not None:
            found.append(self._proxy)
        return found

    def _refused_port(self, port: int) -> str | None:
        # Zero is no port: httpcore takes the default for it. Above the range, resolvers take the lower 16 bits.
        return None if port in _PORTS and (self._ports is None or port in self._ports) else "port"


def snapshot(request: httpx.Request) -> httpx.Request:
    """``request`` as it is now: what is sent is what was asked about, whoever else has hold of the original."""
    return httpx.Request(
        request.method, request.url, headers=request.headers, stream=request.stream, extensions=request.extensions
    )


def checked_ports(ports: Iterable[int]) -> frozenset[int]:
    """``ports``, or :class:`ConfigError`."""
    found = frozenset(ports)
    for port in found:
        if type(port) is not int or port not in _PORTS:
            raise ConfigError("ports", port, "whole numbers from 1 to 65535")
    return found


def _refused(request: httpx.Request) -> str | None:
    """Why ``request`` can be about no host that is known for certain, in a word; else ``None``."""
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
    """The other places that name a host: ``(part, host, port)``, the host ``None`` where it cannot be told."""
    found: list[tuple[str, str | None, int]] = []
    hosts = [value for name, value in request.headers.raw if name.lower() == b"host"]
    for value in hosts:
        match = _HOST.fullmatch(value) if len(hosts) == 1 else None
        if match is None:
            found.append(("host_header", None, port))
        else:
            name = (match[1] or match[2]).decode("ascii").lower()
            found.append(("host_header", name, port if match[3] is None else int(match[3])))
    sni = request.extensions.get("sni_hostname")
    if sni is not None:
        found.append(("sni", sni.lower() if type(sni) is str and sni.isascii() and sni else None, port))
    return found


def _question(host: str | None, part: str, attributes: dict[str, str], refused: str | None) -> Question:
    more = {"part": part} if refused is None else {"part": part, "refused": refused}
    return ACTION, Resource("host", host, {**attributes, **more})


def _proxy_question(proxy: ProxyLike) -> Question:
    """What is asked about a proxy. Raises :class:`ConfigError` where no host of it is known."""
    url = _proxy_url(proxy)
    port = _PROXY_PORTS.get(url.scheme, 0) if url.port is None else url.port
    if not url.raw_host or url.scheme not in _PROXY_PORTS or port not in _PORTS:
        valid = "a URL with a host and one of the schemes " + ", ".join(_PROXY_PORTS)
        raise ConfigError("proxy", f"{url.scheme}://{url.host}:{url.port}", valid)
    attributes = {"scheme": url.scheme, "port": str(port), "method": "CONNECT"}
    return _question(url.raw_host.decode("ascii"), "proxy", attributes, None)


def _proxy_url(proxy: ProxyLike) -> httpx.URL:
    return proxy.url if isinstance(proxy, httpx.Proxy) else httpx.URL(proxy)
