"""Small releases, keys and clocks for the tests of the store. The modules are real ones, with nothing in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from capgate.model import Deny, PolicyInput, Resource
from capgate.store import Audience, KeyPair, Manifest, PolicyStore, TrustedKeys, Verifier, WasmArtifact
from capgate.store.release_fixtures import Fixture, format_fixtures
from capgate.store.signing import format_signatures

NOW: Final = datetime(2024, 10, 1, 12, 0, 0, tzinfo=timezone.utc)
DAY: Final = timedelta(days=1)


def key_pair(number: int) -> KeyPair:
    """Always the same one for a number: the names of tests have keys in them, and processes that share the work have to
    agree on those."""
    return KeyPair(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"a key for tests %d" % number).digest()))


KEYS: Final = [key_pair(number) for number in range(3)]


def module(text: str = "") -> bytes:
    """A module without code, another one for each ``text`` of at most 100 bytes."""
    name = text.encode()
    payload = bytes([len(name)]) + name
    return b"\0asm\x01\0\0\0" + bytes([0, len(payload)]) + payload


class Clock:
    """Says what it is told."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now.timestamp()


def released(number: int) -> Fixture:
    """A fixture that no other number has."""
    question = PolicyInput("db.read", resource=Resource("sql_query", f"query {number}"))
    return Fixture(question, Deny("not_in_allowlist"), f"Nobody reads {number}.", name=f"queries/{number}")


GOLDEN: Final = (released(1), released(2))


class Made:
    """The files of a release: three, and a fourth where it has ``fixtures``."""

    def __init__(
        self,
        version: int = 1,
        *,
        keys: Iterable[KeyPair] = KEYS[:1],
        text: str | None = None,
        fixtures: Iterable[Fixture] | bytes = (),
        **fields: Any,
    ) -> None:
        self.module = module(f"release {version}" if text is None else text)
        given: dict[str, Any] = {"name": "orders", "label": "", "created": NOW, **fields}
        golden = fixtures if isinstance(fixtures, bytes) else tuple(fixtures)
        self.fixtures = golden if isinstance(golden, bytes) else format_fixtures(golden) if golden else None
        if self.fixtures is not None:
            given["fixtures"] = hashlib.sha256(self.fixtures).hexdigest()
        self.parsed = Manifest.describing(WasmArtifact.from_bytes(self.module), version=version, **given)
        self.manifest = self.parsed.to_bytes()
        self.signatures = format_signatures([key.sign(self.manifest) for key in keys])

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.manifest).hexdigest()

    @property
    def files(self) -> tuple[bytes, bytes, bytes]:
        return self.module, self.manifest, self.signatures

    @property
    def release(self) -> tuple[bytes, bytes, bytes, bytes | None]:
        return *self.files, self.fixtures


def trust(*keys: KeyPair, threshold: int = 1) -> TrustedKeys:
    return TrustedKeys([key.public for key in keys or KEYS[:1]], threshold)


def verifier(*keys: KeyPair, threshold: int = 1, clock: Clock | None = None, **audience: Any) -> Verifier:
    return Verifier(trust(*keys, threshold=threshold), clock=clock or Clock(), audience=Audience(**audience))


def store_at(path: Path, clock: Clock | None = None, **audience: Any) -> PolicyStore:
    return PolicyStore(path, verifier(clock=clock, **audience), lock_seconds=10)


def filled(path: Path, *versions: int, clock: Clock | None = None) -> PolicyStore:
    """A store in which those versions were published, and activated one after the other."""
    store = store_at(path, clock)
    for version in versions:
        store.publish(*Made(version).files)
        store.activate("orders", version)
    return store
