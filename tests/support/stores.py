"""Stores with real policies in them, for the tests of checkers that follow one."""

from __future__ import annotations

import hashlib
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

from capgate.artifact.build import build_policy
from capgate.limits import Limits
from capgate.model import PolicyInput, Resource
from capgate.settings.settings import Settings
from capgate.store import KeyPair, Manifest, PolicyStore, TrustedKeys, Verifier, WasmArtifact
from capgate.store.signing import format_signatures

from .guests import guest

KEY: Final = KeyPair.generate()
STRANGER: Final = KeyPair.generate()
PATIENT: Final = Limits(deadline=20.0)
#: Seconds: no test waits for a look that comes by itself unless it says so.
SELDOM: Final = 3_600.0


def document(version: int) -> bytes:
    """A policy that admits the reading of ``v<version>``, and of nothing else."""
    return build_policy({"name": "orders", "version": str(version), "sql": [f"v{version}", "always"]})


def trapping(version: int) -> bytes:
    """A policy of somebody else's, which traps at every question."""
    return guest(f"(drop (i32.const {version})) (unreachable)")


class Shelf:
    """A store, written by its operator, ``ago`` seconds before now."""

    def __init__(self, path: Path, *, ago: float = 0.0) -> None:
        self.path = path
        self.ago = ago
        verifier = Verifier(TrustedKeys([KEY.public]), clock=lambda: time.time() - self.ago)
        self.store = PolicyStore(path, verifier, lock_seconds=30)

    def publish(
        self,
        version: int,
        module: bytes | None = None,
        key: KeyPair = KEY,
        fixtures: bytes | None = None,
        **fields: Any,
    ) -> None:
        data = document(version) if module is None else module
        now = (datetime.now(timezone.utc) - timedelta(seconds=1 + self.ago)).replace(microsecond=0)
        fields = {"name": "orders", "label": str(version), **fields}
        if fixtures is not None:
            fields["fixtures"] = hashlib.sha256(fixtures).hexdigest()
        manifest = Manifest.describing(WasmArtifact.from_bytes(data), version=version, created=now, **fields).to_bytes()
        self.store.publish(data, manifest, format_signatures([key.sign(manifest)]), fixtures)

    def release(self, version: int, module: bytes | None = None, **fields: Any) -> None:
        self.publish(version, module, **fields)
        self.store.activate("orders", version)

    def settings(self, **options: Any) -> Settings:
        given: dict[str, Any] = {
            "store": self.path,
            "policy_name": "orders",
            "trusted_keys": (KEY.public.line,),
            "store_poll": SELDOM,
            "limits": PATIENT,
            "pool_size": 2,
            "cache_size": 0,  # the checker that follows, with nothing in front of it
            **options,
        }
        return Settings(**given)


def ask(version: int | str) -> PolicyInput:
    id = f"v{version}" if isinstance(version, int) else version
    return PolicyInput("db.read", resource=Resource("sql_query", id))
