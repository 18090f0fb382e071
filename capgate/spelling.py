"""Gives each thing that policies speak of one spelling: :func:`normal_id` has the normal form of each kind of resource.

Questions are spelled so where they are made (:class:`~capgate.model.Resource`), and documents where they are read. So
one thing has one spelling on both sides, and no other spelling of it passes a denial. ``docs/resource_kinds.md`` has
the table for people. Uses nothing else of the package.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import Final, NamedTuple

HOST, SQL, PATH, ENV, NAMESPACE = "host", "sql_query", "path", "env_var", "namespace"

#: A name whose last label is no number: nearly every host, as it is.
_HOST: Final = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*[a-z_-][a-z0-9_-]{0,62}", re.ASCII)
_LABELS: Final = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_HEX: Final = re.compile(r"0x[0-9a-f]+", re.ASCII)
_OCTAL: Final = re.compile(r"0[0-7]*", re.ASCII)
_DECIMAL: Final = re.compile(r"[1-9][0-9]*", re.ASCII)
#: Characters of the longest host.
HOST_LENGTH: Final = 253

#: Names that are as they are: nearly all.
_PLAIN_QUERY: Final = re.compile(r"(?!sqlite_)[a-z0-9_/-]+", re.ASCII)
_PLAIN_PATH: Final = re.compile(r"[^/.\0][^/\0]*(?:/[^/.\0][^/\0]*)*")
#: How a declaration writes a path parameter. No document has any, and no actor is called so.
TEMPLATE: Final = re.compile(r"\{[^\W\d]\w*(?::\w+)?\}")
#: A name in what other dialects quote names by, or with the end of a statement.
_SLIPPED_QUERY: Final = re.compile(r"'[^']*'|`[^`]*`|\[[^\[\]]*\]|.*;", re.DOTALL)
_QUOTED: Final = re.compile(r'"([^"]*)"|([^"]+)')
#: What names of variables have where somebody wrote how a shell reads one.
_NO_VARIABLE: Final = re.compile(r"[=\0$%{}]|^\s|\s$")
_UPPER: Final = re.compile("[A-Z]", re.ASCII)
#: What a URI begins with: a scheme, and three slashes where nobody is named as its authority.
_URI: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(:///?)", re.ASCII)
#: Percent-encoded, and the same thing as it is: letters, digits, and ``-._~/``.
_DECODED: Final = re.compile(r"%(?:2[DEFdef]|3[0-9]|4[1-9A-Fa-f]|5[0-9AFaf]|6[1-9A-Fa-f]|7[0-9AEae])", re.ASCII)
_ENCODED: Final = re.compile(r"%[0-9A-Fa-f]{2}", re.ASCII)
#: Schemas that databases look in by default: SQLite's, and PostgreSQL's.
DEFAULT_SCHEMAS: Final = ("main", "public")
#: SQLite's own tables have two names each.
_SAME_TABLES: Final = {
    "sqlite_schema": "sqlite_master",
    "sqlite_temp_schema": "temp.sqlite_master",
    "sqlite_temp_master": "temp.sqlite_master",
    "temp.sqlite_schema": "temp.sqlite_master",
    "temp.sqlite_temp_schema": "temp.sqlite_master",
    "temp.sqlite_temp_master": "temp.sqlite_master",
}
_TO_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def ascii_lower(text: str) -> str:
    """Return ``text`` with A to Z as a to z and every other character as it is: no Kelvin sign becomes a k."""
    return text.lower() if text.isascii() else text.translate(_TO_LOWER)


# -- hosts


def normal_host(id: str) -> str | None:
    """Return a host as it is asked about, or ``None`` where it is not certain which one is meant.

    Names are in lower case, as A-labels, without the dot at their end. Addresses are in their canonical text. What a
    resolver takes for an IPv4 address is one, with fewer parts, or octal or hexadecimal ones. An IPv6 address that
    stands for an IPv4 address is that. Ports, brackets that enclose no address, and zones are no part of a host.
    """
    if len(id) <= HOST_LENGTH and _HOST.fullmatch(id):
        return id
    text = ascii_lower(id) if id.isascii() else _a_labels(id)
    if text is None:
        return None
    if text.startswith("[") and text.endswith("]"):
        return _ipv6(text[1:-1])
    if ":" in text:
        return _ipv6(text)
    text = text.removesuffix(".")
    if len(text) > HOST_LENGTH or not _LABELS.fullmatch(text):
        return None
    return _ipv4(text) if _NUMBER.fullmatch(text.rpartition(".")[2]) else text


def _a_labels(id: str) -> str | None:
    import idna  # seldom needed: clients ask about A-labels

    try:
        return ascii_lower(idna.encode(id.removesuffix("."), uts46=True).decode("ascii"))
    except (idna.IDNAError, UnicodeError):
        return None


def _ipv6(text: str) -> str | None:
    try:
        address = IPv6Address(text)
    except ValueError:
        return None
    if address.scope_id is not None:
        return None
    mapped = address.ipv4_mapped
    return address.compressed if mapped is None else str(mapped)


def _ipv4(text: str) -> str | None:
    """Read numbers as ``inet_aton`` does: up to four, of which the last fills what is left."""
    parts = text.split(".")
    if len(parts) > 4:
        return None
    address = 0
    for place, part in enumerate(parts):
        number = _number(part)
        is_last = place == len(parts) - 1
        if number is None or number >= 256 ** (4 - place if is_last else 1):
            return None
        address += number if is_last else number << 8 * (3 - place)
    return str(IPv4Address(address))


def _number(part: str) -> int | None:
    if _DECIMAL.fullmatch(part):
        return int(part)
    if _HEX.fullmatch(part):
        return int(part, 16)
    return int(part, 8) if _OCTAL.fullmatch(part) else None


def is_name(host: str) -> bool:
    """Say whether a host in its normal form is a name, and no address."""
    return ":" not in host and _NUMBER.fullmatch(host.rpartition(".")[2]) is None


def is_read_alike(host: str) -> bool:
    """Say whether all programs read ``host`` alike: they do not agree on IPv4 addresses but in their canonical text."""
    last = ascii_lower(host.removesuffix(".")).rpartition(".")[2]
    return ":" in host or _NUMBER.fullmatch(last) is None or _ipv4(host) == host


# -- the others


def normal_query(id: str) -> str | None:
    """Return the name of a table or a query as it is asked about.

    A to Z are as a to z, but in double quotes, which a name has where its case counts. What a default schema has is
    written without it.
    """
    if _PLAIN_QUERY.fullmatch(id):
        return id
    id = ascii_lower(id) if id.count('"') % 2 else _QUOTED.sub(_folded, id)
    schema, _, table = id.partition(".")
    if table and schema in DEFAULT_SCHEMAS and "." not in table:
        id = table
    if not id or id[0].isspace() or _SLIPPED_QUERY.fullmatch(id):
        return None  # such a name is a slip of the pen: no policy should wait for such a table
    return _SAME_TABLES.get(id, id)


def _folded(match: re.Match[str]) -> str:
    quoted, bare = match[1], match[2]
    if quoted is None:
        return ascii_lower(bare)
    return match[0] if not quoted or _UPPER.search(quoted) else str(quoted)


def normal_path(id: str) -> str | None:
    """Return a path as it is asked about: relative to the folder that is gated, without empty segments and dots.

    What the scheme of a URI begins with stays. Returns ``None`` for a path that is absolute, that leads upwards, or
    that no file has. It does so as well for a URI in which something is encoded without need.
    """
    if _PLAIN_PATH.fullmatch(id):
        return id
    uri = _URI.match(id)
    head, rest = ("", id) if uri is None else (f"{ascii_lower(uri[1])}{uri[2]}", id[uri.end() :])
    if rest.startswith("/") or "\0" in rest or (uri is not None and _DECODED.search(rest)):
        return None
    if uri is not None:
        rest = _ENCODED.sub(lambda encoded: encoded[0].upper(), rest)
    segments = [segment for segment in rest.split("/") if segment not in ("", ".")]
    return None if ".." in segments else head + "/".join(segments) or "."


def _variable(id: str) -> str | None:
    return None if _NO_VARIABLE.search(id) or not id else id


def _namespace(id: str) -> str | None:
    return None if not id or ":" in id else id


def _exact(id: str) -> str | None:
    return id or None


# -- what was probably meant


def _meant_host(text: str) -> str | None:
    text = text.partition("://")[2] or text
    text = re.split(r"[/?#]", text, maxsplit=1)[0].rpartition("@")[2]
    if text.startswith("["):
        text = text.partition("]")[0] + "]"
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    return normal_host(text)


def _meant_query(text: str) -> str | None:
    text = text.strip().rstrip("; ")
    return normal_query(text[1:-1].strip() if _SLIPPED_QUERY.fullmatch(text) else text)


def _meant_path(text: str) -> str | None:
    return None if ".." in text.split("/") else normal_path(text.replace("\\", "/").lstrip("/"))


def _meant_variable(text: str) -> str | None:
    return _variable(text.strip().strip("$%{}").partition("=")[0].rstrip())


def _meant_namespace(text: str) -> str | None:
    return _namespace(text.partition(":")[0])


class Spelling(NamedTuple):
    """How the resources of one kind are spelled.

    ``normal`` gives the normal form of an id, or ``None`` where there is none for certain. ``valid`` says in words what
    has one. ``meant`` guesses what was meant by text that has none.
    """

    normal: Callable[[str], str | None]
    valid: str
    meant: Callable[[str], str | None] = _exact


#: The kinds of resources that built-in actions act on.
SPELLINGS: Final[Mapping[str, Spelling]] = MappingProxyType(
    {
        ENV: Spelling(_variable, "the name of a variable alone, without '=' and '$'", _meant_variable),
        HOST: Spelling(
            normal_host, "a host name or an address alone, without scheme, port, path, zone or user", _meant_host
        ),
        NAMESPACE: Spelling(_namespace, "what keys have before their first colon", _meant_namespace),
        SQL: Spelling(normal_query, "the name of a query, or a table as 'table' or 'schema.table'", _meant_query),
        PATH: Spelling(normal_path, "a path below the folder that is gated, without '..'", _meant_path),
        "config_key": Spelling(_exact, "the name of a key"),
        "job": Spelling(_exact, "the name of a job"),
        "tool": Spelling(_exact, "the name of a tool"),
    }
)
_NORMAL: Final = {kind: spelling.normal for kind, spelling in SPELLINGS.items() if spelling.normal is not _exact}
#: Kinds that have things whose spelling is not certain. What has no id may be any of them, thus is denied.
UNCERTAIN: Final = frozenset(_NORMAL)


def is_nameless(kind: str, id: str | None) -> bool:
    """Say whether something named as ``kind`` and ``id`` is nothing certain, so that no policy allows it.

    An empty id is none that a wildcard covers. The guest knows the same rule (``isUncertain`` of ``evaluator.zig``).
    """
    return kind in UNCERTAIN if id is None else not id


def normal_id(kind: str, id: str) -> str | None:
    """Return the normal form of ``id``, or ``None`` where it is not certain what is meant.

    Ids of a kind that is an application's own are taken as they are.
    """
    normal = _NORMAL.get(kind)
    return id if normal is None else normal(id)
