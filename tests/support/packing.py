"""Bundles for tests, packed and signed here: tar headers written byte by byte, because libraries will not write the
ones that have to be refused."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from .guests import wat

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)

#: A module that says it is OPA's, and has nothing else in it.
MODULE: Final = wat(
    '(module (global (export "opa_wasm_abi_version") i32 (i32.const 1))'
    ' (global (export "opa_wasm_abi_minor_version") i32 (i32.const 3)))'
)
DATA: Final = {"orders": {"admins": ["ana", "bo"], "limit": 100}}
MANIFEST: Final[dict[str, Any]] = {
    "revision": "2026-11",
    "roots": ["orders"],
    "wasm": [{"entrypoint": "orders/allow", "module": "/policy.wasm"}],
    "rego_version": 1,
}
FILES: Final[dict[str, bytes]] = {
    "/data.json": json.dumps(DATA).encode(),
    "/orders/policy.rego": b"package orders\n\nallow if input.actor.id in data.orders.admins\n",
    "/policy.wasm": MODULE,
    "/.manifest": json.dumps(MANIFEST).encode(),
}
KEYS: Final[dict[str, Any]] = {
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    "RS256": rsa.generate_private_key(65_537, 2_048),
}
SECRET: Final = "a secret that is long enough for each of the algorithms: sixty-four bytes"


def header(
    name: str | bytes,
    size: int = 0,
    kind: bytes = b"0",
    *,
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    link: bytes = b"",
    size_field: bytes | None = None,
) -> bytes:
    """A header block of POSIX ustar."""
    raw = name if isinstance(name, bytes) else name.encode()
    sized = b"%011o\0" % size if size_field is None else size_field
    fields = (
        raw.ljust(100, b"\0"),
        b"0000600\0" + b"0000000\0" * 2,
        sized.ljust(12, b"\0"),
        b"00000000000\0" + b" " * 8 + kind,
        link.ljust(100, b"\0") + magic + bytes(64) + b"0000000\0" * 2,
        prefix.ljust(155, b"\0") + bytes(12),
    )
    block = bytearray(b"".join(fields))
    assert len(block) == BLOCK
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name: str | bytes, content: bytes = b"", kind: bytes = b"0", **fields: Any) -> bytes:
    """A header, its content, and zeros up to the next block."""
    return header(name, len(content), kind, **fields) + content + bytes(-len(content) % BLOCK)


def extended(kind: bytes = b"x", name: str = "./PaxHeaders/a", **records: str | bytes) -> bytes:
    """An extended (pax) header with these records."""
    return member(name, b"".join(record(key.encode(), value) for key, value in records.items()), kind)


def record(keyword: bytes, value: str | bytes) -> bytes:
    """A record of an extended header: its own length, in decimal, comes first."""
    rest = b" " + keyword + b"=" + (value if isinstance(value, bytes) else value.encode()) + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d" % length + rest


def long_name(name: str) -> bytes:
    """What stands before a member with a long name, in GNU's form."""
    return member("././@LongLink", name.encode() + b"\0", b"L", magic=b"ustar  \0")


def archive(*members: bytes, end: bytes = END) -> bytes:
    return gzip.compress(b"".join(members) + end, mtime=0)


def pack(files: Mapping[str, bytes] = FILES) -> bytes:
    """A bundle of those files, as ``opa build`` packs it."""
    return archive(*(member(name, content) for name, content in files.items()))


def with_files(**changes: bytes | None) -> dict[str, bytes]:
    """:data:`FILES` with others; ``None`` leaves one out. Names are those of variables: ``data`` and so on."""
    names = {"data": "/data.json", "manifest": "/.manifest", "module": "/policy.wasm", "rego": "/orders/policy.rego"}
    files: dict[str, bytes | None] = {**FILES, **{names[key]: value for key, value in changes.items()}}
    return {name: content for name, content in files.items() if content is not None}


def manifest(**changes: Any) -> bytes:
    return json.dumps({key: value for key, value in {**MANIFEST, **changes}.items() if value is not None}).encode()


# -- signing


def public_pem(algorithm: str) -> str:
    if algorithm.startswith("HS"):
        return SECRET
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return str(private(algorithm).public_key().public_bytes(*form).decode())


def private(algorithm: str) -> Any:
    return SECRET.encode() if algorithm.startswith("HS") else KEYS["RS256" if algorithm[0] in "RP" else algorithm]


def configured(algorithm: str = "ES256", id: str = "release", **fields: Any) -> dict[str, dict[str, Any]]:
    """The setting ``bundle_keys`` with one key."""
    return {id: {"algorithm": algorithm, "key": public_pem(algorithm), **fields}}


def listed(files: Mapping[str, bytes]) -> list[dict[str, str]]:
    """What ``opa sign`` lists. The text of values is Python's own, which is that of Go for the values used here."""
    found = []
    for name, content in files.items():
        plain = name.removeprefix("/")
        if plain.rpartition("/")[2] in ("data.json", ".manifest"):
            content = json.dumps(
                json.loads(content), sort_keys=True, separators=(",", ":"), ensure_ascii=False
            ).encode()
        found.append({"name": plain, "hash": hashlib.sha256(content).hexdigest(), "algorithm": "SHA-256"})
    return found


def token(
    files: Mapping[str, bytes] = FILES,
    algorithm: str = "ES256",
    *,
    kid: str | None = "release",
    key: Any = None,
    header_fields: Mapping[str, Any] | None = None,
    **claims: Any,
) -> str:
    payload = {"files": listed(files), **claims}
    headers = {**({} if kid is None else {"kid": kid}), **(header_fields or {})}
    made = jwt.PyJWS().encode(json.dumps(payload).encode(), key or private(algorithm), algorithm, headers)
    return str(made)


def signed(files: Mapping[str, bytes] = FILES, *tokens: str, **given: Any) -> dict[str, bytes]:
    """The files with a ``.signatures.json`` of ``tokens``, or of one made as :func:`token` makes it."""
    made: Iterable[str] = tokens or (token(files, **given),)
    return {**files, "/.signatures.json": json.dumps({"signatures": list(made)}).encode()}
