"""Verifies bundles with keys that tests make, at a time that they choose."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from capgate.artifact.bundle import BundleKeys, read_bundle
from capgate.errors import SignatureInvalid
from capgate.store import WasmArtifact

from ...support.packing import (
    FILES,
    configured,
    pack,
    signed,
)

NOW = 1_800_000_000.0
MOST = 1 << 20


def keys(given: Any = None, scope: str | None = None) -> BundleKeys:
    return BundleKeys(configured() if given is None else given, scope, clock=lambda: NOW)


def reason(files: dict[str, bytes], trusted: BundleKeys | None = None) -> str:
    """Why a bundle is refused, by the reader and as an artifact alike."""
    trusted = trusted or keys()
    with pytest.raises(SignatureInvalid) as caught:
        read_bundle(pack(files), MOST, trusted, path="bundle.tar.gz")
    assert caught.value.path == "bundle.tar.gz"
    with pytest.raises(SignatureInvalid):
        WasmArtifact.from_bytes(pack(files), bundle_keys=trusted)
    return caught.value.reason


def with_token(text: str) -> dict[str, bytes]:
    return signed(FILES, text)


def b64(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
