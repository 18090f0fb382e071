"""Says what stands for more than one id, for each kind of resource, and where an id lies among the networks.

::

    host:*.example.com      names with one label or more before the text (ending)
    host:10.0.0.0/8         addresses (network); in IPv6 all but those that stand for an IPv4 address
    path:reports/*          what lies below a folder (beginning)
    sql_query:app.*         of any other kind what goes on after a separator (beginning)
    host:*                  every id

``docs/resource_kinds.md`` has the table for people.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final, Generic, Literal, TypeVar, Union

import msgspec

from ..spelling import HOST, PATH, SPELLINGS, is_name, normal_host, normal_id

Match = Literal["exact", "beginning", "ending", "network"]
EXACT: Final = "exact"
BEGINNING: Final = "beginning"
ENDING: Final = "ending"
NETWORK: Final = "network"

#: What a ``*`` at the end of an actor, and of most kinds of resources, stands after.
SEPARATORS: Final = (":", "/", ".")
#: Where IPv4 addresses lie among those of IPv6.
MAPPED: Final = 0xFFFF << 32
_LAST_MAPPED: Final = MAPPED + 2**32 - 1
_LAST: Final = 2**128 - 1

#: Labels of the longest ending: what the guest looks for.
MAX_LABELS: Final = 16
#: Goes on after a beginning, or before an ending, to see whether anything can.
_MORE: Final = "x"
_STAR: Final = "an id that contains a '*' cannot be written"
_VALID: Final = f"'*' only as the last segment, after ':', '/' or '.'; {_STAR}"
_VALID_PATH: Final = f"'*' only at the end, after '/', for what lies below a folder; {_STAR}"
_VALID_HOST: Final = (
    f"'*' only as the first label, as in '*.example.com', before at most {MAX_LABELS} others; "
    "addresses take '10.0.0.0/8' or 'fd00::/8'"
)

_PARTS: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3}){0,2})(?:\.?\*|\.)+", re.ASCII)
_GROUPS: Final = re.compile(r"([0-9a-f]{1,4}(?::[0-9a-f]{1,4}){0,6})::?\*", re.ASCII | re.IGNORECASE)
_AUTHORITY: Final = re.compile(r"(?:[a-z][a-z0-9+.-]*://)?([^/?#]*).*", re.ASCII | re.IGNORECASE | re.DOTALL)

T = TypeVar("T")
Network = Union[IPv4Network, IPv6Network]


# -- of an id


def is_covered(match: Match, text: str, id: str) -> bool:
    """Say whether an id is covered by ``text``, which is to be compared with it by ``match``."""
    if match == EXACT:
        return id == text
    if match == BEGINNING:
        return len(id) > len(text) and id.startswith(text)
    if match == ENDING:
        return len(id) > len(text) + 1 and id.endswith(f".{text}")
    number = address_number(id)
    return number is not None and is_within(number, text)


def address_number(id: str) -> int | None:
    """Return where an address lies, in its normal form, among those of IPv6; ``None`` where ``id`` is no address."""
    try:
        if ":" in id:
            return int(IPv6Address(id))
        return MAPPED + int(IPv4Address(id)) if id[-1:].isdecimal() else None
    except AddressValueError:
        return None


def address_text(number: int) -> str:
    """Return the address that lies there, in its normal form."""
    return str(IPv4Address(number - MAPPED)) if is_mapped(number) else IPv6Address(number).compressed


@lru_cache(maxsize=16_384)
def bounds(network: str) -> tuple[int, int]:
    """Return the first and the last address of a network in its normal form. Raises ``ValueError``."""
    parsed = ip_network(network)
    start = int(parsed.network_address) + (MAPPED if isinstance(parsed, IPv4Network) else 0)
    return start, start + parsed.num_addresses - 1


def is_mapped(number: int) -> bool:
    """Say whether this is an IPv4 address."""
    return MAPPED <= number <= _LAST_MAPPED


def is_within(number: int, network: str) -> bool:
    """Say whether an address is in ``network``: one of IPv6 has none of IPv4, whichever addresses stand for those."""
    first, last = bounds(network)
    return first <= number <= last and is_mapped(first) == is_mapped(number)


class Networks(msgspec.Struct, Generic[T], frozen=True):
    """Where something else applies: the ``starts``, in ascending order from 0, and what applies from there on."""

    starts: tuple[int, ...]
    values: tuple[T, ...]

    def find(self, number: int) -> T:
        """Return what applies to an address."""
        return self.values[bisect_right(self.starts, number) - 1]


def make_networks(own: Mapping[str, T], rest: T, merged: Callable[[T, T], T]) -> Networks[T]:
    """Return what applies where: of each network its ``own``, ``merged`` with that of those around it.

    To addresses in none of them ``rest`` applies, which is merged with what is in the others already.
    """
    spans: list[tuple[int, int, str]] = []
    for text in own:
        first, last = bounds(text)
        spans.append((first, -last, text))
    if any(first < MAPPED <= -negated for first, negated, _ in spans):
        spans.append((MAPPED, -_LAST_MAPPED, ""))  # which is no part of that
    starts, values = [0], [rest]

    def put(start: int, value: T) -> None:
        if starts[-1] == start:
            values[-1] = value
        elif values[-1] != value:
            starts.append(start)
            values.append(value)

    around: list[tuple[int, T]] = [(_LAST, rest)]
    for first, negated, text in sorted(spans):
        while around[-1][0] < first:
            end, _ = around.pop()
            put(end + 1, around[-1][1])
        value = merged(own[text], around[-1][1]) if text else rest
        put(first, value)
        around.append((-negated, value))
    while len(around) > 1:
        end, _ = around.pop()
        if end < _LAST:
            put(end + 1, around[-1][1])
    return Networks(tuple(starts), tuple(values))


# -- as they are written


def is_wild(kind: str, text: str) -> bool:
    """Say whether ``text`` is meant to stand for more than one id of ``kind``."""
    if kind == HOST and "/" in text and "*" not in text:
        return (normal_network(text) or meant_network(text)) is not None
    return "*" in text


def read_wildcard(kind: str, text: str) -> tuple[Match, str] | None:
    """Return how ids are compared with a wildcard, and with what; ``None`` where it covers nothing, or is none."""
    if kind == HOST and text != "*":
        if "*" not in text:
            network = normal_network(text)
            return None if network is None else (NETWORK, network)
        ending = _normal_ending(text[2:]) if text.startswith("*.") else None
        return None if ending is None else (ENDING, ending)
    stem = text[:-1]
    if not text.endswith("*") or "*" in stem or (stem and not stem.endswith("/" if kind == PATH else SEPARATORS)):
        return None
    beginning = _normal_beginning(kind, stem)
    return None if beginning is None else (BEGINNING, beginning)


def valid_wildcard(kind: str, text: str) -> str:
    """Say which wildcards there are in place of ``text``, which is none of ``kind``."""
    if kind == HOST:
        return _VALID_HOST if "*" in text else "a network in its canonical text, as '10.0.0.0/8' or 'fd00::/8'"
    if kind not in SPELLINGS:
        return _VALID
    return f"{_VALID_PATH if kind == PATH else _VALID}; each id is {SPELLINGS[kind].valid}"


def meant_wildcard(kind: str, text: str) -> str | None:
    """Return what was probably meant by ``text``, which is no wildcard of ``kind``."""
    guess = _meant_host(text) if kind == HOST else _meant_beginning(kind, text)
    if guess is None or guess == text or (read_wildcard(kind, guess) is None and normal_id(kind, guess) is None):
        return None
    return guess


def _normal_ending(text: str) -> str | None:
    name = normal_host(text) if text and "*" not in text else None
    if name is None or not is_name(name) or name.count(".") >= MAX_LABELS:
        return None
    return name if normal_host(f"{_MORE}.{name}") is not None else None


def _normal_beginning(kind: str, text: str) -> str | None:
    normal = normal_id(kind, text + _MORE)
    if normal is None or not normal.endswith(_MORE) or (normal == _MORE and text):
        return None
    return normal[: -len(_MORE)]


def normal_network(text: str) -> str | None:
    """Return ``text`` where it is a network in its canonical text, of addresses that are asked about."""
    try:
        network = ip_network(text)
    except ValueError:
        return None
    return text if text == network.compressed and _unmapped(network) is network else None


def _unmapped(network: Network) -> Network:
    """Return the network of IPv4 that one of IPv6 stands for, where it does."""
    first = int(network.network_address)
    if isinstance(network, IPv4Network) or network.prefixlen < 96 or not is_mapped(first):
        return network
    return IPv4Network((first - MAPPED, network.prefixlen - 96))


def meant_network(text: str) -> str | None:
    """Return the network that ``text`` was probably meant to be."""
    address, slash, length = text.partition("/")
    address = address.removeprefix("[").removesuffix("]")
    if not slash or not length:
        return None
    parts = address.removesuffix(".").split(".")
    if ":" not in address and all(part.isdecimal() for part in parts):
        address = ".".join([*parts, "0", "0", "0"][:4]) if len(parts) < 4 else address
    normal = normal_host(address)
    if normal is None or is_name(normal):
        return None
    mapped = ":" in address and ":" not in normal  # how long a beginning is, is told of the IPv6 address
    try:
        prefix = str(int(length) - 96) if mapped and length.isdecimal() else length.removesuffix("]")
        return ip_network(f"{normal}/{prefix}", strict=False).compressed
    except ValueError:
        return None


def _meant_host(text: str) -> str | None:
    if "*" not in text:
        return meant_network(text)
    whole = _AUTHORITY.fullmatch(text)
    text = text if whole is None else whole[1].rpartition("@")[2] or text
    if (groups := _GROUPS.fullmatch(text)) is not None:
        count = groups[1].count(":") + 1
        return meant_network(f"{groups[1]}{'::' if count < 8 else ''}/{16 * count}")
    if text.count(":") == 1:
        text = text.partition(":")[0]
    if (parts := _PARTS.fullmatch(text)) is not None:
        return meant_network(f"{parts[1]}/{8 * (parts[1].count('.') + 1)}")
    after = text.rpartition("*")[2]
    if after[:1] == ".":
        after = after[1:]
    elif not text.startswith("*") or not after[:1].isalnum():  # else the dot was forgotten
        after = after.partition(".")[2]
    ending = _normal_ending(after)
    return None if ending is None else f"*.{ending}"


def _meant_beginning(kind: str, text: str) -> str | None:
    stem = text.partition("*")[0]
    normal = normal_id(kind, stem + _MORE)
    if normal is None:
        meant = SPELLINGS[kind].meant(stem + _MORE)
        if meant is None:
            return None
        if not meant.endswith(_MORE):
            return meant
        stem = meant[: -len(_MORE)]
    if kind != PATH:
        return f"{stem}*" if stem.endswith(SEPARATORS) else None
    if text == f"{stem}*" and stem and not stem.endswith(SEPARATORS):
        return f"{stem}/*"
    folder = stem.rpartition("/")[0]
    return f"{folder}/*" if folder else None
