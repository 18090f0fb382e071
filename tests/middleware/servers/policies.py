"""Configures the servers of these tests with policies, as users do it: in the environment."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from capgate.artifact.build import build_policy

from ...support.engines import EXPECTED_ENGINES
from ...support.stores import KEY, Shelf

DOCUMENT: Final[dict[str, Any]] = {"name": "web", "version": "1", "sql": ["good"]}
#: A document evaluated in Python, a module on each engine, a store that is followed.
POLICIES: Final = ("document", *EXPECTED_ENGINES, "store")
#: Every allow becomes an event as well, and a busy machine is no reason to deny.
COMMON: Final = {
    "CAPGATE_SAMPLE_ALLOWS": "1",
    "CAPGATE_DEADLINE": "30",
    "CAPGATE_EXPOSE_REASONS": "true",
    "CAPGATE_POOL_SIZE": "2",
}


def shelf(folder: Path) -> Shelf:
    return Shelf(folder / "store")


def release(folder: Path, version: int, *queries: str) -> None:
    """Activate a version of the store's policy that allows ``queries``."""
    document = {"name": "orders", "version": str(version), "sql": list(queries)}
    shelf(folder).release(version, build_policy(document))


def configure(policy: str, folder: Path) -> dict[str, str]:
    """Write the policy into ``folder``, and give the variables that name it."""
    if policy == "document":
        path = folder / "policy.json"
        path.write_text(json.dumps(DOCUMENT))
        return {**COMMON, "CAPGATE_POLICY": str(path)}
    if policy == "store":
        release(folder, 1, "good")
        return {
            **COMMON,
            "CAPGATE_STORE": str(folder / "store"),
            "CAPGATE_POLICY_NAME": "orders",
            "CAPGATE_TRUSTED_KEYS": KEY.public.line,
            "CAPGATE_STORE_POLL": "0.05",
        }
    module = build_policy(DOCUMENT)
    path = folder / "policy.wasm"
    path.write_bytes(module)
    return {
        **COMMON,
        "CAPGATE_ARTIFACT": str(path),
        "CAPGATE_ARTIFACT_SHA256": hashlib.sha256(module).hexdigest(),
        "CAPGATE_ENGINE": policy,
    }
