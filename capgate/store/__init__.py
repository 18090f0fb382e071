"""Holds signed releases: verifies a policy with its manifest (:class:`Verifier`), or keeps many (:class:`PolicyStore`).

Uses ``artifact``, ``policy`` and the words. Read ``directory.py`` first, then ``store_reader.py`` and ``verifier.py``.
"""

from __future__ import annotations

from ..artifact.load import WasmArtifact, load_wasm_artifact
from .directory import PolicyStore
from .manifest import Audience, Manifest
from .records import Active
from .releases import Release
from .signing import KeyPair, TrustedKeys
from .store_reader import Status, StoreReader
from .verifier import VerifiedPolicy, Verifier

__all__ = [
    "Active",
    "Audience",
    "KeyPair",
    "Manifest",
    "PolicyStore",
    "Release",
    "Status",
    "StoreReader",
    "TrustedKeys",
    "VerifiedPolicy",
    "Verifier",
    "WasmArtifact",
    "load_wasm_artifact",
]
