"""Provides ``net.*`` on addresses and networks in CIDR notation. Nothing is looked up."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Final

from ..errors import BuiltinError
from .base import Context, Undefined, builtin, string
from .terms import Object, Set, Value

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PREFIX: Final = re.compile(r"0*[0-9]{1,7}", re.ASCII)
#: Where Go takes an address of 128 bits for one of 32, or loses the zeros at its start.
_LOW: Final = ipaddress.IPv6Network("::/8")
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
#: The prefix that Go gives an IPv4 address without one, by the class of its first byte.
_CLASSES: Final = ((128, 8), (192, 16), (224, 24))


def _address(text: str) -> Address | None:
    """Return the address that ``net.ParseIP`` reads, or ``None``."""
    if "%" in text or "/" in text:
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address in _MAPPED:
        raise BuiltinError("net", "ambiguous", f"{text!r} is an IPv4 address in IPv6, which Go takes for either")
    return address


def _network(value: Value) -> Network:
    """Return the network that ``net.ParseCIDR`` reads: the address may have bits beyond the prefix, which is
    decimal."""
    text, slash, prefix = string(value).partition("/")
    address = _address(text)
    if address is None or not slash or not _PREFIX.fullmatch(prefix):
        raise Undefined
    bits = int(prefix.lstrip("0") or "0")
    if bits > address.max_prefixlen:
        raise Undefined
    return ipaddress.ip_network((int(address), bits) if address.version == 4 else f"{address}/{bits}", strict=False)


@builtin("net.cidr_is_valid")
def is_valid(context: Context, cidr: Value) -> Value:
    try:
        _network(cidr)
    except Undefined:
        return False
    return True


@builtin("net.cidr_expand")
def expand(context: Context, cidr: Value) -> Value:
    """Return every address in the network."""
    network = _network(cidr)
    context.spend(network.num_addresses * 16)
    return Set(str(address) for address in network)


@builtin("net.cidr_contains_matches")
def contains_matches(context: Context, cidrs: Value, sought: Value) -> Value:
    """Return pairs of where in ``cidrs`` a network is and where in ``sought`` what it contains: index, key or
    member."""
    matches: list[Value] = []
    for cidr, place in _elements(cidrs):
        network = None  # read once, and only where there is something to look for in it
        for other, other_place in _elements(sought):
            context.spend(20)
            network = network or _network(cidr)
            if _contains(network, other):
                matches.append((place, other_place))
    return Set(matches)


def _elements(value: Value) -> Iterator[tuple[Value, Value]]:
    if isinstance(value, str):
        yield value, value
    elif isinstance(value, tuple):
        yield from ((_cidr_of(item), index) for index, item in enumerate(value))
    elif isinstance(value, Set):
        yield from ((_cidr_of(item), item) for item in value)
    elif isinstance(value, Object):
        yield from ((_cidr_of(item), key) for key, item in value.items)


def _cidr_of(item: Value) -> Value:
    if isinstance(item, str):
        return item
    if isinstance(item, tuple) and item:
        return item[0]
    raise Undefined


def _contains(network: Network, other: Value) -> bool:
    text = string(other)
    address = _address(text)
    if address is not None:
        return address in network
    inner = _network(other)
    return inner.version == network.version and inner[0] in network and inner[-1] in network


@builtin("net.cidr_merge")
def merge(context: Context, cidrs: Value) -> Value:
    """Return the fewest networks that cover the same addresses. What touches nothing else stays as it was written."""
    if not isinstance(cidrs, (tuple, Set)):
        raise Undefined
    context.spend(len(cidrs) * 50)
    ranges = sorted((_range(item) for item in cidrs), key=lambda span: (span[0].version, span[1], span[0]))
    merged: list[tuple[Address, Address, str | None]] = []
    for first, last, text in ranges:
        while merged and merged[-1][0].version == first.version and int(merged[-1][1]) >= int(first) - 1:
            first, text = min(merged.pop()[0], first, key=int), None
        merged.append((first, last, text))
    networks: list[Value] = []
    for first, last, text in merged:
        networks.extend([text] if text is not None else map(str, ipaddress.summarize_address_range(first, last)))
    return Set(networks)


def _range(item: Value) -> tuple[Address, Address, str | None]:
    """Return first and last address, and the text of the network as it stands alone."""
    if not isinstance(item, str):
        raise Undefined
    address = _address(item)
    if isinstance(address, ipaddress.IPv6Address):
        raise Undefined
    if address is None:
        network = _network(item)
        if isinstance(network, ipaddress.IPv6Network) and network.overlaps(_LOW):
            raise BuiltinError("net.cidr_merge", "ambiguous", f"{item!r}: addresses that begin with a zero byte")
        return network[0], network[-1], str(network)
    byte = int(address) >> 24
    prefix = next((prefix for bound, prefix in _CLASSES if byte < bound), None)
    if prefix is None:
        raise BuiltinError("net.cidr_merge", "ambiguous", f"{item!r} is in no class that has a prefix")
    network = ipaddress.ip_network((int(address), prefix), strict=False)
    return network[0], network[-1], f"{address}/{prefix}"
